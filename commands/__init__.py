"""The commands of `hvlite`, one file each; `cli.py` registers them."""

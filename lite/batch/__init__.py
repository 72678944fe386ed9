"""A file of prompts: read, checked, embedded once, made one after the other, and noted in a manifest."""

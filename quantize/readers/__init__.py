"""What a weight file is, in every layout there is, behind `quantize/source.py`."""

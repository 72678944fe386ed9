"""Frames to files and back, behind `lite/video.py`."""

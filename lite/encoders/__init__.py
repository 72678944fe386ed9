"""The text encoders behind `lite/text.py`: tokens, models, and the layers they stream."""

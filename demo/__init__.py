"""The small trained model that ships with hvlite: its data, training, evaluation and weights."""

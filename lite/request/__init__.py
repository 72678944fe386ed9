"""What was asked for: options, sizes, names and everything that is checked before a weight is read."""

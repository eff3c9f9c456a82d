"""The command `actsearch`."""

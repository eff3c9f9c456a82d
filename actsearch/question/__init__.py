"""What is asked, as plain values: metrics, recipe, options, identity. Imports no torch."""

"""The question that a study answers, as plain values: metrics, recipe, options, identity. Imports no torch."""

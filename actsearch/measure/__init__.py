"""Measurements of activations: their shape and properties as functions, and their cost in time and memory."""

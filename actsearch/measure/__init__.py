"""What activations are and what they cost: shape, properties, times, memory."""

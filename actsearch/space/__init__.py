"""The search space: it turns YAML into candidates."""

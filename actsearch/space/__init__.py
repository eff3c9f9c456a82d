"""The search space: from YAML to candidates."""

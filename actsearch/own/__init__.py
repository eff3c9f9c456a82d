"""Training that is the user's own: a function or a command, run in processes, each run kept as it ends."""

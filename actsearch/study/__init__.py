"""One study: the search (ask, train, tell) and then the finalists. Its state is in Optuna's storage and only there."""

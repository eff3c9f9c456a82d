"""One search: ask, train, tell; then the finalists. The truth lies in Optuna's storage."""

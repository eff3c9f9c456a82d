"""Training: the plain loop, the fused engine, and the plan that chooses between them. Imports no Optuna or MLflow."""

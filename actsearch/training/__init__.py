"""Training: the plain loop, the fused engine, and who decides between them. Knows neither Optuna nor MLflow."""

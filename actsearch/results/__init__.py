"""Verdicts on results that others made: tables of runs, from files, from pandas and from MLflow."""

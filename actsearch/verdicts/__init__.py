"""Verdicts from the numbers of finished runs. Nothing here depends on training or storage."""

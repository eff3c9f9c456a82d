"""From the runs' numbers to verdicts. Knows neither training nor storage."""

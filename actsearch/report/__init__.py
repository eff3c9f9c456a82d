"""The results of a search as people see them: on the terminal, in tables and figures, and as report.html."""

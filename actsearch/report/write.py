"""Writes the files of a finished search."""

from __future__ import annotations

import json
from pathlib import Path

from actsearch.report.files import finalist_rows, output_files, write_csv, write_text
from actsearch.report.page import write_page
from actsearch.report.plots import write_plots
from actsearch.report.result import Result
from actsearch.report.tables import finalist_table, latex_table, markdown_table


def write_files(result: Result) -> list[Path]:
    """Writes all files of the output folder except the config and the timing; returns those worth passing on."""
    folder = result.folder
    if result.rows:
        write_csv(folder / "leaderboard.csv", result.rows)
    if result.kind == "study":
        write_csv(folder / "finalists.csv", finalist_rows(result.runs, result.options.own))
    if result.refused:
        write_csv(folder / "refused.csv", [{"function": text, "reason": why} for text, why in result.refused.items()])
    write_text(folder / "verdict.json", json.dumps(result.verdicts, indent=2, ensure_ascii=False) + "\n")
    table = finalist_table(result.comparisons, result.options)
    write_text(folder / "finalists.md", markdown_table(*table) + "\n")
    write_text(folder / "finalists.tex", latex_table(*table) + "\n")
    write_page(result, write_plots(result))
    return output_files(folder)

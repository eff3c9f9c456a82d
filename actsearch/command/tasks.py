"""The tasks of the command. Each is a function that conf/task/ names; its keywords are the keys task.… ."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from rich.table import Table

from actsearch import pipeline
from actsearch.activations import CATALOG, Spec
from actsearch.activations.activation import Param
from actsearch.config.build import build, build_own, target
from actsearch.config.compose import search_name
from actsearch.config.shape import Config
from actsearch.errors import ActSearchError, hide_passwords, unknown
from actsearch.export import export as export_spec
from actsearch.job import Job
from actsearch.measure.activation_cost import activation_costs, first_shape, large_shape, settings
from actsearch.measure.cost import step_costs
from actsearch.measure.properties import properties_of
from actsearch.measure.timing import one_thread
from actsearch.outcome import show, shown
from actsearch.own.local import run_own
from actsearch.processes import Processes
from actsearch.report import costs as tables
from actsearch.report.files import make_folder, write_csv
from actsearch.report.properties import TEXT, property_tables
from actsearch.report.terminal import Terminal
from actsearch.results.judged import judge as judge_table
from actsearch.training.trainer import find_device


@dataclass
class Asked:
    """What the command was asked. folder: Hydra's output folder, which has the name that is known without the user's
    code; once there is a job, the job's. processes: to train in, if some were started. words: of the command.
    """

    config: Config
    folder: Path
    processes: Processes | None = None
    words: Sequence[str] = ()

    def job(self) -> Job:
        if self.config.train:
            raise ActSearchError(
                "train=…: the same command without task= shows a finished study again, delivers it, and trains nothing."
            )
        return build(self.config, self.place, self.typed)

    @property
    def typed(self) -> str:
        return shlex.join(["actsearch", *hide_passwords(sys.argv[1:])])

    def place(self, name: str) -> Path:
        self.folder = self.folder.with_name(self.folder.name.replace(search_name(self.config), name, 1))
        return self.folder


def do(asked: Asked) -> None:
    """Calls the task's function with its keywords."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    function, keywords = target("task", asked.config.task, first=1)
    function(asked, **keywords)


def search(asked: Asked) -> None:
    """Searches, trains the finalists, and shows the result; goes on where an earlier run stopped."""
    if asked.config.train:
        return own(asked)
    terminal, job = Terminal(), asked.job()
    show(pipeline.run(job, terminal, asked.processes, psutil.Process().create_time()), job.tracking_uri, terminal)


def own(asked: Asked) -> None:
    """The same in a training of the user's own."""
    job, terminal = build_own(asked.config, asked.place, asked.typed), Terminal()
    show(run_own(job, terminal), job.tracking_uri, terminal)


def report(asked: Asked) -> None:
    """Rebuilds the report of a finished search from its storage."""
    terminal, job = Terminal(), asked.job()
    show(pipeline.report(job, terminal), job.tracking_uri, terminal)


def deliver(asked: Asked) -> None:
    """Writes a search from its storage to a tracking server that was down."""
    terminal, job = Terminal(), asked.job()
    result = pipeline.deliver(job)
    terminal.line(f"delivered {job.name} to {job.tracking_uri}")
    show(result, job.tracking_uri, terminal)


def judge(
    asked: Asked, results: Any = None, by: Any = None, baseline: Any = None, metric: Any = None, pair: Any = "auto",
    where: Any = None, margin: Any = None, higher_is_better: Any = None, ratio: Any = None, alpha: Any = 0.05,
    format: Any = "text",
) -> None:  # fmt: skip
    """Judges a table of runs that others made; prints the verdicts and writes the report."""
    if not isinstance(results, str):
        raise ActSearchError("task.results: which table? Write task.results=runs.csv, or task.results=mlflow:NAME.")
    if format not in ("text", "json"):
        raise unknown("word in task.format:", format, ("text", "json"))
    texts = {"baseline": baseline, "metric": metric, "where": where}
    given = {key: None if value is None else str(value) for key, value in texts.items()}
    by = by if by is None or isinstance(by, list) else str(by)
    result = judge_table(
        results, by, **given, pair=pair, margin=margin, higher_is_better=higher_is_better, ratio=ratio, alpha=alpha,
        tracking=asked.config.tracking.uri, folder=asked.folder, about={"command": asked.typed},
    )  # fmt: skip
    terminal = Terminal()
    if format == "json":
        answer = {"summary": result.summary, "warnings": result.warnings, "verdicts": result.verdicts}
        terminal.line(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    for warning in result.warnings:
        terminal.warn(warning)
    show(result, None, terminal)


def list_activations(asked: Asked) -> None:
    """Prints the catalogue by family: formulas, parameters with their ranges, sources."""
    terminal = Terminal()
    for family in dict.fromkeys(a.family for a in CATALOG.values()):
        table = Table(
            box=None, pad_edge=False, title=f"\n[bold]{family}[/bold]", title_justify="left", show_header=False
        )
        table.add_column(width=max(map(len, CATALOG)), no_wrap=True)
        table.add_column()
        for a in CATALOG.values():
            if a.family == family:
                also = f"[dim]also {', '.join(a.aliases)}[/dim]\n" if a.aliases else ""
                params = "".join(f"{line}\n" for line in _params_in_words(a.params))
                table.add_row(a.name, f"{a.formula}\n{params}{also}[dim]{a.source}[/dim]")
        terminal.console.print(table)
    terminal.line(
        f"\n{len(CATALOG)} activations. Beside each parameter: its default and the range that 'search' means. An "
        "expression such as x * tanh(softplus(x))\nstands wherever a name does, and so does a function of your own: "
        "my_file.my_function."
    )


def _params_in_words(params: Sequence[Param]) -> list[str]:
    """A line for each, and one for all that only draw a shape."""
    shape = [p.name for p in params if p.anonymous]
    lines = [f"  {', '.join(shape)}: learned"] if shape else []
    for p in params:
        if not p.anonymous:
            start = p.default if isinstance(p.default, str) else f"{p.default:.4g}"
            bounds = f"; {p.low:g} to {p.high:g}{', log' if p.log else ''}" if p.low is not None else ""
            words = f"; {' or '.join(c if isinstance(c, str) else f'{c:g}' for c in p.choices)}" if p.choices else ""
            lines.append(f"  {p.name}: {'learned from ' if p.learned else ''}{start}{bounds}{words}")
    return lines


def properties(asked: Asked, activations: Any = None) -> None:
    """Prints the properties of these specs, or of the whole catalogue."""
    terminal = Terminal()
    specs = _specs(list(CATALOG) if activations is None else activations)
    measured = [properties_of(spec) for spec in terminal.each(specs, f"measuring {len(specs)} activations")]
    for heads, rows, legend in property_tables(measured):
        terminal.table(heads, rows, TEXT)
        terminal.line(f"{legend}\n")


def cost(
    asked: Asked, activations: Any = None, shape: Any = None, dtypes: Any = ("float32", "bfloat16"),
    memory_formats: Any = ("contiguous", "channels_last"), compiled: Any = (False,),
) -> None:  # fmt: skip
    """Measures what activations cost, by themselves and in a training step of the model; prints and writes tables."""
    job = asked.job()
    typical = [spec for candidate in job.space.typical() for spec in candidate.specs]
    specs = typical if activations is None else _specs(activations)
    relu, nothing = Spec.parse(tables.HOME), Spec.parse(tables.NOTHING)
    specs = list(dict.fromkeys([relu, *specs]))
    device, split = find_device(job.device), job.data.split(0)
    x, y = split.batch(job.recipe.batch_size, device)
    net = job.model.build((relu,), 0, job.recipe.init).to(device)
    shapes = [first_shape(net, x), large_shape(device)] if shape is None else [shape]
    chosen = settings(shapes, dtypes, memory_formats, compiled)
    make_folder(job.folder)
    terminal, found = Terminal(), []
    with one_thread():
        for setting in chosen:
            terminal.line(f"measuring {len(specs)} activations: {setting}")
            found += activation_costs(specs, setting, device)
        terminal.line(f"measuring training steps of {job.model.name}")
        steps, left_out = step_costs(
            job.model, list(dict.fromkeys([nothing, *specs])), job.recipe, x, y, split.goal.loss
        )
    for title, heads, rows, legend in (*tables.cost_tables(found), tables.step_table(steps, job.model.name)):
        terminal.line(f"\n{title}")
        terminal.table(heads, rows)
        terminal.line(legend)
    for line in (*tables.failures(found), *(f"{name} in {job.model.name}: {why}" for name, why in left_out.items())):
        terminal.warn(f"not measured: {line}")
    write_csv(job.folder / "cost.csv", tables.cost_rows(found))
    write_csv(job.folder / "training_step.csv", tables.step_rows(steps))
    tables.cost_figure(found, steps).savefig(job.folder / "cost.png", dpi=150)
    terminal.line(f"\ncosts        {shown(job.folder)}/ (cost.csv, training_step.csv, cost.png)")


def export(
    asked: Asked, activation: Any = None, path: Any = None, channels: Any = None, dim: Any = 1, onnx: Any = None,
    overwrite: Any = False,
) -> None:  # fmt: skip
    """Writes one spec as a Python file of its own and, where it can be had, as ONNX."""
    text = "'task.activation=\"leaky_relu6(negative_slope=0.02)\"'"
    for key, value, right, cure in (
        ("activation", activation, isinstance(activation, str), f"it must be one spec, e.g. {text}"),
        ("path", path, path is None or isinstance(path, str), "it must be a .py file or a folder"),
        ("channels", channels, channels is None or (type(channels) is int and channels > 0), "it must be 1 or more"),
        ("dim", dim, dim in (1, -1), "channels stand in dimension 1 or -1"),
        ("onnx", onnx, onnx is None or isinstance(onnx, bool), "it must be true, false or null"),
        ("overwrite", overwrite, isinstance(overwrite, bool), "it must be true or false"),
    ):
        if not right:
            shown = "null" if value is None else value
            raise ActSearchError(f"task.{key}={shown}: {cure}.")
    if "|" in activation:
        raise ActSearchError(f"task.activation={activation}: a file holds one activation. Export each of them.")
    terminal = Terminal()
    for what, said in export_spec(Spec.parse(activation), path, channels, dim, onnx, overwrite):
        terminal.line(f"{what:<12} {said}")


def _specs(activations: Any) -> list[Spec]:

    if not activations or not isinstance(activations, list) or not all(isinstance(a, str) for a in activations):
        raise ActSearchError(
            f"task.activations={activations}: write a list of specs, e.g. task.activations=[relu,gelu]."
        )
    return list(dict.fromkeys(map(Spec.parse, activations)))

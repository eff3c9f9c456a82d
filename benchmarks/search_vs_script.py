"""Compares the actsearch command with the script that a user would otherwise write (ordinary_script.py).

    python benchmarks/search_vs_script.py --repeat 5

actsearch searches; the script then trains exactly what it trained: the same candidates, number of seeds, steps,
rungs, finalists and test scores. Each runs in a process and an empty folder of its own. README.md says more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import actsearch
from actsearch.activations import Spec
from actsearch.data.classification import mnist1d
from actsearch.data.source import Data
from actsearch.question.recipe import Recipe
from actsearch.verdicts.statistics import paired_difference

SCRIPT = Path(__file__).with_name("ordinary_script.py").resolve()
WARM = "import hydra, mlflow, optuna, psutil, rich, scipy.stats, sklearn, torch, torchvision"


@dataclass
class Side:
    """One side (actsearch or the script) of one repeat.

    wall: seconds from the start of the process to its exit. parts: seconds by name, as the process measured them.
    trials: mean validation accuracy of each trial. finalists: test accuracy of each run.
    """

    wall: float
    parts: dict[str, float]
    trials: list[float]
    finalists: list[float]


def main() -> None:
    options = read_options()
    recipe = Recipe(steps=options.steps, init="torch")  # torch's own initial weights, as in an ordinary script
    environment = dict(os.environ, MLFLOW_DISABLE_TELEMETRY="true", PYTHONUNBUFFERED="1")
    home = str(Path(actsearch.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (home, environment.get("PYTHONPATH")) if p)
    command = [sys.executable, "-m", "actsearch", f"model={options.model}", "device=cpu", "study.name=benchmark",
               f"study.n_trials={options.trials}", f"study.seeds={options.seeds}", f"recipe.steps={recipe.steps}",
               f"recipe.init={recipe.init}", f"confirm.finalists={options.finalists}",
               f"confirm.seeds={options.finalist_seeds}"]  # fmt: skip
    print("actsearch:", " ".join(command[1:]))
    print(f"script:    {SCRIPT.name}, threads: {options.threads or 'as torch chooses'}")
    print(f"machine:   {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} (best: near 0)")

    split, test = save_inputs()
    subprocess.run([sys.executable, "-c", WARM], check=True, env=environment)  # so neither side reads cold files
    plan, pairs = None, []
    for repeat in range(options.repeat):
        with tempfile.TemporaryDirectory() as name:
            ours, theirs = Path(name, "actsearch"), Path(name, "script")
            ours.mkdir(), theirs.mkdir()
            np.savez(theirs / "data.npz", **split, **test)
            first = None
            if plan is not None and repeat % 2:  # the order alternates once the plan is known
                first = run_script(theirs, plan, options.threads, environment)
            left, found = run_actsearch(ours, command, environment, options.model, recipe)
            if plan not in (None, found):
                raise SystemExit("actsearch trained other candidates than in the first repeat: nothing to compare.")
            plan = found
            pairs.append((left, first or run_script(theirs, plan, options.threads, environment)))
        left, right = pairs[-1]
        print(f"repeat {repeat + 1}: actsearch {left.wall:.1f} s, script {right.wall:.1f} s, "
              f"ratio {right.wall / left.wall:.2f}", flush=True)  # fmt: skip
    assert plan is not None
    report(plan, pairs)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["mlp", "cnn1d"], default="mlp")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each trial")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--finalists", type=int, default=3, help="finalists besides the baseline")
    parser.add_argument("--finalist-seeds", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=1, help="pairs of runs, interleaved")
    parser.add_argument("--threads", type=int, default=1, help="the script's torch threads; 0: torch's default, slower")
    return parser.parse_args()


def save_inputs() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns actsearch's own split and test set, for the script; fills the cache, so that neither side makes data."""
    source = mnist1d()
    split = Data(source, "mnist1d", n_validation=800).split(0)
    x_test, y_test = source.test()
    inputs = {k: v.numpy() for k, v in vars(split).items() if k != "goal"}
    return inputs, {"x_test": x_test.numpy(), "y_test": y_test.numpy()}


def run_process(arguments: list[str], folder: Path, environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return wall


def run_actsearch(
    folder: Path, command: list[str], environment: dict[str, str], model: str, recipe: Recipe
) -> tuple[Side, dict]:
    """Runs actsearch; returns its side and the plan of what it trained, without the candidates that TPE repeated."""
    wall = run_process(command, folder, environment)
    results = folder / "runs" / "benchmark"
    rows = sorted(read_csv(results / "leaderboard.csv"), key=lambda row: int(row["trial"]))
    trained, runs = [row for row in rows if row["state"] != "duplicate"], read_csv(results / "finalists.csv")
    seeds: dict[str, list[int]] = {}
    for run in runs:
        seeds.setdefault(run["activation"], []).append(int(run["seed"]))
    plan = {
        **{key: getattr(recipe, key) for key in ("lr", "weight_decay", "batch_size", "steps", "eval_every")},
        "model": model,
        "seeds": list(range(int(trained[0]["n_seeds"]))),
        "trials": [candidate(row["activation"]) for row in trained],
        "repeated": len(rows) - len(trained),
        "finalists": [{**candidate(activation), "seeds": theirs} for activation, theirs in seeds.items()],
    }
    timing = json.loads((results / "timing.json").read_text())
    scores = [float(row["val_accuracy_mean"]) for row in trained], [float(run["test_accuracy"]) for run in runs]
    return Side(wall, timing, *scores), plan


def run_script(folder: Path, plan: dict, threads: int, environment: dict[str, str]) -> Side:
    (folder / "plan.json").write_text(json.dumps(plan))
    wall = run_process([sys.executable, str(SCRIPT), str(threads)], folder, environment)
    result = json.loads((folder / "result.json").read_text())
    return Side(wall, result["seconds"], result["trials"], result["finalists"])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def candidate(text: str) -> dict:
    spec = Spec.parse(text)
    return {"activation": spec.name, "params": {k: v for k, v in spec.params.items() if isinstance(v, float)}}


# row: (actsearch's entries of timing.json, the script's parts). "above": actsearch counts it in the row above it.
ROWS: dict[str, tuple[list[str] | str, list[str] | str]] = {
    "start-up: imports": (["startup_s"], ["imports"]),
    "start-up: data, MLflow's new store": ("above", ["setup", "mlflow_setup"]),
    "search: asking, telling": (["asking_s"], ["search_asking"]),
    "search: training": (["training_s"], ["search_training"]),
    "search: evaluation": ("above", ["search_evaluation"]),
    "search: MLflow": ("in a thread", ["search_mlflow"]),
    "finalists: training": (["finalists_s"], ["finalists_training"]),
    "finalists: evaluation, test": ("above", ["finalists_evaluation"]),
    "finalists: MLflow": ("at the end", ["finalists_mlflow"]),
    "report": (["report_s"], "none"),
}


def report(plan: dict, pairs: list[tuple[Side, Side]]) -> None:
    runs = len(plan["trials"]) * len(plan["seeds"]) + sum(len(f["seeds"]) for f in plan["finalists"])
    sides = list(zip(*pairs, strict=True))
    print(f"\n{len(plan['trials'])} trials × {len(plan['seeds'])} seeds and {len(plan['finalists'])} finalists: {runs} "
          f"runs × {plan['steps']} steps ({plan['repeated']} repeated candidates, trained by neither)")  # fmt: skip
    row(f"\nseconds, median of {len(pairs)}", ["actsearch", "script"])
    for label, parts in ROWS.items():
        row(label, [p if isinstance(p, str) else median(side, p) for side, p in zip(sides, parts, strict=True)])
    named = [
        [part for p in parts if not isinstance(p, str) for part in p] for parts in zip(*ROWS.values(), strict=True)
    ]
    walls = [statistics.median(one.wall for one in side) for side in sides]
    row("the rest: MLflow's end, exit", [wall - median(s, p) for wall, s, p in zip(walls, sides, named, strict=True)])
    row("wall", walls)
    logged = ["mlflow_setup", "search_mlflow", "finalists_mlflow"]
    row("MLflow in all (actsearch: while it trains)", [median(sides[0], ["tracking_s"]), median(sides[1], logged)])
    row("run-steps/s of the wall", [f"{runs * plan['steps'] / wall:,.0f}" for wall in walls])
    ratios = [right.wall / left.wall for left, right in pairs]
    print(f"\nratio of walls, script / actsearch: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}, "
          f"max {max(ratios):.2f} ({len(ratios)} repeats)")  # fmt: skip
    print("\nThe same trainings? Weights and batches are drawn by other generators: equal within noise.")
    left, right = pairs[0]
    ours, theirs = statistics.mean(left.trials), statistics.mean(right.trials)
    print(f"  validation, mean of trials:  actsearch {ours:.2%}, script {theirs:.2%}, difference {ours - theirs:+.2%}")
    n = len(plan["finalists"])  # the runs are sorted by finalist and seed; their means for each seed are independent
    a, b = (np.reshape(side.finalists, (n, -1)).mean(0) for side in (left, right))
    d = paired_difference(a, b)
    print(f"  test, mean of finalists:     actsearch {a.mean():.2%}, script {b.mean():.2%}, difference {d.mean:+.2%} "
          f"(95 % interval {d.ci_low:+.2%} to {d.ci_high:+.2%}, {d.n} seeds)")  # fmt: skip


def median(side: Sequence[Side], parts: Sequence[str]) -> float:
    return statistics.median(sum(one.parts.get(part, 0.0) for part in parts) for one in side)


def row(label: str, cells: Sequence[float | str]) -> None:
    print(f"{label:38}" + "".join(f"{c if isinstance(c, str) else f'{c:.2f}':>14}" for c in cells))


if __name__ == "__main__":
    main()

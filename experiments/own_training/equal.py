"""Does a training of one's own give what the built-in one gives, and what does it cost? python equal.py [--smoke]

Compares five activations with ReLU on the same seeds, once by the built-in loop (run by run, without the fused engine)
and once by mlp.py through `actsearch.compare(train=…)`. Prints both verdicts for each and the largest difference of a
run, and then what a run costs beyond its training: by a training that does nothing.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import mlp

import actsearch

HERE = Path(__file__).parent
ACTIVATIONS = ["relu", "gelu", "silu", "tanh", "elu", "leaky_relu(negative_slope=0.02)"]


def nothing(activation: Any, seed: int) -> dict[str, float]:
    return {"test_accuracy": 0.5 + seed * 1e-9}


def timed(**keywords: Any) -> tuple[actsearch.api.Result, float]:  # type: ignore[name-defined]
    begin = time.perf_counter()
    return actsearch.compare(**keywords, quiet=True, tracking="none"), time.perf_counter() - begin


def main(smoke: bool) -> None:
    names, seeds, steps = (ACTIVATIONS[:2], 3, 100) if smoke else (ACTIVATIONS, 20, 1000)
    with tempfile.TemporaryDirectory() as folder:
        same = {"activations": names, "seeds": seeds, "folder": folder, "confirm": {"tune": "none"}}
        built_in, seconds_built_in = timed(
            model="mlp", data="mnist1d", recipe={"steps": steps}, engine="serial", **same
        )
        own, seconds_own = timed(train=mlp.train, settings={"steps": steps}, **same)
        runs = {(run.activation, run.seed): run for run in built_in.runs}
        rows, worst = [], 0.0
        for c in own.comparisons:
            theirs = next(other for other in built_in.comparisons if other.activation == c.activation)
            off = max(abs(run.test_metric - runs[run.activation, run.seed].test_metric)
                      for run in own.runs if run.activation == c.activation)  # fmt: skip
            worst = max(worst, off)
            if c.verdict is not None and theirs.verdict is not None:
                rows.append({
                    "activation": c.activation, "seeds": seeds,
                    **{f"{where}_{key}": f"{getattr(v, key):.6g}"
                       for where, v in (("built_in", theirs.verdict), ("own", c.verdict))
                       for key in ("difference", "ci_low", "ci_high")},
                    "built_in_verdict": theirs.verdict.verdict, "own_verdict": c.verdict.verdict,
                    "largest_difference_of_a_run": f"{off:.2g}",
                })  # fmt: skip
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
        print(f"largest difference of a run's test accuracy: {worst:.2g}")
        n = len(names) * seeds
        print(f"built in, run by run: {seconds_built_in:.1f} s for {n} runs; own: {seconds_own:.1f} s")
        few, first = timed(train=nothing, activations=["relu", "gelu"], seeds=2, folder=folder)
        many, second = timed(train=nothing, activations=["relu", "gelu"], seeds=10 if smoke else 202, folder=folder)
        n_more = len(many.runs) - len(few.runs)
        print(
            f"a training that does nothing: {first:.2f} s for 4 runs, which is the start of the processes and the "
            f"report; {1000 * (second - first) / n_more:.1f} ms for each of {n_more} further runs"
        )
    if not smoke:
        with (HERE / "equal.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main("--smoke" in sys.argv)

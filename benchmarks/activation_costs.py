"""What activations cost on this machine: by themselves, eager and compiled, and as a share of a training step.

    python benchmarks/activation_costs.py                # tables on the terminal; ten minutes on 2 cores
    python benchmarks/activation_costs.py --no-compile   # two minutes
    python benchmarks/activation_costs.py --write        # also into cost.md

It measures the same as `actsearch task=cost`, for the article's activations and for the training steps of two nets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from throughput import machine

from actsearch.activations.spec import Spec
from actsearch.data.goal import cross_entropy
from actsearch.measure.activation_cost import activation_costs, large_shape, settings
from actsearch.measure.cost import step_costs
from actsearch.measure.timing import one_thread
from actsearch.models import cnn2d, mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.report.costs import NOTHING, Table, cost_tables, failures, step_table
from actsearch.report.tables import markdown_table
from actsearch.training.trainer import find_device

HERE = Path(__file__).parent
TEXTS = [
    "relu", "leaky_relu", "relu6", "leaky_relu6", "elu", "gelu", "gelu(approximate=tanh)", "silu", "silu(beta=1.5)",
    "hardswish", "mish", "softplus", "tanh", "sigmoid", "prelu",
]  # fmt: skip
MODELS = {"mlp": (mlp, (40,), 100), "cnn2d": (cnn2d, (1, 28, 28), 32)}  # function, shape of an input, batch size
BUDGET_S = 20.0  # seconds spent on each setting and on each model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="SPEC", default=TEXTS, help="these activations")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for each setting and each model")
    parser.add_argument("--write", action="store_true", help="the tables into cost.md")
    options = parser.parse_args()
    device = find_device(options.device)
    where, specs = machine(device), [Spec.parse(text) for text in options.only]
    print(where, flush=True)
    tables: list[Table] = []
    with one_thread():
        for name, (function, shape, n) in MODELS.items():
            model, g = Model(function, name, shape, 10), torch.Generator().manual_seed(0)
            x, y = torch.randn(n, *shape, generator=g), torch.randint(10, (n,), generator=g)
            nets = [Spec.parse(NOTHING), *specs]
            steps, _ = step_costs(model, nets, Recipe(), x.to(device), y.to(device), cross_entropy, options.budget)
            tables.append(step_table(steps, f"{name}, batches of {n} × {' × '.join(map(str, shape))}"))
            print("\n".join(" | ".join(row) for row in tables[-1][2]), flush=True)
        for compiled in [False] if options.no_compile else [False, True]:
            chosen = settings(
                [large_shape(device)], ["float32", "bfloat16"], ["contiguous", "channels_last"], [compiled]
            )
            costs = [c for setting in chosen for c in activation_costs(specs, setting, device, options.budget)]
            tables += cost_tables(costs)
            print("\n".join(failures(costs)), flush=True)
    blocks = [
        f"**{title}**\n\n{markdown_table([head.replace(chr(10), ', ') for head in heads], rows)}\n\n{legend}"
        for title, heads, rows, legend in tables
    ]
    text = "\n\n".join(blocks)
    print(text)
    if options.write:
        path = HERE / "cost.md"
        before, mark, rest = path.read_text().partition("<!-- activation_costs.py writes from here -->\n")
        _, end, after = rest.partition("<!-- to here -->\n")
        path.write_text(f"{before}{mark}\nOn {where}.\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()

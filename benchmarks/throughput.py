"""Compares the training speed (run-steps/s) of the ordinary script, plain loops, and fused programs of K runs.

    python benchmarks/throughput.py                    # this machine's cores, or its GPU; ten minutes on 2 cores
    python benchmarks/throughput.py --models mlp --repeat 1 --steps 100          # does it work?
    python benchmarks/throughput.py --write            # also the table and the plot in README.md

All sides train the article's activations on the same data, with one evaluation every 100 steps; no sampler is
asked and nothing is logged. Repeats are interleaved: each side once, then each again. README.md describes the sides.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from actsearch.activations.spec import Spec
from actsearch.data.source import Data, Source
from actsearch.models import cnn1d, cnn2d, mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe
from actsearch.training.plan import Plan, choose_plan
from actsearch.training.reference import Run
from actsearch.training.trainer import Trainer, find_device
from actsearch.training.worker import Worker

HERE = Path(__file__).parent
MODELS = {"mlp": (mlp, (40,)), "cnn1d": (cnn1d, (40,)), "cnn2d": (cnn2d, (1, 28, 28))}
SHARE_OF_STEPS = {"mlp": 1.0, "cnn1d": 0.5, "cnn2d": 0.04}
TEXTS = [
    "relu", "leaky_relu(negative_slope=0.02)", "leaky_relu6(negative_slope=0.02)", "prelu", "relu6", "elu(alpha=0.5)",
    "selu", "celu(alpha=0.5)", "gelu", "silu(beta=1.5)", "hardswish", "mish", "softplus", "tanh", "sigmoid",
    "hardsigmoid", "hardtanh", "softsign", "identity",
]  # fmt: skip
PEER = """
import json, sys, time
import numpy as np, torch
from torch.utils.data import DataLoader, TensorDataset
import ordinary_script as peer
plan = json.loads(sys.stdin.readline())
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
x, y = torch.randn(4000, *plan["shape"], generator=g), torch.randint(10, (4000,), generator=g)
data, val = TensorDataset(x[:3200], y[:3200]), DataLoader(TensorDataset(x[3200:], y[3200:]), batch_size=1000)
quiet = lambda *a, **k: None
peer.train({**plan, "steps": 5}, "relu", {}, 0, data, val, quiet)
for line in sys.stdin:
    start = time.perf_counter()
    for name, params in plan["candidates"]:
        peer.train(plan, name, params, 0, data, val, quiet)
    print(time.perf_counter() - start, flush=True)
"""


@dataclass
class Side:
    """One way of training. measure: trains some runs, returns (run-steps, seconds). rates: run-steps/s by repeat."""

    name: str
    measure: Callable[[], tuple[int, float]]
    rates: list[float]
    memory_mib: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--k", nargs="+", type=int, default=None, help="runs fused into a program")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=300, help="steps of the mlp; the other models take fewer")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="instead: where a step's time goes, plain and fused")
    parser.add_argument("--write", action="store_true", help="write the table and the plot into README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = find_device(options.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)  # with several GPUs, both sides use only one
    sizes = options.k or ([4, 8, 16, 32] if device.type == "cpu" else [32, 128, 256])
    images = options.k or ([8] if device.type == "cpu" else sizes)  # of fused cnn2d; on a CPU it is slow
    print(machine(device), flush=True)
    if options.profile:
        for name in options.models:
            profile(name, device)
        return
    where, models = machine(device), {}
    for name in options.models:
        models[name] = compare(name, device, images if name == "cnn2d" else sizes, options.steps, options.repeat)
    if options.write:
        write(where, [rows for rows, _ in models.values()])
        plot(where, {name: sides for name, (_, sides) in models.items()})


def machine(device: torch.device) -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next((s.split(": ")[1] for s in info.read_text().splitlines() if s.startswith("model name")), name)
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    cores = psutil.cpu_count()
    return f"{cores} cores of {name}{gpu}, torch {torch.__version__}, load {psutil.getloadavg()[0]:.1f} at the start"


def compare(name: str, device: torch.device, sizes: list[int], steps: int, repeat: int) -> tuple[list[str], list[Side]]:
    """Measures one model; returns the lines of its table and its sides."""
    function, shape = MODELS[name]
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4000, *shape, generator=g), torch.randint(10, (4000,), generator=g)
    data = Data(Source(x, y, lambda: (x, y)), "noise", n_validation=800)
    model = Model(function, name, shape, 10)
    steps = max(10, int(steps * SHARE_OF_STEPS[name]))
    recipe = Recipe(steps=steps, eval_every=min(100, steps))
    n_runs = 38 if device.type == "cpu" else 256  # about so many runs per measurement

    plan = {"model": name, "device": str(device), "shape": shape, "steps": steps, "lr": recipe.lr,
            "weight_decay": recipe.weight_decay, "batch_size": recipe.batch_size, "eval_every": recipe.eval_every,
            "candidates": [[s.name, {k: v for k, v in s.params.items() if isinstance(v, float)}]
                           for s in map(Spec.parse, TEXTS)]}  # fmt: skip
    peer = subprocess.Popen([sys.executable, "-c", PEER], cwd=HERE, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    assert peer.stdin is not None and peer.stdout is not None
    print(json.dumps(plan), file=peer.stdin, flush=True)

    def script() -> tuple[int, float]:
        print("again", file=peer.stdin, flush=True)
        return len(TEXTS) * steps, float(peer.stdout.readline())

    with Trainer(device) as trainer:
        trainer.load(model, data)

        def train_all(how: Plan) -> Callable[[], tuple[int, float]]:
            """The plain loop trains each activation once; fused, further seeds fill the programs of every process."""
            at_once = trainer.cores * how.k
            n = len(TEXTS) if how.engine == "serial" else at_once * max(1, round(n_runs / at_once))
            runs = [Run((Spec.parse(TEXTS[i % len(TEXTS)]),), recipe, i // len(TEXTS)) for i in range(n)]

            def measure() -> tuple[int, float]:
                trainer.plan = how
                begin = time.perf_counter()
                trainer.start(runs)
                for _ in recipe.rungs():
                    list(trainer.advance(set()))
                return n * steps, time.perf_counter() - begin

            return measure

        auto = choose_plan("auto", model, data.goal, recipe.batch_size, device, trainer.cores)
        sides = [Side("the ordinary script", script, []), Side("plain loop", train_all(Plan("serial")), [])]
        if name == "cnn2d":
            sides.append(Side("plain loop, channels last", train_all(Plan("serial", channels_last=True)), []))
        sides += [Side(f"fused, K = {k}", train_all(Plan("fused", k)), []) for k in sizes]
        for side in sides[1:]:
            side.measure()  # warm-up: the first use of every kernel
        for _ in range(repeat):
            for side in sides:
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                done, seconds = side.measure()
                side.rates.append(done / seconds)
                side.memory_mib = max(side.memory_mib, memory_mib(device))
    peer.stdin.close()
    peer.wait()
    rows = [f"**{name}** ({model.n_parameters:,} parameters; default plan: {auto})", "",
            "| training | run-steps/s | against the script | against the plain loop | memory, MiB |",
            "| --- | --: | --: | --: | --: |"]  # fmt: skip
    for side in sides:
        against = [ratio(side.rates, other.rates) for other in sides[:2]]
        memory = "" if side is sides[0] else f"{side.memory_mib:,.0f}"
        rows.append(f"| {side.name} | {statistics.median(side.rates):,.0f} | {against[0]} | {against[1]} | {memory} |")
    best = max(sides, key=lambda s: statistics.median(s.rates))
    rows += ["", roofline(model, data, recipe, device, best), ""]
    print("\n".join(rows), flush=True)
    return rows, sides


PARTS = {
    "products, convolutions": ("mm", "convolution", "_conv", "linear"),
    "activations": ("relu", "elu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus", "hardswish", "threshold",
                    "clamp", "sigmoid", "where", "expm1", "prelu", "abs"),
    "optimizer": ("_fused_adamw", "Optimizer"),
    "loss, sums": ("softmax", "nll", "sum", "exp", "cross_entropy", "argmax", "gather"),
    "batches, copies": ("index", "copy", "gather", "empty", "zero", "fill", "slice", "stride", "view", "select"),
}  # fmt: skip


def profile(name: str, device: torch.device) -> None:
    """Prints the CPU time of a run-step by kind of operation, for one rung of single runs and of programs of 8 runs."""
    function, shape = MODELS[name]
    x, y = torch.randn(4000, *shape), torch.randint(10, (4000,))
    data = Data(Source(x, y, lambda: (x, y)), "noise", n_validation=800)
    recipe = Recipe(steps=60, eval_every=20)
    runs = [(i, Run((Spec.parse(text),), recipe, 0)) for i, text in enumerate(TEXTS)]
    for plan in (Plan("serial"), Plan("serial", channels_last=True) if name == "cnn2d" else Plan("fused", 8)):
        worker = Worker(Model(function, name, shape, 10), data, device)
        worker.start(runs, plan)
        worker.advance(set())  # warm-up
        start = time.process_time()
        worker.advance(set())
        whole = (time.process_time() - start) / len(runs) / 20
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            worker.advance(set())
        parts = dict.fromkeys([*PARTS, "other"], 0.0)
        for event in profiler.key_averages():
            part = next((part for part, words in PARTS.items() if any(w in event.key for w in words)), "other")
            parts[part] += event.self_cpu_time_total
        total = sum(parts.values())
        shares = ", ".join(f"{part} {spent / total:.0%}" for part, spent in parts.items())
        how = f"{plan}, channels last" if plan.channels_last else str(plan)
        print(f"{name}, {how}: {whole * 1e6:.0f} µs a run-step on one core. Of the time in operations: {shares}")


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median and spread of the ratios of the interleaved repeats."""
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def memory_mib(device: torch.device) -> float:
    """The present memory of all training processes together; for a GPU, the peak memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    workers = [p for p in psutil.Process().children(recursive=True) if "training.worker" in " ".join(p.cmdline())]
    return sum(p.memory_info().rss for p in workers) / 2**20


def roofline(model: Model, data: Data, recipe: Recipe, device: torch.device, best: Side) -> str:
    """The fastest side's share of the speed at which the whole machine multiplies square matrices, as a sentence."""
    net, split = model.build((Spec.of("relu"),), 0, "torch"), data.split(0)
    with FlopCounterMode(display=False) as counter:
        split.goal.loss(net(split.x_train[: recipe.batch_size]), split.y_train[: recipe.batch_size]).backward()
    reached = counter.get_total_flops() * statistics.median(best.rates)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device)
    torch.set_num_threads(psutil.cpu_count() or 1)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    peak = 2 * size**3 / min(seconds)
    return (f"Roofline: {best.name} computes {reached / 1e9:,.0f} GFLOP/s of products and convolutions, "
            f"{reached / peak:.0%} of the {peak / 1e9:,.0f} that a product of {size} × {size} reaches.")  # fmt: skip


def write(machine: str, blocks: list[list[str]]) -> None:
    """Writes the tables into README.md, between its marks."""
    path = HERE / "README.md"
    before, mark, rest = path.read_text().partition("<!-- throughput.py writes from here -->\n")
    _, end, after = rest.partition("<!-- to here -->\n")
    body = "\n".join(["", f"On {machine}. Ratios: median (least to most) of the interleaved repeats.", "",
                      *[row for rows in blocks for row in rows]])  # fmt: skip
    path.write_text(before + mark + body + end + after)


def plot(machine: str, models: dict[str, list[Side]]) -> None:
    """Draws throughput.png: speeds as multiples of the ordinary script's, with the spread of the repeats."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3.2), squeeze=False, layout="constrained")
    for ax, (name, sides) in zip(axes[0], models.items(), strict=True):
        names = [side.name for side in sides]
        each = [[a / b for a, b in zip(side.rates, sides[0].rates, strict=True)] for side in sides]
        middle = [statistics.median(ratios) for ratios in each]
        spread = [[m - min(r) for m, r in zip(middle, each, strict=True)],
                  [max(r) - m for m, r in zip(middle, each, strict=True)]]  # fmt: skip
        colours = ["#8c8c8c" if "fused" not in n else "#2a6f97" for n in names]
        ax.barh(names, middle, xerr=spread, color=colours, ecolor="#222222", capsize=2)
        ax.invert_yaxis()
        ax.set_title(name)
        ax.spines[["top", "right"]].set_visible(False)
    where = machine.split(", load", maxsplit=1)[0]
    figure.supxlabel(f"training speed, the ordinary script = 1   ({where})", fontsize=9)
    figure.savefig(HERE / "throughput.png", dpi=130)


if __name__ == "__main__":
    main()

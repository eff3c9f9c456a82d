"""The script that an able user would otherwise write: Optuna, DataLoader, AdamW, MLflow, one process.

It is the yardstick of two benchmarks: throughput.py calls its `train`; search_vs_script.py runs it in a folder with
plan.json (the candidates and seeds that actsearch trained) and data.npz (the same split). It imports nothing of
actsearch. All of its time is assigned to a part, such as training or MLflow.
"""

import time

START = time.perf_counter()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
from collections import defaultdict  # noqa: E402
from pathlib import Path  # noqa: E402

import mlflow  # noqa: E402
import numpy as np  # noqa: E402
import optuna  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402


class Watch:
    """Seconds by part, without gaps: each lap ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.mark = START
        self.stage = ""

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[self.stage + part] += now - self.mark
        self.mark = now


watch = Watch()
watch.lap("imports")


class LeakyReLU6(nn.Module):
    def __init__(self, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x):
        return F.leaky_relu(x, self.negative_slope).clamp(max=6.0)


class Swish(nn.Module):
    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


ACTIVATIONS = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "leaky_relu6": LeakyReLU6, "prelu": nn.PReLU, "relu6": nn.ReLU6,
    "elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU, "gelu": nn.GELU, "silu": Swish, "hardswish": nn.Hardswish,
    "mish": nn.Mish, "softplus": nn.Softplus, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": nn.Hardtanh, "softsign": nn.Softsign, "identity": nn.Identity,
}  # fmt: skip
RANGES = {
    "leaky_relu": ("negative_slope", 1e-3, 0.5),
    "leaky_relu6": ("negative_slope", 1e-3, 0.5),
    "elu": ("alpha", 0.1, 3.0),
    "celu": ("alpha", 0.1, 3.0),
    "silu": ("beta", 0.1, 10.0),
}


def activation(name: str, params: dict[str, float], channels: int) -> nn.Module:
    return nn.PReLU(channels) if name == "prelu" else ACTIVATIONS[name](**params)


def make_net(model: str, name: str, params: dict[str, float]) -> nn.Module:
    layers: list[nn.Module] = []
    if model == "mlp":
        for size in (40, 100, 100):
            layers += [nn.Linear(size, 100), activation(name, params, 100)]
        return nn.Sequential(*layers, nn.Linear(100, 10))
    if model == "cnn2d":
        for channels, out in ((1, 16), (16, 32)):
            layers += [nn.Conv2d(channels, out, 3, padding=1), activation(name, params, out), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 7 * 7, 10))
    layers.append(nn.Unflatten(1, (1, 40)))
    for channels, kernel in ((1, 5), (25, 3), (25, 3)):
        layers += [nn.Conv1d(channels, 25, kernel, stride=2, padding=1), activation(name, params, 25)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * 5, 10))


def evaluate(net: nn.Module, loader: DataLoader, device: str = "cpu") -> tuple[float, float]:
    """Returns (accuracy, mean loss)."""
    net.eval()
    right, total, n = 0, 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            outputs, labels = net(x.to(device)), y.to(device)
            right += (outputs.argmax(1) == labels).sum().item()
            total += F.cross_entropy(outputs, labels, reduction="sum").item()
            n += len(y)
    net.train()
    return right / n, total / n


def train(
    plan: dict, name: str, params: dict[str, float], seed: int, train_set, val_loader, log=mlflow.log_metrics
) -> tuple[nn.Module, float]:
    """Trains one net, evaluated and logged every eval_every steps. Returns it and its last validation accuracy."""
    device = plan.get("device", "cpu")
    torch.manual_seed(seed)
    net = make_net(plan["model"], name, params).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan["lr"], weight_decay=plan["weight_decay"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan["lr"], total_steps=plan["steps"])
    loader = DataLoader(train_set, batch_size=plan["batch_size"], shuffle=True)
    step, since, running, accuracy = 0, 0, 0.0, 0.0
    while step < plan["steps"]:
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            scheduler.step()
            running += loss.item()
            step, since = step + 1, since + 1
            if step % plan["eval_every"] == 0 or step == plan["steps"]:
                watch.lap("training")
                accuracy, val_loss = evaluate(net, val_loader, device)
                watch.lap("evaluation")
                metrics = {"val_accuracy": accuracy, "val_loss": val_loss, "train_loss": running / since}
                log({f"seed {seed}/{key}": value for key, value in metrics.items()}, step=step)
                watch.lap("mlflow")
                since, running = 0, 0.0
            if step == plan["steps"]:
                break
    watch.lap("training")
    return net, accuracy


def main(threads: int) -> None:
    plan = json.loads(Path("plan.json").read_text())
    for logger in ("alembic", "mlflow"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if threads:
        torch.set_num_threads(threads)
    with np.load("data.npz") as file:
        x_train, y_train, x_val, y_val, x_test, y_test = (
            torch.from_numpy(file[f"{kind}_{part}"]) for part in ("train", "val", "test") for kind in "xy"
        )
    train_set = TensorDataset(x_train, y_train)
    val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=1000)
    test_loader = DataLoader(TensorDataset(x_test, y_test), batch_size=1000)
    watch.lap("setup")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("activation-search")
    watch.lap("mlflow_setup")

    watch.stage = "search_"
    trials = []
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for wanted in plan["trials"]:  # TPE is asked as usual, but must choose the candidates that actsearch chose
        name, own = wanted["activation"], RANGES.get(wanted["activation"])
        fixed = {f"{name}.{own[0]}": wanted["params"][own[0]]} if own else {}
        study.enqueue_trial({"activation": name, **fixed})
        trial = study.ask()
        name = trial.suggest_categorical("activation", list(ACTIVATIONS))
        params = {own[0]: trial.suggest_float(f"{name}.{own[0]}", own[1], own[2], log=True)} if own else {}
        watch.lap("asking")
        with mlflow.start_run(run_name=f"trial-{trial.number}"):
            mlflow.log_params({"activation": name, **params})
            watch.lap("mlflow")
            scores = [train(plan, name, params, seed, train_set, val_loader)[1] for seed in plan["seeds"]]
            mean = sum(scores) / len(scores)
            mlflow.log_metric("val_accuracy", mean)
        watch.lap("mlflow")
        study.tell(trial, mean)
        watch.lap("asking")
        trials.append(mean)

    watch.stage = "finalists_"
    finalists = []
    for wanted in plan["finalists"]:
        name, own = wanted["activation"], RANGES.get(wanted["activation"])
        params = {own[0]: wanted["params"][own[0]]} if own else {}
        with mlflow.start_run(run_name=f"finalist-{name}"):
            mlflow.log_params({"activation": name, **params})
            watch.lap("mlflow")
            for seed in wanted["seeds"]:
                net, _ = train(plan, name, params, seed, train_set, val_loader)
                accuracy, _ = evaluate(net, test_loader)
                watch.lap("evaluation")
                mlflow.log_metric("test_accuracy", accuracy, step=seed)
                watch.lap("mlflow")
                finalists.append(accuracy)
        watch.lap("mlflow")
    result = {"seconds": watch.seconds, "trials": trials, "finalists": finalists, "threads": torch.get_num_threads()}
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(threads=int(sys.argv[1]))

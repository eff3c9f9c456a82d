"""The versions and the hardware with which a study was made, for its report."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from actsearch.processes import core_count

PACKAGES = ("actsearch", "torch", "torchvision", "optuna", "numpy", "scipy", "mlflow-skinny", "mnist1d")


def environment(device: torch.device) -> dict[str, str]:
    """The versions of Python and packages, and the hardware, each as one line."""
    known = {}
    for name in PACKAGES:
        try:
            known[name.removesuffix("-skinny")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    hardware = f"{_cpu()}, {core_count()} cores"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}; {hardware}"
    return {
        "versions": f"Python {platform.python_version()}, {versions}",
        "hardware": f"{hardware}; {platform.system()} {platform.machine()}",
    }


def source_commit() -> str | None:
    """The commit of the code in the current folder, if that is a git checkout."""
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return git.stdout.strip() if git.returncode == 0 else None


def _cpu() -> str:
    """The processor's name, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"

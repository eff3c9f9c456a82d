"""Torch's own activations, functions and modules, by the names that they have in the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LIBRARY = {"torch": torch, "torch.nn": nn, "torch.nn.functional": F, "torch.special": torch.special}
"""The modules of torch in which activations are looked for, by their import paths."""

EQUAL: dict[Any, str] = {
    nn.Identity: "identity", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.Hardsigmoid: "hardsigmoid",
    nn.Hardtanh: "hardtanh", nn.Softsign: "softsign", nn.LogSigmoid: "logsigmoid", nn.ReLU: "relu", nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu", nn.RReLU: "rrelu", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu",
    nn.Softplus: "softplus", nn.Softshrink: "softshrink", nn.Hardshrink: "hardshrink", nn.Tanhshrink: "tanhshrink",
    nn.GELU: "gelu", nn.SiLU: "silu", nn.Hardswish: "hardswish", nn.Mish: "mish",
    F.sigmoid: "sigmoid", F.tanh: "tanh", F.hardsigmoid: "hardsigmoid", F.hardtanh: "hardtanh",
    F.softsign: "softsign", F.logsigmoid: "logsigmoid", F.relu: "relu", F.relu6: "relu6", F.leaky_relu: "leaky_relu",
    F.elu: "elu", F.selu: "selu", F.celu: "celu", F.softplus: "softplus", F.softshrink: "softshrink",
    F.hardshrink: "hardshrink", F.tanhshrink: "tanhshrink", F.gelu: "gelu", F.silu: "silu", F.hardswish: "hardswish",
    F.mish: "mish", torch.relu: "relu", torch.sigmoid: "sigmoid", torch.tanh: "tanh", torch.selu: "selu",
    torch.celu: "celu", torch.sin: "sin", torch.erf: "erf", torch.atan: "arctan", torch.arctan: "arctan",
    torch.special.expit: "sigmoid", torch.special.erf: "erf",
}  # fmt: skip
"""What is exactly an entry of the catalogue, with the same names of parameters."""

NOT_A_VALUE = {"inplace"}  # arguments of torch's activations that change no value


def name_in_catalogue(path: str) -> str | None:
    """The catalogue's name of what an import path such as torch.nn.SELU names, if it is the same."""
    place, _, name = path.rpartition(".")
    found = getattr(LIBRARY[place], name, None) if place in LIBRARY else None
    return EQUAL.get(found) if isinstance(found, Callable) else None

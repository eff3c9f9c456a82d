"""CATALOG: every activation by its name, in the order in which lists and plots show them. Explicit."""

from __future__ import annotations

from actsearch.activations import fixed
from actsearch.activations.activation import Activation

_ENTRIES = (
    fixed.IDENTITY,
    fixed.SIGMOID,
    fixed.TANH,
    fixed.SOFTMAX,
    fixed.HARDSIGMOID,
    fixed.HARDTANH,
    fixed.SOFTSIGN,
    fixed.RELU,
    fixed.LEAKY_RELU,
    fixed.PRELU,
    fixed.RELU6,
    fixed.LEAKY_RELU6,
    fixed.ELU,
    fixed.SELU,
    fixed.CELU,
    fixed.SOFTPLUS,
    fixed.GELU,
    fixed.SILU,
    fixed.HARDSWISH,
    fixed.MISH,
)

CATALOG: dict[str, Activation] = {entry.name: entry for entry in _ENTRIES}

ALIASES: dict[str, str] = {alias: entry.name for entry in _ENTRIES for alias in entry.aliases}

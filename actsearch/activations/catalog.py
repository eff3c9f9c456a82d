"""CATALOG: every activation by its name, in the order in which lists and plots show them. Explicit."""

from __future__ import annotations

from actsearch.activations import channels, exponential, rectifiers, self_gated, sigmoidal
from actsearch.activations.activation import Activation

_ENTRIES = (
    sigmoidal.IDENTITY,
    sigmoidal.SIGMOID,
    sigmoidal.TANH,
    channels.SOFTMAX,
    sigmoidal.HARDSIGMOID,
    sigmoidal.HARDTANH,
    sigmoidal.SOFTSIGN,
    rectifiers.RELU,
    rectifiers.LEAKY_RELU,
    rectifiers.PRELU,
    rectifiers.RELU6,
    rectifiers.LEAKY_RELU6,
    exponential.ELU,
    exponential.SELU,
    exponential.CELU,
    exponential.SOFTPLUS,
    self_gated.GELU,
    self_gated.SILU,
    self_gated.HARDSWISH,
    self_gated.MISH,
    channels.GLU,
    channels.REGLU,
    channels.GEGLU,
    channels.SWIGLU,
    channels.BILINEAR,
    channels.CRELU,
    channels.MAXOUT,
    channels.FRELU,
    channels.META_ACON,
)

CATALOG: dict[str, Activation] = {entry.name: entry for entry in _ENTRIES}

ALIASES: dict[str, str] = {alias: entry.name for entry in _ENTRIES for alias in entry.aliases}

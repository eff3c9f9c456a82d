"""CATALOG: every activation by its name, in the order in which lists and plots show them. Explicit."""

from __future__ import annotations

from actsearch.activations import channels, exponential, periodic, rectifiers, self_gated, shrinkage, sigmoidal
from actsearch.activations.activation import Activation

_ENTRIES = (
    sigmoidal.IDENTITY,
    sigmoidal.SIGMOID,
    sigmoidal.TANH,
    channels.SOFTMAX,
    sigmoidal.HARDSIGMOID,
    sigmoidal.HARDTANH,
    sigmoidal.SOFTSIGN,
    sigmoidal.LECUN_TANH,
    sigmoidal.BIPOLAR_SIGMOID,
    sigmoidal.PENALIZED_TANH,
    sigmoidal.LOGSIGMOID,
    sigmoidal.ARCTAN,
    sigmoidal.ERF,
    sigmoidal.ISRU,
    rectifiers.RELU,
    rectifiers.LEAKY_RELU,
    rectifiers.PRELU,
    rectifiers.RELU6,
    rectifiers.LEAKY_RELU6,
    rectifiers.RRELU,
    rectifiers.SQUARED_RELU,
    rectifiers.STAR_RELU,
    rectifiers.FLEXIBLE_RELU,
    rectifiers.CLIPPED_RELU,
    rectifiers.THRESHOLDED_RELU,
    rectifiers.SHIFTED_RELU,
    rectifiers.SRELU,
    shrinkage.SOFTSHRINK,
    shrinkage.HARDSHRINK,
    shrinkage.TANHSHRINK,
    exponential.ELU,
    exponential.SELU,
    exponential.CELU,
    exponential.SOFTPLUS,
    self_gated.GELU,
    self_gated.SILU,
    self_gated.HARDSWISH,
    self_gated.MISH,
    periodic.SIN,
    periodic.SNAKE,
    periodic.GCU,
    periodic.COSID,
    periodic.SINC,
    periodic.GAUSSIAN,
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

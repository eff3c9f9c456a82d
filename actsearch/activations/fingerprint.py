"""Fingerprints of functions: specs with equal outputs have equal fingerprints, whatever their names or formulas."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from actsearch.activations.imported import kept
from actsearch.activations.spec import Learned, Spec, parse_net

SMALL = 0.01  # smaller outputs are compared to 8 decimal places, larger ones to 7 significant digits
FLAT = 1e-6  # a function whose outputs vary by less than this fraction of the largest one is constant


def _grid() -> Tensor:
    """120 inputs in [-6, 6], densest near 0 and not symmetric about any point, and four outside, up to 21 from 0."""
    inner = torch.linspace(-1.0, 1.0, 120, dtype=torch.float64)
    return torch.cat([6 * inner * inner.abs() + 0.0123, inner.new_tensor([-21, -11, 12, 20])]).view(1, -1)


@kept(16384)
def fingerprint(spec: Spec) -> str:
    """A text that is the same for all functions that agree to 7 digits on a grid of inputs.

    A spec that has learned parameters, that mixes several inputs or that draws random numbers equals only itself: its
    fingerprint is its own text.
    """
    if spec.activation.kind != "elementwise" or any(isinstance(v, Learned) for v in spec.values):
        return str(spec)
    values = spec(_grid()).flatten().tolist()
    written = [f"{v:.6e}" if abs(v) >= SMALL else f"{round(v, 8) + 0.0:.8f}" for v in values]  # + 0.0: no -0
    return hashlib.sha256(" ".join(written).encode()).hexdigest()[:16]


def net_fingerprint(specs: Sequence[Spec] | str) -> str:
    """The fingerprint of a network with one spec, or one for each slot."""
    return " | ".join(fingerprint(spec) for spec in (parse_net(specs) if isinstance(specs, str) else specs))


def is_constant(spec: Spec) -> bool:
    """Whether a spec has the same output for all inputs between -6 and 6."""
    values = spec(_grid()[:, :120])
    return bool(values.max() - values.min() <= FLAT * values.abs().max())

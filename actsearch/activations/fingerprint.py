"""Which functions are the same: by what they give, whatever they are called or how they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from actsearch.activations.spec import Learned, Spec, parse_net

SMALL = 0.01  # outputs below it are told apart by 1e-8, others by their first 7 digits
FLAT = 1e-6  # a function that varies less than that, against its size, is constant


def _grid() -> Tensor:
    """Inputs in [-6, 6], dense near 0 and symmetric about no point, and four further out."""
    inner = torch.linspace(-1.0, 1.0, 120, dtype=torch.float64)
    return torch.cat([6 * inner * inner.abs() + 0.0123, inner.new_tensor([-21, -11, 12, 20])]).view(1, -1)


@lru_cache(maxsize=16384)
def fingerprint(spec: Spec) -> str:
    """The same text for functions that agree to 7 digits on a grid of inputs. A spec that has learned parameters, sees
    several inputs or draws is only ever the same as itself: its own text.
    """
    if spec.activation.kind != "elementwise" or any(isinstance(v, Learned) for v in spec.values):
        return str(spec)
    values = spec(_grid()).flatten().tolist()
    written = [f"{v:.6e}" if abs(v) >= SMALL else f"{round(v, 8) + 0.0:.8f}" for v in values]  # + 0.0: no -0
    return hashlib.sha256(" ".join(written).encode()).hexdigest()[:16]


def net_fingerprint(specs: Sequence[Spec] | str) -> str:
    """Of a net with one spec, or one per layer."""
    return " | ".join(fingerprint(spec) for spec in (parse_net(specs) if isinstance(specs, str) else specs))


def is_constant(spec: Spec) -> bool:
    """Whether it gives the same whatever goes in, between -6 and 6."""
    values = spec(_grid()[:, :120])
    return bool(values.max() - values.min() <= FLAT * values.abs().max())

"""Activations in which an output depends on more than its own input: on other channels, or on a neighbourhood.

Each function takes `dim`, the dimension of the channels. Some change the number of channels (gated pairs, maxout,
crelu): a model asks for them by the number of channels that comes out, and the entry's `width` says how many channels
the layer before must give for each of these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.activations.activation import Activation, Param
from actsearch.activations.numerics import KeepsFloat32, finite, finite_below, in_float32
from actsearch.activations.self_gated import gelu, silu
from actsearch.errors import ActSearchError


def softmax(x: Tensor, dim: int = 1) -> Tensor:
    return torch.softmax(x, dim=dim)


SOFTMAX = Activation(
    "softmax", softmax, family="sigmoidal", formula="exp(x_c) / sum_k exp(x_k)", kind="channelwise",
    source="Bridle 1990; meant for the output layer",
)  # fmt: skip


# --- gated pairs: the first half of the channels times a gate of the second -------------------------


def _pairs(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    a, b = x.chunk(2, dim)
    return a, b


def glu(x: Tensor, dim: int = 1) -> Tensor:
    return F.glu(x, dim)


def reglu(x: Tensor, dim: int = 1) -> Tensor:
    a, b = _pairs(x, dim)
    return a * F.relu(b)


@in_float32
def geglu(x: Tensor, dim: int = 1) -> Tensor:
    a, b = _pairs(x, dim)
    return a * gelu(finite(b))


@in_float32
def swiglu(x: Tensor, dim: int = 1) -> Tensor:
    a, b = _pairs(x, dim)
    return a * silu(finite_below(b))


def bilinear(x: Tensor, dim: int = 1) -> Tensor:
    a, b = _pairs(x, dim)
    return a * b


def _two() -> float:
    return 2.0


GLU = Activation(
    "glu", glu, family="gated pair", formula="a * sigmoid(b), (a, b) the halves of the channels", kind="channelwise",
    width=_two, source="Dauphin et al. 2017",
)  # fmt: skip

REGLU = Activation(
    "reglu", reglu, family="gated pair", formula="a * relu(b), (a, b) the halves of the channels", kind="channelwise",
    width=_two, source="Shazeer 2020",
)  # fmt: skip

GEGLU = Activation(
    "geglu", geglu, family="gated pair", formula="a * gelu(b), (a, b) the halves of the channels", kind="channelwise",
    width=_two, source="Shazeer 2020",
)  # fmt: skip

SWIGLU = Activation(
    "swiglu", swiglu, family="gated pair", formula="a * silu(b), (a, b) the halves of the channels", kind="channelwise",
    width=_two, source="Shazeer 2020",
)  # fmt: skip

BILINEAR = Activation(
    "bilinear", bilinear, family="gated pair", formula="a * b, (a, b) the halves of the channels", kind="channelwise",
    width=_two, source="Mnih & Hinton 2007, as a layer's gate: Dauphin et al. 2017",
)  # fmt: skip


# --- other widths -----------------------------------------------------------------------------------


def crelu(x: Tensor, dim: int = 1) -> Tensor:
    return torch.cat([F.relu(x), F.relu(-x)], dim)


CRELU = Activation(
    "crelu", crelu, family="rectifier", formula="(max(x, 0), max(-x, 0)): two channels of each", kind="channelwise",
    width=lambda: 0.5, source="Shang et al. 2016",
)  # fmt: skip


def maxout(x: Tensor, pieces: float = 2.0, dim: int = 1) -> Tensor:
    return x.unflatten(dim, (-1, int(pieces))).amax(dim if dim < 0 else dim + 1)


MAXOUT = Activation(
    "maxout", maxout, family="rectifier", formula="max of `pieces` channels side by side", kind="channelwise",
    params=(Param("pieces", 2.0, choices=(2.0, 3.0, 4.0, 5.0)),), width=lambda pieces: pieces,
    source="Goodfellow et al. 2013",
)  # fmt: skip


# --- activations that have weights of their own -------------------------------------------------------


class FReLU(KeepsFloat32):
    """max(x, T(x)), where T is a depthwise 3 × 3 convolution, then batch norm. x: (N, channels, H, W)."""

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ActSearchError("'frelu' looks at windows of images (N, C, H, W). Choose another activation here.")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.maximum(wide, self.norm(self.conv(wide))).to(x.dtype)


FRELU = Activation(
    "frelu", FReLU, family="rectifier", formula="max(x, norm(conv3x3(x))), each channel apart", kind="weighted",
    source="Ma, Zhang & Sun 2020 (funnel activation), for images",
)  # fmt: skip


class MetaAconC(KeepsFloat32):
    """ACON-C whose β is computed from the channels' means. x: (N, channels) or (N, channels, …)."""

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        if dim != 1:
            raise ActSearchError("'meta_acon' averages over positions: it takes (N, C, …), not tokens (N, T, C).")
        between = max(4, channels // 16)
        self.p1, self.p2 = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.fc1, self.fc2 = nn.Linear(channels, between), nn.Linear(between, channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = wide.flatten(2).mean(2) if x.dim() > 2 else wide
        shape = (-1, x.shape[1], *[1] * (x.dim() - 2))
        beta = torch.sigmoid(self.fc2(self.fc1(mean))).view(shape)
        p1, p2 = self.p1.view(shape[1:]), self.p2.view(shape[1:])
        scaled = (p1 - p2) * wide
        return (scaled * torch.sigmoid(beta * scaled) + p2 * wide).to(x.dtype)


META_ACON = Activation(
    "meta_acon", MetaAconC, family="self-gated", kind="weighted",
    formula="(p1 - p2) * x * sigmoid(beta * (p1 - p2) * x) + p2 * x, beta = sigmoid(W2 W1 mean(x))",
    source="Ma et al. 2021; p1 and p2 start at 1 and 0, so as swish, where the authors' code draws them from N(0, 1)",
)  # fmt: skip

"""Convolutions in the fused engine: their segments, and two ways to compute them for K runs at once."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.training.layer import Binding, Layer, LayerCall, NotFusable, Segment


class Conv(Layer):
    """1-D and 2-D convolution. `bind` makes it a `ByPosition` on a CPU and a `Gathered` on accelerators."""

    @classmethod
    def segments(cls, name: str, module: Any, shape: tuple[int, ...], order: Tensor | None) -> list[Segment]:
        super().segments(name, module, shape, order)
        if (
            len(shape) != len(module.kernel_size) + 1
            or module.groups != 1
            or set(module.dilation) != {1}
            or module.padding_mode != "zeros"
        ):
            raise NotFusable(f"{name}: a convolution with groups, dilation or padding_mode has no fused form")
        if isinstance(module.padding, str):
            raise NotFusable(f"{name}: padding='{module.padding}' has no fused form; write it as a number")
        n, m, *kernel = module.weight.shape
        if any(p >= k for p, k in zip(module.padding, kernel, strict=True)):
            raise NotFusable(f"{name}: a convolution with windows wholly in its padding has no fused form")
        inner = torch.arange(module.weight.numel()).view(n, m, -1).transpose(1, 2).reshape(-1)
        bias = [] if module.bias is None else [Segment(f"{name}.bias", (n, 1))]
        return [Segment(f"{name}.weight", (n, math.prod(kernel) * m), inner), *bias]

    @classmethod
    def bind(cls, node: LayerCall, bound: Binding) -> Layer:
        return (Gathered if bound.vectorised else ByPosition)(node, bound)

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.w, self.gw = bound.of(node.segments[0])
        self.b, self.gb = bound.of(node.segments[1]) if len(node.segments) > 1 else (None, None)


class ByPosition(Conv):
    """A convolution that is computed one output position after the other.

    A tap is one position of the kernel. The inputs of taps that lie side by side in memory are one matrix
    (taps × channels, batch), a view of the input. A window that reaches into the padding has fewer taps. Products are
    added to the output (baddbmm), so that windows which overlap need no further pass.
    """

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        module, channels = node.module, node.inputs[0].shape[0]
        self._calls = [
            (self._positions(self.y, out), self._taps(self.w, taps, channels), self._window(self.x, where), taps, where,
             out, first)
            for out, first, taps, where in self._windows(module, node.inputs[0].shape[1:], node.out.shape[1:])
        ]  # fmt: skip
        self._channels = channels
        self._back: list[tuple[Tensor, ...]] | None = None

    @staticmethod
    def _windows(module: Any, size: tuple[int, ...], out_size: tuple[int, ...]):
        """Yields the products to compute: (output position, first, range of taps, input positions that they read).

        The taps of one product lie side by side in memory. first: true for the first product of an output position.
        """
        *outer_kernel, last_kernel = module.kernel_size
        for out in itertools.product(*map(range, out_size)):
            at = [o * s - p for o, s, p in zip(out, module.stride, module.padding, strict=True)]
            low, high = max(0, -at[-1]), min(last_kernel, size[-1] - at[-1])
            first = True
            for outer in itertools.product(*map(range, outer_kernel)):
                place = [a + k for a, k in zip(at[:-1], outer, strict=True)]
                if low >= high or any(not 0 <= p < n for p, n in zip(place, size[:-1], strict=True)):
                    continue
                row = 0
                for k, n in zip(outer, outer_kernel, strict=True):
                    row = row * n + k
                taps = (row * last_kernel + low, row * last_kernel + high)
                yield out, first, taps, (*place, slice(at[-1] + low, at[-1] + high))
                first = False

    @staticmethod
    def _positions(tensor: Tensor, out: tuple[int, ...]) -> Tensor:
        return tensor[(slice(None), *out)]

    @staticmethod
    def _taps(weight: Tensor, taps: tuple[int, int], channels: int) -> Tensor:
        return weight[:, :, taps[0] * channels : taps[1] * channels]

    @staticmethod
    def _window(tensor: Tensor, where: tuple[Any, ...]) -> Tensor:
        part = tensor[(slice(None), *where)]
        return part.view(len(part), -1, part.shape[-1])

    def forward(self, training: bool) -> None:
        for y, w, x, _, _, _, first in self._calls:
            if first and self.b is None:
                torch.bmm(w, x, out=y)
            else:
                torch.baddbmm(self.b if first else y, w, x, out=y)  # pyright: ignore[reportArgumentType]

    def backward(self) -> None:
        if self._back is None:
            self._back = [
                (self._positions(self.gy, out), self._taps(self.gw, taps, self._channels), x.mT, w.mT)
                + (() if self.gx is None else (self._window(self.gx, where),))
                for _, w, x, taps, where, out, _ in self._calls
            ]
        self.gw.zero_()
        for gy, gw, x, *_ in self._back:
            torch.baddbmm(gw, gy, x, out=gw)
        if self.gb is not None:
            torch.sum(self.gy, (*range(1, self.gy.dim() - 2), self.gy.dim() - 1), out=self.gb.squeeze(-1))
        if self.gx is not None:
            self.gx.zero_()
            for gy, _, _, w, gx in self._back:
                torch.baddbmm(gx, w, gy, out=gx)


class Gathered(Conv):
    """A convolution that copies all windows into one matrix and multiplies once.

    The product is (out, taps × channels) × (taps × channels, positions × batch). On an accelerator this is faster,
    because a kernel launch for each position would take longer than its work.
    """

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.kernel, self.stride, self.padding = node.module.kernel_size, node.module.stride, node.module.padding
        self.size, self.out_size = node.inputs[0].shape[1:], node.out.shape[1:]

    def _columns(self) -> Tensor:
        """All windows of the input, copied: (K, taps × channels, positions × batch)."""
        n = len(self.kernel)
        windows = F.pad(self.x, (0, 0, 0, 0, *(p for size in reversed(self.padding) for p in (size, size))))
        for d in range(n):
            windows = windows.unfold(1 + d, self.kernel[d], self.stride[d])
        # (K, *positions, C, B, *kernel)
        order = (0, *range(n + 3, 2 * n + 3), n + 1, *range(1, n + 1), n + 2)
        return windows.permute(order).flatten(n + 2).flatten(1, n + 1)

    def forward(self, training: bool) -> None:
        columns = self._columns()
        y = torch.bmm(self.w, columns) if self.b is None else torch.baddbmm(self.b, self.w, columns)
        self.y.copy_(y.unflatten(-1, (*self.out_size, -1)).movedim(1, -2))

    def backward(self) -> None:
        gy = self.gy.movedim(-2, 1).flatten(2)
        torch.bmm(gy, self._columns().mT, out=self.gw)
        if self.gb is not None:
            torch.sum(gy, -1, keepdim=True, out=self.gb)
        if self.gx is None:
            return
        shape = (*self.kernel, self.x.shape[-2], *self.out_size, self.x.shape[-1])
        columns = torch.bmm(self.w.mT, gy).view(-1, *shape)
        size = [n + 2 * p for n, p in zip(self.size, self.padding, strict=True)]
        padded = self.x.new_zeros(len(self.x), *size, *self.x.shape[-2:])
        for tap in itertools.product(*map(range, self.kernel)):
            read = [slice(k, k + s * (n - 1) + 1, s) for k, s, n in zip(tap, self.stride, self.out_size, strict=True)]
            padded[(slice(None), *read)].add_(columns[(slice(None), *tap)].movedim(1, -2))
        inside = [slice(p, p + n) for p, n in zip(self.padding, self.size, strict=True)]
        self.gx.copy_(padded[(slice(None), *inside)])

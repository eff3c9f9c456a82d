"""The layers of the fused engine, each with its forward and backward pass for K runs at once, and their table."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actsearch.activations.activation import Activation
from actsearch.activations.kernels import KERNELS, Kernel
from actsearch.activations.spec import ActivationModule, Learned, Spec
from actsearch.training.convolution import Conv
from actsearch.training.layer import Binding, Layer, LayerCall, NotFusable, Segment


class Linear(Layer):
    """A linear layer: y = W x + b."""

    @classmethod
    def segments(cls, name: str, module: Any, shape: tuple[int, ...], order: Tensor | None) -> list[Segment]:
        if len(shape) != 1:
            raise NotFusable(f"{name}: a linear layer on inputs of several dimensions has no fused form")
        n, m = module.out_features, module.in_features
        columns = None if order is None else (torch.arange(n)[:, None] * m + order).reshape(-1)
        bias = [] if module.bias is None else [Segment(f"{name}.bias", (n, 1))]
        return [Segment(f"{name}.weight", (n, m), columns), *bias]

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.w, self.gw = bound.of(node.segments[0])
        self.b, self.gb = bound.of(node.segments[1]) if len(node.segments) > 1 else (None, None)

    def forward(self, training: bool) -> None:
        if self.b is None:
            torch.bmm(self.w, self.x, out=self.y)
        else:
            torch.baddbmm(self.b, self.w, self.x, out=self.y)

    def backward(self) -> None:
        torch.bmm(self.gy, self.x.mT, out=self.gw)
        if self.gb is not None:
            torch.sum(self.gy, -1, keepdim=True, out=self.gb)
        if self.gx is not None:
            torch.bmm(self.w.mT, self.gy, out=self.gx)


class Norm(Layer):
    """Batch norm over positions and batch (Ioffe & Szegedy 2015), layer norm over features (Ba et al. 2016)."""

    @classmethod
    def segments(cls, name: str, module: Any, shape: tuple[int, ...], order: Tensor | None) -> list[Segment]:
        super().segments(name, module, shape, order)
        if module.weight is None or module.bias is None:
            raise NotFusable(f"{name}: a norm without weight and bias has no fused form")
        width = tuple(module.weight.shape)
        if len(width) != 1 or (isinstance(module, nn.LayerNorm) and len(shape) != 1):
            raise NotFusable(f"{name}: a layer norm over several dimensions has no fused form")
        segments = [Segment(f"{name}.weight", (*width, 1)), Segment(f"{name}.bias", (*width, 1))]
        if isinstance(module, nn.LayerNorm):
            return segments
        if module.running_mean is None or module.momentum is None:
            raise NotFusable(f"{name}: a batch norm without running statistics or momentum has no fused form")
        return [*segments, *(Segment(f"{name}.running_{what}", (*width, 1), kind="buffer") for what in ("mean", "var"))]

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        per_run = (-1, *[1] * (self.x.dim() - 3), node.out.shape[0], 1)
        tensors = [bound.of(segment) for segment in node.segments]
        (self.w, self.gw), (self.b, self.gb) = [(t.view(per_run), g.view(per_run)) for t, g in tensors[:2]]
        self.running = [t.view(per_run) for t, _ in tensors[2:]]
        self.eps, self.momentum = node.module.eps, getattr(node.module, "momentum", 0.0)
        outside = (*range(1, self.x.dim() - 2), self.x.dim() - 1)
        self.outside = outside  # the dimensions that share a weight
        self.over = outside if self.running else (self.x.dim() - 2,)  # the dimensions over which is normalised
        self.n = math.prod(self.x.shape[d] for d in self.over)

    def forward(self, training: bool) -> None:
        if self.running and not training:
            mean, var = self.running
        else:
            var, mean = torch.var_mean(self.x, self.over, correction=0, keepdim=True)
            for into, new in zip(self.running, (mean, var * (self.n / max(self.n - 1, 1))), strict=False):
                into.lerp_(new, self.momentum)
        scale = (var + self.eps).rsqrt_()
        normed = (self.x - mean).mul_(scale)
        torch.addcmul(self.b, normed, self.w, out=self.y)
        if training:
            self.scale, self.normed = scale, normed

    def backward(self) -> None:
        torch.sum(self.gy, self.outside, keepdim=True, out=self.gb)
        torch.sum(self.gy * self.normed, self.outside, keepdim=True, out=self.gw)
        if self.gx is not None:
            g = self.gy * self.w
            g.sub_(g.mean(self.over, keepdim=True) + self.normed * (g * self.normed).mean(self.over, keepdim=True))
            torch.mul(g, self.scale, out=self.gx)
        del self.scale, self.normed


class Dropout(Layer):
    """Dropout. The factors are drawn once for each seed, so that they equal the plain loop's."""

    in_place = True

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.p, self.shape, self.keep_mask = node.module.p, node.out.shape, bound.keep_mask

    def forward(self, training: bool) -> None:
        if not training:
            self.y.copy_(self.x)
            return
        self.mask = self.keep_mask(self.shape, self.p)
        torch.mul(self.x, self.mask, out=self.y)

    def backward(self) -> None:
        if self.gx is not None:
            torch.mul(self.gy, self.mask, out=self.gx)
        del self.mask


class Folded(Layer):
    """A layer without parameters that treats each example by itself: pooling, padding, slicing.

    All examples of all runs go through it as one batch. Its backward pass is autograd's, of this layer alone.
    """

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.fn, self.n_runs = node.module, bound.n_runs

    def _natural(self, tensor: Tensor) -> Tensor:
        """(K, *positions, C, B) → (K·B, C, *positions)."""
        d = tensor.dim()
        return tensor.permute(0, d - 1, d - 2, *range(1, d - 2)).flatten(0, 1)

    def _fused(self, tensor: Tensor) -> Tensor:
        parts = tensor.unflatten(0, (self.n_runs, -1))
        return parts.permute(0, *range(3, parts.dim()), 2, 1)

    def forward(self, training: bool) -> None:
        x = self._natural(self.x)
        if training and self.gx is not None:
            with torch.enable_grad():
                self._in = x.detach().requires_grad_()
                self._out = self.fn(self._in)
            self.y.copy_(self._fused(self._out.detach()))
        else:
            self.y.copy_(self._fused(self.fn(x)))

    def backward(self) -> None:
        if self.gx is not None:
            (grad,) = torch.autograd.grad(self._out, self._in, self._natural(self.gy))
            self.gx.copy_(self._fused(grad))
            del self._out, self._in


class Flatten(Layer):
    """A flatten, which is a view: nothing is computed. The next layer orders the columns of its weights accordingly."""

    def forward(self, training: bool) -> None: ...
    def backward(self) -> None: ...


class Add(Layer):
    """A residual sum of two values. gx, gx_other: the gradients of the two."""

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        self.other = node.inputs[1].data
        self.gx_other: Tensor | None = None

    def forward(self, training: bool) -> None:
        torch.add(self.x, self.other, out=self.y)

    def backward(self) -> None:
        for gx in (self.gx, self.gx_other):
            if gx is not None:
                gx.copy_(self.gy)


class Activations(Layer):
    """The activations of one slot. Neighbouring runs with the same activation share one call."""

    in_place = True

    def __init__(self, node: LayerCall, bound: Binding) -> None:
        super().__init__(node, bound)
        learned = bound.of(node.segments[0]) if node.segments else None
        self.place = node.place
        specs = [spec_at(row, node.place) for row in bound.specs]
        self.parts: list[Fixed | Trained] = []
        for at, spec, params in calls(specs, bound.vectorised, self.x):
            x, y = self.x[at], self.y[at]
            kernel = KERNELS.get(spec.activation.fn)
            plain = not any(isinstance(v, Tensor | Learned) for v in params.values())
            if kernel is not None and plain:
                self.parts.append(Fixed(kernel, params, x, y, at))
            else:
                self.parts.append(Trained(spec.activation, params, x, y, at, learned, node.width))

    def forward(self, training: bool) -> None:
        for part in self.parts:
            part.forward(training and self.gx is not None)

    def backward(self) -> None:
        if self.gx is not None:
            for part in self.parts:
                part.backward(self.gy[part.at], self.gx[part.at])

    def slopes(self) -> Tensor:
        """f'(x) for the x of the last forward pass, (K, *positions, C, B).

        NaN for runs with an activation whose output depends on several inputs.
        """
        slopes = torch.ones_like(self.x)
        for part in self.parts:
            part.into_slopes(slopes[part.at])
        return slopes


def learned_size(activation: Activation, param: str, width: int) -> int:
    """How many numbers a learned parameter has in a slot of `width` channels: one if it is shared, else `width`."""
    known = activation.param(param)
    return 1 if known is not None and known.shared else width


def spec_at(specs: Sequence[Spec], place: int) -> Spec:
    """The spec of slot `place`. specs: of a run, one for each slot or one for all."""
    return specs[place] if len(specs) > 1 else specs[0]


def calls(specs: Sequence[Spec], vectorised: bool, like: Tensor) -> list[tuple[slice, Spec, dict[str, Any]]]:
    """Divides neighbouring runs into groups that share a call: (their slice, the first's spec, the parameters).

    specs: one for each run. On a CPU the runs of a group have equal parameters, which are passed as numbers, because
    torch's kernels are faster with them (leaky_relu: 0.3 ms against 2.2 ms with a tensor). If vectorised, a group is
    all neighbours with the same activation, and a parameter whose values differ is a tensor (K_g, 1, …) like `like`.
    """

    def together(a: Spec, b: Spec) -> bool:
        if a.name != b.name or not vectorised:
            return a == b
        pairs = list(zip(a.values, b.values, strict=True))
        return all(x == y or (isinstance(x, float) and isinstance(y, float)) for x, y in pairs)

    out, start = [], 0
    for stop in range(1, len(specs) + 1):
        if stop < len(specs) and together(specs[start], specs[stop]):
            continue
        group = specs[start:stop]
        params: dict[str, Any] = {}
        for i, param in enumerate(group[0].activation.params):
            values: list[Any] = [spec.values[i] for spec in group]
            same = len(set(values)) == 1
            params[param.name] = values[0] if same else like.new_tensor(values).view(-1, *[1] * (like.dim() - 1))
        out.append((slice(start, stop), group[0], params))
        start = stop
    return out


class Fixed:
    """A group of runs whose activation has fixed parameters and a kernel of torch's, which is called directly."""

    def __init__(self, kernel: Kernel, params: dict[str, Any], x: Tensor, y: Tensor, at: slice) -> None:
        self.kernel, self.params, self.x, self.y, self.at = kernel, params, x, y, at

    def forward(self, training: bool) -> None:
        self.kernel.forward(self.x, self.y, **self.params)

    def backward(self, gy: Tensor, gx: Tensor) -> None:
        self.kernel.backward(gy, self.x, self.y, gx, **self.params)

    def into_slopes(self, ones: Tensor) -> None:
        """Overwrites a tensor of ones by the slopes f'(x), the gradient of the sum of outputs."""
        self.kernel.backward(ones, self.x, self.y, ones, **self.params)


class Trained:
    """A group of runs for which the catalogue's function is called, because there is no kernel for them.

    Their activation has none, or its parameters are learned, or differ between the runs of the group.
    The backward pass is the catalogue's if the entry has one, otherwise autograd's, of this function alone.
    """

    def __init__(
        self, activation: Activation, params: dict[str, Any], x: Tensor, y: Tensor, at: slice,
        learned: tuple[Tensor, Tensor] | None, width: int,
    ) -> None:  # fmt: skip
        self.activation, self.x, self.y, self.at = activation, x, y, at
        self.fixed = {name: value for name, value in params.items() if not isinstance(value, Learned)}
        self.learned: dict[str, tuple[Tensor, Tensor]] = {}
        names = [name for name, value in params.items() if isinstance(value, Learned)]
        start = 0
        for name in names:
            assert learned is not None
            n = learned_size(activation, name, width)
            shape = (-1, *[1] * (x.dim() - 3), n, 1)
            piece = (at, slice(start, start + n))
            self.learned[name] = (learned[0][piece].view(shape), learned[1][piece].view(shape))
            start += n

    def _call(self, x: Tensor, **learned: Tensor) -> Tensor:
        if self.activation.kind == "channelwise":  # the catalogue expects channels in dimension 1
            return self.activation.fn(x.movedim(-2, 1), **self.fixed, **learned).movedim(1, -2)
        return self.activation.fn(x, **self.fixed, **learned)

    def forward(self, training: bool) -> None:
        if not training or self.activation.backward is not None:
            self.y.copy_(self._call(self.x, **{name: value for name, (value, _) in self.learned.items()}))
            return
        with torch.enable_grad():
            self._in = [self.x.detach().requires_grad_()]
            # copies, because batch norm writes its statistics into the same rows meanwhile, and autograd, which
            # counts changes of the whole tensor, would then refuse the backward pass
            self._in += [value.clone().requires_grad_() for value, _ in self.learned.values()]
            self._out = self._call(self._in[0], **dict(zip(self.learned, self._in[1:], strict=True)))
        self.y.copy_(self._out.detach())

    def backward(self, gy: Tensor, gx: Tensor) -> None:
        if self.activation.backward is None:
            grads = torch.autograd.grad(self._out, self._in, gy)
            for (_, into), grad in zip(self.learned.values(), grads[1:], strict=True):
                into.copy_(grad)
            gx.copy_(grads[0])
            del self._out, self._in
            return
        params = {**self.fixed, **{name: value for name, (value, _) in self.learned.items()}}
        grad_x, grads = self.activation.backward(gy, self.x, **params)
        for name, (value, into) in self.learned.items():
            into.copy_(grads[name].sum_to_size(value.shape))
        gx.copy_(grad_x)

    def into_slopes(self, ones: Tensor) -> None:
        """As `Fixed.into_slopes`, but by autograd: `backward` would overwrite the gradients of learned parameters."""
        if self.activation.kind == "channelwise":
            ones.fill_(math.nan)
            return
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            y = self._call(x, **{name: value for name, (value, _) in self.learned.items()})
        ones.copy_(torch.autograd.grad(y, x, ones)[0])


TABLE: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv,
    nn.Conv2d: Conv,
    nn.BatchNorm1d: Norm,
    nn.BatchNorm2d: Norm,
    nn.LayerNorm: Norm,
    nn.Dropout: Dropout,
    nn.MaxPool1d: Folded,
    nn.MaxPool2d: Folded,
    nn.AvgPool1d: Folded,
    nn.AvgPool2d: Folded,
    nn.AdaptiveAvgPool1d: Folded,
    nn.AdaptiveAvgPool2d: Folded,
    nn.AdaptiveMaxPool1d: Folded,
    nn.AdaptiveMaxPool2d: Folded,
    nn.Flatten: Flatten,
    ActivationModule: Activations,
}

FUNCTIONS: dict[Any, type[Layer]] = {
    operator.add: Add,
    operator.iadd: Add,
    torch.add: Add,
    torch.flatten: Flatten,
    "flatten": Flatten,
    operator.getitem: Folded,
    F.pad: Folded,
    F.max_pool1d: Folded,
    F.max_pool2d: Folded,
    F.avg_pool1d: Folded,
    F.avg_pool2d: Folded,
    F.adaptive_avg_pool1d: Folded,
    F.adaptive_avg_pool2d: Folded,
}

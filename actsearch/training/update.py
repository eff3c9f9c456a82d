"""The optimizers of the fused engine: they update the weights of K runs, one tensor (K, n).

Each run has its own learning rate and weight decay. The formulas are those of torch.optim, and are tested against the
plain loop (reference.py). On a CPU torch's own fused kernels update one row after the other; in the vectorised form,
for accelerators, ordinary operations update all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actsearch.question.recipe import Recipe
from actsearch.training.optimizers import schedule

aten: Any = torch.ops.aten
BETA2, ADAM_EPS = 0.999, 1e-8  # torch's defaults
RMSPROP_ALPHA, RMSPROP_EPS = 0.99, 1e-8


class Update:
    """The optimizer of one program.

    weights, gradients: (K, n). n_weights: the first so many of n have weight decay. recipes: one for each run, all
    with the same optimizer. state: the optimizer's first and second moments, (K, n) each; None to start from zeros.
    """

    def __init__(
        self, weights: Tensor, gradients: Tensor, n_weights: int, recipes: Sequence[Recipe], vectorised: bool,
        state: Sequence[Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.gradients, self.n_weights = weights, gradients, n_weights
        self.kind, self.vectorised = recipes[0].optimizer, vectorised
        self.first, self.second = state or (torch.zeros_like(weights), torch.zeros_like(weights))
        # for each run a list over steps: the learning rate, and momentum or Adam's beta1
        plans = [schedule(r) for r in recipes]
        momenta = [0.9 if self.kind in ("adam", "adamw") else r.momentum for r in recipes]
        rates = [[lr for lr, _ in plan] for plan in plans]
        cycled = [[m if c is None else c for _, c in plan] for plan, m in zip(plans, momenta, strict=True)]
        clips = [math.inf if r.grad_clip is None else r.grad_clip for r in recipes]
        self.clip = weights.new_tensor(clips)[:, None] if min(clips) < math.inf else None
        if vectorised or self.kind == "rmsprop":
            self.rates = weights.new_tensor(rates).T.contiguous()
            self.momenta = weights.new_tensor(cycled).T.contiguous()
            self.decay = weights.new_tensor([r.weight_decay for r in recipes])[:, None]
            return
        self.host = list(zip(*[zip(rate, m, strict=True) for rate, m in zip(rates, cycled, strict=True)], strict=True))
        self.decays = [r.weight_decay for r in recipes]
        self.count = torch.zeros((), dtype=torch.float32)
        parts = [slice(0, n_weights)] + ([slice(n_weights, None)] if n_weights < weights.shape[1] else [])
        tensors = (weights, gradients, self.first, self.second)
        self.rows = [[tuple([t[k, part]] for t in tensors) for part in parts] for k in range(len(weights))]

    def step(self, step: Any) -> None:
        """Clips the gradients and updates the weights.

        step: how many updates came before, an integer or, if vectorised, a tensor of shape (1,) on the device.
        """
        if self.clip is not None:
            norm = self.gradients.norm(dim=1, keepdim=True)
            self.gradients.mul_((self.clip / (norm + 1e-6)).clamp_(max=1.0))
        if self.vectorised or self.kind == "rmsprop":
            at = step if isinstance(step, Tensor) else torch.tensor([step], device=self.weights.device)
            rate, momentum = self.rates.index_select(0, at).T, self.momenta.index_select(0, at).T
            {"sgd": self._sgd, "rmsprop": self._rmsprop}.get(self.kind, self._adam)(rate, momentum, at + 1)
        else:
            self._fused(step)

    def _fused(self, step: int) -> None:
        self.count.fill_(step + 1)
        for row, (rate, momentum), decay in zip(self.rows, self.host[step], self.decays, strict=True):
            for i, (w, g, m, v) in enumerate(row):
                wd = decay if i == 0 else 0.0
                if self.kind == "sgd":
                    aten._fused_sgd_(
                        w, g, m, weight_decay=wd, momentum=momentum, lr=rate, dampening=0.0, nesterov=False,
                        maximize=False, is_first_step=False,
                    )  # fmt: skip
                else:
                    fused = aten._fused_adamw_ if self.kind == "adamw" else aten._fused_adam_
                    fused(
                        w, g, m, v, [], [self.count], lr=rate, beta1=momentum, beta2=BETA2, weight_decay=wd,
                        eps=ADAM_EPS, amsgrad=False, maximize=False,
                    )  # fmt: skip

    def _decayed(self) -> Tensor:
        """The gradients with weight decay added, as a new tensor, because diagnostics read the original ones."""
        n, decayed = self.n_weights, torch.empty_like(self.gradients)
        torch.addcmul(self.gradients[:, :n], self.weights[:, :n], self.decay, out=decayed[:, :n])
        decayed[:, n:] = self.gradients[:, n:]
        return decayed

    def _adam(self, rate: Tensor, beta1: Tensor, count: Tensor) -> None:
        n = self.n_weights
        if self.kind == "adamw":
            self.weights[:, :n].mul_(1 - rate * self.decay)
            gradients = self.gradients
        else:
            gradients = self._decayed()
        self.first.lerp_(gradients, 1 - beta1)
        self.second.mul_(BETA2).addcmul_(gradients, gradients, value=1 - BETA2)
        count = count.to(self.weights.dtype)
        scale = (self.second / (1 - torch.pow(BETA2, count))).sqrt_().add_(ADAM_EPS)
        self.weights.addcdiv_(self.first * (rate / (1 - beta1**count)), scale, value=-1.0)

    def _sgd(self, rate: Tensor, momentum: Tensor, count: Tensor) -> None:
        self.first.mul_(momentum).add_(self._decayed())
        self.weights.addcmul_(self.first, rate, value=-1.0)

    def _rmsprop(self, rate: Tensor, momentum: Tensor, count: Tensor) -> None:
        gradients = self._decayed()
        self.second.mul_(RMSPROP_ALPHA).addcmul_(gradients, gradients, value=1 - RMSPROP_ALPHA)
        self.first.mul_(momentum).addcdiv_(gradients, self.second.sqrt().add_(RMSPROP_EPS))
        self.weights.addcmul_(self.first, rate, value=-1.0)

    def kept(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The state (first and second moments) of the runs in these rows."""
        return self.first[keep], self.second[keep]

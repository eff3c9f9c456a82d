"""The data set as rows for the fused engine, and the memory that all programs of a process share."""

from __future__ import annotations

import math

import torch
import torch.fx
from torch import Tensor

from actsearch.data.inputs import tensors
from actsearch.data.source import Data
from actsearch.models.model import Model
from actsearch.training.losses import CLOSED_FORMS
from actsearch.training.trace import Traced

ALIGN = 16  # segments of a row start at multiples of this many numbers, 64 bytes in float32


class Workspace:
    """The memory for values and their gradients, which all programs of a process use in turn.

    It is a list of pieces. The n-th piece that one program takes is also the n-th piece of every other program, so its
    content is lost as soon as another program runs.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None  # temporaries of captured graphs
        self._pieces: list[Tensor] = []
        self._next = 0

    def begin(self) -> None:
        """Starts again at the first piece, for another program."""
        self._next = 0

    def take(self, *shape: int) -> Tensor:
        """The next piece as a tensor of this shape. It is not initialised."""
        size, n = math.prod(shape), self._next
        if n == len(self._pieces):
            self._pieces.append(torch.empty(0))
        if self._pieces[n].numel() < size:
            self._pieces[n] = torch.empty(size, dtype=self.dtype, device=self.device)
        self._next += 1
        return self._pieces[n][:size].view(shape)


class Rows:
    """The splits of a data set as rows (n, features) on the device, made once for all programs.

    Features have their channels last, as the fused engine has them. workspace: the memory of all programs.
    """

    def __init__(
        self, model: Model, traced: Traced, data: Data, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.traced, self.data, self.device, self.dtype = model, traced, data, device, dtype
        self.goal, self.loss = data.goal, CLOSED_FORMS[data.goal.loss]
        self.workspace = Workspace(device, dtype)
        self._splits: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def of(self, x: Tensor) -> Tensor:
        """Examples (n, *shape) as rows (n, features)."""
        for reshape in self.traced.before:
            x = reshape(x)
        return x.movedim(1, -1).reshape(len(x), -1).to(self.device, self.dtype)

    def answers(self, y: Tensor) -> Tensor:
        """y on the device. Classes stay integers; floating-point numbers get the precision of the nets."""
        return y.to(self.device, self.dtype if y.is_floating_point() else y.dtype)

    def split(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For a run with this seed: training inputs and targets, validation inputs as rows, and validation answers."""
        key = self.data.split_of(seed)
        if key not in self._splits:
            split = self.data.split(seed)
            y = self.loss.rows(split.y_train, self.goal.n_outputs).to(self.device, self.dtype)
            x_train, x_val = (self.of(tensors(x)[0]) for x in (split.x_train, split.x_val))
            self._splits[key] = (x_train, y, x_val, self.answers(split.y_val))
        return self._splits[key]

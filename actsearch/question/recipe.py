"""The recipe: how a net is trained, as plain values. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from actsearch.errors import ActSearchError, unknown, whole

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "cosine", "one_cycle")
INITS = ("gain", "kaiming_relu", "torch", "keep")
MOST = 1_000_000_000  # steps; a list of more would not fit into memory
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass
class Recipe:
    """How a net is trained.

    lr: the peak of the schedule. steps: the number of batches. eval_every: steps from one rung to the next. momentum:
    of SGD and RMSprop. grad_clip: the largest norm of a run's gradient; None for no clipping. init: how the initial
    weights are drawn, see models/initialise.py. precision: of matrix products and convolutions: float32; tf32, on
    NVIDIA GPUs; bf16, by autocast, with which runs are trained one after the other. tf32 and bf16 change results more
    than some activations do.
    """

    optimizer: str = "adamw"
    lr: float = 1e-2
    schedule: str = "one_cycle"
    steps: int = 1000
    batch_size: int = 100
    eval_every: int = 100
    weight_decay: float = 0.01
    momentum: float = 0.9
    grad_clip: float | None = None
    init: str = "gain"
    precision: str = "float32"

    def __post_init__(self) -> None:
        words = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "init": INITS, "precision": PRECISIONS}
        for key, known in words.items():
            if getattr(self, key) not in known:
                raise unknown(f"recipe.{key}", getattr(self, key), known)
        for key in ("steps", "batch_size", "eval_every"):
            whole(f"recipe.{key}", getattr(self, key), 1, MOST)
        if not 0 < self.lr < float("inf"):
            raise ActSearchError(f"recipe.lr={self.lr}: a learning rate is above 0, e.g. 0.01.")
        if not 0 <= self.weight_decay < float("inf") or not 0 <= self.momentum < 1:
            raise ActSearchError(
                f"recipe.weight_decay={self.weight_decay}, recipe.momentum={self.momentum}: weight_decay is at "
                "least 0, momentum at least 0 and below 1."
            )
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ActSearchError(f"recipe.grad_clip={self.grad_clip}: it must be above 0, or null for none.")

    def rungs(self) -> list[int]:
        """The steps after which runs are evaluated: every `eval_every` steps, and after the last step."""
        steps = list(range(self.eval_every, self.steps + 1, self.eval_every))
        return steps if steps and steps[-1] == self.steps else [*steps, self.steps]

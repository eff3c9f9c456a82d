"""The metrics that nets are judged by: those that a search optimises, and those that verdicts are about.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from actsearch.errors import ActSearchError


def not_of(own: Metric, key: str, name: str, known: Iterable[str]) -> ActSearchError:
    """The error for a metric that these data do not have, but other data sets do. key, name: as the config has them."""
    return ActSearchError(f"{key}={name}: the metric of these data is {own.name}. Choose one of: {', '.join(known)}.")


def directions_of(own: Metric) -> dict[str, Direction]:
    """The objectives of a search where nets are judged by the metric `own`, each with its direction."""
    return {f"val_{own.name}": own.direction, "val_loss": "minimize", "latency_us": "minimize"}


def on_validation(own: Metric) -> Metric:
    """The metric `own` on the validation examples."""
    return replace(own, name=f"val_{own.name}", words=f"validation {own.words}")


def metrics_of(own: Metric) -> dict[str, Metric]:
    """The metrics that a verdict can be about where nets are judged by the metric `own`, by name."""
    found = [
        replace(own, name=f"test_{own.name}", words=f"test {own.words}"),
        Metric("test_loss", "test loss"),
        Metric("learning_speed", "mean validation loss over the budget"),
    ]
    if own.name == "accuracy":  # for other metrics no good target is known
        found.append(Metric("steps_to_accuracy", "steps to the target accuracy", decimals=0))
        found.append(Metric("time_to_accuracy_s", "seconds to the target accuracy", unit="s"))
    found.append(Metric("training_step_us", "time of a training step", unit="µs"))
    found.append(Metric("latency_us", "time of a forward pass", unit="µs"))
    return {m.name: m for m in found}


Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Metric:
    """A number that nets are judged by.

    words: the name that people read. unit: with "%" the value is a share, which is shown times 100, and its differences
    are shown in points. decimals: digits that are shown after the decimal point.

    ratio: if true, two nets are compared by the log of candidate / baseline, which is shown as a relative change;
    otherwise by the difference. margin: differences below it do not matter (for a ratio, 0.05 means 5 %).
    """

    name: str
    words: str
    higher_is_better: bool = False
    ratio: bool = True
    margin: float = 0.05
    unit: str = ""
    decimals: int = 4

    @property
    def direction(self) -> Direction:
        return "maximize" if self.higher_is_better else "minimize"

    @property
    def scale(self) -> float:
        """The factor by which a value is multiplied before it is shown."""
        return 100.0 if self.unit == "%" else 1.0

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b


ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True, ratio=False, margin=0.005, unit="%", decimals=2)


# a margin of 5 %, as for a loss, would exceed all that gated pairs gain in a language model: 4.4 % in Shazeer 2020
PERPLEXITY = Metric("perplexity", "perplexity", margin=0.01, decimals=3)
PSNR = Metric("psnr", "PSNR", higher_is_better=True, ratio=False, margin=0.1, unit="dB", decimals=2)

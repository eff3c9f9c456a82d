"""The metrics that nets are judged by, and what searches and verdicts can be about. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from actsearch.errors import ActSearchError


def not_of(own: Metric, key: str, name: str, known: Iterable[str]) -> ActSearchError:
    """An error for a metric that other data sets have."""
    return ActSearchError(f"{key}={name}: the metric of these data is {own.name}. Choose one of: {', '.join(known)}.")


def directions_of(own: Metric) -> dict[str, Direction]:
    """What a search can be for where nets are judged by `own`, and which way."""
    return {f"val_{own.name}": own.direction, "val_loss": "minimize", "latency_us": "minimize"}


def metrics_of(own: Metric) -> dict[str, Metric]:
    """What a verdict can be about where nets are judged by `own`, by name."""
    found = [
        replace(own, name=f"test_{own.name}", words=f"test {own.words}"),
        Metric("test_loss", "test loss"),
        Metric("learning_speed", "mean validation loss over the budget"),
    ]
    if own.name == "accuracy":  # of other metrics nobody has said what a good target would be
        found.append(Metric("steps_to_accuracy", "steps to the target accuracy", decimals=0))
        found.append(Metric("time_to_accuracy_s", "seconds to the target accuracy", unit="s"))
    found.append(Metric("training_step_us", "time of a training step", unit="µs"))
    found.append(Metric("latency_us", "time of a forward pass", unit="µs"))
    return {m.name: m for m in found}


Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Metric:
    """A number that nets are judged by. words: what it is, for people. unit: "%" is shown of a share, as 100 times it,
    and its differences in points. decimals: as it is shown.

    ratio: two nets are compared by the log of candidate / baseline, shown as a relative change; else by the
    difference. margin: differences below it do not matter (of a ratio: 0.05 is 5 %).
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
        """What a value is multiplied with to be shown."""
        return 100.0 if self.unit == "%" else 1.0

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b


ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True, ratio=False, margin=0.005, unit="%", decimals=2)


# 5 %, as of a loss, would be the whole of what gated pairs bring a language model: 4.4 % in Shazeer 2020
PERPLEXITY = Metric("perplexity", "perplexity", margin=0.01, decimals=3)
PSNR = Metric("psnr", "PSNR", higher_is_better=True, ratio=False, margin=0.1, unit="dB", decimals=2)

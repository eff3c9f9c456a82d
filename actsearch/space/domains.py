"""The values that a parameter may take: a range or a list."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actsearch.activations.spec import (
    number,
)
from actsearch.errors import ActSearchError


class Suggester(Protocol):
    """The part of optuna.Trial that search spaces use."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Suggester, name: str) -> float:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return four_digits(trial.suggest_float(name, self.low, self.high, log=self.log))

    def at(self, u: float) -> float:
        """The value at the position u in [0, 1] of the range, on a linear or, with `log`, a logarithmic scale."""
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return round(value) if self.whole else four_digits(value)

    def ends(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Choices:
    values: tuple[Any, ...]

    def suggest(self, trial: Suggester, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def at(self, u: float) -> Any:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def ends(self) -> list[Any]:
        return list(self.values)


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def four_digits(value: float) -> float:
    """The value rounded to four digits, so that a spec's text says exactly which searched value was trained."""
    return float(f"{value:.4g}")


def product_of(where: str, domains: Sequence[tuple[str, Range | Choices]]) -> Iterator[dict[str, Any]]:
    """Every combination of values of the domains. Raises ActSearchError, which names the place, for a range."""
    for key, domain in domains:
        if isinstance(domain, Range):
            raise ActSearchError(
                f"{where}: '{key}' is a range from {number(domain.low)} to {number(domain.high)}, whose values "
                f"cannot all be tried. Write a list, e.g. [{number(domain.low)}, {number(domain.high)}], or use "
                "sampler=tpe."
            )
    keys = [key for key, _ in domains]
    for values in itertools.product(*[domain.values for _, domain in domains if isinstance(domain, Choices)]):
        yield dict(zip(keys, values, strict=True))


def at_place(where: str, error: ActSearchError) -> ActSearchError:
    return ActSearchError(f"{where}: {error}")

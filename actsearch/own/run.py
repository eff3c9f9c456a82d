"""One run of a user's own training: what the function gets, and what it reports."""

from __future__ import annotations

import inspect
import json
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, hide_passwords, unknown
from actsearch.question.options import FRESH_SEED

GIVEN = ("activation", "seed", "report", "test")  # keywords that are no setting of the user's
TEST = "test_"  # begins the names of what only finalists may tell


class Chosen:
    """The activation that a run is to use.

    Called with the number of channels (or without, and with dim=-1 for tokens) it makes a module, for each layer the
    next where the spec names several. `actsearch.swap_activations` takes it, and str() is the spec's text.
    """

    def __init__(self, text: str) -> None:
        self.specs, self._text, self._made = parse_net(text), text, 0

    def __call__(self, channels: int | None = None, dim: int = 1) -> nn.Module:
        place, self._made = self._made, self._made + 1
        if len(self.specs) == 1:
            return self.specs[0].module(channels, dim)
        if place >= len(self.specs):
            raise ActSearchError(f"'{self._text}' names {len(self.specs)} layers, but the training asks for more.")
        return self.specs[place].module(channels, dim)

    def __str__(self) -> str:
        return self._text


@dataclass
class OwnRun:
    """A run, and once it has ended what it told.

    rungs: what it reported, in order. seconds: its wall time. error: why it failed, or "". stopped: whether the pruner
    ended it. withheld: the names that it reported of a test set, as a run of the search, which must not see their
    values.
    """

    activation: str
    settings: dict[str, Any]
    seed: int
    rungs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = math.nan
    error: str = ""
    stopped: bool = False
    withheld: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.activation, json.dumps(hide_passwords(self.settings), sort_keys=True), self.seed

    @property
    def last(self) -> dict[str, float]:
        """The last value of each key; `seconds` is the run's wall time where it reports none."""
        found = {"seconds": self.seconds}
        for rung in self.rungs:
            found |= rung
        found.pop("step", None)
        return found

    def why(self, metric: str) -> str:
        """Why the run failed, if it must tell this metric; empty if it did not."""
        if self.error:
            return self.error
        if metric not in self.last:
            return f"it reports no {metric}, only {', '.join(key for rung in self.rungs for key in rung)}"
        return "" if math.isfinite(self.last[metric]) else f"its {metric} is {self.last[metric]}"

    def __str__(self) -> str:
        return f"{self.activation}, seed {self.seed}"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "settings": hide_passwords(self.settings)})

    @classmethod
    def from_json(cls, text: str) -> OwnRun:
        return cls(**json.loads(text))


def check_signature(
    function: Callable[..., Any], settings: Mapping[str, Any], name: str, searched: Collection[str] = ()
) -> None:
    """Raises ActSearchError if a training function does not take what it will be given.

    searched: names of settings that a search or a tuning gives.
    """
    if not callable(function):
        raise ActSearchError(f"train: {name} is {type(function).__name__}, not a function.")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise ActSearchError(f"train: the signature of {name} cannot be seen.") from None
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for needed in ("activation", "seed"):
        if needed not in parameters and not anything:
            raise ActSearchError(f"train: {name} has no parameter '{needed}'. Write def train(activation, seed, …).")
    known = [
        key for key, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and key not in GIVEN
    ]
    for key in (*settings, *searched):
        if key in GIVEN:
            raise ActSearchError(f"train.{key}: every run is given its own. Leave it out.")
        if key not in known and not anything:
            raise unknown(f"keyword of {name}", key, known)
    missing = [
        key for key, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and key not in (*GIVEN, *settings, *searched)
    ]  # fmt: skip
    if missing:
        raise ActSearchError(f"train: {name} needs a value for '{missing[0]}'. Write train.{missing[0]}=….")


@dataclass
class Told:
    """What a run tells, number by number. finalist: whether it may tell those of a test set.

    rungs, withheld: as in OwnRun.
    """

    finalist: bool
    rungs: list[dict[str, float]] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    _step: float = -math.inf

    def add(self, found: Any) -> dict[str, float] | None:
        """Takes a mapping, or a number; returns the rung, or None if nothing of it may be seen.

        Raises ActSearchError for what is no mapping of numbers, and for steps that shrink.
        """
        rung = _numbers(found)
        if "step" in rung:
            if not self._step < rung["step"] or rung["step"] % 1:
                after = f" after step {self._step:g}" if math.isfinite(self._step) else ""
                raise ActSearchError(f"it reported step {rung['step']:g}{after}: steps are growing whole numbers.")
            self._step = rung["step"]
        if not self.finalist:
            self.withheld = list(dict.fromkeys([*self.withheld, *(key for key in rung if key.startswith(TEST))]))
            rung = {key: value for key, value in rung.items() if not key.startswith(TEST)}
        if not rung.keys() - {"step"}:
            return None
        self.rungs.append(rung)
        return rung

    @property
    def last(self) -> dict[str, float]:
        """The last value of each key."""
        return {key: value for rung in self.rungs for key, value in rung.items()}

    def check(self) -> None:
        """Raises ActSearchError if nothing was told that can be used."""
        if not self.rungs and self.withheld:
            raise ActSearchError(
                f"it reported only {', '.join(self.withheld)}, and a search does not see a test set: report a value of "
                "validation examples, too."
            )
        if not self.rungs:
            raise ActSearchError("it reported nothing: yield or return a mapping, e.g. {'test_accuracy': 0.93}.")


class _Ended(BaseException):
    """Raised by `report` in a user's function whose run ends at this rung. No `except Exception` of theirs takes it."""


def train_once(
    function: Callable[..., Any],
    activation: str,
    seed: int,
    settings: Mapping[str, Any],
    go_on: Callable[[dict[str, float]], bool] = lambda rung: True,
) -> Told:
    """Calls a training function, and collects each mapping that it yields, reports or returns, as plain numbers.

    go_on: called with each of them; where it is false, the run ends there. A function that gives one number has reached
    that accuracy on validation. One that takes `test` is told whether its test set may be scored: whether the seed is a
    finalist's. Of other runs, values of a test set are dropped here, before anything sees them.

    Raises what the function raises, and ActSearchError for what is no mapping of numbers.
    """
    told, ended = Told(seed >= FRESH_SEED), False

    def add(found: Any) -> bool:
        nonlocal ended
        if not ended:  # what a function reports after its end, because it goes on all the same, is not heard
            rung = told.add(found)
            ended = rung is not None and not go_on(rung)
        return not ended

    def report(found: Any = None, /, **more: Any) -> None:
        if not add({**(found or {}), **more} if more else found):
            raise _Ended

    offered = {"report": report, "test": told.finalist}
    parameters = inspect.signature(function).parameters
    extra = {key: value for key, value in offered.items() if key in parameters}
    try:
        result = function(activation=Chosen(activation), seed=seed, **settings, **extra)
        if inspect.isgenerator(result):
            for found in result:
                if not add(found):
                    result.close()
                    break
        elif result is not None:
            add(result)
    except _Ended:
        pass
    told.check()
    return told


def _numbers(found: Any) -> dict[str, float]:
    if _is_number(found):
        return {"val_accuracy": float(found)}
    if not isinstance(found, Mapping):
        raise ActSearchError(f"it reported {found!r:.60}: yield or return a mapping, e.g. {{'val_accuracy': 0.93}}.")
    for key, value in found.items():
        if not isinstance(key, str) or not _is_number(value):
            raise ActSearchError(f"it reported {key!r}: {value!r:.60}, which is no number.")
    return {key: float(value) for key, value in found.items()}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Real) or (getattr(value, "shape", None) == () and hasattr(value, "item"))

"""One run of a user's own training: what the function gets, and what it reports."""

from __future__ import annotations

import inspect
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, unknown

GIVEN = ("activation", "seed", "report")  # keywords that are no setting of the user's


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
    """A run that has ended. rungs: what it reported, in order. seconds: its wall time. error: why it failed, or ""."""

    activation: str
    settings: dict[str, Any]
    seed: int
    rungs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = math.nan
    error: str = ""

    @property
    def last(self) -> dict[str, float]:
        """The last value of each key."""
        found: dict[str, float] = {}
        for rung in self.rungs:
            found |= rung
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> OwnRun:
        return cls(**json.loads(text))


def check_signature(function: Callable[..., Any], settings: Mapping[str, Any], name: str) -> None:
    """Raises ActSearchError if a training function does not take what it will be given."""
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
    for key in settings:
        if key not in known and not anything:
            raise unknown(f"keyword of {name}", key, known)
    missing = [
        key for key, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and key not in (*GIVEN, *settings)
    ]  # fmt: skip
    if missing:
        raise ActSearchError(f"train: {name} needs a value for '{missing[0]}'. Write train.{missing[0]}=….")


def rungs_of(
    function: Callable[..., Any], activation: str, seed: int, settings: Mapping[str, Any]
) -> Iterator[dict[str, float]]:
    """Calls a training function and yields each mapping that it yields, reports or returns, with plain numbers.

    A function that returns one number has reached that accuracy on validation. Raises what it raises, and
    ActSearchError for what is no mapping of numbers.
    """
    reported: list[Any] = []
    extra = {"report": reported.append} if "report" in inspect.signature(function).parameters else {}
    result = function(activation=Chosen(activation), seed=seed, **settings, **extra)
    n = 0
    for found in result if inspect.isgenerator(result) else [*reported, *([] if result is None else [result])]:
        n += 1
        yield _numbers(found)
    if not n:
        raise ActSearchError("it reported nothing: yield or return a mapping, e.g. {'test_accuracy': 0.93}.")


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

"""A grammar of functions as a search space: unary and binary functions of x, nested up to a depth.

A unit is binary(unary(input), unary(input)), where each input is x or another unit: the core units of Ramachandran et
al. 2017. With depth 1 and the default functions it is the space of 5,103 functions of Bingham & Miikkulainen 2023
(AQuaSurF). This file uses Optuna only through the `trial` that it asks for choices.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actsearch.activations.expression import parse_part
from actsearch.activations.fingerprint import fingerprint, is_constant
from actsearch.activations.spec import Spec
from actsearch.errors import ActSearchError, whole

UNARY = (
    "0", "1", "x", "-x", "abs(x)", "1 / x", "x ** 2", "exp(x)", "expm1(x)", "sinh(x)", "cosh(x)", "tanh(x)", "asinh(x)",
    "atan(x)", "erf(x)", "erfc(x)", "sigmoid(x)", "logsigmoid(x)", "relu(x)", "elu(x)", "selu(x)", "softplus(x)",
    "softsign(x)", "hardsigmoid(x)", "silu(x)", "bessel_i0e(x)", "bessel_i1e(x)",
)  # fmt: skip
BINARY = ("a + b", "a - b", "a * b", "a / b", "a ** b", "max(a, b)", "min(a, b)")
DEEPEST = 4
REASONS = {
    "constant: it does not depend": "constant", "not finite": "not finite", "divides by zero": "not finite",
    "too large between": "too large", "no slope": "no slope", "are read": "too long",
}  # fmt: skip
"""Short names of the reasons why a function is unusable, by a phrase of the error message."""


LABEL = "grammar"


class Unusable(ActSearchError):
    """A proposed function that is not worth training. text: the function; reason: what is wrong with it."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"'{text}': {reason}")
        self.text, self.reason = text, reason


@dataclass(frozen=True)
class Grammar:
    """All functions of a grammar, as one entry of a search space.

    unary: texts in x. binary: texts in a and b. depth: how many units may be nested.
    """

    unary: tuple[str, ...] = UNARY
    binary: tuple[str, ...] = BINARY
    depth: int = 1
    label: str = LABEL
    specs = None
    free = ()

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Grammar:
        """The grammar that a search space's YAML describes. Raises ActSearchError with the place of a mistake."""
        if not isinstance(values, Mapping):
            raise ActSearchError(f"{where}: write a mapping, e.g. {{depth: 1}}, or {{}}.")
        for key in values:
            if key not in ("unary", "binary", "depth"):
                raise ActSearchError(f"{where}.{key}: a grammar has the keys unary, binary and depth.")
        depth = values.get("depth", 1)
        whole(f"{where}.depth", depth, 1, DEEPEST)
        lists = {}
        for key, default, inputs in (("unary", UNARY, "x"), ("binary", BINARY, "a and b")):
            given = values.get(key, default)
            if isinstance(given, str) or not isinstance(given, Sequence) or not given:
                raise ActSearchError(f"{where}.{key}: write a list of functions of {inputs}, e.g. {list(default[:3])}.")
            lists[key] = tuple(str(text) for text in given)
            for i, text in enumerate(lists[key]):
                try:
                    made, names = parse_part(text)
                except ActSearchError as error:
                    raise ActSearchError(f"{where}.{key}[{i}]: {error}") from None
                wrong = made.varies or set(names) - {"a", "b"} if key == "binary" else names
                if wrong:
                    raise ActSearchError(f"{where}.{key}[{i}]: '{text}' must be a function of {inputs}.")
        return cls(lists["unary"], lists["binary"], depth)

    def __str__(self) -> str:
        many = (
            f" up to {self.depth} deep"
            if self.depth > 1
            else f": {len(self.binary) * len(self.unary) ** 2:,} functions"
        )
        return f"a grammar of {len(self.unary)} unary and {len(self.binary)} binary functions{many}"

    def suggest(self, trial: Any, prefix: str) -> tuple[Spec, ...]:
        """The function that the trial chooses. Raises Unusable if it is constant, or not finite on ordinary inputs."""
        return (usable(self._unit(trial, f"{prefix}{self.label}.", self.depth)),)

    def _unit(self, trial: Any, path: str, depth: int) -> str:
        binary = trial.suggest_categorical(f"{path}binary", self.binary)
        sides = []
        for side in "12":
            unary = trial.suggest_categorical(f"{path}unary{side}", self.unary)
            deeper = depth > 1 and trial.suggest_categorical(f"{path}input{side}", ("x", "unit")) == "unit"
            sides.append(put(unary, x=self._unit(trial, f"{path}{side}.", depth - 1)) if deeper else unary)
        return put(binary, a=sides[0], b=sides[1])

    def middle(self) -> tuple[Spec, ...]:
        """The first usable function, to try a model with."""
        found = next(replace(self, depth=1).all(), None)
        if found is None:
            raise ActSearchError(
                f"search_space.activations: the grammar of unary {list(self.unary)} and binary {list(self.binary)} "
                "makes no usable function of x. Add functions that depend on x, are finite and not constant."
            )
        return found

    def corners(self) -> list[Spec]:
        """None: what it will propose is not known before."""
        return []

    def all(self) -> Iterator[tuple[Spec, ...]]:
        """Each usable function once. Raises ActSearchError for a depth above 1, where there are millions."""
        for _, spec in self.examined():
            if isinstance(spec, Spec):
                yield (spec,)

    def examined(self) -> Iterator[tuple[str, Spec | Unusable | None]]:
        """Every combination of depth 1: its text, and its spec, why it is unusable, or None if an equal function came
        before.
        """
        if self.depth > 1:
            raise ActSearchError(
                f"search_space.activations: a grammar of depth {self.depth} has too many functions to try them all. "
                "Write depth: 1, or use sampler=tpe or sampler=evolution."
            )
        seen: set[str] = set()
        for binary, first, second in itertools.product(self.binary, self.unary, self.unary):
            text = put(binary, a=first, b=second)
            try:
                spec = usable(text)
            except Unusable as reason:
                yield text, reason
                continue
            same = fingerprint(spec)
            yield text, None if same in seen else spec
            seen.add(same)


def put(text: str, **inputs: str) -> str:
    """The text with its variables (x, or a and b) replaced by the texts in `inputs`."""
    return re.sub(r"\b(" + "|".join(inputs) + r")\b", lambda found: f"({inputs[found[0]]})", text)


def usable(text: str) -> Spec:
    """The spec of a function's text. Raises Unusable if the function is not worth training."""
    try:
        spec = Spec.parse(text)
    except ActSearchError as error:
        known = (short for part, short in REASONS.items() if part in str(error))
        raise Unusable(text, next(known, str(error))) from None
    if is_constant(spec):
        raise Unusable(text, "constant")
    return spec

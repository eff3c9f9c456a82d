"""How the activations of an existing net are divided into slots: one per module, per call, or per stage."""

from __future__ import annotations

import copy
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from torch import nn

from actsearch.activations.spec import ActivationModule
from actsearch.errors import unknown
from actsearch.swap.net import Only, chosen_activations, swap_activations

SLOTS = ("all", "calls", "stages")


def take_slots(net: nn.Module, activation: Callable[..., nn.Module], slots: str, only: Only | None = None) -> None:
    """Replaces a net's activations, in place, by modules that `activation` returns. Each call of it is one slot.

    slots: how the net is divided. `all`: each activation module is a slot. `calls`: each call is a slot, so that a
    module that the net calls several times becomes several. `stages`: all activations of a stage (`stages_of`) are one
    slot; they have the same spec, but learned parameters of their own. only: which of them, as in `swap_activations`.
    Raises ActSearchError for another value.
    """
    if slots not in SLOTS:
        raise unknown("model.slots", slots, SLOTS)
    if slots != "stages":
        swap_activations(net, activation, only, per_call=slots == "calls")
        return
    paths = [f.path for f in chosen_activations(net, only)]
    of_stage = {stage: _Stage(activation) for stage in dict.fromkeys(stages_of(paths))}
    swap_activations(net, {path: of_stage[stage] for path, stage in zip(paths, stages_of(paths), strict=True)}, paths)


class _Stage:
    """Makes the activations of one slot: the first comes from `activation`, the others get the same spec and place."""

    def __init__(self, activation: Callable[..., nn.Module]) -> None:
        self.activation = activation
        self.first: nn.Module | None = None

    def __call__(self, channels: int | None, dim: int) -> nn.Module:
        if self.first is None:
            self.first = self.activation(channels, dim)
            return self.first
        if not isinstance(self.first, ActivationModule):
            return copy.deepcopy(self.first)
        module = self.first.spec.module(channels, dim)
        module.place = self.first.place
        return module


def stages_of(paths: Sequence[str]) -> list[str]:
    """The stage to which each activation belongs. paths: of the activations, in order of computation.

    Stages are submodules whose names differ only in a number: layer1 to layer4, stages.0 to stages.3, blocks.0 and so
    on. They are looked for at the outermost level of the net that has several such submodules. Those with a single
    activation count as stages only if all of them have one. An activation before the first stage belongs to the first;
    one between two stages, or behind the last, belongs to the stage before it.
    """
    prefix = ""
    while True:
        families: dict[str, Counter[str]] = defaultdict(Counter)
        for path in paths:
            if path.startswith(prefix):
                part = path.removeprefix(prefix).partition(".")[0]
                families[re.sub(r"\d+[a-z]?$", "", part)][prefix + part] += 1
        family = max(families.values(), key=Counter.total)
        deeper = f"{next(iter(family))}."
        if len(family) > 1 or not any(path.startswith(deeper) for path in paths):
            break
        prefix = deeper
    stages = [part for part, n in family.items() if n > 1] or list(family)
    found, current = [], stages[0]
    for path in paths:
        current = next((part for part in stages if path == part or path.startswith(f"{part}.")), current)
        found.append(current)
    return found

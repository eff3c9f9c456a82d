"""Replace the activations of any nn.Module, and say what was changed and what was left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice

import torch
from torch import nn

from actsearch.errors import ActSearchError
from actsearch.swap.in_place import write_back
from actsearch.swap.kinds import kind_of
from actsearch.swap.makers import To, made, maker
from actsearch.swap.rewrite import rewrite
from actsearch.swap.survey import Found, survey

Only = str | Sequence[str] | Callable[[Found], bool]


@dataclass
class Swapped:
    """names: the activations replaced, by their path in the net. was: what each was: `ReLU`, or `relu()` of a function.
    left: those not replaced, with the reason.
    """

    names: list[str] = field(default_factory=list)
    was: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        lines = [f"{self.count} activations swapped, {len(self.left)} left"]
        for title, entries in (("was", self.was), ("left", self.left)):
            paths = defaultdict(list)
            for path, text in entries.items():
                paths[text].append(path)
            lines += [f"  {title} {text} ({len(names)}): {_some(names)}" for text, names in paths.items()]
        return "\n".join(lines)


def find_activations(net: nn.Module, per_call: bool = False) -> tuple[list[Found], dict[str, str]]:
    """The activations that swap_activations would see, in order of computation where that is known; and, by path, what
    it could not reach, with the reason. Changes nothing.
    """
    if kind_of(net) is not None:
        raise ActSearchError(
            f"{type(net).__name__} has no activation module to swap: it is one. Write get_activation('gelu')."
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise ActSearchError(
            f"{type(net).__name__} is a scripted module (torch.jit), which cannot be changed. Swap before scripting it."
        )
    return survey(net, per_call)


def swap_activations(
    net: nn.Module, to: To | Mapping[str, To], only: Only | None = None, *, gates: bool = False, per_call: bool = False
) -> Swapped:
    """Replaces, in place, the hidden activations of a net: modules, functions kept as attributes, and functions called
    inside `forward` (F.relu(x), x.relu(), x * torch.sigmoid(x)) where torch.fx can trace it.

    to: a spec (its text will do); a function or class that makes the next module, and gets (channels, dim) as far as it
    needs arguments or names them so; or a mapping from patterns of paths to such, {"layer1": "gelu", "layer2": "silu"},
    of which the first that matches counts.
    only: patterns of paths ("layer1", "*.act1"; with ! in front: not those), or a function of a `Found`.
    Sigmoids and softmaxes are gates (squeeze-and-excitation, attention) or outputs. They stay, unless `gates`; the relu
    between the two layers of a squeeze-and-excitation is a hidden activation. per_call: a module that a traceable
    forward calls several times, or that has several paths, becomes one for each; else a shared instance stays shared.
    Learned parameters are one per channel where the structure tells their number with certainty, else one per module.

    Parameters, state-dict keys, device, mode and hooks stay; learned parameters come with keys of their own, and a
    swapped nn.PReLU takes its own along. What replaces an activation in place writes into its input too, if others may
    read that afterwards. Flags `inplace` of other modules (dropout) are cleared.
    Raises ActSearchError if there was nothing to swap, a pattern matches nothing, or an activation does not fit; the
    net is then as it was.
    """
    makers = {p: maker(t) for p, t in to.items()} if isinstance(to, Mapping) else {"*": maker(to)}
    if not makers or not all(isinstance(pattern, str) for pattern in makers):
        raise ActSearchError(f"to={to!r} needs patterns of paths, each with an activation: {{'layer1': 'gelu'}}.")
    found, left = find_activations(net, per_call)
    chosen = _chosen(net, found, left, only, gates)
    new_of, install = {}, []
    for pattern in makers:
        if not any(_matches(f.path, pattern) for f in chosen):
            raise _no_match("to", pattern, chosen)
    for f in chosen:
        make = next((make for pattern, make in makers.items() if _matches(f.path, pattern)), None)
        if make is None:
            left[f.path] = f"{f.was}: no pattern of `to` matches it"
            continue
        key = f.path if per_call or f.module is None else id(f.module)
        if key not in new_of:
            new_of[key] = made(make, f, net)
            if f.writes:
                write_back(new_of[key])
        install.append((f, new_of[key]))
    with _as_it_was_after_an_error(net):
        _install(net, install, {id(f.module) for f in found if f.writes})
    return Swapped([f.path for f, _ in install], {f.path: f.was for f, _ in install}, left)


def _install(net: nn.Module, install: list[tuple[Found, nn.Module]], writing: set[int]) -> None:
    """Puts each new module in its place. writing: those whose input others read; where they are left, they stay so."""
    for f, module in install:
        setattr(f.owner, f.name, module)
        if f.call is not None:
            _stand_after(f.owner, f.name, f.after)
        if isinstance(f.owner, nn.TransformerEncoderLayer):
            f.owner.activation_relu_or_gelu = 0  # else its fast path computes the old one
    calls = defaultdict(dict)
    for f, _ in install:
        if f.call is not None:
            calls[f.owner][f.call] = f.name
    for owner, module_of_call in calls.items():
        rewrite(owner, module_of_call)
    for module in net.modules():
        # a dropout in place overwrites the output that relu's or tanh's backward needs (mobilenet_v3's hardswish
        # needs its input instead, so there it was allowed)
        if getattr(module, "inplace", False) and id(module) not in writing:
            module.inplace = False  # pyright: ignore[reportArgumentType]


@contextmanager
def _as_it_was_after_an_error(net: nn.Module) -> Iterator[None]:
    before = [(module, type(module), dict(vars(module)), dict(module._modules)) for module in net.modules()]
    try:
        yield
    except BaseException:
        for module, kind, attributes, children in before:
            module.__class__ = kind
            for now, then in ((vars(module), attributes), (attributes["_modules"], children)):
                now.clear()
                now.update(then)
        raise


def _stand_after(owner: nn.Module, name: str, earlier: tuple[str, ...]) -> None:
    """Moves a child behind those called before it: initial weights go by the activation that stands before a layer."""
    names = [n for n in owner._modules if n != name]
    place = max((names.index(n) + 1 for n in earlier if n in names), default=0)
    names.insert(place, name)
    children = dict(owner._modules)
    owner._modules.clear()
    owner._modules.update((n, children[n]) for n in names)


def _chosen(net: nn.Module, found: list[Found], left: dict[str, str], only: Only | None, gates: bool) -> list[Found]:
    """The activations to swap; the others are noted in left."""
    for f in found:
        if f.gate and not gates:
            left[f.path] = f"{f.was}: a gate or an output, not a hidden activation"
    there = [f for f in found if gates or not f.gate]
    if not there:
        unswapped = f" (left: {_some([f'{path}: {why}' for path, why in left.items()])})" if left else ""
        raise ActSearchError(
            f"{type(net).__name__} has no activation module to swap{unswapped}. Modules such as nn.ReLU() are "
            "replaced, and functions such as F.relu() where torch.fx can trace the forward that calls them."
        )
    if only is None:
        return there
    several = isinstance(only, list | tuple | set) and only and all(isinstance(pattern, str) for pattern in only)
    if not (several or isinstance(only, str) or callable(only)):
        raise ActSearchError(
            f"only={only!r} takes nothing. Write patterns of paths such as ['layer1', '!*.act2'], or none for all."
        )
    if callable(only):
        wanted = [bool(only(f)) for f in there]
    else:
        patterns = [only] if isinstance(only, str) else list(only)
        for pattern in patterns:
            if not any(_matches(f.path, pattern.removeprefix("!")) for f in there):
                if any(_matches(f.path, pattern.removeprefix("!")) for f in found):
                    raise ActSearchError(f"only='{pattern}' matches gates alone. Write gates=True to swap them too.")
                raise _no_match("only", pattern, there)
        yes, no = [p for p in patterns if p[:1] != "!"] or ["*"], [p[1:] for p in patterns if p[:1] == "!"]
        wanted = [any(_matches(f.path, p) for p in yes) and not any(_matches(f.path, p) for p in no) for f in there]
    if not any(wanted):
        raise ActSearchError(f"only: it takes none of the activations of {type(net).__name__}: {_paths(there)}.")
    left.update({f.path: f"{f.was}: not asked for" for f, yes in zip(there, wanted, strict=True) if not yes})
    return [f for f, yes in zip(there, wanted, strict=True) if yes]


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def _no_match(what: str, pattern: str, there: list[Found]) -> ActSearchError:
    return ActSearchError(f"{what}: '{pattern}' matches no activation. There are {_paths(there)}.")


def _paths(there: list[Found]) -> str:
    return _some([f.path for f in there])


def _some(texts: Sequence[str], most: int = 8) -> str:
    more = f", … ({len(texts)} in all)" if len(texts) > most else ""
    return ", ".join(islice(texts, most)) + more

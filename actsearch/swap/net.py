"""Replaces the activations of any nn.Module, and reports what was replaced and what was left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from torch import nn
from typing_extensions import TypeIs

from actsearch.errors import ActSearchError
from actsearch.swap.functions import function_name
from actsearch.swap.in_place import write_back
from actsearch.swap.kinds import kind_of
from actsearch.swap.makers import To, made, maker
from actsearch.swap.rewrite import rewrite
from actsearch.swap.survey import Found, survey

Pattern = str | type | Callable[..., Any]  # of a path, or what is there: "ReLU", "relu()", nn.ReLU, F.relu
Only = Pattern | Sequence[Pattern] | Callable[[Found], bool]


@dataclass
class Swapped:
    """The result of a swap.

    names: the paths of the activations that were replaced. was: by path, what each of them was: `ReLU` for a module,
    `relu()` for a function. left: by path, those that were not replaced, with the reason. unseen: the paths of those
    that were replaced although it could not be seen where they stand.
    """

    names: list[str] = field(default_factory=list)
    was: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)

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


def find_activations(net: nn.Module, per_call: bool = False, part: bool = False) -> tuple[list[Found], dict[str, str]]:
    """The activations that swap_activations would find, and a dict from path to reason for those it cannot reach.

    They are in the order of computation where that is known. The net is not changed: whatever runs its code runs it on
    copies. per_call, part: as in swap_activations. Raises ActSearchError if the net is itself an activation.
    """
    if kind_of(net) is not None:
        raise ActSearchError(
            f"{type(net).__name__} has no activation module to swap: it is one. Write get_activation('gelu') instead."
        )
    return survey(net, per_call, part)


def chosen_activations(net: nn.Module, only: Only | None) -> list[Found]:
    """The activations that swap_activations would swap, in the order of computation where that is known."""
    found, left = find_activations(net)
    return _chosen(net, found, left, only, False)


def swap_activations(
    net: nn.Module,
    to: To | Mapping[str, To],
    only: Only | None = None,
    *,
    gates: bool = False,
    per_call: bool = False,
    part: bool = False,
) -> Swapped:
    """Replaces, in place, the hidden activations of a net: modules, functions kept as attributes, and functions called
    inside `forward` (F.relu(x), x.relu(), x * torch.sigmoid(x)) where torch.fx can trace it.

    to: a spec or its text; a function or class that makes each new module, and is given (channels, dim) if it requires
    arguments or has parameters of these names; or a mapping from patterns of paths to any of these, such as
    {"layer1": "gelu", "layer2": "silu"}, in which the first pattern that matches counts.
    only: which to swap: patterns of paths ("layer1", "*.act1"), what was there ("ReLU", "relu()", nn.ReLU, F.relu); a
    text with ! in front excludes. Or a function that takes a `Found` and returns whether to swap it.
    Only hidden activations are swapped. What bounds the net's output or keeps a number positive is left with the
    reason: an activation that no weight layer follows, or none precedes, or to which a constant is added, by which is
    divided, and so on (`Found.stays`). One whose path `only` gives in full is swapped all the same.
    gates: whether to swap sigmoids and softmaxes too, which are gates (squeeze-and-excitation, attention) or outputs.
    The relu between the two layers of a squeeze-and-excitation is a hidden activation.
    per_call: if True, a module that a traceable forward calls several times, or that has several paths, is replaced by
    one module for each call or path; if False, a shared module stays shared.
    part: whether the net is a part of a larger one, with weight layers before and after it.

    A learned parameter has one value for each channel if the number of channels follows from the net's structure, else
    one for the module. Existing parameters, state-dict keys, device, mode and hooks stay; learned parameters add keys,
    and those of a swapped nn.PReLU disappear. A module that replaces an activation in place writes into its input too,
    if others may read that input later. Flags `inplace` of other modules (dropout) are cleared.
    Raises ActSearchError if there is nothing to swap, a pattern matches nothing, or an activation does not fit; the net
    is then unchanged.
    """
    makers: Any = {p: maker(t) for p, t in to.items()} if isinstance(to, Mapping) else {"*": maker(to)}
    if not makers or not all(isinstance(pattern, str) for pattern in makers):
        raise ActSearchError(f"to={to!r} needs patterns of paths, each with an activation: {{'layer1': 'gelu'}}.")
    found, left = find_activations(net, per_call, part)
    chosen = _chosen(net, found, left, only, gates)
    new_of, install = {}, []
    for pattern in makers:
        if not any(_matches(f, pattern) for f in chosen):
            raise _no_match("to", pattern, chosen)
    for f in chosen:
        make = next((make for pattern, make in makers.items() if _matches(f, pattern)), None)
        if make is None:
            left[f.path] = f"{f.was}: no pattern of `to` matches it"
            continue
        key = f.path if per_call or f.module is None else id(f.module)
        if key not in new_of:
            new_of[key] = made(make, f, net)
            if f.writes:
                write_back(new_of[key])
        install.append((f, new_of[key]))
    _rename(found, [f for f, _ in install])
    with _as_it_was_after_an_error(net):
        _install(net, install, {id(f.module) for f in found if f.writes})
    swapped = [f for f, _ in install]
    unseen = [f.path for f in swapped if not f.seen]
    return Swapped([f.path for f in swapped], {f.path: f.was for f in swapped}, left, unseen)


def _rename(found: list[Found], chosen: list[Found]) -> None:
    """Gives an activation another name where it would take that of a module that other calls still need."""
    swapped = {(id(f.owner), key) for f in chosen for key in f.calls}
    for f in chosen:
        target = f.calls[0][0] if f.calls else ""
        others = {(id(g.owner), key) for g in found if g.owner is f.owner for key in g.calls if key[0] == target}
        if target and f.name == target and not others <= swapped:
            f.name += "_1"
            while hasattr(f.owner, f.name):
                f.name += "_"
            f.path = f"{f.path.removesuffix(target)}{f.name}"


def _install(net: nn.Module, install: list[tuple[Found, nn.Module]], writing: set[int]) -> None:
    """Puts each new module in its place. writing: the ids of old modules that must write in place, if they stay."""
    for f, module in install:
        setattr(f.owner, f.name, module)
        if f.calls:
            _stand_after(f.owner, f.name, f.after)
    calls = defaultdict(dict)
    for f, _ in install:
        calls[f.owner].update(dict.fromkeys(f.calls, f.name))
    for owner, module_of_call in calls.items():
        if module_of_call:
            rewrite(owner, module_of_call)
    _fit_transformers(net)
    for module in net.modules():
        # a dropout in place overwrites the output that the backward pass of relu or tanh needs (the one of
        # mobilenet_v3's hardswish needs the input instead, so there the dropout was allowed)
        if getattr(module, "inplace", False) and id(module) not in writing:
            module.inplace = False  # pyright: ignore[reportArgumentType]


def _fit_transformers(net: nn.Module) -> None:
    """Makes torch's transformers use the modules that were put into them, in evaluation and in copies too.

    An encoder layer's fast path would compute the old activation, and an encoder hands nested tensors to its layers if
    there is a padding mask, which most activations cannot take. A copy of a decoder layer computes relu unless its
    activation is an attribute.
    """
    for module in net.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.activation, nn.Module):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerDecoderLayer) and "activation" in module._modules:
            vars(module)["activation"] = module.activation
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


@contextmanager
def _as_it_was_after_an_error(net: nn.Module) -> Iterator[None]:
    """Restores the classes, attributes and children of all modules if an error is raised inside."""
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
    """Moves a child behind those called before it, since initial weights depend on the activation before a layer."""
    names = [n for n in owner._modules if n != name]
    place = max((names.index(n) + 1 for n in earlier if n in names), default=0)
    names.insert(place, name)
    children = dict(owner._modules)
    owner._modules.clear()
    owner._modules.update((n, children[n]) for n in names)


def _chosen(net: nn.Module, found: list[Found], left: dict[str, str], only: Only | None, gates: bool) -> list[Found]:
    """The activations to swap. The others are added to `left` with the reason."""
    predicate = only if callable(only) and not isinstance(only, type) and function_name(only) is None else None
    patterns = [] if only is None or predicate is not None else list(only) if _several(only) else [only]
    there = [f for f in found if not f.stays or (f.gate and gates) or (not f.gate and f.path in patterns)]
    left.update({f.path: f"{f.was}: {f.stays}" for f in found if f not in there})
    if not there:
        unswapped = f" (left: {_some([f'{path}: {why}' for path, why in left.items()])})" if left else ""
        raise ActSearchError(
            f"{type(net).__name__} has no activation module to swap{unswapped}. Modules such as nn.ReLU() are "
            "replaced, and functions such as F.relu() where torch.fx can trace the forward that calls them."
        )
    if only is None:
        return there
    if predicate is not None:
        wanted = [bool(predicate(f)) for f in there]
    else:
        if not patterns or not all(isinstance(p, str | type) or function_name(p) is not None for p in patterns):
            raise ActSearchError(
                f"only={only!r} takes nothing. Write patterns of paths such as ['layer1', '!*.act2'], or leave it out."
            )
        for pattern in patterns:
            _check_pattern(pattern, found, there)
        no = [p[1:] for p in patterns if isinstance(p, str) and p[:1] == "!"]
        yes = [p for p in patterns if not (isinstance(p, str) and p[:1] == "!")] or ["*"]
        wanted = [any(_matches(f, p) for p in yes) and not any(_matches(f, p) for p in no) for f in there]
    if not any(wanted):
        raise ActSearchError(f"only: it takes none of the activations of {type(net).__name__}: {_paths(there)}.")
    left.update({f.path: f"{f.was}: not asked for" for f, yes in zip(there, wanted, strict=True) if not yes})
    return [f for f, yes in zip(there, wanted, strict=True) if yes]


def _several(only: object) -> TypeIs[Collection[Any]]:
    return isinstance(only, list | tuple | set)


def _check_pattern(pattern: Pattern, found: list[Found], there: list[Found]) -> None:
    """Raises ActSearchError if a pattern matches none of the activations that can be swapped."""
    bare = pattern.removeprefix("!") if isinstance(pattern, str) else pattern
    if any(_matches(f, bare) for f in there):
        return
    stay = [f for f in found if _matches(f, bare)]
    if stay and all(f.gate for f in stay):
        raise ActSearchError(f"only='{pattern}' matches gates alone. Write gates=True to swap them too.")
    if stay:
        path = next(f.path for f in stay if not f.gate)
        why = next(f.stays for f in stay if not f.gate)
        raise ActSearchError(f"only='{pattern}' matches {path} ({why}). Write only='{path}' to swap it all the same.")
    raise _no_match("only", pattern, there)


def _matches(f: Found, pattern: Pattern) -> bool:
    """Whether a pattern is of an activation's path or of a part around it, or what is there."""
    if isinstance(pattern, str):
        return pattern == f.was or fnmatchcase(f.path, pattern) or fnmatchcase(f.path, f"{pattern}.*")
    if isinstance(pattern, type):
        return isinstance(f.module, pattern) or f.was[:-2].replace("_", "") == pattern.__name__.lower()
    return f.was == f"{function_name(pattern)}()"


def _no_match(what: str, pattern: Pattern, there: list[Found]) -> ActSearchError:
    return ActSearchError(f"{what}: '{pattern}' matches no activation. There are {_paths(there)}.")


def _paths(there: list[Found]) -> str:
    return _some([f.path for f in there])


def _some(texts: Sequence[str], most: int = 8) -> str:
    more = f", … ({len(texts)} in all)" if len(texts) > most else ""
    return ", ".join(islice(texts, most)) + more

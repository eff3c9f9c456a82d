"""Looking at a net leaves no trace in it: whatever runs code of the net runs it on a copy that is made here."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from actsearch.errors import ActSearchError, one_line

SIMPLE = (int, float, complex, str, bytes, bool)


def copied(net: nn.Module) -> nn.Module:
    """A deep copy of a net.

    Tensors that were computed from others and kept as attributes are detached in it; torch cannot copy them otherwise,
    nor lazy buffers. The `weight` that an older weight_norm computes in each call is such a tensor. Raises
    ActSearchError that names the attribute that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in net.modules():
        for tensor in _tensors(vars(module)):
            if isinstance(tensor, UninitializedBuffer):
                memo[id(tensor)] = UninitializedBuffer(dtype=tensor.dtype)  # pyright: ignore[reportCallIssue]
            elif not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        twin = copy.deepcopy(net, dict(memo))
    except Exception as error:  # whatever an attribute of the user's raises
        raise ActSearchError(f"{_culprit(net, memo)} cannot be copied ({one_line(error)}). Remove it.") from error
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):  # torch does not copy their hooks
        for hook in (ours._backward_hooks or {}).values():
            theirs.register_hook(hook)
        for hook in (getattr(ours, "_post_accumulate_grad_hooks", None) or {}).values():
            theirs.register_post_accumulate_grad_hook(hook)
    for ours, theirs in zip(net.modules(), twin.modules(), strict=True):
        for name in vars(theirs).keys() & theirs._modules.keys() - vars(ours).keys():
            del vars(theirs)[name]  # a copy of torch's decoder layer has F.relu before its activation module
    return twin


def _culprit(net: nn.Module, memo: Mapping[int, Any]) -> str:
    """The first attribute in a net that cannot be copied."""
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            try:
                copy.deepcopy({} if name == "_modules" else value, dict(memo))
            except Exception:  # the error is raised by `copied`
                return f"{type(net).__name__}: {path}{'.' if path else ''}{name}"
    return type(net).__name__


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _tensors(member)
    elif isinstance(value, list | tuple | set):
        for member in value:
            yield from _tensors(member)


@contextmanager
def classes_kept(net: nn.Module) -> Iterator[list[str]]:
    """Restores the attributes that the classes of a net's modules have, lists and dicts among them.

    Yields a list that has, after the end, the names of those that were changed.
    """
    kinds = {kind for m in net.modules() for kind in type(m).__mro__}
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "builtins")]
    before = {kind: dict(vars(kind)) for kind in own}
    members = {id(v): copy.copy(v) for held in before.values() for v in held.values() if isinstance(v, list | dict)}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for kind, held in before.items():
            for name in vars(kind).keys() - held.keys():
                changed.append(name)
                delattr(kind, name)
            for name, value in held.items():
                if vars(kind)[name] is not value:
                    changed.append(name)
                    setattr(kind, name, value)
                if id(value) in members and _ids(value) != _ids(members[id(value)]):
                    changed.append(name)
                    value.clear()
                    value.extend(members[id(value)]) if isinstance(value, list) else value.update(members[id(value)])


def _ids(held: list[Any] | dict[Any, Any]) -> list[int]:
    return [id(part) for part in (held if isinstance(held, list) else [*held, *held.values()])]


def difference(net: nn.Module, twin: nn.Module, training: bool) -> str | None:
    """The first attribute in which a copy of a net differs from it, or None. training: the mode of the copy."""
    ours, theirs, seen = dict(net.named_modules()), dict(twin.named_modules()), set()
    if list(ours) != list(theirs):
        return sorted(ours.keys() ^ theirs.keys())[0]
    for path, module in ours.items():
        here, there = _attributes(module), _attributes(theirs[path])
        for name in dict.fromkeys([*here, *there]):
            same = there.get(name) == training if name == "training" else _same(here.get(name), there.get(name), seen)
            if not same:
                return f"{path}.{name}" if path else name
    return None


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes, parameters and buffers by their names, without the children."""
    own = {name: value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")}
    return {**own, **module._parameters, **module._buffers}


def _same(ours: Any, theirs: Any, seen: set[int]) -> bool:
    """Whether an object and its copy hold the same. Objects that do not show what they hold count as the same.

    seen: the ids of the objects that were compared before.
    """
    if ours is theirs or id(ours) in seen:
        return True
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, SIMPLE):
        return repr(ours) == repr(theirs)  # nan is nan
    seen.add(id(ours))
    if isinstance(ours, nn.Module):
        return True  # it is compared as a part of the net
    if isinstance(ours, Tensor):
        return _same_tensor(ours, theirs)
    if isinstance(ours, np.ndarray):
        return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind in "fc")
    if isinstance(ours, torch.Generator):
        return torch.equal(ours.get_state(), theirs.get_state())
    if isinstance(ours, np.random.Generator):
        return str(ours.bit_generator.state) == str(theirs.bit_generator.state)
    if isinstance(ours, random.Random):
        return ours.getstate() == theirs.getstate()
    if isinstance(ours, set | frozenset):
        return len(ours) == len(theirs) and {m for m in ours if isinstance(m, SIMPLE)} <= set(theirs)
    if isinstance(ours, Mapping):
        ours, theirs = [*ours.keys(), *ours.values()], [*theirs.keys(), *theirs.values()]
    if isinstance(ours, list | tuple | deque):
        return len(ours) == len(theirs) and all(_same(a, b, seen) for a, b in zip(ours, theirs, strict=True))
    return _same(vars(ours), vars(theirs), seen) if hasattr(ours, "__dict__") else True


def _same_tensor(ours: Tensor, theirs: Tensor) -> bool:
    if is_lazy(ours) or ours.device.type == "meta" or ours.layout is not torch.strided:
        return True
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return torch.equal(ours, theirs) or bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())

"""Activations given from Python as objects: their texts, by which every process can make them again."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from actsearch.activations.activation import Activation
from actsearch.activations.imported import arguments_of, is_path, is_same, rebuilt
from actsearch.activations.library import EQUAL, LIBRARY, NOT_A_VALUE
from actsearch.activations.spec import ActivationModule, Spec
from actsearch.activations.tree import number
from actsearch.errors import ActSearchError

FILE = "Write it as a def in a file of your own, my_acts.py, and import it from there"


def text_of(thing: Any) -> str:
    """The text of a spec for a function, a class or an instance of nn.Module, or a functools.partial of one.

    Torch's own become the catalogue's entries where they are the same. The others must have an import path, because
    training processes import them; an instance must be what its class makes of the numbers that it keeps as attributes.
    Raises ActSearchError for what cannot be made again, so that never another function is trained in its place.
    """
    if isinstance(thing, Spec | str):
        return str(thing)
    if isinstance(thing, Activation):
        return thing.name
    if thing in (nn.Softmax, F.softmax, torch.softmax, nn.GLU, F.glu) or isinstance(thing, nn.Softmax | nn.GLU):
        name = getattr(thing, "__name__", type(thing).__name__).lower()
        raise ActSearchError(f"torch's {name} has a dimension of its own. Write '{name}': along each layer's channels.")
    if isinstance(thing, functools.partial):
        return _of_partial(thing)
    if isinstance(thing, nn.Module) and not isinstance(thing, torch.jit.ScriptModule):
        return _of_module(thing)
    if not callable(thing):
        raise ActSearchError(f"{_shown(thing)} is no activation. Write a name, a formula, a function or an nn.Module.")
    return EQUAL.get(thing) or _path_of(thing)


def _of_partial(thing: functools.partial[Any]) -> str:
    if thing.args:
        raise ActSearchError(f"{_shown(thing)}: give parameters by their names, because the first argument is x.")
    base = Spec.parse(text_of(thing.func))
    given = {k: v for k, v in thing.keywords.items() if k not in NOT_A_VALUE}
    words = {p.name for p in base.activation.params}
    for name, value in given.items():
        if name not in words or not isinstance(value, int | float | str) or isinstance(value, bool):
            raise ActSearchError(
                f"{_shown(thing)}: '{name}' is no parameter that is a number. {FILE}, with {name}={value!r} inside."
            )
    return str(Spec.of(base.name, {**base.params, **given}))


def _of_module(module: nn.Module) -> str:
    kind = type(module)
    if isinstance(module, ActivationModule):
        text = str(module.spec)
        if not is_same(module, module.spec.module(module.in_channels, module.dim)):
            raise ActSearchError(f"a module '{text}' whose parameters were changed. Write learned(…) with the start.")
        return text
    if any(value for name, value in vars(module).items() if name.endswith("_hooks")) or "forward" in vars(module):
        raise ActSearchError(f"{_shown(module)} has hooks, or a forward of its own. {FILE}.")
    again = rebuilt(module)
    if again is not None and is_same(module, again):
        text = _written(kind, arguments_of(module))
        made = Spec.parse(text).module(getattr(module, "channels", 4)).weighted
        if made is None or (is_same(module, made) and arguments_of(module) == arguments_of(made)):
            return text  # None: one of the catalogue's
    if not module.state_dict() and (path := _kept_as(module)):
        return path
    raise ActSearchError(
        f"{_shown(module)} cannot be made again: it is not what {kind.__name__}(…) makes of numbers that it keeps "
        "under the names of its arguments (self.alpha = alpha). Give the class."
    )


def _written(kind: type[nn.Module], arguments: dict[str, Any]) -> str:
    """The text for a class with these arguments."""
    if kind is nn.PReLU and arguments["num_parameters"] > 1:  # one for each channel, as the catalogue's
        return f"prelu(negative_slope=learned({number(arguments['init'])}))"
    if kind is nn.Threshold and arguments["value"] == 0:
        return f"thresholded_relu(theta={number(float(arguments['threshold']))})"
    if kind is nn.Softplus and arguments["threshold"] < 20:
        raise ActSearchError(f"Softplus with threshold={arguments['threshold']} is not softplus. {FILE}.")
    spec = Spec.of(EQUAL.get(kind) or _path_of(kind))
    return str(Spec.of(spec.name, {p.name: arguments[p.name] for p in spec.activation.params if p.name in arguments}))


def _path_of(thing: Any) -> str:
    """The import path of a function or a class. Raises ActSearchError if it cannot be imported under one."""
    if isinstance(thing, torch.jit.ScriptFunction | torch.jit.ScriptModule):
        path = str(getattr(thing, "qualified_name", "")).removeprefix("__torch__.")
    else:
        name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", "")
        path = f"{getattr(thing, '__module__', None) or ''}.{name}"
    place, _, name = path.rpartition(".")
    for home in (*LIBRARY, place):  # torch's own under the names by which people know them
        module = sys.modules.get(home)
        if home != "__main__" and isinstance(module, ModuleType) and vars(module).get(name) is thing:
            return f"{home}.{name}"
    if kept := _kept_as(thing):
        return kept
    if "<lambda>" in path:
        why = "a lambda has no name by which training processes could import it"
    elif place.partition(".")[0] == "__main__":
        why = f"'{name}' is defined in the script itself, which training processes do not run"
    elif "<locals>" in path:
        why = f"'{name}' is defined inside a function, so that nothing can import it"
    else:
        why = f"{_shown(thing)} is kept under no name that training processes could import"
    raise ActSearchError(f"{why}. {FILE}.")


def _kept_as(thing: Any) -> str | None:
    """The import path of a name under which some file of a user's keeps this very object."""
    script = sys.modules.get("__main__")
    for place, module in list(sys.modules.items()):
        ours = module is script or place.partition(".")[0] in {"torch", "actsearch"}
        if isinstance(module, ModuleType) and not ours:
            for name, value in list(vars(module).items()):
                if value is thing and is_path(f"{place}.{name}"):
                    return f"{place}.{name}"
    return None


def _shown(thing: Any) -> str:
    text = " ".join(repr(thing).split())
    return text if len(text) <= 60 else f"{text[:60]} …"

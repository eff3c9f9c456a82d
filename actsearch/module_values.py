"""Values in the user's modules, for the training processes.

A training process imports a model function by its name and finds what the file says. What a script has set after the
import, a global variable (`my_net.WIDTH = 64`) or a class's attribute, is sent along: otherwise other nets would be
trained than those that were asked for.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cloudpickle

from actsearch.contents import digest_of


@dataclass(frozen=True)
class ModuleValue:
    """A value by its module and its name there, with a dot if it is a class's; its digest and the pickled value."""

    module: str
    name: str
    digest: str
    pickled: bytes


def packed(values: Mapping[tuple[str, str], Any]) -> list[ModuleValue]:
    """The values, by module and name, that another process may not find when it imports these modules.

    Functions and classes that stand where they were defined are left out, and so is what cannot be pickled, such as a
    lock or a module.
    """
    out = []
    for (module, name), value in values.items():
        if isinstance(value, ModuleType) or _is_where_it_was_defined(module, name, value):
            continue
        try:
            out.append(ModuleValue(module, name, digest_of(value), cloudpickle.dumps(value)))
        except Exception:  # whatever a user's object raises
            continue
    return out


def _is_where_it_was_defined(module: str, name: str, value: Any) -> bool:
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    function = function.fget if isinstance(function, property) else function
    home = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return home == (module, name)


def settle(values: list[ModuleValue]) -> None:
    """Imports the modules, and sets in them the values that differ."""
    for value in values:
        *path, name = value.name.split(".")
        place: Any = importlib.import_module(value.module)
        for part in path:
            place = getattr(place, part)
        if name not in vars(place) or digest_of(vars(place)[name]) != value.digest:
            setattr(place, name, pickle.loads(value.pickled))

"""A user's own function as an activation, named by its import path `my_file.my_act`.

Its keyword arguments whose defaults are numbers become its parameters. The function is checked once after the import:
it must take a tensor, return one of the same shape and dtype, and work element by element.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from actsearch.activations.activation import Activation, Param
from actsearch.errors import ActSearchError, one_line, unknown

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@contextlib.contextmanager
def own_folder_first() -> Iterator[None]:
    """While this is active, imports look in the current working directory before anywhere else."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def is_path(name: str) -> bool:
    return PATH.fullmatch(name) is not None


def imported(path: str) -> Activation:
    """The function as a catalogue entry. Raises ActSearchError if it cannot be found or is no activation."""
    function = _find(path)
    params = _params(path, function)
    _check(path, function, params)
    first, *_ = (inspect.getdoc(function) or path).splitlines()
    return Activation(path, function, family="own", formula=first, source=f"own function {path}", params=params)


def _find(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if module_name.split(".")[0] in {*sys.stdlib_module_names, "torch"}:
        raise ActSearchError(
            f"activation '{path}': '{module_name}' is a library's module. Write a function in a file of your own, and "
            "give its path: my_file.my_function."
        )
    try:
        with own_folder_first():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ActSearchError(
                f"activation '{path}': there is no module '{error.name}' in {os.getcwd()} or installed. Write the "
                "import path of a function: my_file.my_function."
            ) from None
        raise ActSearchError(f"activation '{path}': '{module_name}' does not import: {one_line(error)}.") from error
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise ActSearchError(f"activation '{path}': '{module_name}' does not import: {one_line(error)}.") from error
    function = getattr(module, name, None)
    if function is None:
        own = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise unknown(f"function in '{module_name}':", name, own, see=f"(activation '{path}')")
    if not callable(function):
        raise ActSearchError(f"activation '{path}' is {type(function).__name__}, not a function of x.")
    return function


def _params(path: str, function: Callable[..., Any]) -> tuple[Param, ...]:
    try:
        signature = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        raise ActSearchError(f"activation '{path}' is a builtin with unknown parameters. Wrap it in a def.") from None
    named = [p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not named or named[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ActSearchError(f"activation '{path}' takes no x. Write def {function.__name__}(x, alpha=0.1).")
    out = []
    for p in named[1:]:
        if p.default is p.empty:
            raise ActSearchError(
                f"activation '{path}' needs '{p.name}' besides {named[0].name}. Give it a default: {p.name}=0.1."
            )
        if isinstance(p.default, int | float) and not isinstance(p.default, bool):
            out.append(Param(p.name, float(p.default)))
    return tuple(out)


def _check(path: str, function: Callable[..., Any], params: tuple[Param, ...]) -> None:
    """Refuses functions that cannot be trained as an activation, or that would train wrongly without an error."""

    def wrong(why: str) -> ActSearchError:
        return ActSearchError(f"activation '{path}' {why}")

    def call(x: Tensor, **keywords: Any) -> Tensor:
        given = x.clone()
        try:
            out = function(given, **keywords)
        except Exception as error:  # whatever a user's function raises
            given_too = "".join(f" with {k} a {type(v).__name__}" for k, v in keywords.items())
            raise wrong(f"does not work on a tensor of shape {tuple(x.shape)}{given_too}: {one_line(error)}") from error
        if not isinstance(out, Tensor):
            raise wrong(f"gives {type(out).__name__}, not a tensor. Name a function of x.")
        if out.shape != x.shape or out.dtype != x.dtype:
            raise wrong(f"makes {tuple(out.shape)}, {out.dtype} of {tuple(x.shape)}, {x.dtype}. Keep both.")
        if not torch.equal(given, x):
            raise wrong("changes its input. Use functions that do not write in place.")
        return out

    with torch.random.fork_rng(devices=[]):
        x = torch.linspace(-3.0, 3.0, 24, dtype=torch.float64).view(2, 3, 4)
        y = call(x)
        call(x.float())
        if not torch.equal(call(x), y) and not y.isnan().any():
            raise wrong("gives other values for the same input the second time. It must not draw random numbers.")
        for at in ((0, 0, 0), (1, 1, 2)):
            other = x.clone()
            other[at] += 0.5
            changed = call(other) != y
            changed[at] = False
            if (changed & ~y.isnan()).any():
                raise wrong("has outputs that depend on several inputs. Only elementwise functions can be used.")
        if not call(x.clone().requires_grad_()).requires_grad:
            raise wrong("cannot be differentiated. Use torch's functions, not numpy's.")
        for p in params:
            values = [float(p.default), float(p.default) * 1.25 + 0.125]
            rows = torch.cat([call(x[:1], **{p.name: value}) for value in values])
            beside = call(x[:1].expand(2, 3, 4), **{p.name: x.new_tensor(values).view(2, 1, 1)})
            if not torch.allclose(rows, beside, equal_nan=True):
                raise wrong(f"treats {p.name} as a tensor otherwise than as a number. Broadcast it: {p.name} * x.")

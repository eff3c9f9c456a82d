"""A user's own function or nn.Module as an activation, named by its import path `my_file.my_act`.

The keyword arguments of a function, or of a module's constructor, whose defaults are numbers become its parameters. A
function is checked once after the import: it must take a tensor, return one of the same shape and dtype, and work
element by element. A module may have weights of its own and mix its inputs, but it keeps their shape.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from actsearch.activations.activation import Activation, Param
from actsearch.activations.library import LIBRARY
from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.random_states import random_states_kept

T = TypeVar("T")
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


_found: dict[str, Any] = {}  # by path, what `imported` made its entry of
_caches: list[Callable[[], None]] = []


def kept(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """functools.lru_cache for what depends on the user's functions: see `forget_replaced`."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        cached = functools.lru_cache(maxsize)(function)
        _caches.append(cached.cache_clear)
        return cached

    return decorate


def forget_replaced() -> None:
    """Empties the caches if a path now names another function than before, as after importlib.reload in a notebook."""
    for path, found in _found.items():
        place, _, name = path.rpartition(".")
        if getattr(sys.modules.get(place), name, None) is not found:
            _found.clear()
            for clear in _caches:
                clear()
            return


def imported(path: str) -> Activation:
    """The function or module as a catalogue entry. Raises ActSearchError if it is not found or is no activation."""
    found = _found[path] = _find(path)
    kind: Any = found if isinstance(found, type) else type(found)
    is_module = issubclass(kind, nn.Module)
    doc = found.__doc__ if isinstance(found, FunctionType) else vars(kind).get("__doc__") if is_module else None
    formula, *_ = inspect.cleandoc(doc or path).splitlines()
    if is_module:
        make, params = (_copies(path, found), ()) if isinstance(found, nn.Module) else _maker(path, kind)
        source = f"own module {path}"
        return Activation(path, make, family="own", formula=formula, source=source, kind="weighted", params=params)
    params = _params(path, found)
    _check(path, found, params)
    return Activation(path, found, family="own", formula=formula, source=f"own function {path}", params=params)


def _find(path: str) -> Any:
    module_name, _, name = path.rpartition(".")
    if module_name.split(".")[0] in {*sys.stdlib_module_names, "torch"} and module_name not in LIBRARY:
        raise ActSearchError(
            f"activation '{path}': '{module_name}' is a library's module. Write a function in a file of your own, and "
            "give its path: my_file.my_function."
        )
    try:
        with own_folder_first(), random_states_kept():
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
    except (ValueError, TypeError):  # a builtin, or scripted
        return ()
    named = [p for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not named and any(p.kind is p.VAR_POSITIONAL for p in signature):  # of an autograd.Function
        return ()
    if not named or named[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ActSearchError(f"activation '{path}' takes no x. Write def {path.rpartition('.')[2]}(x, alpha=0.1).")
    out = []
    for p in named[1:]:
        if p.default is p.empty:
            raise ActSearchError(
                f"activation '{path}' needs '{p.name}' besides {named[0].name}. Give it a default: {p.name}=0.1."
            )
        if isinstance(p.default, int | float) and not isinstance(p.default, bool):
            out.append(Param(p.name, float(p.default)))
    return tuple(out)


def _wrong(path: str, why: str) -> ActSearchError:
    return ActSearchError(f"activation '{path}' {why}")


def _check_output(path: str, out: Any, x: Tensor, given: Tensor) -> None:
    """Refuses what an activation cannot give for x. given: the copy of x that it was called with."""
    if not isinstance(out, Tensor):
        raise _wrong(path, f"gives {type(out).__name__}, not a tensor. Return one of the shape of x.")
    if out.shape != x.shape or out.dtype != x.dtype:
        raise _wrong(path, f"makes {tuple(out.shape)}, {out.dtype} of {tuple(x.shape)}, {x.dtype}. Keep both.")
    if not torch.equal(given, x):
        raise _wrong(path, "changes its input. Use functions that do not write in place.")


def _check(path: str, function: Callable[..., Any], params: tuple[Param, ...]) -> None:
    """Refuses functions that cannot be trained as an activation, or that would train wrongly without an error."""

    wrong = functools.partial(_wrong, path)

    def call(x: Tensor, **keywords: Any) -> Tensor:
        given = x.clone()
        try:
            out = function(given, **keywords)
        except Exception as error:  # whatever a user's function raises
            given_too = "".join(f" with {k} a {type(v).__name__}" for k, v in keywords.items())
            raise wrong(f"does not work on a tensor of shape {tuple(x.shape)}{given_too}: {one_line(error)}") from error
        _check_output(path, out, x, given)
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


# --- modules --------------------------------------------------------------------------------------------

Maker = Callable[..., nn.Module]


def _maker(path: str, kind: type[nn.Module]) -> tuple[Maker, tuple[Param, ...]]:
    """A function (channels, dim, **values) that makes a module of this class, and the parameters for `values`."""
    every = inspect.signature(kind).parameters.values()
    signature = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    told = {p.name for p in signature} & {"channels", "dim"}
    told = told if "channels" in told else set()
    params, whole = [], set()
    for p in signature:
        if p.name in told:
            continue
        if p.default is p.empty:
            raise ActSearchError(
                f"activation '{path}' needs '{p.name}'. Name a class whose arguments, save channels and dim, have "
                "defaults."
            )
        if isinstance(p.default, int | float) and not isinstance(p.default, bool):
            params.append(Param(p.name, float(p.default)))
            whole |= {p.name} if isinstance(p.default, int) else set()

    def make(channels: int | None, dim: int = 1, **values: float) -> nn.Module:
        known = {"channels": channels, "dim": dim}
        given = {k: int(v) if k in whole and v == int(v) else v for k, v in values.items()}
        try:
            return kind(**{k: known[k] for k in told}, **given)
        except Exception as error:  # whatever a user's constructor raises
            raise ActSearchError(f"activation '{path}' cannot be made of {given}: {one_line(error)}") from error

    functools.update_wrapper(make, kind, updated=())  # so that it is exported as the class
    _check_module(path, lambda: make(4))
    return make, tuple(params)


def _copies(path: str, pattern: nn.Module) -> Maker:
    """A function that gives copies of a module that a file holds."""
    again = rebuilt(pattern)
    if list(pattern.state_dict()) and (again is None or not is_same(pattern, again)):
        raise ActSearchError(
            f"activation '{path}' is a module with weights of its own, which every training process would draw anew. "
            "Name its class."
        )

    def make(channels: int | None, dim: int = 1) -> nn.Module:
        return copy.deepcopy(pattern)

    _check_module(path, lambda: make(4))
    return make


def arguments_of(module: nn.Module) -> dict[str, Any]:
    """The arguments of the constructor that a module keeps as attributes of the same names."""
    names = inspect.signature(type(module)).parameters
    return {name: getattr(module, name) for name in names if isinstance(getattr(module, name, None), int | float | str)}


def rebuilt(module: nn.Module) -> nn.Module | None:
    """The module made anew of its class and `arguments_of`; None if its class does not take them."""
    try:
        with torch.random.fork_rng(devices=[]):
            return type(module)(**arguments_of(module))
    except Exception:  # whatever a user's constructor raises
        return None


def is_same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have equal weights, and give equal outputs and gradients in training and in evaluation."""
    states = one.state_dict(), other.state_dict()
    if states[0].keys() != states[1].keys() or not all(map(torch.equal, states[0].values(), states[1].values())):
        return False
    tried = []
    for width in {4, *(p.shape[0] for p in one.parameters() if p.dim())}:
        for shape in ((12, width), (3, width, 4), (1, width, 3, 4)):
            x = torch.linspace(-8.0, 8.0, 12 * width).view(shape)
            tried += [(_outputs(one, x, train), _outputs(other, x, train)) for train in (False, True)]
    works = [pair for pair in tried if any(pair)]
    return bool(works) and all(len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in works)


def _outputs(module: nn.Module, x: Tensor, train: bool) -> list[Tensor]:
    """The output of a copy of the module, and the gradients of x and of its weights; empty if it does not work on x."""
    module, x = copy.deepcopy(module).train(train), x.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            y = module(x * 1)  # a leaf could not be written in place
            leaves = [x, *module.parameters()]
            return [y, *torch.autograd.grad(y.square().sum(), leaves, allow_unused=True, materialize_grads=True)]
        except Exception:  # whatever a user's module raises
            return []


def _check_module(path: str, make: Callable[[], nn.Module]) -> None:
    """Refuses modules that cannot stand where an activation stands."""

    wrong = functools.partial(_wrong, path)
    with torch.random.fork_rng(devices=[]):
        module, why = make(), ""
        for shape in ((2, 4), (2, 4, 3), (2, 4, 3, 3)):
            x = torch.linspace(-3.0, 3.0, 2 * 4).view(2, 4, *[1] * (len(shape) - 2)).expand(shape).contiguous()
            given = x.clone().requires_grad_() * 1
            try:
                out = module.train()(given)
            except Exception as error:  # whatever a user's module raises
                why = why or one_line(error)
                continue
            _check_output(path, out, x, given)
            if not out.requires_grad:
                raise wrong("cannot be differentiated. Use torch's functions, not numpy's.")
            module.eval()
            if not torch.equal(module(x), module(x)):
                raise wrong("gives other values for the same input the second time. In eval() it must not.")
            return
        raise wrong(f"does not work on 4 channels: {why}")

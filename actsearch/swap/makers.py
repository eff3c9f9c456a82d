"""Makes the new modules that replace activations, from the user's argument `to`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from actsearch.activations.spec import ActivationModule, Spec
from actsearch.errors import ActSearchError, one_line
from actsearch.swap.functions import function_name
from actsearch.swap.survey import Found

Maker = Callable[..., nn.Module]
To = str | Spec | Maker

HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def maker(to: To) -> Callable[[int | None, int], nn.Module]:
    """A function that makes a module from (channels, dim). Raises ActSearchError if `to` does not make modules."""
    if isinstance(to, str):
        to = Spec.parse(to)
    if isinstance(to, Spec):
        return to.module
    if isinstance(to, nn.Module):
        kind = type(to).__name__
        raise ActSearchError(f"to: one {kind} for all places. Write its class, {kind}, or a function that makes them.")
    function = to
    try:
        parameters = list(inspect.signature(function).parameters.values())
        makes = function_name(function) is None
    except (TypeError, ValueError):  # it is no function, or a C function, which makes no module
        parameters, makes = [], False
    if not makes:
        shown = getattr(function, "__name__", repr(function))
        raise ActSearchError(f"to={shown} makes no module. Write a name such as 'gelu', or a class such as nn.GELU.")
    asked = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
    if asked > 2:
        raise ActSearchError(f"to: it asks for {asked} arguments, but gets channels and dim. Give the others defaults.")
    named = {p.name for p in parameters[asked:]} & {"channels", "dim"}  # nn.GELU's options keep their defaults

    def make(channels: int | None, dim: int) -> nn.Module:
        if asked < 2 and "dim" not in named and dim != 1:
            channels = None  # without dim it would take them for dimension 1
        keywords = {k: v for k, v in (("channels", channels), ("dim", dim)) if k in named}
        try:
            module = function(*(channels, dim)[:asked], **keywords)
        except ActSearchError:
            raise
        except Exception as error:
            why = f"`to` failed with {one_line(error)}."
            if channels is None and (asked or named):
                number = "is not known" if dim == 1 else f"is not given to what takes no `dim`, here {dim}"
                why += f" The number of channels {number}: allow for None, as lambda c: nn.PReLU(c or 1) does."
            raise ActSearchError(why) from error
        if not isinstance(module, nn.Module):
            raise ActSearchError(f"`to` gave {module!r} and no module. Write a class or function that makes one.")
        return module

    return make


def made(make: Callable[[int | None, int], nn.Module], f: Found, net: nn.Module) -> nn.Module:
    """The new module for a found activation, with the device, dtype, mode and hooks of the old one."""
    try:
        module = make(f.channels, f.dim)
    except ActSearchError as error:
        raise ActSearchError(f"at {f.path}: {error}") from error
    if isinstance(module, ActivationModule) and module.spec.activation.width is not None:
        raise ActSearchError(
            f"'{module.spec}' gives another number of channels than it takes: it cannot replace {f.was} at {f.path}."
        )
    weights = (p for home in (f.owner, net) for p in home.parameters() if p.is_floating_point())
    weight = next(weights, None)
    if weight is not None and next(module.parameters(), None) is not None:
        module.to(weight.device, weight.dtype)
    old = f.module
    module.train(f.owner.training if old is None else old.training)
    for name in HOOKS if old is not None and not f.calls else ():
        vars(module)[name] = vars(old)[name]
    return module

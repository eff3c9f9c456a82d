"""Replace the activations of any nn.Module, and say what was changed and what was left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from actsearch.activations.spec import ActivationModule, Spec
from actsearch.errors import ActSearchError

HIDDEN = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Hardshrink, nn.Softshrink,
    nn.Tanhshrink, nn.Threshold, ActivationModule,
)  # fmt: skip

GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax)


@dataclass
class Swapped:
    """names: the modules replaced, by their path in the net. left: those not replaced, with the reason."""

    names: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.names)


def swap_activations(net: nn.Module, to: str | Spec | Callable[[], nn.Module]) -> Swapped:
    """Replaces, in place, the modules that are hidden activations; a shared instance stays shared.

    to: a spec (its text will do), or a function that makes the next module. Sigmoids and softmaxes stay:
    they are gates (squeeze-and-excitation) or outputs. Learned parameters are one per module, because a
    shared module may meet several widths. Flags `inplace` of other modules (dropout) are cleared. Activations
    called as functions inside `forward` are not seen.
    Raises ActSearchError if there was nothing to swap.
    """
    if isinstance(to, str):
        to = Spec.parse(to)
    make = to.module if isinstance(to, Spec) else to
    done, new_of = Swapped(), {}
    for path, module in list(net.named_modules(remove_duplicate=False)):
        if isinstance(module, GATES):
            done.left[path] = f"{type(module).__name__}: a gate or an output, not a hidden activation"
        if not isinstance(module, HIDDEN) or not path:
            continue
        if id(module) not in new_of:
            new_of[id(module)] = (make(), module)  # the old module is kept, or its id could come again
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, new_of[id(module)][0])
        done.names.append(path)
    for module in net.modules():
        # a dropout in place overwrites the output that relu's or tanh's backward needs (mobilenet_v3's hardswish
        # needs its input instead, so there it was allowed)
        if getattr(module, "inplace", False):
            module.inplace = False  # pyright: ignore[reportArgumentType]
    if not done.names:
        left = f" (left: {', '.join(done.left)})" if done.left else ""
        raise ActSearchError(
            f"{type(net).__name__} has no activation module to swap{left}. Only modules such as nn.ReLU() are "
            "replaced, not functions called inside forward()."
        )
    return done

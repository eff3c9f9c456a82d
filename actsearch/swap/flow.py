"""Follows the values of a net from its input to its output, through all its modules, to see where activations stand.

A module is followed through its trace if there is one, a sequence child by child, any other through its source.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from actsearch.swap.reading import read
from actsearch.swap.values import RANGE, ROUNDED, Value, Values, leaves
from actsearch.swap.widths import runs_in_sequence

LISTS = (nn.ModuleList, nn.ModuleDict)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
RESHAPING = (_DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten)
CLIPPED = {"relu6", "hardtanh"}
BOUNDED = {"tanh", "hardtanh", "softsign"}
HARD_SIGMOID = "a constant is added before it, as in a hard sigmoid"

Site = tuple[int, str]  # an owner's id and the name by which it holds or calls an activation
Key = tuple[str, int]  # of a call in a trace, see rewrite.Call
NO_KEY: Key = ("", -1)


class Flow:
    """The values of a net in one mode, training or not. `places` tells where its activations stand.

    sites: what each activation is, `ReLU` or `relu()`. graphs: by an owner's id its trace. keys: by an owner's id what
    identifies each call in its trace. names: by an owner's id the name of the activation at a call.
    hidden_curves: after `places`, those curves that stand where hidden activations do.
    """

    def __init__(
        self,
        sites: Mapping[Site, str],
        graphs: Mapping[int, fx.Graph],
        keys: Mapping[int, Mapping[fx.Node, Key]],
        names: Mapping[int, Mapping[Key, str]],
        training: bool,
    ) -> None:
        self.sites, self.graphs, self.keys, self.names, self.training = sites, graphs, keys, names, training
        self.values = Values()
        self.read = 0  # see reading.py
        self.hidden_curves: list[fx.Node] = []
        self._curves: dict[fx.Node, Value] = {}
        self._met: dict[Site, list[tuple[Value, Value, Key | None]]] = defaultdict(list)
        self._inside: set[int] = set()

    def places(
        self, net: nn.Module, part: bool, curves: Set[fx.Node] = frozenset()
    ) -> dict[Site, list[tuple[str | None, Key | None]]]:
        """For each call of an activation that was met: why it is no hidden one (else None), and its key.

        part: whether there are weight layers before and after the net. A net without weights is one, too. curves: calls
        such as sin(x), which are activations where hidden ones stand.
        """
        self._curves = dict.fromkeys(curves, Value(0))
        outputs = leaves(self.module(net, [self.values.add(data=True)] * _n_inputs(net), {}))
        part = part or not any(self.values.weighs)
        met = [n for calls in self._met.values() for n, _, _ in calls]
        why = self.values.places([*met, *self._curves.values()], outputs, part)
        self.hidden_curves = [c for c, n in self._curves.items() if why[n] is None and self.values.weighted[n]]
        return {
            site: [(self._of_its_kind(self.sites[site], why[n], given), key) for n, given, key in calls]
            for site, calls in self._met.items()
        }

    def _of_its_kind(self, was: str, why: str | None, given: Value) -> str | None:
        """Why an activation is no hidden one, given what it is: relu6(x + 3), but relu before a rounding is hidden."""
        kind = was.removesuffix("()").lower()
        if why is None and kind in CLIPPED and self.values.shifted[given]:
            return HARD_SIGMOID
        return None if why == RANGE + ROUNDED and kind not in BOUNDED else why

    def call(
        self, owner: nn.Module, name: str, args: Sequence[Any], keywords: Mapping[str, Any], key: Key | None = None
    ) -> Any:
        """The values that a child of an owner gives, or a function that it keeps as an attribute. key: of the call."""
        site = (id(owner), name)
        if site in self.sites:
            given = leaves([*args, *keywords.values()])
            n = self.values.add(given)
            self._met[site].append((n, given[0] if given else n, key))
            return n
        child = vars(owner)["_modules"].get(name)
        if child is None:
            return self.values.add(leaves([*args, *keywords.values()]))
        return self.module(child, args, keywords)

    def module(self, module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """The values that a module gives."""
        if id(module) in self._inside:  # it calls itself
            return self.values.add(leaves([*args, *keywords.values()]))
        self._inside.add(id(module))
        try:
            return self._module(module, args, keywords)
        finally:
            self._inside.discard(id(module))

    def _module(self, module: nn.Module, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        children = {name: child for name, child in module._modules.items() if child is not None}
        if runs_in_sequence(module):
            value = args[0] if len(args) else next(iter(keywords.values()), None)
            for name in children:
                value = self.call(module, name, (value,), {})
            return value
        if (graph := self.graphs.get(id(module))) is not None:
            return self._graph(module, graph, args, keywords)
        home = getattr(getattr(type(module), "forward", None), "__module__", None) or "torch."  # "torch." if scripted
        of_torch = home.startswith("torch.")
        if of_torch and len(children) == 1 and not isinstance(next(iter(children.values())), LISTS):
            return self.call(module, next(iter(children)), args, keywords)  # a wrapper: DataParallel, torch.compile
        if not of_torch and (made := read(self, module, args, keywords)) is not None:
            return made
        given = leaves([*args, *keywords.values()])
        return self.values.add(given, weighs=has_weights(module), passes=2 if isinstance(module, RESHAPING) else 0)

    def _graph(self, owner: nn.Module, graph: fx.Graph, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        made: dict[fx.Node, Any] = {}
        keys, names = self.keys[id(owner)], self.names.get(id(owner), {})
        parameters = [n for n in graph.nodes if n.op == "placeholder"]
        for i, n in enumerate(parameters):
            given = args[i] if i < len(args) else keywords.get(str(n.target))
            made[n] = self.values.add() if given is None else given
        for n in graph.nodes:
            if n.op == "placeholder":
                continue
            at = fx.node.map_arg(n.args, made.__getitem__)
            named = fx.node.map_arg(n.kwargs, made.__getitem__)
            if n.op == "output":
                return at[0]
            if n.op == "get_attr":
                made[n] = self.values.add(parameter=_is_parameter(owner, str(n.target)))
            elif (key := keys.get(n, NO_KEY)) in names or n.op == "call_module":
                parent, _, name = names.get(key, str(n.target)).rpartition(".")
                made[n] = self.call(owner.get_submodule(parent), name, at, named, key)
            elif getattr(n.target, "__name__", "") == "getitem" and _holds(at[0], at[1]):
                made[n] = at[0][at[1]]
            else:
                name, of_torch = _named(n.args[1] if n.target is getattr else n.target)
                made[n] = self.values.call(name, list(at), named.values(), of_torch)
                if n in self._curves:
                    self._curves[n] = made[n]
        return None


def _n_inputs(net: nn.Module) -> int:
    """How many arguments a net's forward needs; one if it takes any, or is scripted."""
    if isinstance(net, torch.jit.ScriptModule):
        return 1
    takes = list(inspect.signature(net.forward).parameters.values())
    return max(1, sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes))


def has_weights(module: nn.Module) -> bool:
    """Whether a module that is not followed inside multiplies its input by weights; a norm's do not count."""
    if isinstance(module, NORMS):
        return False
    quantised = type(module).__module__.startswith("torch.ao.nn")
    return quantised or any(is_lazy(p) or p.dim() > 1 for p in module.parameters())


def _is_parameter(owner: nn.Module, path: str) -> bool:
    home, _, name = path.rpartition(".")
    module = owner.get_submodule(home)
    return name in module._parameters or is_parametrized(module, name)  # reading module.weight would run its code


def _holds(made: Any, key: Any) -> bool:
    """Whether a structure has its own values at this index or key."""
    if isinstance(made, list | tuple):
        return type(key) is int and -len(made) <= key < len(made)
    return isinstance(made, Mapping) and isinstance(key, str) and key in made


def _named(target: Any) -> tuple[str, bool]:
    """A function's or method's name, and whether it is torch's or Python's."""
    if isinstance(target, str):
        return target, True
    home = getattr(target, "__module__", None) or "torch"
    return getattr(target, "__name__", ""), home.partition(".")[0] in ("torch", "_operator", "math", "builtins")

"""Traces a net with torch.fx and turns it into the list of layers that the fused engine trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule, Spec
from actsearch.contents import gradient_hooks
from actsearch.errors import one_line
from actsearch.models.model import Model
from actsearch.swap.copies import copied, difference
from actsearch.training.diagnostics import weight_layers
from actsearch.training.layer import LayerCall, NotFusable, Value
from actsearch.training.layers import FUNCTIONS, TABLE, Activations, Add, Flatten, Folded

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip
METHODS = ("train", "eval", "__call__", "_call_impl", "__getattr__", "requires_grad_", "zero_grad", "parameters")


@dataclass
class Traced:
    """A net as a list of layers.

    before: modules at the start of the net that only reshape the data; they are applied once, to all data. start: the
    input. nodes: the layers in order of computation. weight_layers: the names of the parameters of two or more
    dimensions, in the net's own order.
    """

    before: list[Callable[[Tensor], Tensor]]
    start: Value
    nodes: list[LayerCall]
    weight_layers: list[str]


class _Tracer(torch.fx.Tracer):
    """Does not trace into activation modules: each is one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ActivationModule) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(torch.fx.Interpreter):
    """Runs a graph and notes the shape of each value, without the batch."""

    def run_node(self, n: torch.fx.Node) -> Any:
        out = super().run_node(n)
        n.meta["shape"] = tuple(out.shape[1:]) if isinstance(out, Tensor) else None
        return out


def trace_layers(model: Model) -> Traced:
    """The layers of a model's net. Raises NotFusable with the reason if one is not in the table of layers.py."""
    if not isinstance(model.examples, Tensor):
        raise NotFusable("the data have several inputs")
    if model.shared:
        raise NotFusable(f"it changes {model.shared}, outside of its nets")
    net = model.build([Spec.of("relu")], 0, "torch")
    _check_plain(net)
    _check_lasting(net, model)
    try:
        in_training, again = (str(_Tracer().trace(net.train())) for _ in range(2))
        graph = _Tracer().trace(net.eval())
        with torch.no_grad():
            _Shapes(torch.fx.GraphModule(net, graph)).run(model.zeros(2))
    except Exception as error:  # control flow that depends on values, or whatever a user's forward raises
        raise NotFusable(f"its forward cannot be traced ({one_line(error)})") from error
    if in_training != again:
        raise NotFusable("its forward differs from call to call")
    if str(graph) != in_training:
        raise NotFusable("its forward differs between training and evaluation")
    traced = _read(graph, net, model)
    used = [segment.name for node in traced.nodes for segment in node.segments if segment.kind == "weight"]
    if sorted(used) != sorted(name for name, _ in net.named_parameters()):
        raise NotFusable("it has weights that are shared, or used outside of its layers")
    return traced


def _check_plain(net: nn.Module) -> None:
    """Raises NotFusable if calling a module of this net does more than its class's forward, as a trace would show it.

    What else a forward may do is left to the self-check.
    """
    if any(getattr(nn.modules.module, name) for name in GLOBAL_HOOKS):
        raise NotFusable("hooks for all modules are registered")
    for name, module in net.named_modules():
        kind, where = type(module), f"{name or 'it'} ({type(module).__name__})"
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise NotFusable(f"{where} has hooks")
        for method in METHODS:
            if getattr(kind, method) is not getattr(nn.Module, method):
                raise NotFusable(f"{where} has a {method} of its own")
        own = [key for key in vars(module) if callable(getattr(kind, key, None))]
        if own:
            raise NotFusable(f"{where} has its own {own[0]} in place of its class's")
    for name, p in net.named_parameters():
        if not p.requires_grad:
            raise NotFusable(f"{name} is frozen")
        if gradient_hooks(p):
            raise NotFusable(f"{name} has hooks on its gradient")
        if p.dtype is not torch.float32 or type(p) is not nn.Parameter:
            raise NotFusable(f"{name} is {p.dtype}, {type(p).__name__}")


def _check_lasting(net: nn.Module, model: Model) -> None:
    """Raises NotFusable if calling the net changes it: what it does later may then be something else."""
    twin = copied(net)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for training in (True, False):
            model.outputs(twin.train(training))
    for ours, theirs in zip(net.modules(), twin.modules(), strict=True):
        if type(ours) in TABLE:  # running means are known
            theirs.load_state_dict(ours.state_dict())
    if changed := difference(net, twin, training=False):
        raise NotFusable(f"its forward changes '{changed}'")


def _read(graph: torch.fx.Graph, net: nn.Module, model: Model) -> Traced:
    """Turns the nodes of a traced graph into layers. Raises NotFusable with the reason."""
    values: dict[torch.fx.Node, Value] = {}
    before: list[Callable[[Tensor], Tensor]] = []
    nodes: list[LayerCall] = []
    orders: dict[int, Tensor] = {}  # by a value's id: the order of its features, if it is a flatten of channels
    start = Value(model.in_shape)
    for n in graph.nodes:
        if n.op == "placeholder":
            values[n] = start
            continue
        if n.op == "output":
            end = values[n.args[0]] if isinstance(n.args[0], torch.fx.Node) else None
            if end is None or not nodes or nodes[-1].out is not end:
                raise NotFusable("it does not return its last layer's output")
            break
        sources = [a for a in n.all_input_nodes if a in values]
        inputs = [values[a] for a in sources]
        module = net.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            values[n] = inputs[0]
            continue
        if not nodes and isinstance(module, nn.Flatten | nn.Unflatten) and inputs == [start]:
            before.append(module)
            start.shape = n.meta["shape"]
            values[n] = start
            continue
        kind = TABLE.get(type(module)) if module is not None else FUNCTIONS.get(n.target)
        if kind is None or n.op == "get_attr":
            what = type(module).__name__ if module is not None else getattr(n.target, "__name__", n.target)
            raise NotFusable(f"it has {what}, which has no fused form")
        out = Value(n.meta["shape"])
        node = LayerCall(kind, inputs, out, module, str(n.target))
        order = next((orders[id(value)] for value in inputs if id(value) in orders), None)
        if kind is Flatten:
            order = _order(inputs[0].shape, out.shape)
        if kind in (Flatten, Activations):  # they keep the order of features
            if order is not None:
                orders[id(out)] = order
        else:
            node.segments = kind.segments(str(n.target), module, inputs[0].shape, order)
        if isinstance(module, ActivationModule):
            if any(other.module is module for other in nodes):
                raise NotFusable(f"{n.target}: an activation module that is called twice has no fused form")
            node.place, node.width = module.place, module.in_channels or 1
        elif kind is Folded:
            node.module = module if module is not None else _of_one(n)
        elif kind is Add and (len(inputs) != 2 or inputs[0].shape != inputs[1].shape or n.kwargs):
            raise NotFusable("it has an addition other than a sum of two values of one shape")
        for value in inputs:
            value.n_consumers += 1
        values[n] = out
        nodes.append(node)
    if len(nodes[-1].out.shape) != 1:
        raise NotFusable("its outputs are not one number per class")
    return Traced(before, start, nodes, weight_layers(net))


def _order(shape: tuple[int, ...], flat: tuple[int, ...]) -> Tensor | None:
    """The order of features behind a flatten, for the columns of the linear layer's weights; None if it is the net's.

    The net flattens with channels first, the fused engine with channels last. shape, flat: one example's shape before
    and after.
    """
    if len(flat) != 1 or math.prod(shape) != flat[0]:
        raise NotFusable("it has a flatten whose result is not (batch, features)")
    if len(shape) == 1 or shape[0] == 1:
        return None
    return torch.arange(flat[0]).view(shape).movedim(0, -1).reshape(-1)


def _of_one(n: torch.fx.Node) -> Callable[[Tensor], Tensor]:
    """A function call in the graph as a function of one tensor, with its other arguments filled in."""
    if not isinstance(n.args[0], torch.fx.Node) or len(n.all_input_nodes) != 1 or not callable(n.target):
        raise NotFusable(f"{n.target} is called with several tensors")
    function, rest, keywords = n.target, n.args[1:], dict(n.kwargs)
    if getattr(function, "__name__", "") == "getitem":
        index = rest[0] if isinstance(rest[0], tuple) else (rest[0],)
        if index[0] != slice(None):
            raise NotFusable("it slices the batch")
    return lambda x: function(x, *rest, **keywords)

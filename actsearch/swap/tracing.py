"""Traces one module's forward by torch.fx, or gives the reason why the graph would compute something else."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from actsearch.errors import one_line
from actsearch.random_states import random_states, random_states_kept
from actsearch.swap.copies import classes_kept, difference
from actsearch.swap.functions import function_name

ASKING = {"isinstance", "issubclass", "type", "__class__"}


class Untraceable(Exception):
    """A module's forward cannot be traced, or a trace would freeze something. The message gives the reason."""


class _Value(fx.Proxy):
    """A proxy that raises Untraceable if code other than torch's asks for its type, which fx would answer wrongly."""

    @property
    def __class__(self):  # isinstance reads it, and so do torch's functions, such as torch.pow
        code, home = sys._getframe(1).f_code, sys._getframe(1).f_globals.get("__name__", "")
        asks = not ASKING.isdisjoint(code.co_names) or dis.opmap["MATCH_CLASS"] in code.co_code[::2]
        if asks and not home.startswith("torch."):
            raise Untraceable("its forward asks for the type of a value")
        return fx.Proxy


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.there = {id(m) for m in module.modules()}
        self.contexts = _contexts()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _contexts() != self.contexts:
            raise Untraceable("its forward switches gradients or autocast, which a trace does not hold")
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
                raise Untraceable("its forward calls torch.utils.checkpoint, which a trace does not hold")
            frame = frame.f_back
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if id(m) in self.there:
            return super().call_module(m, forward, args, kwargs)
        return forward(*args, **kwargs)  # a module made inside forward: nn.ReLU()(x)


def trace_owner(module: nn.Module, twin: nn.Module, training: bool, settled: Mapping[str, Any]) -> fx.Graph:
    """The graph of a module's forward as it is written, with calls of its children.

    twin: a copy of the module, whose code is run. settled: the arguments that are constants in this trace, with their
    values. Raises Untraceable with the reason; the twin may be changed then.
    """
    if "forward" in vars(twin):
        raise Untraceable("it has a forward of its own in place of its class's")
    for m in twin.modules():
        vars(m)["training"] = training
    # functions kept as attributes, self.act = F.relu, are hidden behind children, so that the trace shows their calls;
    # children added by an earlier swap are hidden, because a forward that loops over self.children() must not see them
    held = {name: value for name, value in vars(twin).items() if function_name(value) is not None}
    added = {new for old, new in vars(twin).get("module_of_call", {}).items() if new != old[0]}
    children = twin._modules
    shown = {name: child for name, child in children.items() if name not in added}
    shown |= {name: nn.Identity() for name in held}
    for name in held:
        del vars(twin)[name]
    twin._modules = dict(shown)
    graph = _graph(twin, settled)
    sets = next((name for name in {**shown, **twin._modules} if shown.get(name) is not twin._modules.get(name)), None)
    vars(twin)["_modules"] = children
    vars(twin).update(held)
    if (sets := sets or difference(module, twin, training)) is not None:
        what = "makes a tensor" if sets.startswith("_tensor_constant") else f"sets self.{sets}"
        raise Untraceable(f"its forward {what}, which tracing would do once for all")
    for node in [n for n in graph.nodes if n.op == "call_function" and "has been specialized" in str(n.args[1:])]:
        # fx asserts that a settled argument keeps its value; here the key of the trace ensures it
        sources = node.all_input_nodes
        graph.erase_node(node)
        for source in sources:
            if source.op == "call_function" and not source.users:
                graph.erase_node(source)
    return graph


def _graph(twin: nn.Module, settled: Mapping[str, Any]) -> fx.Graph:
    tracer = _Tracer(twin)
    tracer.traced_func_name = "as_written" if hasattr(type(twin), "as_written") else "forward"  # see rewrite.py
    with random_states_kept(), classes_kept(twin) as changed:
        states = random_states()
        try:
            graph = tracer.trace(twin, dict(settled))
        except Untraceable:
            raise
        except TraceError:
            raise Untraceable("its forward cannot be traced: it decides or counts by values") from None
        except Exception as error:
            raise Untraceable(f"its forward cannot be traced ({one_line(error)})") from None
        if random_states() != states:
            raise Untraceable("its forward decides at random, which tracing would do once for all")
    if changed:
        raise Untraceable(f"its forward sets {changed[0]} of its class, which tracing would do once for all")
    return graph


def _contexts() -> tuple[bool | int, ...]:
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()  # only the depth shows autocast(enabled=False)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), depth

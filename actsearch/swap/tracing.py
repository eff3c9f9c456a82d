"""Traces one module's forward by torch.fx, or gives the reason why the graph would compute something else."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from actsearch.errors import one_line
from actsearch.swap.functions import function_name


class Untraceable(Exception):
    """A module's forward cannot be traced, or a trace would freeze something. The message gives the reason."""


class _Value(fx.Proxy):
    """A proxy that raises Untraceable if asked for its type, which plain fx would answer wrongly."""

    @property
    def __class__(self):  # isinstance reads it
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):
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


def trace_owner(module: nn.Module, training: bool, settled: Mapping[str, Any]) -> fx.Graph:
    """The graph of a module's forward as it is written, with calls of its children.

    settled: the arguments that are constants in this trace, with their values. The module is not changed. Raises
    Untraceable with the reason.
    """
    if "forward" in vars(module):
        raise Untraceable("it has a forward of its own in place of its class's")
    modes = [(m, m.training) for m in module.modules()]
    for m, _ in modes:
        vars(m)["training"] = training
    # functions kept as attributes, self.act = F.relu, are hidden behind children, so that the trace shows their calls;
    # children added by an earlier swap are hidden, because a forward that loops over self.children() must not see them
    held = {name: value for name, value in vars(module).items() if function_name(value) is not None}
    children, added = (
        module._modules,
        {new for old, new in vars(module).get("module_of_call", {}).items() if new != old[0]},
    )
    for name in held:
        del vars(module)[name]
    module._modules = {name: child for name, child in children.items() if name not in added}
    module._modules.update({name: nn.Identity() for name in held})
    before = {name: (value, _members(value)) for name, value in vars(module).items()}
    states: tuple[Any, Any, Any] = torch.get_rng_state(), np.random.get_state(), random.getstate()
    tracer = _Tracer(module)
    tracer.traced_func_name = "as_written" if hasattr(type(module), "as_written") else "forward"  # see rewrite.py
    try:
        graph = tracer.trace(module, dict(settled))
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"its forward cannot be traced ({one_line(error)})") from None
    finally:
        changed = _restore(module, before)
        vars(module)["_modules"] = children
        vars(module).update(held)
        for m, mode in modes:
            vars(m)["training"] = mode
    if changed:
        what = "makes a tensor" if all(n.startswith("_tensor_constant") for n in changed) else f"sets self.{changed[0]}"
        raise Untraceable(f"its forward {what}, which tracing would do once for all")
    drawn: tuple[Any, Any, Any] = torch.get_rng_state(), np.random.get_state(), random.getstate()
    if not (torch.equal(states[0], drawn[0]) and states[1][2] == drawn[1][2] and states[2] == drawn[2]):
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        raise Untraceable("its forward decides at random, which tracing would do once for all")
    for node in [n for n in graph.nodes if n.op == "call_function" and "has been specialized" in str(n.args[1:])]:
        # fx asserts that a settled argument keeps its value; here the key of the trace ensures it
        sources = node.all_input_nodes
        graph.erase_node(node)
        for source in sources:
            if source.op == "call_function" and not source.users:
                graph.erase_node(source)
    return graph


def _members(value: object) -> list[Any] | None:
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, list | set) else None


def _restore(module: nn.Module, before: dict[str, tuple[Any, list[Any] | None]]) -> list[str]:
    """Restores the attributes of a module that tracing changed; returns their names."""
    now, changed = vars(module), []
    for name in [name for name in now if name not in before]:
        changed.append(name)
        del now[name]
    for name, (value, members) in before.items():
        if now.get(name) is not value:
            changed.append(name)
            now[name] = value
        elif members is not None and [*map(_identity, members)] != [*map(_identity, _members(value) or [])]:
            changed.append(name)
            value.clear()
            value.extend(members) if isinstance(value, list) else value.update(members)
    return changed


def _identity(member: object) -> object:
    return (member[0], id(member[1])) if isinstance(member, tuple) and len(member) == 2 else id(member)


def _contexts() -> tuple[bool | int, ...]:
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()  # only the depth shows autocast(enabled=False)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), depth

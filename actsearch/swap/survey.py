"""Finds the activations of a net, with place, kind and number of channels, and notes what it cannot reach."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx, nn
from torch.nn.utils.parametrize import ParametrizationList

from actsearch.swap.flow import LISTS, Flow
from actsearch.swap.functions import GATE_NAMES, HIDDEN_NAMES, function_name, names_called
from actsearch.swap.in_place import (
    gives_new_memory,
    in_place,
    is_in_place,
    only_on_new_memory,
    output_is_new,
    read_later,
)
from actsearch.swap.kinds import GATES, HIDDEN, INSIDE, kind_of
from actsearch.swap.lookalikes import curve, looks_like
from actsearch.swap.rewrite import Call, calls_in, functions_in, modules_in, traces
from actsearch.swap.tracing import Untraceable
from actsearch.swap.values import PARAMETER
from actsearch.swap.widths import Width, runs_in_sequence, width_after, widths_in

GATE = "a gate or an output, not a hidden activation"
_HIDDEN_WORDS = {*HIDDEN_NAMES, *(kind.__name__ for kind in HIDDEN), "?"}
_GATE_WORDS = {*GATE_NAMES, *(kind.__name__ for kind in GATES)}


@dataclass
class Found:
    """An activation in a net.

    path: its path; for a function called in forward, the path that its module will get. was: `ReLU` for a module,
    `relu()` for a function. owner: the module that holds or calls it. name: its attribute in the owner. gate: whether
    it is a sigmoid or softmax. module: the present module, None for a function. calls: their keys among the calls of
    the owner's forward, if that must be rewritten. after: the names of the children that are called before it.
    channels, dim: the number and dimension of its channels if they are certain, else None and 1. writes: whether it
    writes in place into an input that others may read later, so that its replacement must do so too. stays: why it is
    no hidden activation, if it is none: a gate, an output activation, one that works on the data or on a parameter, or
    one whose range matters. seen: whether it could be seen where it stands; if not, it counts as hidden.
    """

    path: str
    was: str
    owner: nn.Module
    name: str
    gate: bool = False
    module: nn.Module | None = None
    calls: tuple[tuple[str, int], ...] = ()
    after: tuple[str, ...] = ()
    channels: int | None = None
    dim: int = 1
    writes: bool = False
    stays: str = ""
    seen: bool = True


def survey(net: nn.Module, per_call: bool, part: bool) -> tuple[list[Found], dict[str, str]]:
    """All activations of a net, including gates, and a dict from path to reason for what could not be reached."""
    walk = _Walk(per_call)
    walk.visit("", net)
    together: dict[object, set[Width | None]] = defaultdict(set)  # all widths at which a module is called

    def key(f: Found) -> object:
        return f.path if per_call or f.module is None else id(f.module)

    for f in walk.found:
        together[key(f)].update(walk.widths.get(f.path, [None]))
    for f in walk.found:
        (width, *others) = together[key(f)]
        if width is not None and not others:
            f.channels, f.dim = width
        f.writes = walk.writes(f)
    met = walk.met(net, part)
    return [g for f in walk.found for g in walk.placed(f, met[id(f.owner), f.name])], walk.left


class _Walk:
    def __init__(self, per_call: bool) -> None:
        self.per_call = per_call
        self.found: list[Found] = []
        self.left: dict[str, str] = {}
        self.widths: dict[str, list[Width | None]] = defaultdict(list)  # by path: the width at each call
        # for each call of an activation: would others read what it writes in place?
        self._read_later: dict[object, list[bool]] = defaultdict(list)
        self._new: set[int] = set()  # owners whose output shares no memory with their inputs
        self.graphs: dict[int, dict[bool, fx.Graph]] = {}  # by an owner's id: its traces, in training and not
        self.names: dict[int, dict[tuple[str, int], str]] = {}  # by an owner's id: the names of activations at calls
        self.curves: dict[fx.Node, tuple[str, str]] = {}  # calls such as sin(x): their paths and forms
        self._seen: set[int] = set()
        self._placed: set[str] = set()

    def visit(self, path: str, owner: nn.Module, before: Width | None = None) -> None:
        """Notes what an owner holds and calls, in the order of computation. before: the width of its input."""
        if id(owner) in self._seen:
            return
        self._seen.add(id(owner))
        if isinstance(owner, torch.jit.ScriptModule):
            self.left[path or "net"] = (
                f"{type(owner).__name__}: scripted (torch.jit), so it cannot be changed. Swap before scripting it"
            )
            return
        if isinstance(owner, ParametrizationList):
            for name, module in owner.named_modules(prefix=path):
                if kind_of(module) is not None or names_called(module) & _HIDDEN_WORDS - {"?"}:
                    self.left[name] = f"{type(module).__name__}: {PARAMETER}"
            return
        if type(owner) in INSIDE:
            self.left[path or "net"] = f"{type(owner).__name__}: {INSIDE[type(owner)]} inside torch's kernel"
        if runs_in_sequence(owner):
            made = False  # whether the value is new memory, which only the sequence knows of
            for name, child in _children(owner).items():
                self._read_later[id(child)].append(not made)
                self.widths[_join(path, name)].append(before)
                self._place(path, owner, name, before)
                before = width_after(child, before)
                made = made or self._gives_new(child)
            return
        graph, calls = self._trace(path, owner)
        widths = widths_in(graph, owner) if graph is not None else {}
        called: list[str] = []
        if graph is not None and output_is_new(graph, owner, self._gives_new):
            self._new.add(id(owner))
        for n in graph.nodes if graph is not None else ():
            width = widths[n.all_input_nodes[0]] if n.all_input_nodes else None
            call = calls.get(n, str(n.target))
            if graph is not None and n.op == "call_module":
                self._note_call(path, owner, graph, n)
            if isinstance(call, Found):
                call.after = tuple(called)
                called.append(call.name)
                self.found.append(call)
                self._placed.add(call.path)
                self.widths[call.path] = [width]
            elif n.op == "call_module" or n in calls:
                called.append(call.partition(".")[0])
                self.widths[_join(path, call)].append(width)
                self._place(path, owner, call, width)
        for name in [*_functions(owner), *_children(owner)]:
            if graph is None:
                if not isinstance(owner, LISTS):
                    known = _width_inside(owner) is not None or only_on_new_memory(owner, name)
                    self._read_later[self._key(path, owner, name)].append(not known)
                self.widths[_join(path, name)].append(_width_inside(owner))
            self._place(path, owner, name)

    def met(self, net: nn.Module, part: bool) -> dict[tuple[int, str], list[tuple[str | None, object]]]:
        """For each activation, by its owner's id and its name: why it is no hidden one (else None) at each call, in
        both modes, and which call of a child that is, if its owner could be traced.
        """
        sites = {(id(f.owner), f.name): f.was for f in self.found}
        found: dict[tuple[int, str], list[tuple[str | None, object]]] = defaultdict(list)
        for training in (False, True):
            graphs = {owner: both[training] for owner, both in self.graphs.items()}
            keys = {owner: {c.node: c.key for c in calls_in(graph)} for owner, graph in graphs.items()}
            flow = Flow(sites, graphs, keys, self.names, training)
            for site, calls in flow.places(net, part, set(self.curves)).items():
                found[site] += calls
            for n in flow.hidden_curves:
                path, form = self.curves[n]
                self.left[path] = f"{form}: looks like an activation; it is swapped only if it is a module"
        return found

    def placed(self, f: Found, met: list[tuple[str | None, object]]) -> list[Found]:
        """A found activation, with the reason if it is no hidden one. met: for each of its calls the reason or None,
        and which call it is.

        A module that its owner calls in both ways is two: the calls that are hidden, which get a module of their own,
        and the others, for which it stays. If they cannot be told apart, it stays.
        """
        f.seen = bool(met) or isinstance(f.owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        f.stays = GATE if f.gate else next((why for why, _ in met if why), "")
        both = self.graphs.get(id(f.owner))
        if f.gate or not f.stays or f.module is None or f.calls or both is None:
            return [f]
        calls, of_training = (modules_in(both[training], f.name) for training in (False, True))
        hidden = [c for c in calls if {why for why, key in met if key == c.key} == {None}]
        if not hidden or len(calls) != len(of_training):
            return [f]
        name = f"{f.name}_1"
        while hasattr(f.owner, name):
            name += "_"
        nodes, widths = list(both[False].nodes), widths_in(both[False], f.owner)
        before = nodes[: nodes.index(hidden[0].node)]
        (width, *others) = {widths[c.given] for c in hidden}
        channels, dim = width if width is not None and not others else (None, 1)
        inner = replace(
            f, path=f"{f.path}_1", name=name, stays="", calls=tuple(c.key for c in hidden), channels=channels, dim=dim,
            after=tuple(str(n.target).partition(".")[0] for n in before if n.op == "call_module"),
        )  # fmt: skip
        return [inner, replace(f, calls=tuple(c.key for c in calls if c not in hidden))]

    def writes(self, f: Found) -> bool:
        """Whether an activation writes in place into memory that others may read.

        False for functions called in forward: there the rewritten code does the writing, not the new module.
        """
        if f.module is None and f.calls:
            return False
        if f.module is None:
            writing, key = in_place(vars(f.owner)[f.name], (), {}), f.path
        else:
            writing, key = is_in_place(f.module), id(f.module)
        return writing and any(self._read_later.get(key) or [True])  # [True]: its calls were not seen

    def _note_call(self, path: str, owner: nn.Module, graph: fx.Graph, n: fx.Node) -> None:
        target = str(n.target)
        function = vars(owner)[target] if target in _functions(owner) else None
        if function is not None and len(n.args) + len(n.kwargs) > 1:
            self._placed.add(_join(path, target))
            self.left[_join(path, target)] = f"{function_name(function)}(): called with arguments that no module takes"
        if in_place(function, (), {}) if function is not None else is_in_place(owner.get_submodule(target)):
            later = read_later(graph, n, n.all_input_nodes[0], owner, self._gives_new)
            self._read_later[self._key(path, owner, target)].append(later)

    def _gives_new(self, module: nn.Module) -> bool:
        """Whether a module's output is new memory. An owner visited before is judged by its trace."""
        if runs_in_sequence(module):
            return any(self._gives_new(child) for child in module.children())
        return id(module) in self._new or gives_new_memory(module)

    def _key(self, path: str, owner: nn.Module, target: str) -> object:
        return _join(path, target) if target in _functions(owner) else id(owner.get_submodule(target))

    def _place(self, path: str, owner: nn.Module, target: str, before: Width | None = None) -> None:
        """Notes the activation at a place, or visits the owner that is there."""
        full = _join(path, target)
        if full in self._placed:
            return
        self._placed.add(full)
        if target in _functions(owner):
            was = function_name(vars(owner)[target]) or ""
            self.found.append(Found(full, f"{was}()", owner, target, was not in HIDDEN_NAMES))
            return
        child = owner.get_submodule(target)
        parent, _, name = target.rpartition(".")
        kind = kind_of(child)
        if kind == "steps":
            self.left[full] = f"{type(child).__name__}: its values are steps, it rounds"
        elif kind is not None:
            home = owner.get_submodule(parent)
            self.found.append(Found(full, type(child).__name__, home, name, kind == "gate", child))
        else:
            self.visit(full, child, before)

    def _trace(self, path: str, owner: nn.Module) -> tuple[fx.Graph | None, dict[fx.Node, Found | str]]:
        """An owner's trace, None if it is not needed or fails; and those of its calls that rewriting makes modules."""
        words = names_called(owner)
        hidden, gates = words & _HIDDEN_WORDS, words & _GATE_WORDS
        holds = any(kind_of(child) for child in _reached(owner)) or bool(_functions(owner))
        if not hidden and not gates and (_width_inside(owner) is not None or (not holds and _is_torchs(owner))):
            return None, {}
        try:
            both = self.graphs[id(owner)] = traces(owner)
        except Untraceable as why:
            if hidden - {"?"}:
                self.left[_join(path, "forward")] = f"{', '.join(sorted(hidden - {'?'}))} in forward: {why}"
            elif "?" in hidden:
                self.left[_join(path, "forward")] = f"functions in forward: its source cannot be read, and {why}"
            elif gates:
                self.left[_join(path, "forward")] = f"{', '.join(sorted(gates))}: a gate or an output, and {why}"
            return None, {}
        graph = both[False]
        calls = functions_in(graph)
        inside = {i for call in calls for i in call.inside}
        for n in graph.nodes:
            if (like := looks_like(n)) is not None:
                self.left[_join(path, n.name)] = (
                    f"{like}: looks like an activation; it is swapped only if it is written as F.relu(x)"
                )
            elif (form := curve(n)) is not None and n not in inside:
                self.curves[n] = (_join(path, n.name), form)
        known = vars(owner).get("module_of_call", {})
        for name, child in _children(owner).items():
            if kind_of(child) is not None and (several := modules_in(graph, name)):
                calls += [c for c in several if (self.per_call and len(several) > 1) or c.key in known]
        noted = self._calls(path, owner, calls)
        becomes = {call.key: noted[call.node] for call in calls}
        self.names[id(owner)] = {key: c.name if isinstance(c, Found) else c for key, c in becomes.items()}
        return graph, noted

    def _calls(self, path: str, owner: nn.Module, calls: list[Call]) -> dict[fx.Node, Found | str]:
        """For each call, the Found that it becomes; for a call that was made a module before, that module's name."""
        known = vars(owner).get("module_of_call", {})
        noted: dict[fx.Node, Found | str] = {}
        taken: Counter[str] = Counter()
        for call in calls:
            target = call.key[0]
            base = target or (call.name if call.name.isidentifier() else "product")
            taken[base] += 1
            name = base if target and taken[base] == 1 else f"{base}_{taken[base]}"
            if call.key in known:
                noted[call.node] = known[call.key]
                continue
            while name != target and hasattr(owner, name):
                name += "_"
            old = owner._modules[target] if target else None
            was = type(old).__name__ if old is not None else call.name if call.inside else f"{call.name}()"
            gate = kind_of(old) == "gate" if old is not None else call.name in GATE_NAMES
            noted[call.node] = Found(_join(path, name), was, owner, name, gate, old, (call.key,))
        return noted


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _children(owner: nn.Module) -> dict[str, nn.Module]:
    """The children by all their names; named_children() would give a shared child only once."""
    return {name: child for name, child in owner._modules.items() if child is not None}


def _functions(owner: nn.Module) -> list[str]:
    """The names of the attributes that are activation functions such as F.relu."""
    return [name for name, value in vars(owner).items() if function_name(value) is not None]


def _is_torchs(owner: nn.Module) -> bool:
    return getattr(type(owner), "plain", type(owner)).__module__.startswith("torch.nn.")


def _reached(owner: nn.Module) -> Iterator[nn.Module]:
    """The children that an owner's forward calls: its own and those in its lists."""
    for child in owner.children():
        if isinstance(child, LISTS):
            yield from _reached(child)
        else:
            yield child


def _width_inside(owner: nn.Module) -> Width | None:
    """The width at the activation of an owner that is not traced: a norm that has one, torch's transformer layer."""
    if isinstance(owner, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return owner.linear1.out_features, -1
    return width_after(owner, None)

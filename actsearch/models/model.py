"""Models: functions that build a net with one activation for each slot.

A model function has the keyword `activation`, a function that it calls with a number of channels for each activation
module that it needs; each call is one slot. A function without this keyword returns an ordinary net, whose activations
are then swapped. If a model function has the following keywords, it gets them from the data: `in_shape`, the shape of
one example (of the first input, where there are several); `n_classes`, the number of outputs (per position, if there
are positions); `out_shape`, the shape of the outputs for one example; `n_tokens`, the size of the vocabulary if inputs
are tokens, None if they are numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from actsearch.activations.spec import ActivationModule, Spec, print_net
from actsearch.contents import Contents, digest_of, gradient_hooks
from actsearch.data.inputs import Inputs, count, each
from actsearch.errors import ActSearchError, one_line
from actsearch.models.initialise import NORMS, Before, activation_before, initialise
from actsearch.random_states import seeded
from actsearch.swap.copies import copied
from actsearch.swap.net import Swapped, find_activations, swap_activations

SEVERAL = (
    " Return one tensor: switch further outputs off (torchvision: aux_logits=False), or wrap the net in a module whose "
    "forward returns the one that counts."
)
MOST_NAMED = 3


def swap_in_words(swapped: Swapped) -> list[str]:
    """A sentence for each kind of activation that a swap left, and one for those whose place it could not see."""
    paths: dict[str, list[str]] = {}
    for path, text in swapped.left.items():
        paths.setdefault(text, []).append(path)
    sentences = []
    for text, places in paths.items():
        what, _, why = text.partition(": ")
        sentences.append(f"The {what} at {named(places)} stays in every candidate: {why}.")
    if swapped.unseen:
        sentences.append(
            f"It could not be seen where {named(swapped.unseen)} of the net stand, or whether they are called: they "
            f"are replaced as hidden activations. Write only=['!{swapped.unseen[0]}'] to leave one out."
        )
    return sentences


def named(places: Sequence[str]) -> str:
    """Names in a sentence, the first ones of many."""
    more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
    return ", ".join(f"'{place}'" for place in places[:MOST_NAMED]) + more


def _built_in(net: nn.Module, why: str) -> Swapped:
    """The activations beside those that a model function took: what they are, and why they stay."""
    found, left = find_activations(net)
    own = {f.path: f"{f.was}: {f.stays or why}" for f in found if not isinstance(f.module, ActivationModule)}
    return Swapped(left={**own, **left})


def bare(net: nn.Module) -> nn.Module:
    """The net inside of torch.compile or DataParallel: what is trained here is neither compiled nor spread."""
    while isinstance(net, nn.DataParallel) or hasattr(net, "_orig_mod"):
        net = net.module if isinstance(net, nn.DataParallel) else net._orig_mod  # pyright: ignore[reportAssignmentType]
    return net


def _trained_norm(net: nn.Module) -> str:
    """A norm that shows that a net was trained, in words: untrained ones are constant. Frozen ones are kept anyway."""
    for name, module in net.named_modules():
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        if not isinstance(module, NORMS) or any(map(is_lazy, own.values())):
            continue
        numbers = [n for n in own.values() if n.is_floating_point() and n.numel() > 1]
        frozen = [p for p in own.values() if isinstance(p, nn.Parameter) and not p.requires_grad]
        if not frozen and any(not torch.equal(n, n.reshape(-1)[0].expand(n.shape)) for n in numbers):
            return f"its norm '{name}' is no longer as it begins"
    return ""


def _check_hooks(net: Any, name: str) -> None:
    """Raises ActSearchError for a given net with hooks on gradients, which pickle does not take to other processes."""
    for path, p in net.named_parameters():
        if gradient_hooks(p):
            raise ActSearchError(
                f"the net '{name}': '{path}' has a hook on its gradient, which does not reach training processes. Give "
                "a function that makes the net and registers the hook."
            )


def _fixed(net: nn.Module, other: nn.Module) -> list[str]:
    """The trained parameters that are, in both nets, one and the same pattern of numbers, not a constant.

    Of a parametrised weight the result counts: in torch's `orthogonal` a buffer has what is drawn.
    """
    theirs, found = dict(other.named_parameters()), []
    for name, p in net.named_parameters():
        path, parametrised, rest = name.partition("parametrizations.")
        if not p.requires_grad or is_lazy(p) or p.numel() < 2 or name not in theirs:
            continue
        pair = [p, theirs[name]]
        if parametrised:
            pair = [getattr(n.get_submodule(path.rstrip(".")), rest.partition(".")[0]) for n in (net, other)]
        if torch.equal(*pair) and not torch.equal(p, p.reshape(-1)[0].expand(p.shape)):
            found.append(name)
    return found


def forward(net: nn.Module, x: Inputs) -> Tensor:
    """What a net gives for inputs x: net(x), for a tuple net(*x), for a dictionary net(**x).

    If that is a record or a dictionary with `logits`, as Hugging Face's nets return it, these are the outputs. A tuple
    is not looked into, not even a named one: what else is in it, for instance an auxiliary output, counts as well.
    """
    if isinstance(x, Tensor):
        out: Any = net(x)
    else:
        out = net(*x) if isinstance(x, tuple) else net(**x)
    record = not isinstance(out, Tensor | tuple)
    logits = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None) if record else None
    return out if logits is None else logits  # pyright: ignore[reportReturnType]


class Model:
    """A model for the shapes of one data set. `build` makes nets from it, given activations and a seed.

    function: a model function, or an nn.Module, which is copied for each net and never trained itself.
    name: its name in messages. in_shape: the shape of one example. out_shape: the shape of the outputs for it; an
    integer is a number of classes. keywords: further arguments of the function. n_tokens: the size of the vocabulary if
    inputs are tokens, else None. examples: two or more real inputs, on which a net is tried; if None, zeros.
    only: which activations are replaced, as in `swap_activations`, if the function has no keyword `activation`.
    Attributes: n_slots, the number of activations that the model takes; channels, the number of channels with which
    each was asked for; n_parameters, with relu in all slots; shared, the name of what its nets change outside of
    themselves when they are built and called, or empty; remarks, sentences on this model that a reader of the result
    must know.
    Raises ActSearchError if the function does not return an nn.Module that maps the data to these outputs.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        keywords: dict[str, Any] | None = None,
        n_tokens: int | None = None,
        examples: Inputs | None = None,
        only: Any = None,
    ) -> None:
        self.name, self.in_shape, self.n_tokens = name, tuple(in_shape), n_tokens
        self.out_shape = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        self.function, self.keywords = function, dict(keywords or {})
        self._pattern = isinstance(function, nn.Module)
        self._redrawn: dict[str, list[str]] = {}
        self._sound = {"keep"}  # the ways to draw initial weights that have passed `check_init`
        takes = {} if self._pattern else inspect.signature(function).parameters
        self.takes_activation = "activation" in takes
        told = {"in_shape": self.in_shape, "n_classes": self.out_shape[-1], "out_shape": self.out_shape,
                "n_tokens": n_tokens}  # fmt: skip
        self.keywords |= {k: v for k, v in told.items() if k in takes}
        if only is not None and "only" in takes:
            self.keywords["only"], only = only, None
        self._only = only
        if only is not None and self.takes_activation:
            raise ActSearchError(
                f"model.only: '{name}' takes its activations itself, by the keyword `activation`. Remove it."
            )
        if self._pattern:
            _check_hooks(function, name)
        self.examples = self.zeros(2) if examples is None else examples
        self._swapped = Swapped()
        before = self._outside()
        relu, slots = Spec.of("relu"), []
        with seeded(0):
            net = self._assemble(lambda channels=None, dim=1: slots.append(channels) or relu.module(channels, dim))
        self.n_slots, self.channels = len(slots), slots
        self._before: Before = {}
        if self.takes_activation:
            self._check_unshared(net)
        self.n_parameters = sum(p.numel() for p in net.parameters())
        why = "not asked for" if self.keywords.get("only") else "the model makes it itself"
        self.remarks = swap_in_words(_built_in(net, why) if self.takes_activation else self._swapped)
        self._try(net)
        with seeded(0), torch.no_grad():
            self._before = activation_before(net.eval(), self.outputs)
        after = self._outside()
        self.shared = next((name for name in after if after[name] != before.get(name)), "")
        if self.shared:
            self.remarks.append(
                f"The model's code changes {self.shared}, which all of its nets share: a run may depend on those that "
                "the same process has trained before it, and their order on the number of processes."
            )

    def _check_unshared(self, net: nn.Module) -> None:
        """Raises ActSearchError if a model function gives this net a parameter that its other nets have, too."""
        again = self.build([Spec.of("relu")], 1, "keep")  # it must live while ids are compared
        others = {id(p) for p in again.parameters()}
        if shared := [name for name, p in net.named_parameters() if id(p) in others]:
            raise ActSearchError(
                f"the model '{self.name}' gives the same layer to each of its nets ({named(shared)}), so that one "
                "training would change the others. Make it inside of the function."
            )

    def _outside(self) -> dict[str, str]:
        """Digests of what the code of the model refers to outside of its nets, by its name."""
        contents = Contents()
        contents.add([type(m) for m in self.function.modules()] if self._pattern else self.function)
        named = {f"{module}.{name}": digest_of(value) for (module, name), value in contents.values.items()}
        return named | {"a variable outside of them": contents.digest}

    def build(self, specs: Sequence[Spec], seed: int, init: str) -> nn.Module:
        """A new net on the CPU with its initial weights. specs: one for all slots, or one for each slot.

        seed: fixes what the model function draws from torch, numpy and random, and then what `initialise` draws.
        Raises ActSearchError for a wrong number of specs, and for a given net whose weights `init` does not all draw.
        """
        if len(specs) not in (1, self.n_slots):
            raise ActSearchError(
                f"{len(specs)} activations for {self.name}, which takes {self.n_slots}. "
                "Give one for all slots, or one for each."
            )
        if self._pattern:
            self.check_init(init)
        in_turn = enumerate(specs if len(specs) == self.n_slots else list(specs) * self.n_slots)

        def activation(channels: int | None = None, dim: int = 1) -> nn.Module:
            place, spec = next(in_turn)
            module = spec.module(channels, dim)
            module.place = place
            return module

        with seeded(seed):
            net = self._assemble(activation)
        initialise(net, init, seed, self._before)
        return net

    def check_init(self, init: str) -> None:
        """Raises ActSearchError if weights that are trained would be the same for all seeds, or thrown away.

        Weights that a model function loads, or sets by a fixed rule, are the same in two of its nets. A given net's
        weights are the same in all copies, except for what `initialise` draws.
        """
        if init in self._sound:
            return
        self._sound.add(init)  # now, because `build` asks for this check
        try:
            self._check_init(init)
        except ActSearchError:
            self._sound.remove(init)
            raise

    def _check_init(self, init: str) -> None:
        if isinstance(self.function, nn.Module) and (norm := _trained_norm(self.function)):
            raise ActSearchError(
                f"recipe.init={init}: the net '{self.name}' has been trained ({norm}), and its weights would be drawn "
                "anew. Write recipe.init=keep to start from them; or give a function that makes an untrained net."
            )
        drawn_by = init if self._pattern else "keep"
        fixed = _fixed(*(self.build([Spec.of("relu")], seed, drawn_by) for seed in (1, 2)))
        if not fixed:
            return
        named = f"'{fixed[0]}'" + (f" and {len(fixed) - 1} more" if len(fixed) > 1 else "")
        if self._pattern:
            cure = "give a function that makes the net, which is called for each seed"
        else:
            cure = "let the function draw them anew at each call"
        raise ActSearchError(
            f"recipe.init={init}: the weights {named} of the model '{self.name}' are the same for every seed. Write "
            f"recipe.init=keep to start from the net's own weights, loaded ones too; or {cure}."
        )

    def zeros(self, n: int) -> Tensor:
        """n examples of zeros, (n, *in_shape): float32, or int64 if inputs are tokens."""
        return torch.zeros(n, *self.in_shape, dtype=None if self.n_tokens is None else torch.int64)

    def check(self, specs: Sequence[Spec]) -> None:
        """Raises ActSearchError if the model cannot take these activations, for instance because they need images."""
        if all(spec.activation.fusable for spec in specs):
            return
        try:
            self._try(self.build(specs, 0, "torch"))
        except ActSearchError as error:
            raise ActSearchError(f"'{print_net(specs)}' does not go into this model: {error}") from error

    def check_one_example(self) -> None:
        """Raises ActSearchError if the net cannot be trained on a batch of one example, as with batch norm."""
        net = self.build([Spec.of("relu")], 0, "torch").train()
        try:
            with seeded(0):
                forward(net, each(lambda part: part[:1].clone(), self.examples))
        except Exception as error:  # whatever a user's forward raises
            raise ActSearchError(
                f"recipe.batch_size=1: the model '{self.name}' cannot be trained on one example ({one_line(error)}). "
                "Choose at least 2."
            ) from error

    def redrawn(self, init: str) -> list[str]:
        """The weights that the model function sets to a constant of its own and that `init` then draws or sets anew."""
        if self._pattern or init == "keep":
            return []
        if init not in self._redrawn:
            net = self.build([Spec.of("relu")], 0, "keep")
            drawn, usual = copied(net), copied(net)  # to build a net that is swapped takes seconds
            initialise(drawn, init, 0, self._before)
            initialise(usual, "torch", 0, self._before)
            others = [dict(other.named_parameters()) for other in (drawn, usual)]
            self._redrawn[init] = [
                name for name, p in net.named_parameters()
                if p.numel() and torch.equal(p, p.reshape(-1)[0].expand(p.shape))
                and not any(torch.equal(p, other[name]) for other in others)
            ]  # fmt: skip
        return self._redrawn[init]

    def _assemble(self, activation: Callable[..., nn.Module]) -> nn.Module:
        try:
            if self._pattern:
                net = self.function
            elif self.takes_activation:
                net = self.function(activation=activation, **self.keywords)
            else:
                net = self.function(**self.keywords)
        except ActSearchError:
            raise
        except Exception as error:
            raise ActSearchError(f"the model '{self.name}' could not be built: {one_line(error)}") from error
        if not isinstance(net, nn.Module):
            raise ActSearchError(f"the model '{self.name}' returned {type(net).__name__}, not an nn.Module.")
        if not self.takes_activation:
            net = copied(bare(net))  # a function may give the same net again
        if any(p.is_meta for p in net.parameters() if not is_lazy(p)):
            raise ActSearchError(f"the model '{self.name}' has parameters on the meta device. Make it on the CPU.")
        net = net.cpu()
        if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
            self._shape(net)
        if not self.takes_activation:
            self._swapped = swap_activations(net, activation, self._only)
        return net

    def _shape(self, net: nn.Module) -> None:
        """Gives lazy layers their shapes by the examples, which a copy of the net is given."""
        twin, seen = copied(net).eval(), dict[nn.Module, tuple]()
        both = zip(net.modules(), twin.modules(), strict=True)
        pairs: list[tuple[Any, nn.Module]] = [pair for pair in both if isinstance(pair[0], LazyModuleMixin)]

        def note(layer: nn.Module, args: tuple, keywords: dict[str, Any]) -> None:
            seen.setdefault(layer, (args, keywords))

        for _, other in pairs:
            other.register_forward_pre_hook(note, prepend=True, with_kwargs=True)
        with seeded(0), torch.no_grad():
            self.outputs(twin, "")
        for layer, other in pairs:
            if other in seen:
                layer._infer_parameters(layer, *seen[other])
        if unused := [name for name, p in net.named_parameters() if is_lazy(p)]:
            raise ActSearchError(f"the model '{self.name}': its forward does not call the lazy layer of '{unused[0]}'.")

    def _try(self, net: nn.Module) -> None:
        """Raises ActSearchError unless the net gives what is wanted, in evaluation and in training."""
        if self.n_slots == 0:
            raise ActSearchError(f"the model '{self.name}' never called its `activation`: there is nothing to search.")
        n = count(self.examples)
        wanted, before = (n, *self.out_shape), len(list(net.parameters()))
        for training in (False, True):
            mode = " in training" if training else ""
            with seeded(0), torch.set_grad_enabled(training):
                out = self.outputs(net.train(training), mode)
            if not isinstance(out, Tensor) or out.shape != wanted:
                per_class = ", one per class" if len(self.out_shape) == 1 else ""
                got, cure = (tuple(out.shape), "") if isinstance(out, Tensor) else (type(out).__name__, SEVERAL)
                raise ActSearchError(
                    f"the model '{self.name}' gives {got} for {n} examples{mode}; wanted {wanted}{per_class}.{cure}"
                )
        if len(list(net.parameters())) > before:
            made = [name for name, _ in net.named_parameters()][-1]
            raise ActSearchError(
                f"the model '{self.name}' makes '{made}' in its first call, too late to be trained. Make it in "
                "__init__, or use a lazy layer such as nn.LazyLinear."
            )
        if not out.requires_grad:
            raise ActSearchError(
                f"the outputs of the model '{self.name}' do not depend on a weight that is trained: all are frozen, or "
                "its forward is cut from them (no_grad, detach, argmax)."
            )
        with seeded(0), torch.no_grad():
            twice = each(lambda part: torch.cat([part, part]), self.examples)
            self.outputs(net.eval(), " after a batch of another size", twice)

    def outputs(self, net: nn.Module, mode: str = "", x: Inputs | None = None) -> Any:
        """What a net gives for x or the examples. Raises ActSearchError if it fails. mode: for its message."""
        try:
            return forward(net, each(torch.clone, self.examples if x is None else x))  # a net may write into it
        except Exception as error:  # whatever a user's forward raises
            other = {p.dtype for p in net.parameters() if p.is_floating_point()} - {torch.float32}
            cure = f". Its weights are {other.pop()}: write net.float()." if other else ""
            raise ActSearchError(
                f"the model '{self.name}' does not take the data's shape {self.in_shape}{mode}: {one_line(error)}{cure}"
            ) from error

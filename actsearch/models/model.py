"""Models: functions that build a net with one activation for each slot.

A model function has the keyword `activation`, a function that it calls with a number of channels for each activation
module that it needs; each call is one slot. A function without this keyword returns an ordinary net, whose activations
are then swapped. If a model function has the following keywords, it gets them from the data: `in_shape`, the shape of
one example (of the first input, where there are several); `n_classes`, the number of outputs (per position, if there
are positions); `out_shape`, the shape of the outputs for one example; `n_tokens`, the size of the vocabulary if inputs
are tokens, None if they are numbers.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from actsearch.activations.spec import ActivationModule, Spec, print_net
from actsearch.data.inputs import Inputs, count
from actsearch.errors import ActSearchError, one_line
from actsearch.models.initialise import NORMS, initialise
from actsearch.swap.net import find_activations, swap_activations


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """While this is active, what torch, numpy and random draw on the CPU depends on the seed alone."""
    states: tuple[Any, Any] = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: it would seed the accelerators too
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


SEVERAL = (
    " Return one tensor: switch further outputs off (torchvision: aux_logits=False), or wrap the net in a module whose "
    "forward returns the one that counts."
)
MOST_NAMED = 3


def stays_in_words(left: Mapping[str, str]) -> list[str]:
    """A sentence for each kind of activation that is not replaced. left: by path, "what: why"."""
    paths: dict[str, list[str]] = {}
    for path, text in left.items():
        paths.setdefault(text, []).append(path)
    sentences = []
    for text, places in paths.items():
        what, _, why = text.partition(": ")
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        named = ", ".join(f"'{place}'" for place in places[:MOST_NAMED])
        sentences.append(f"The {what} at {named}{more} stays in every candidate: {why}.")
    return sentences


def _built_in(net: nn.Module) -> dict[str, str]:
    """Activations beside those that a model function took, by path: what they are, and why they stay."""
    found, left = find_activations(net)
    own = {f.path: f"{f.was}: {f.stays or 'the model makes it itself'}" for f in found if not _is_slot(f.module)}
    return {**own, **left}


def _is_slot(module: nn.Module | None) -> bool:
    return isinstance(module, ActivationModule)


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


def _is_fixed(p: nn.Parameter, other: nn.Parameter | None) -> bool:
    """Whether a parameter is trained and is, in two nets, one and the same pattern of numbers, not a constant."""
    if not p.requires_grad or is_lazy(p) or p.numel() < 2 or other is None:
        return False
    return torch.equal(p, other) and not torch.equal(p, p.reshape(-1)[0].expand(p.shape))


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
    each was asked for; n_parameters, with relu in all slots; remarks, sentences on this model that a reader of the
    result must know.
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
        takes = {} if self._pattern else inspect.signature(function).parameters
        self.takes_activation = "activation" in takes
        told = {"in_shape": self.in_shape, "n_classes": self.out_shape[-1], "out_shape": self.out_shape,
                "n_tokens": n_tokens}  # fmt: skip
        self.keywords |= {k: v for k, v in told.items() if k in takes}
        self._only = only
        if only is not None and self.takes_activation:
            raise ActSearchError(
                f"model.only: '{name}' takes its activations itself, by the keyword `activation`. Remove it."
            )
        self.examples = self.zeros(2) if examples is None else examples
        self._left: dict[str, str] = {}
        relu, slots = Spec.of("relu"), []
        with _seeded(0):
            net = self._assemble(lambda channels=None, dim=1: slots.append(channels) or relu.module(channels, dim))
        self.n_slots, self.channels = len(slots), slots
        self.n_parameters = sum(p.numel() for p in net.parameters())
        self.remarks = [] if self.n_slots == 0 else stays_in_words(self._left if self._left else _built_in(net))
        self._try(net)

    def build(self, specs: Sequence[Spec], seed: int, init: str) -> nn.Module:
        """A new net on the CPU with its initial weights. specs: one for all slots, or one for each slot.

        seed: fixes what the model function draws from torch, numpy and random, and then what `initialise` draws.
        """
        if len(specs) not in (1, self.n_slots):
            raise ActSearchError(
                f"{len(specs)} activations for {self.name}, which takes {self.n_slots}. "
                "Give one for all slots, or one for each."
            )
        each = enumerate(specs if len(specs) == self.n_slots else list(specs) * self.n_slots)

        def activation(channels: int | None = None, dim: int = 1) -> nn.Module:
            place, spec = next(each)
            module = spec.module(channels, dim)
            module.place = place
            return module

        with _seeded(seed):
            net = self._assemble(activation)
        initialise(net, init, seed)
        return net

    def check_init(self, init: str) -> None:
        """Raises ActSearchError if weights that are trained would be the same for all seeds, or thrown away.

        Weights that a model function loads, or sets by a fixed rule, are the same in two of its nets. A given net's
        weights are the same in all copies, except for what `initialise` draws.
        """
        if init == "keep":
            return
        if self._pattern and (norm := _trained_norm(self.function)):
            raise ActSearchError(
                f"recipe.init={init}: the net '{self.name}' has been trained ({norm}), and its weights would be drawn "
                "anew. Write recipe.init=keep to start from them; or give a function that makes an untrained net."
            )
        drawn_by = init if self._pattern else "keep"
        first, second = (dict(self.build([Spec.of("relu")], seed, drawn_by).named_parameters()) for seed in (1, 2))
        fixed = [name for name, p in first.items() if _is_fixed(p, second.get(name))]
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

    def _assemble(self, activation: Callable[..., nn.Module]) -> nn.Module:
        try:
            if self._pattern:
                lazy = [b for b in self.function.buffers() if is_lazy(b)]  # torch cannot copy these
                net = copy.deepcopy(self.function, {id(b): UninitializedBuffer(dtype=b.dtype) for b in lazy})
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
        if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
            self._outputs(net.eval(), "")  # examples give lazy layers their shapes
        if not self.takes_activation:
            self._left = swap_activations(net, activation, self._only).left
        return net

    def _try(self, net: nn.Module) -> None:
        """Raises ActSearchError unless the net gives what is wanted, in evaluation and in training."""
        if self.n_slots == 0:
            raise ActSearchError(f"the model '{self.name}' never called its `activation`: there is nothing to search.")
        n = count(self.examples)
        wanted = (n, *self.out_shape)
        for training in (False, True):
            mode = " in training" if training else ""
            with _seeded(0):
                out = self._outputs(net.train(training), mode)
            if isinstance(out, Tensor) and out.shape == wanted:
                continue
            per_class = ", one per class" if len(self.out_shape) == 1 else ""
            got, cure = (tuple(out.shape), "") if isinstance(out, Tensor) else (type(out).__name__, SEVERAL)
            raise ActSearchError(
                f"the model '{self.name}' gives {got} for {n} examples{mode}; wanted {wanted}{per_class}.{cure}"
            )

    def _outputs(self, net: nn.Module, mode: str) -> Any:
        try:
            with torch.no_grad():
                return forward(net, self.examples)
        except Exception as error:  # whatever a user's forward raises
            raise ActSearchError(
                f"the model '{self.name}' does not take the data's shape {self.in_shape}{mode}: {one_line(error)}"
            ) from error

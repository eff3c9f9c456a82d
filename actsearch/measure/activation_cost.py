"""The cost of an activation by itself: times of its forward and backward pass, and the memory that it saves."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule, Spec
from actsearch.data.inputs import Inputs
from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.measure.timing import Watch, address, clock, in_turns, saved_storages, wait
from actsearch.models.model import forward

HELD_BYTES = 16 * 2**20  # on a CPU, the memory of the graphs that are built before the first backward pass
LARGE = (16, 64, 32, 32)  # a batch of a convolution's outputs: 4 MiB in float32, beyond a core's own caches
LARGE_CUDA = (256, 64, 56, 56)  # 196 MiB: beyond a GPU's caches, and takes longer than a launch
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def large_shape(device: torch.device) -> tuple[int, ...]:
    """The shape of a tensor that is too large for the device's caches, so that memory limits the speed."""
    return LARGE_CUDA if device.type == "cuda" else LARGE


def first_shape(net: nn.Module, x: Inputs) -> tuple[int, ...]:
    """The shape of the output of a net's first activation, for inputs x."""
    shapes: list[tuple[int, ...]] = []
    modules = [module for module in net.modules() if isinstance(module, ActivationModule)]
    hooks = [module.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape))) for module in modules]
    with torch.no_grad():
        forward(net, x)
    for hook in hooks:
        hook.remove()
    return shapes[0]


@dataclass(frozen=True)
class Setting:
    """The tensors on which activations are measured by themselves.

    shape: of the output, (batch, channels, …). dtype, memory_format: keys of DTYPES and MEMORY_FORMATS. compiled:
    whether activations go through torch.compile.
    """

    shape: tuple[int, ...]
    dtype: str
    memory_format: str
    compiled: bool

    def __str__(self) -> str:
        """The shape and the type; also "channels last" and "compiled" if they apply."""
        words = [" × ".join(map(str, self.shape)), self.dtype]
        words += ["channels last"] if self.memory_format == "channels_last" else []
        return ", ".join([*words, *(["compiled"] if self.compiled else [])])


def settings(shapes: Any, dtypes: Any, memory_formats: Any, compiled: Any) -> list[Setting]:
    """All combinations of these lists of values, but channels_last only with shapes of four dimensions.

    Raises ActSearchError for wrong values, or if no combination is left.
    """
    for shape in shapes:
        whole = isinstance(shape, Sequence) and all(type(n) is int and n > 0 for n in shape)
        if not whole or len(shape) < 2:
            raise ActSearchError(
                f"task.shape={shape}: write sizes from 1, batch and channels first: task.shape=[100,64]."
            )
    for key, values, known in (("dtypes", dtypes, DTYPES), ("memory_formats", memory_formats, MEMORY_FORMATS)):
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ActSearchError(f"task.{key}={values}: write a list of {', '.join(known)}.")
        for value in values:
            if value not in known:
                raise unknown(f"value in task.{key}:", value, known)
    if not isinstance(compiled, Sequence) or not compiled or not all(isinstance(value, bool) for value in compiled):
        raise ActSearchError(f"task.compiled={compiled}: write [false], [true] or [false,true].")
    found = [
        Setting(tuple(shape), dtype, memory_format, is_compiled)
        for shape in shapes
        for dtype in dtypes
        for memory_format in memory_formats
        for is_compiled in compiled
        if memory_format != "channels_last" or len(shape) == 4
    ]
    if not found:
        raise ActSearchError(
            "task.memory_formats=[channels_last]: it needs (batch, channels, height, width), e.g. "
            "task.shape=[16,64,32,32]."
        )
    return found


@dataclass(frozen=True)
class ActivationCost:
    """The cost of one activation in one setting.

    forward_us, backward_us: times in µs, one for each repetition, measured in turns with the other activations.
    relu_forward_us, relu_backward_us: times of relu in the same repetitions, never compiled.
    saved_mib: memory in MiB that the forward pass saves for the backward pass, without the activation's parameters.
    saves_output: whether this is only the output, which the next layer saves in any case. compile_s: time in seconds of
    the first forward and backward pass, which compile; None if not compiled. failure: why there are no times, or "".
    """

    activation: str
    setting: Setting
    forward_us: list[float]
    backward_us: list[float]
    relu_forward_us: list[float] = field(default_factory=list)
    relu_backward_us: list[float] = field(default_factory=list)
    saved_mib: float = math.nan
    saves_output: bool = False
    compile_s: float | None = None
    failure: str = ""


def activation_costs(
    specs: Sequence[Spec], setting: Setting, device: torch.device, budget_s: float = 4.0
) -> list[ActivationCost]:
    """The costs of activations by themselves, on normally distributed inputs, with gradients.

    An activation is called several times before the backward passes follow, as in a net with that many layers.
    budget_s: about how many seconds all measurements take, without compilation. Global random states are left as they
    were. If an activation fails (because there is no compiler, or it needs images), only its own cost has a failure.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if setting.compiled:
            stack.enter_context(_compiling(device))
        relu, _ = _bare(Spec.parse("relu"), replace(setting, compiled=False), device)
        made = [_bare(spec, setting, device) for spec in specs]
        _touch_memory()
        watches = [watch for watch in (relu, *(watch for watch, _ in made)) if watch is not None]
        times = iter(in_turns(watches, budget_s))
        relus = ([], []) if relu is None else next(times)
        costs = []
        for watch, cost in made:
            forward, backward = ([], []) if watch is None else next(times)
            plain = {"relu_forward_us": relus[0], "relu_backward_us": relus[1]}
            costs.append(replace(cost, forward_us=forward, backward_us=backward, **plain))
        return costs


def _touch_memory() -> None:
    """Makes the C library keep freed memory, so that the times do not include getting it from the system.

    Otherwise large tensors get new pages from the system each time, and zeroing these takes longer than a relu. glibc
    keeps freed blocks that are no larger than the largest block freed so far (up to 32 MiB), twice that size in all.
    """
    for megabytes in ([31.9], [24, 24]):
        blocks = [torch.empty(int(size * 2**20), dtype=torch.uint8).fill_(0) for size in megabytes]
        del blocks


@contextlib.contextmanager
def _compiling(device: torch.device) -> Iterator[None]:
    """A context for compiling: without results of earlier compilations, and without a limit to their number.

    With torch's default limit, the last activations would silently run uncompiled.
    """
    import torch._dynamo
    import torch._inductor.utils

    torch._dynamo.reset()
    limits = torch._dynamo.config.patch(
        recompile_limit=10_000, accumulated_recompile_limit=100_000, fail_on_recompile_limit_hit=True
    )
    with torch._inductor.utils.fresh_cache(), limits, warnings.catch_warnings(action="ignore"):
        # the first compilation takes longer, so that it is done here; if it fails, each activation's fails too
        with contextlib.suppress(Exception):
            torch.compile(torch.neg)(torch.zeros(8, device=device))
        yield
    torch._dynamo.reset()


def _bare(spec: Spec, setting: Setting, device: torch.device) -> tuple[Watch | None, ActivationCost]:
    """A watch for an activation, and its cost without times. If it fails, None and a cost with the failure."""
    cost = ActivationCost(str(spec), setting, [], [])
    try:
        module = spec.module(setting.shape[1]).to(device, DTYPES[setting.dtype])
        shape = (setting.shape[0], module.in_channels or setting.shape[1], *setting.shape[2:])
        x = torch.randn(shape, device=device).to(DTYPES[setting.dtype])
        x = x.contiguous(memory_format=MEMORY_FORMATS[setting.memory_format]).requires_grad_()
        inputs = [x, *module.parameters()]
        call = torch.compile(module, fullgraph=True, dynamic=False) if setting.compiled else module
        begin = time.perf_counter()
        y = call(x)
        grad = torch.randn_like(y)
        torch.autograd.grad(y, inputs, grad, allow_unused=True)
        wait(device)
        seconds = time.perf_counter() - begin
        y, saved = saved_storages(lambda: call(x))
    except Exception as error:  # whatever a compiler raises
        return None, replace(cost, failure=one_line(error))
    for own in (*module.parameters(), *module.buffers()):
        saved.pop(address(own), None)
    held = sum(saved.values()) + y.untyped_storage().nbytes()
    cost = replace(
        cost, saved_mib=sum(saved.values()) / 2**20, saves_output=set(saved) == {address(y)},
        compile_s=seconds if setting.compiled else None,
    )  # fmt: skip
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else HELD_BYTES
    return _there_and_back(call, x, inputs, grad, max(1, room // held), device), cost


def _there_and_back(
    call: Callable[[Tensor], Tensor], x: Tensor, inputs: Sequence[Tensor], grad: Tensor, most: int, device: torch.device
) -> Watch:
    """A watch with two parts, forward and backward. most: graphs that are built before the first backward pass."""

    def watch(n: int) -> tuple[float, ...]:
        forward = backward = 0.0
        for start in range(0, n, most):
            begin = clock(device)
            outputs = [call(x) for _ in range(min(most, n - start))]
            turn = clock(device)
            for y in outputs:
                torch.autograd.grad(y, inputs, grad, allow_unused=True)
            forward, backward = forward + turn - begin, backward + clock(device) - turn
        return forward / n, backward / n

    return watch

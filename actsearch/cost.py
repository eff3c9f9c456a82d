"""What an activation costs: of a net with it the forward pass, the training step and what it keeps; and by itself."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from actsearch.activations.spec import ActivationModule, Spec
from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.models import Model
from actsearch.recipe import Recipe, make_optimizer, use_precision

REPETITIONS = 20
BLOCKS = 3  # of a repetition: the least of them counts
SECONDS_EACH = 0.0015  # of a block: long beside the clock's grain
LEAST_WARM = 3  # calls before any is timed
Loss = Callable[[Tensor, Tensor], Tensor]
HELD_BYTES = 16 * 2**20  # of graphs that are built before the first is walked back, on a CPU
LARGE = (16, 64, 32, 32)  # a batch of a convolution's outputs: 4 MiB in float32, beyond a core's own caches
LARGE_CUDA = (256, 64, 56, 56)  # 196 MiB: beyond a GPU's caches, and longer than a launch takes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Watch = Callable[[int], tuple[float, ...]]
"""Makes n calls and returns the seconds of one, for each of its parts."""


@dataclass(frozen=True)
class Cost:
    """Times in µs, one per repetition. The nets measured together took turns: repetition i of one stands beside
    repetition i of the other, and what else the machine did then met both. saved_mib: what the forward pass of a
    training step keeps for its backward pass, parameters and the batch aside.
    """

    training_step_us: list[float]
    latency_us: list[float]
    saved_mib: float = math.nan  # of a study measured before this was


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Times are taken as the training processes have them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- of a net -------------------------------------------------------------------------------------


def latency_us(net: nn.Module, recipe: Recipe, x: Tensor, budget_s: float = 1.0) -> float:
    """Time in µs of one forward pass of `net` on x: (batch, …), on x's device, as `measure` takes it: the median.

    A measurement: a search that has it as an objective repeats only roughly.
    """
    use_precision(recipe)
    ((times,),) = _in_turns([_watch(_inference(net.to(x.device), x), x.device)], budget_s)
    return statistics.median(times)


def measure(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float = 6.0
) -> list[Cost]:
    """The costs of nets that differ in their activations: plain PyTorch, as the plain loop trains, taking turns.

    x: (batch, …) on the device to measure on, y: (batch, …). loss: of the data set. On a CPU, in `one_thread`.
    budget_s: about how long it may take in all; nets that are too slow for it have fewer repetitions, two at least.
    Global random states are left as they are.
    """
    use_precision(recipe)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # dropout draws
        return _measured(nets, recipe, x, y, loss, budget_s)


def _measured(
    nets: Sequence[nn.Module], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float
) -> list[Cost]:
    work = [_work(copy.deepcopy(net).to(x.device), recipe, x, y, loss) for net in nets]
    watches = [_watch(call, x.device) for step, forward, _ in work for call in (step, forward)]
    times = [parts[0] for parts in _in_turns(watches, budget_s)]
    return [Cost(times[2 * i], times[2 * i + 1], saved_mib) for i, (_, _, saved_mib) in enumerate(work)]


def _watch(call: Callable[[], None], device: torch.device) -> Watch:
    return lambda n: (_timed(call, n, device),)


def _in_turns(watches: Sequence[Watch], budget_s: float) -> list[list[list[float]]]:
    """Times in µs, of each watch, of each of its parts, one per repetition; in each repetition all take their turn."""
    if not watches:
        return []
    once = []
    for watch in watches:
        watch(LEAST_WARM)
        once.append(sum(watch(1)))
    n_calls = [max(1, round(SECONDS_EACH / seconds)) for seconds in once]
    round_s = BLOCKS * sum(n * seconds for n, seconds in zip(n_calls, once, strict=True))
    rows: list[list[list[float]]] = [[] for _ in watches]
    for _ in range(max(2, min(REPETITIONS, int(budget_s / round_s)))):
        for watch, n, mine in zip(watches, n_calls, rows, strict=True):
            blocks = [watch(n) for _ in range(BLOCKS)]
            mine.append([min(part) * 1e6 for part in zip(*blocks, strict=True)])  # other work only adds time
    return [[list(part) for part in zip(*mine, strict=True)] for mine in rows]


def _work(
    net: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, loss: Loss
) -> tuple[Callable[[], None], Callable[[], None], float]:
    """A training step, and a forward pass in eval mode, as functions to time; MiB that a step keeps."""
    optimizer = make_optimizer(net, replace(recipe, lr=1e-12))  # a net that learns this one batch would be another net
    forward = _inference(copy.deepcopy(net), x)
    net.train()

    def training_loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            return loss(net(x), y)

    def step() -> None:
        value = training_loss()
        optimizer.zero_grad()
        value.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.grad_clip)
        optimizer.step()

    _, saved = saved_storages(training_loss)
    for tensor in (x, y, *net.parameters(), *net.buffers()):
        saved.pop(_address(tensor), None)
    return step, forward, sum(saved.values()) / 2**20


def _inference(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward pass in eval mode, as a function to time."""
    net.eval()

    def forward() -> None:
        with torch.no_grad():
            net(x)

    return forward


def step_costs(
    model: Model, specs: Sequence[Spec], recipe: Recipe, x: Tensor, y: Tensor, loss: Loss, budget_s: float = 12.0
) -> tuple[dict[str, Cost], dict[str, str]]:
    """The costs of a model with each activation, by its text, taking turns; and why some are left out."""
    nets: dict[str, nn.Module] = {}
    left_out: dict[str, str] = {}
    for spec in specs:
        try:
            net = model.build((spec,), 0, recipe.init)
            with torch.no_grad():
                copy.deepcopy(net).to(x.device)(x[:2])
            nets[str(spec)] = net
        except (ActSearchError, RuntimeError) as error:
            left_out[str(spec)] = one_line(error)
    return dict(zip(nets, measure(list(nets.values()), recipe, x, y, loss, budget_s), strict=True)), left_out


def large_shape(device: torch.device) -> tuple[int, ...]:
    """Of a tensor whose time is that of the memory."""
    return LARGE_CUDA if device.type == "cuda" else LARGE


def first_shape(net: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Of the output of a net's first activation."""
    shapes: list[tuple[int, ...]] = []
    modules = [module for module in net.modules() if isinstance(module, ActivationModule)]
    hooks = [module.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape))) for module in modules]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return shapes[0]


def saved_storages(forward: Callable[[], Tensor]) -> tuple[Tensor, dict[int, int]]:
    """What forward returns, and the memory that it keeps for its backward pass: bytes by address, each once."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # not the tensor: an output that its own graph holds is never freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return forward(), saved


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _timed(call: Callable[[], None], n: int, device: torch.device) -> float:
    """Seconds of one of n calls."""
    start = _clock(device)
    for _ in range(n):
        call()
    return (_clock(device) - start) / n


def _clock(device: torch.device) -> float:
    """Seconds. On a CPU of this thread's own time: what runs longer is interrupted more often by what else the machine
    does, and with a clock on the wall mish took 130 relus on a busy machine, 18 on a quiet one.
    """
    if device.type == "cpu":
        return time.thread_time()
    _wait(device)
    return time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


# --- of an activation by itself -------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How activations are measured by themselves. shape: of the output, (batch, channels, …)."""

    shape: tuple[int, ...]
    dtype: str
    memory_format: str
    compiled: bool

    def __str__(self) -> str:
        """What differs from a contiguous tensor and plain PyTorch is named."""
        words = [" × ".join(map(str, self.shape)), self.dtype]
        words += ["channels last"] if self.memory_format == "channels_last" else []
        return ", ".join([*words, *(["compiled"] if self.compiled else [])])


def settings(shapes: Any, dtypes: Any, memory_formats: Any, compiled: Any) -> list[Setting]:
    """All combinations; channels_last only of shapes with four dimensions. Raises ActSearchError for wrong values."""
    for shape in shapes:
        whole = isinstance(shape, Sequence) and all(type(n) is int and n > 0 for n in shape)
        if not whole or len(shape) < 2:
            raise ActSearchError(f"task.shape={shape}: write sizes from 1, the channels second: task.shape=[100,64].")
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
    """One activation in one setting. forward_us, backward_us: one per repetition, taken in turns with the others.
    relu_forward_us, relu_backward_us: of a plain relu in the same turns, not compiled even where the others are.
    saved_mib: what its forward pass keeps for its backward pass, its own parameters aside; saves_output: that is its
    output alone, which the next layer keeps in any case. compile_s: of the first forward and backward pass, where
    compiled. failure: why there are no times; else empty.
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
    """The costs of activations by themselves, on normal inputs, with gradients.

    An activation is called several times and then walked back, as in a net of as many layers. budget_s: about how
    long it may take in all, compilation aside. Global random states are left as they are. What does not work here (a
    compiler that is missing, a window on inputs that are no images) is a failure of that activation alone.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if setting.compiled:
            stack.enter_context(_compiling(device))
        relu, _ = _bare(Spec.parse("relu"), replace(setting, compiled=False), device)
        made = [_bare(spec, setting, device) for spec in specs]
        _touch_memory()
        watches = [watch for watch in (relu, *(watch for watch, _ in made)) if watch is not None]
        times = iter(_in_turns(watches, budget_s))
        relus = ([], []) if relu is None else next(times)
        costs = []
        for watch, cost in made:
            forward, backward = ([], []) if watch is None else next(times)
            plain = {"relu_forward_us": relus[0], "relu_backward_us": relus[1]}
            costs.append(replace(cost, forward_us=forward, backward_us=backward, **plain))
        return costs


def _touch_memory() -> None:
    """Else large tensors come fresh from the system each time, whose zeroing of their pages takes longer than a relu.

    glibc keeps for the process what is no larger than the largest block that was freed (up to 32 MiB), twice as much
    of it in all.
    """
    for megabytes in ([31.9], [24, 24]):
        blocks = [torch.empty(int(size * 2**20), dtype=torch.uint8).fill_(0) for size in megabytes]
        del blocks


@contextlib.contextmanager
def _compiling(device: torch.device) -> Iterator[None]:
    """Nothing compiled before counts, and no activation is quietly left uncompiled because others were."""
    import torch._dynamo
    import torch._inductor.utils

    torch._dynamo.reset()
    limits = torch._dynamo.config.patch(
        recompile_limit=10_000, accumulated_recompile_limit=100_000, fail_on_recompile_limit_hit=True
    )
    with torch._inductor.utils.fresh_cache(), limits, warnings.catch_warnings(action="ignore"):
        with contextlib.suppress(Exception):  # what the first one pays for all; if it fails, each will say so
            torch.compile(torch.neg)(torch.zeros(8, device=device))
        yield
    torch._dynamo.reset()


def _bare(spec: Spec, setting: Setting, device: torch.device) -> tuple[Watch | None, ActivationCost]:
    """An activation ready to be timed, or why it cannot be; and what it keeps."""
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
        _wait(device)
        seconds = time.perf_counter() - begin
        y, saved = saved_storages(lambda: call(x))
    except Exception as error:  # whatever a compiler raises
        return None, replace(cost, failure=one_line(error))
    for own in (*module.parameters(), *module.buffers()):
        saved.pop(_address(own), None)
    held = sum(saved.values()) + y.untyped_storage().nbytes()
    cost = replace(
        cost, saved_mib=sum(saved.values()) / 2**20, saves_output=set(saved) == {_address(y)},
        compile_s=seconds if setting.compiled else None,
    )  # fmt: skip
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else HELD_BYTES
    return _there_and_back(call, x, inputs, grad, max(1, room // held), device), cost


def _there_and_back(
    call: Callable[[Tensor], Tensor], x: Tensor, inputs: Sequence[Tensor], grad: Tensor, most: int, device: torch.device
) -> Watch:
    """A watch with two parts, forward and backward. most: graphs that are built before the first is walked back."""

    def watch(n: int) -> tuple[float, ...]:
        forward = backward = 0.0
        for start in range(0, n, most):
            begin = _clock(device)
            outputs = [call(x) for _ in range(min(most, n - start))]
            turn = _clock(device)
            for y in outputs:
                torch.autograd.grad(y, inputs, grad, allow_unused=True)
            forward, backward = forward + turn - begin, backward + _clock(device) - turn
        return forward / n, backward / n

    return watch

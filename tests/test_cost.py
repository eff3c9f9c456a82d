"""Cost: forward passes by a clock that the test turns; forward passes and training steps of real nets; activations by
themselves, what they keep, and what becomes of one that fails.
"""

import statistics
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from actsearch.activations import Spec
from actsearch.data.goal import cross_entropy
from actsearch.errors import ActSearchError
from actsearch.measure import activation_cost, cost, timing
from actsearch.measure.activation_cost import Setting, activation_costs, settings
from actsearch.measure.cost import step_costs
from actsearch.models import mlp
from actsearch.models.model import Model
from actsearch.question.recipe import Recipe


class Clocked(nn.Module):
    """Takes as long as `seconds` says for its i-th call."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now, self.calls, self.modes, self.grads = list(seconds), 0.0, 0, set(), set()

    def forward(self, x):
        self.now += self.seconds[self.calls]
        self.calls += 1
        self.modes.add(self.training)
        self.grads.add(torch.is_grad_enabled())
        return x


def test_the_median_of_the_least_of_the_blocks_in_microseconds_without_the_warm_up(monkeypatch):
    warm_up, first, second = [9.0] * 3 + [1.0], [0.02, 0.01, 0.03], [0.003, 0.1, 0.004]  # 10 and 3 ms
    net = Clocked(warm_up + first + second)
    monkeypatch.setattr(timing, "clock", lambda _: net.now)
    assert cost.latency_us(net, Recipe(), torch.zeros(2, 3)) == pytest.approx(6500)
    assert net.calls == 10
    assert (net.modes, net.grads) == ({False}, {False})


def test_a_real_net_that_does_more_takes_longer():
    x = torch.randn(64, 64)
    small = cost.latency_us(nn.Linear(64, 8), Recipe(), x, 0.1)
    large = cost.latency_us(nn.Sequential(*[nn.Linear(64, 64) for _ in range(40)]), Recipe(), x, 0.1)
    assert 0 < small < large


# --- measure --------------------------------------------------------------------------------------

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


def net_of(activation):
    """A small net with its own weights; given to `net_costs` with gradients, which must survive."""
    net = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 3))
    nn.functional.cross_entropy(net(X), Y).backward()
    return net


def work(seconds):
    """Of this thread's own time: to sleep costs none."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Slow(nn.Module):
    """An activation that takes a few milliseconds, forward only."""

    def forward(self, x):
        work(0.01)
        return x.relu()


def test_a_slow_activation_costs_more_and_all_have_as_many_repetitions():
    fast, slow, other = cost.net_costs(
        [net_of(nn.ReLU()), net_of(Slow()), net_of(nn.Tanh())], Recipe(), X, Y, cross_entropy, 0.5
    )
    lengths = {len(times) for c in (fast, slow, other) for times in (c.training_step_us, c.latency_us)}
    assert len(lengths) == 1
    assert 2 <= lengths.pop() <= timing.REPETITIONS
    assert all(t > 0 for c in (fast, slow, other) for t in (*c.training_step_us, *c.latency_us))
    assert min(slow.latency_us) >= 10_000  # it works at least that long
    assert min(slow.training_step_us) >= 10_000
    assert statistics.median(slow.latency_us) > 20 * min(fast.latency_us)


def test_however_small_the_budget_there_are_two_repetitions_and_however_large_twenty():
    small, large = (
        cost.net_costs([net_of(nn.ReLU())], Recipe(), X, Y, cross_entropy, budget)[0] for budget in (0.0, 60.0)
    )
    assert (len(small.training_step_us), len(small.latency_us)) == (2, 2)
    assert (len(large.training_step_us), len(large.latency_us)) == (20, 20)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_the_nets_given_and_the_random_states_stay_as_they_are(optimizer, rng_untouched):
    nets = [net_of(nn.ReLU()), net_of(nn.PReLU()), nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    gradients = [[None if p.grad is None else p.grad.clone() for p in net.parameters()] for net in nets]
    with rng_untouched():
        cost.net_costs(nets, Recipe(optimizer=optimizer), X, Y, cross_entropy, 0.0)
    for net, state, old in zip(nets, before, gradients, strict=True):
        assert net.training
        for k, v in net.state_dict().items():
            assert torch.equal(v, state[k]), k
        for p, g in zip(net.parameters(), old, strict=True):
            assert (p.grad is None) if g is None else torch.equal(p.grad, g)


def test_repetitions_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "timed", lambda call, n, device: order.append(call) or call() or 0.001)
    cost.net_costs([net_of(nn.ReLU()), net_of(nn.Tanh())], Recipe(), X, Y, cross_entropy, 0.0)
    n = 4 * timing.BLOCKS
    first, second = order[8 : 8 + n], order[8 + n :]  # after each was warmed, and called once to know how long it takes
    assert len(second) == n
    assert len(set(first)) == 4
    assert first == second


def test_a_net_with_dropout_leaves_the_random_states_too(rng_untouched):
    net = net_of(nn.Dropout(0.5))
    with rng_untouched():
        cost.net_costs([net], Recipe(), X, Y, cross_entropy, 0.0)


def test_what_a_step_keeps_for_its_backward_pass_by_hand():
    """Two linear layers keep their inputs, the batch aside; a relu its output, which is the second one's input; a silu
    its input besides; the loss the log-probabilities and, as torch has it, the sum of the examples' weights.
    """
    x, y, hidden, out = X, Y, 8 * 8 * 4, 8 * 3 * 4
    relu, silu = cost.net_costs([net_of(nn.ReLU()), net_of(nn.SiLU())], Recipe(), x, y, cross_entropy, 0.0)
    assert relu.saved_mib == pytest.approx((hidden + out + 4) / 2**20)
    assert silu.saved_mib - relu.saved_mib == pytest.approx(hidden / 2**20)


# --- activations by themselves --------------------------------------------------------------------

CPU = torch.device("cpu")
SMALL = Setting((4, 6, 8, 8), "float32", "contiguous", False)
FULL = 4 * 6 * 8 * 8 * 4 / 2**20  # MiB of one such tensor


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(timing, "REPETITIONS", 3)


def costs_of(texts, setting=SMALL):
    return {c.activation: c for c in activation_costs([Spec.parse(text) for text in texts], setting, CPU)}


KEPT = {  # tensors of the output's size, and whether that is the output itself
    "identity": (0, False), "relu": (1, True), "tanh": (1, True), "sigmoid": (1, True), 
    "prelu": (1, False), "selu": (1, False), "leaky_relu6(negative_slope=0.1)": (2, False), "bilinear": (2, False),
}  # fmt: skip


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_what_activations_keep(quick, memory_format):
    found = costs_of(KEPT, replace(SMALL, memory_format=memory_format))
    for text, (tensors, is_output) in KEPT.items():
        assert found[text].saved_mib == pytest.approx(tensors * FULL), text
        assert found[text].saves_output == is_output, text
        assert (found[text].compile_s, found[text].failure) == (None, "")
    half = costs_of(["tanh"], replace(SMALL, memory_format=memory_format, dtype="bfloat16"))
    assert half["tanh"].saved_mib == pytest.approx(FULL / 2)


def test_all_have_as_many_repetitions_and_the_random_states_stay(quick, rng_untouched):
    with rng_untouched():
        found = costs_of(["relu", "glu", "crelu", "frelu"])
    for c in found.values():
        times = (c.forward_us, c.backward_us, c.relu_forward_us, c.relu_backward_us)
        assert [len(part) for part in times] == [3] * 4
        assert min(map(min, times)) > 0


def test_an_activation_that_does_not_fit_fails_alone(quick):
    found = costs_of(["relu", "frelu", "tanh"], replace(SMALL, shape=(4, 6)))
    assert "windows of images" in found["frelu"].failure
    assert found["frelu"].forward_us == []
    assert len(found["relu"].forward_us) == len(found["tanh"].backward_us) == 3


@pytest.mark.slow  # torch's compiler takes seconds to import
def test_a_compiler_that_is_missing_is_said(quick):
    import torch._inductor.config

    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = costs_of(["relu"], replace(SMALL, compiled=True))
    assert "ompiler" in found["relu"].failure
    assert found["relu"].compile_s is None


@pytest.mark.slow
def test_more_activations_than_torch_recompiles_are_each_compiled(quick):
    texts = ["relu", "tanh", "sigmoid", "elu", *(f"leaky_relu(negative_slope={i / 10})" for i in range(1, 8))]
    found = costs_of(texts, replace(SMALL, compiled=True))
    assert [c.failure for c in found.values()] == [""] * len(texts)
    assert all(c.compile_s > 0.05 for c in found.values())
    assert found["relu"].saved_mib == pytest.approx(FULL / 4)  # a mask of one byte an element


def test_a_slow_part_is_told_from_a_fast_one(quick, monkeypatch):
    from actsearch.activations import CATALOG
    from actsearch.activations.activation import Activation

    class SlowBack(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.relu()

        @staticmethod
        def backward(ctx, grad):
            work(0.01)
            return grad

    monkeypatch.setitem(CATALOG, "slow_back", Activation("slow_back", SlowBack.apply, "test", "", ""))
    (found,) = activation_costs([Spec.of("slow_back")], SMALL, CPU)
    assert min(found.backward_us) >= 10_000
    assert statistics.median(found.forward_us) < 10_000


@pytest.mark.gpu
@pytest.mark.parametrize("text", KEPT)
def test_what_is_kept_is_what_the_gpu_gives_out(quick, text):
    """Memory allocated by a forward pass: the output, and what is kept besides it and the input."""
    device, setting = torch.device("cuda"), Setting((16, 64, 32, 32), "float32", "contiguous", False)
    (found,) = activation_costs([Spec.parse(text)], setting, device)
    module = Spec.parse(text).module(64).to(device)
    x = torch.randn(16, module.in_channels or 64, 32, 32, device=device, requires_grad=True)
    before = torch.cuda.memory_allocated()
    y, saved = timing.saved_storages(lambda: module(x))
    known = {timing.address(t) for t in (x, y, *module.parameters())}
    beside = sum(size for address, size in saved.items() if address not in known)
    assert torch.cuda.memory_allocated() - before == (0 if y is x else y.nbytes) + beside
    own = sum(saved.get(timing.address(p), 0) for p in module.parameters())
    assert found.saved_mib == pytest.approx((sum(saved.values()) - own) / 2**20)


# --- settings and steps ---------------------------------------------------------------------------


def test_settings_are_all_combinations_that_exist():
    found = settings([[100, 100], (2, 3, 4, 4)], ["float32", "bfloat16"], ["contiguous", "channels_last"], [False])
    assert [str(setting) for setting in found] == [
        "100 × 100, float32", "100 × 100, bfloat16", "2 × 3 × 4 × 4, float32", "2 × 3 × 4 × 4, float32, channels last",
        "2 × 3 × 4 × 4, bfloat16", "2 × 3 × 4 × 4, bfloat16, channels last",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [({"shapes": [[100]]}, "task.shape=[100]"), ({"shapes": [[0, 4]]}, "task.shape=[0, 4]"),
     ({"shapes": [[True, 4]]}, "task.shape"), ({"shapes": [7]}, "task.shape=7"),
     ({"dtypes": ["float23"]}, "Did you mean 'float32'"), ({"dtypes": "float32"}, "task.dtypes=float32"),
     ({"dtypes": []}, "task.dtypes"), ({"memory_formats": ["channels_first"]}, "'channels_last'"),
     ({"compiled": ["yes"]}, "task.compiled=['yes']"), ({"compiled": True}, "task.compiled=True"),
     ({"shapes": [[2, 3]], "memory_formats": ["channels_last"]}, "batch, channels, height, width")],
)  # fmt: skip
def test_wrong_settings_say_which(change, words):
    good = {"shapes": [[2, 3, 4, 4]], "dtypes": ["float32"], "memory_formats": ["contiguous"], "compiled": [False]}
    with pytest.raises(ActSearchError) as error:
        settings(**{**good, **change})
    assert words in str(error.value)


def test_steps_of_a_model_and_what_it_cannot_take(quick):
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2})
    texts = ["identity", "relu", "frelu", "silu"]
    steps, left_out = step_costs(model, [Spec.parse(text) for text in texts], Recipe(), X, Y, cross_entropy)
    assert list(steps) == ["identity", "relu", "silu"]
    assert "images" in left_out["frelu"]
    assert steps["identity"].saved_mib == steps["relu"].saved_mib < steps["silu"].saved_mib


def test_the_first_activations_shape():
    model = Model(mlp, "mlp", (6,), 3, {"width": 8, "depth": 2})
    assert activation_cost.first_shape(model.build((Spec.parse("glu"),), 0, "torch"), X) == (8, 8)


def test_a_net_of_several_inputs_is_measured_and_its_inputs_are_not_what_it_keeps():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), Spec.of("relu").module(8), nn.Linear(8, 3))

        def forward(self, a, b):
            return {"logits": self.layers(a + b)}

    one = cost.net_costs([net_of(nn.ReLU())], Recipe(), X, Y, cross_entropy, 0.05)
    two = cost.net_costs([Sum()], Recipe(), {"a": X, "b": X}, Y, cross_entropy, 0.05)
    assert two[0].training_step_us[0] > 0 and two[0].latency_us[0] > 0
    assert two[0].saved_mib == pytest.approx(one[0].saved_mib + X.nbytes / 2**20)  # the sum is new, X is not
    assert activation_cost.first_shape(Sum(), (X, X)) == (8, 8)
    assert cost.latency_us(Sum(), Recipe(), (X, X), 0.05) > 0

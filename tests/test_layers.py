"""The table of layers: what shares a call, and that a convolution's windows are torch's, whatever its numbers."""

import itertools

import pytest
import torch
from test_fused import data, fused, plain, runs_of, trace_layers
from torch import nn

from actsearch.activations.spec import Learned, Spec
from actsearch.models.model import Model
from actsearch.training.layer import NotFusable, Segment
from actsearch.training.layers import calls, learned_size

LIKE = torch.zeros(4, 5, 6)
SLOPES = [Spec.of("leaky_relu", {"negative_slope": s}) for s in (0.1, 0.1, 0.3)]


def shape_of(group):
    return [(at.start, at.stop, spec.name) for at, spec, _ in group]


def test_on_a_cpu_equal_specs_side_by_side_are_one_call_with_numbers():
    group = calls([*SLOPES, Spec.of("relu")], False, LIKE)
    assert shape_of(group) == [(0, 2, "leaky_relu"), (2, 3, "leaky_relu"), (3, 4, "relu")]
    assert [params for *_, params in group] == [{"negative_slope": 0.1}, {"negative_slope": 0.3}, {}]


def test_vectorised_an_activation_is_one_call_with_a_tensor():
    group = calls([*SLOPES, Spec.of("relu")], True, LIKE)
    assert shape_of(group) == [(0, 3, "leaky_relu"), (3, 4, "relu")]
    assert torch.equal(group[0][2]["negative_slope"], torch.tensor([0.1, 0.1, 0.3]).view(3, 1, 1))


def test_a_shared_parameter_is_one_number_of_a_row_and_another_one_per_channel():
    def size(text, width):
        spec = Spec.parse(text)
        return sum(learned_size(spec.activation, k, width) for k, v in spec.params.items() if isinstance(v, Learned))

    texts = ("pau", "pau(b1=0)", "acon_c", "smu(alpha=learned)", "prelu", "relu")
    assert [size(text, 7) for text in texts] == [10, 9, 21, 8, 7, 0]
    for text in texts:
        assert size(text, 7) == sum(p.numel() for p in Spec.parse(text).module(7).parameters())


@pytest.mark.parametrize("vectorised", [False, True])
def test_learned_and_fixed_and_words_do_not_mix(vectorised):
    specs = [Spec.of("leaky_relu", {"negative_slope": Learned(0.1)}), SLOPES[0]]
    specs += [Spec.of("gelu"), Spec.of("gelu", {"approximate": "tanh"})]
    assert len(calls(specs, vectorised, LIKE)) == 4


def test_a_segment_reads_and_writes_back():
    tensor = torch.arange(6.0).view(2, 3)
    segment = Segment("w", (2, 3), torch.tensor([5, 0, 3, 1, 4, 2]))
    assert segment.read(tensor).tolist() == [5, 0, 3, 1, 4, 2]
    assert torch.equal(segment.write(segment.read(tensor), tensor.shape), tensor)


CONVOLUTIONS = [
    *itertools.product([1, 3, 4], [1, 2, 3], [0, 1]),  # kernel, stride, padding
    (2, 3, 1), (5, 2, 2), ((3, 2), (2, 1), (1, 0)), ((1, 3), (1, 2), (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "stride", "padding"), CONVOLUTIONS)
@pytest.mark.parametrize(("bias", "vectorised"), [(True, False), (False, False), (True, True), (False, True)])
def test_convolutions_train_as_torchs(kernel, stride, padding, bias, vectorised):
    two = isinstance(kernel, tuple)
    conv, shape = (nn.Conv2d, (2, 8, 7)) if two else (nn.Conv1d, (2, 11))

    def net(activation, in_shape, n_classes):
        first = nn.Sequential(conv(2, 3, kernel, stride, padding, bias=bias), activation(3))
        second = nn.Sequential(conv(3, 4, 1, bias=bias), nn.Flatten())
        size = second(first(torch.zeros(1, *in_shape))).shape[1]
        return nn.Sequential(first, second, nn.Linear(size, n_classes))

    built = Model(net, "net", shape, 3)
    runs = runs_of(["relu", "gelu"])
    if (kernel, padding) == (1, 1):
        with pytest.raises(NotFusable, match="wholly in its padding"):
            trace_layers(built)
        return
    program = fused(built, data(shape), runs, vectorised)
    list(program.advance(set()))
    list(program.advance(set()))
    list(program.advance(set()))
    for i, run in enumerate(runs):
        wanted = plain(built, data(shape), run)[0].state_dict()
        for name, value in program.state_dict(i).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-9, atol=1e-9)

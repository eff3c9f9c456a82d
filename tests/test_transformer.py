"""The small transformer: its tokens, its attention, and gated pairs with as many weights."""

import pytest
import torch
import torch.nn.functional as F

from actsearch.activations import Spec
from actsearch.activations.spec import gain
from actsearch.errors import ActSearchError
from actsearch.models import transformer
from actsearch.models.model import Model
from actsearch.models.transformer import Block


def model(shape=(40,), **keywords):
    return Model(transformer, "transformer", shape, 3, {"width": 8, "heads": 2, "depth": 2, **keywords})


def net(text="relu", **keywords):
    return model(**keywords).build([Spec.parse(text)], 0, "gain")


def test_a_block_is_torchs_own_encoder_layer():
    """With the same weights, nn.TransformerEncoderLayer (pre-norm, gelu) gives the same."""
    ours = Block(8, 2, 32, Spec.parse("gelu").module(32, -1), causal=False).double()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, F.gelu, batch_first=True, norm_first=True).double()
    pairs = {
        "self_attn.in_proj_weight": ours.qkv.weight, "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight, "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.up.weight, "linear1.bias": ours.up.bias, "linear2.weight": ours.down.weight,
        "linear2.bias": ours.down.bias, "norm1.weight": ours.norm1.weight, "norm1.bias": ours.norm1.bias,
        "norm2.weight": ours.norm2.weight, "norm2.bias": ours.norm2.bias,
    }  # fmt: skip
    theirs.load_state_dict({name: p.detach() for name, p in pairs.items()})
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs.train()(x))


def test_a_causal_block_sees_only_what_came_before():
    block = Block(8, 2, 16, Spec.parse("relu").module(16, -1), causal=True)
    x = torch.randn(1, 6, 8)
    later = x.clone()
    later[0, 4:] += 1.0
    before, after = block(x), block(later)
    torch.testing.assert_close(before[0, :4], after[0, :4])
    assert not torch.allclose(before[0, 4:], after[0, 4:])


@pytest.mark.parametrize("text", ["swiglu", "maxout(pieces=3)", "crelu"])
def test_other_widths_have_about_as_many_weights(text):
    def count(text, **keywords):
        return sum(p.numel() for n, p in net(text, hidden=60, **keywords).named_parameters() if "weight" in n)

    plain = count("relu")
    assert abs(count(text) / plain - 1) < 0.02
    assert abs(count(text, equal_parameters=False) / plain - 1) > 0.1


def test_hidden_of_pairs_is_two_thirds():
    block = net("swiglu", hidden=96).blocks[0]
    assert (block.down.in_features, block.up.out_features) == (64, 128)


def test_tokens_are_patches_of_a_sequence_and_rows_of_an_image():
    sequence = net(patch=16)  # 40 values: 16, 16 and 8 with zeros behind
    assert (sequence.embed[0].tokens, sequence.embed[0].features) == (3, 16)
    x = torch.randn(2, 40)
    seen = []
    sequence.embed[1].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    sequence(x)
    assert torch.equal(seen[0].flatten(1)[:, :40], x)
    assert not seen[0].flatten(1)[:, 40:].any()
    images = net(shape=(3, 4, 5))
    images.embed[1].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    x = torch.randn(2, 3, 4, 5)
    images(x)
    assert torch.equal(seen[1][1, 2], torch.cat([x[1, 0, 2], x[1, 1, 2], x[1, 2, 2]]))


def test_the_gain_is_of_the_layer_behind_the_activation_only():
    block = model(hidden=512, width=64, heads=2).build([Spec.parse("silu")], 0, "gain").blocks[1]
    for layer, wanted in ((block.qkv, 1.0), (block.out, 1.0), (block.up, 1.0), (block.down, gain(Spec.parse("silu")))):
        assert layer.weight.std().item() * layer.in_features**0.5 == pytest.approx(wanted, rel=0.05)


def test_a_learned_parameter_is_one_per_hidden_unit():
    assert net("prelu", hidden=12).blocks[0].activation.negative_slope.shape == (12,)
    assert net("prelu", hidden=12)(torch.randn(4, 40)).shape == (4, 3)


@pytest.mark.parametrize(("keywords", "part"), [({"heads": 3}, "model.heads=3"), ({"patch": 0}, "model.patch=0")])
def test_wrong_sizes(keywords, part):
    with pytest.raises(ActSearchError, match=part):
        model(**keywords)

"""Ready nets as models: timm's and torchvision's, and what is one slot of them."""

import pickle
import subprocess
import sys

import cloudpickle
import pytest
import torch

from actsearch.activations.spec import ActivationModule, parse_net
from actsearch.errors import ActSearchError
from actsearch.models import timm, torchvision
from actsearch.models.model import Model
from actsearch.models.slots import stages_of


def make(function, in_shape=(1, 12, 12), **keywords):
    return Model(function, keywords["name"], in_shape, 5, keywords)


def activations(net):
    return [(path, str(m.spec), m.place) for path, m in net.named_modules() if isinstance(m, ActivationModule)]


@pytest.mark.parametrize(
    ("function", "name", "slots", "channels"),
    [
        (torchvision, "resnet18", "all", [64, *[64] * 2, *[128] * 2, *[256] * 2, *[512] * 2]),
        (torchvision, "resnet18", "calls", [64, *[64] * 4, *[128] * 4, *[256] * 4, *[512] * 4]),
        (torchvision, "resnet18", "stages", [64, 128, 256, 512]),
        (timm, "resnet10t", "all", [24, 32, 64, 64, 64, 128, 128, 256, 256, 512, 512]),
        (timm, "resnet10t", "stages", [24, 128, 256, 512]),
    ],
)
def test_slots_and_their_channels(function, name, slots, channels):
    model = make(function, name=name, image_size=32, slots=slots)
    assert (model.n_slots, model.channels) == (len(channels), channels)
    net = pickle.loads(cloudpickle.dumps(model)).build(parse_net("prelu"), 0, "gain")
    assert {m.place for m in net.modules() if isinstance(m, ActivationModule)} == set(range(len(channels)))
    net(torch.randn(2, 1, 12, 12)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_each_stage_gets_its_spec_with_widths_of_its_own():
    net = make(timm, name="resnet10t", image_size=32, slots="stages").build(
        parse_net("relu | gelu | prelu | gelu"), 0, "gain"
    )
    assert activations(net) == [
        ("1.conv1.2", "relu", 0), ("1.conv1.5", "relu", 0), ("1.act1", "relu", 0), ("1.layer1.0.act1", "relu", 0),
        ("1.layer1.0.act2", "relu", 0), ("1.layer2.0.act1", "gelu", 1), ("1.layer2.0.act2", "gelu", 1),
        ("1.layer3.0.act1", "prelu", 2), ("1.layer3.0.act2", "prelu", 2), ("1.layer4.0.act1", "gelu", 3),
        ("1.layer4.0.act2", "gelu", 3),
    ]  # fmt: skip
    model = make(torchvision, in_shape=(3, 32, 32), name="mobilenet_v3_small", slots="stages")
    learned = [p for name, p in model.build(parse_net("prelu"), 0, "gain").named_parameters() if "negative" in name]
    assert len(learned) == 33 and len({len(p) for p in learned}) > 5
    assert model.n_slots < 15


@pytest.mark.parametrize(
    ("paths", "stages"),
    [
        ("relu layer1.0.a layer1.1.a layer2.0.a layer2.1.a fc.a", "layer1 layer1 layer1 layer2 layer2 layer2"),
        ("stem.a net.stages.0.a net.stages.0.b net.stages.1.a net.stages.1.b head.a",
         "net.stages.0 net.stages.0 net.stages.0 net.stages.1 net.stages.1 net.stages.1"),
        ("f.0 f.block1.a f.block1.b f.down1.a f.block2.a f.block2.b",
         "f.block1 f.block1 f.block1 f.block1 f.block2 f.block2"),
        ("features.1 features.4 classifier.1", "features.1 features.4 features.4"),
        ("act", "act"),
        ("net.act", "net.act"),
    ],
)  # fmt: skip
def test_stages_are_the_parts_named_alike(paths, stages):
    assert stages_of(paths.split()) == stages.split()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"])
def test_timm_nets_take_the_datas_images_and_are_drawn_by_the_seed(name):
    model = make(timm, in_shape=(3, 32, 32), name=name)
    first, again, other = (model.build(parse_net("gelu"), seed, "torch").state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(
    ("function", "keywords", "part"),
    [
        (timm, {"name": "resnet10x"}, "unknown timm model 'resnet10x'. Did you mean 'resnet10t'"),
        (
            timm,
            {"name": "resnet10t", "pretrained": True},
            "model.pretrained=true: model=timm makes nets with random weights",
        ),
        (timm, {"name": "resnet10t", "drop": 3}, "timm's 'resnet10t' cannot be made: TypeError"),
        (timm, {"name": "resnet10t", "slots": "stage"}, "unknown model.slots 'stage'. Did you mean 'stages'"),
        (torchvision, {"name": "resnet18", "slots": "blocks"}, "unknown model.slots 'blocks'"),
    ],
)
def test_a_wrong_word_is_an_error(function, keywords, part):
    with pytest.raises(ActSearchError, match=part):
        make(function, **keywords)


def test_flat_data_are_refused():
    with pytest.raises(ActSearchError, match="model=timm needs images of 1 or 3 channels"):
        make(timm, in_shape=(40,), name="resnet10t")


def test_without_timm_the_cure_is_told():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from actsearch.models import Model, timm\n"
        "try: Model(timm, 'timm', (1, 8, 8), 3, {'name': 'resnet10t'})\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "ActSearchError model=timm needs the package timm. Write pip install 'actsearch[timm]'.\n"

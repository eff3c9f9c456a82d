"""Training processes find in the user's modules what stands there now, not what the files say."""

import importlib
import sys

import pytest
import torch

import actsearch
from actsearch.contents import Contents
from actsearch.module_values import packed, settle

NET = """
import threading
from torch import nn
import values_helper

WIDTH = 4
LOCK = threading.Lock()

class Config:
    factor = 1.0

def block(activation):
    return activation(WIDTH)

def net(activation, in_shape, n_classes):
    with LOCK:
        last = nn.Linear(WIDTH, n_classes)
    net = nn.Sequential(nn.Linear(in_shape[0], WIDTH), block(activation), last)
    for p in net.parameters():
        p.data *= Config.factor * values_helper.SCALES["all"]
    return net
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    (tmp_path / "values_helper.py").write_text('SCALES = {"all": 1.0}\n')
    (tmp_path / "values_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("values_net")
    for name in ("values_net", "values_helper"):
        del sys.modules[name]


def found(net):
    contents = Contents()
    contents.add(net.net)
    return packed(contents.values)


def test_what_a_script_has_set_is_set_where_it_is_unpacked_and_nothing_else(net):
    helper = sys.modules["values_helper"]
    net.WIDTH, net.Config.factor, helper.SCALES["all"] = 9, 2.0, 3.0
    values = found(net)
    assert {(v.module, v.name) for v in values} >= {
        ("values_net", "WIDTH"), ("values_net", "Config.factor"), ("values_helper", "SCALES"),
    }  # fmt: skip
    assert not {v.name for v in values} & {"LOCK", "block", "net", "Config"}
    same = helper.SCALES
    net.WIDTH, net.Config.factor = 4, 1.0
    settle(values)
    assert (net.WIDTH, net.Config.factor) == (9, 2.0)
    assert helper.SCALES is same


def wider(activation):
    return torch.nn.Sequential(activation(net_width()), torch.nn.Hardtanh(-0.01, 0.01))


def net_width():
    return sys.modules["values_net"].WIDTH


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net.Config, "factor", 0.0),
        lambda net: sys.modules["values_helper"].SCALES.update(all=0.0),
        lambda net: setattr(net, "block", wider),
    ],
    ids=["attribute of a class", "member of a dictionary", "function"],
)
def test_processes_train_the_net_that_the_script_has_made(net, change, tmp_path, no_pictures):
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    data = (x[:90], (x[:90, 0] > 0).long(), x[90:], (x[90:, 0] > 0).long())

    def losses():
        result = actsearch.compare(
            net.net, data, ["relu", "tanh"], seeds=2, quiet=True, tracking="none", folder=tmp_path / "runs",
            recipe={"steps": 2, "eval_every": 2, "batch_size": 10, "lr": 1e-9, "init": "keep"},
        )  # fmt: skip
        return [run.test_loss for run in result.runs]

    before = losses()
    change(net)
    assert losses() != before

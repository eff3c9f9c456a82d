"""The scripts of examples/ and of docs/own_training.md, in their smallest form, as a study calls them."""

import gzip
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from actsearch.own.run import train_once

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_training.md").read_text()
BLOCKS = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.M | re.S))


@pytest.mark.parametrize("name", ["Lightning", "HuggingFace's Trainer", "Keras"])
def test_a_callback_reports_each_epoch_and_the_net_learns(name, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    values = {}
    exec(compile(BLOCKS[name], name, "exec"), values)
    told = train_once(values["train"], "gelu", 1, {"epochs": 6})
    steps = [rung["step"] for rung in told.rungs]
    assert len(steps) == 6 and steps == sorted(set(steps))
    assert told.last["val_accuracy"] > 0.6
    ended = train_once(values["train"], "relu", 1, {"epochs": 6}, lambda rung: rung["step"] < steps[1])
    assert len(ended.rungs) == 2  # its report ends the training
    again = train_once(values["train"], "gelu", 1, {"epochs": 6})
    assert again.rungs == told.rungs


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return lambda name: importlib.import_module(name).train


def test_a_table_is_told_apart_about_as_well_as_by_boosting(example):
    told = train_once(example("tabular"), "silu", 1000, {"epochs": 10})
    assert [rung.get("step") for rung in told.rungs] == [5, 10, None]
    assert told.last["test_auroc"] > told.last["boosting"] - 0.05 > 0.65


def test_a_pole_is_balanced_longer_than_by_chance(example):
    told = train_once(example("cartpole"), "tanh", 1000, {"updates": 24})
    assert told.last["test_reward"] > 40  # at random 22
    assert len(told.rungs) == 5


def test_images_are_augmented_and_learnt_from_idx_files(example, tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 1600), ("t10k", 300)):
        labels = rng.integers(0, 2, n).astype(np.uint8)
        images = (rng.random((n, 28, 28)) * 100 + 100 * labels[:, None, None]).astype(np.uint8)
        for name, head, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            path = tmp_path / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(bytes(head) + values.tobytes()))
    told = train_once(example("augmented"), "relu", 1000, {"root": str(tmp_path), "n": 600, "epochs": 4})
    assert len(told.rungs) == 5 and told.last["test_accuracy"] > 0.8


def test_kept_weights_are_fine_tuned(example, tmp_path):
    settings = {"pretraining": 20, "epochs": 4, "folder": str(tmp_path)}
    told = train_once(example("finetune"), "relu", 1000, settings)
    assert told.last["test_accuracy"] > 0.3  # of six packages
    assert len(list(tmp_path.iterdir())) == 1  # pretrained once, and kept
    assert train_once(example("finetune"), "relu", 1000, settings).last == told.last

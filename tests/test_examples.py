"""The scripts of examples/ and of docs/own_training.md, in their smallest form, as a study calls them."""

import re
from pathlib import Path

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

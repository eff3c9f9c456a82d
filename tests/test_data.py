"""Data sets: known contents, splits, the checks on a user's data, cache files."""

import gzip
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from actsearch import data
from actsearch.data import classification, files
from actsearch.data.source import Data, Source, make_data, take
from actsearch.errors import ActSearchError


def rows(x):
    return {row.tobytes() for row in np.ascontiguousarray(x.reshape(len(x), -1).numpy())}


# --- MNIST-1D -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(data_root):
    return data.mnist1d(str(data_root), test="published")


@pytest.fixture(scope="module")
def large(data_root):
    return data.mnist1d(str(data_root)).test()


@pytest.mark.filterwarnings("ignore")
def test_mnist1d_is_the_packages_own_data_set(published):
    from mnist1d.data import make_dataset

    own = make_dataset()
    assert published.x.shape == (4000, 40)
    np.testing.assert_allclose(published.x.numpy(), own["x"].astype(np.float32), rtol=0, atol=1e-6)
    assert published.y.tolist() == own["y"].tolist()
    x_test, y_test = published.test()
    np.testing.assert_allclose(x_test.numpy(), own["x_test"].astype(np.float32), rtol=0, atol=1e-6)
    assert y_test.tolist() == own["y_test"].tolist()
    assert (published.x.dtype, published.y.dtype) == (torch.float32, torch.int64)


def test_mnist1d_makes_and_reads_the_same_and_leaves_random_states(tmp_path, published, rng_untouched):
    with rng_untouched():
        made = data.mnist1d(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mnist1d.npz"]  # no temporary file, and no large test set yet
    with rng_untouched():
        read = data.mnist1d(str(tmp_path))
    for source in (made, read):
        assert torch.equal(source.x, published.x)
        assert torch.equal(source.y, published.y)


def test_mnist1d_large_test_set_is_the_same_task_but_other_examples(large, published, data_root):
    x, y = large
    assert x.shape == (20_000, 40)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert torch.bincount(y).tolist() == [2000] * 10
    assert not rows(x) & (rows(published.x) | rows(published.test()[0]))
    assert len(rows(x)) == 20_000
    assert abs(x.mean().item()) < 0.02
    assert abs(x.std().item() - 1) < 0.02
    # shuffled, and the classes look alike: the mean size of each class's signal
    assert len(set(y[:50].tolist())) > 5
    for c in range(10):
        size = published.x[published.y == c].square().mean().item()
        assert x[y == c].square().mean().item() == pytest.approx(size, rel=0.1)
    assert sorted(p.name for p in data_root.iterdir()) == ["mnist1d-test-20000.npz", "mnist1d.npz"]


def test_mnist1d_large_test_set_is_read_again(large, data_root, rng_untouched):
    with rng_untouched():
        x, y = data.mnist1d(str(data_root)).test()
    assert torch.equal(x, large[0])
    assert torch.equal(y, large[1])


def test_mnist1d_examples_leave_the_random_states(rng_untouched):
    with rng_untouched():
        x, y = classification._mnist1d_examples(5, 20)
    again, _ = classification._mnist1d_examples(5, 20)
    other, _ = classification._mnist1d_examples(6, 20)
    assert np.array_equal(x, again)
    assert not np.array_equal(x, other)
    assert sorted(y) == sorted(list(range(10)) * 2)


def test_mnist1d_prepares_its_test_set_in_another_process_only_if_it_is_missing(
    tmp_path, large, data_root, monkeypatch
):
    calls = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: calls.append(command))
    (tmp_path / "mnist1d.npz").write_bytes((data_root / "mnist1d.npz").read_bytes())
    data.mnist1d(str(data_root)).prepare_test()
    assert not calls
    data.mnist1d(str(tmp_path)).prepare_test()
    assert len(calls) == 1
    made = {}  # what the other process would run, with the maker replaced
    monkeypatch.setattr(classification, "_mnist1d_large", lambda *arguments: made.update(arguments=arguments))
    exec(calls[0][-1])
    with np.load(data_root / "mnist1d.npz") as part:
        wanted = (str(tmp_path / "mnist1d-test-20000.npz"), float(part["mean"]), float(part["std"]))
    assert made["arguments"] == wanted


def test_mnist1d_refuses_another_test_set(data_root):
    with pytest.raises(ActSearchError, match=r"data\.test=small: .*'large'.*'published'"):
        data.mnist1d(str(data_root), test="small")


# --- cache files ----------------------------------------------------------------------------------


def truncate(raw):
    return raw[: len(raw) // 2]


def flip(raw):
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 0xFF]) + raw[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda raw: b"", lambda raw: b"no archive", lambda raw: raw[:-10]],
    ids=["half", "a bit", "empty", "text", "tail"],
)  # fmt: skip
def test_a_damaged_cache_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "cache.npz"
    made = files.cached(path, lambda: {"x": np.arange(1000)})
    assert np.array_equal(files.cached(path, dict)["x"], made["x"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ActSearchError) as caught:
        files.cached(path, lambda: pytest.fail("made anew over a damaged file"))
    assert f"{path} is damaged" in str(caught.value)
    assert "Delete it" in str(caught.value)


def test_a_cache_file_without_the_wanted_arrays_is_an_error_that_names_it(tmp_path):
    np.savez(tmp_path / "mnist1d.npz", other=np.zeros(3))
    with pytest.raises(ActSearchError, match=r"mnist1d\.npz"):
        data.mnist1d(str(tmp_path))


def test_a_failed_write_leaves_no_file_behind(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ActSearchError, match=r"cannot write .*cache\.npz.*No space left"):
        files.cached(tmp_path / "cache.npz", lambda: {"x": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ActSearchError, match=r"data\.root: cannot write"):
        files.cached(tmp_path / "file" / "cache.npz", lambda: {"x": np.zeros(3)})


def test_cache_folder_is_root_or_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder(None) == tmp_path / ".cache" / "actsearch"
    assert files.cache_folder("~/sets") == tmp_path / "sets"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder(None) == tmp_path / "xdg" / "actsearch"
    for none in ("", "beside"):  # the specification: empty is as unset, and what is relative does not count
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        assert files.cache_folder(None) == tmp_path / ".cache" / "actsearch"


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_scikit_learns(rng_untouched):
    from sklearn.datasets import load_digits

    with rng_untouched():
        source = data.digits()
    x_test, y_test = source.test()
    assert source.x.shape == (1438, 1, 8, 8)
    assert x_test.shape == (359, 1, 8, 8)
    assert source.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert source.x.std().item() == pytest.approx(1, abs=1e-5)
    # put back together and unscaled: the images and labels of scikit-learn, each once
    own_x, own_y = load_digits(return_X_y=True)
    both = torch.cat([source.x, x_test]).view(1797, 64)
    raw = torch.round((both - both.min()) / (both.max() - both.min()) * 16)
    ours = sorted((tuple(x), int(y)) for x, y in zip(raw.tolist(), torch.cat([source.y, y_test]), strict=True))
    assert ours == sorted((tuple(x), int(y)) for x, y in zip(own_x.tolist(), own_y, strict=True))
    assert torch.equal(source.x, data.digits().x)


# --- Fashion-MNIST --------------------------------------------------------------------------------

PARTS = {"train": 12, "t10k": 5}


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder, zipped, only=None):
    """Small files in the format of the real ones. Returns the arrays by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, arrays = np.random.default_rng(0), {}
    for part, n in PARTS.items():
        arrays[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (n, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(n) % 10 if part == "train" else np.arange(n)
    for name, array in arrays.items():
        if only is None or name in only:
            raw = idx(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    return arrays


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(tmp_path, zipped, below):
    arrays = write_fashion(tmp_path / below, zipped)
    source = data.fashion_mnist(str(tmp_path))
    images = arrays["train-images-idx3-ubyte"] / 255
    mean, std = images.mean(), images.std(ddof=1)
    assert source.x.shape == (12, 1, 28, 28)
    np.testing.assert_allclose(source.x[:, 0].numpy(), (images - mean) / std, rtol=0, atol=1e-5)
    assert source.y.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    x_test, y_test = source.test()
    np.testing.assert_allclose(
        x_test[:, 0].numpy(), (arrays["t10k-images-idx3-ubyte"] / 255 - mean) / std, rtol=0, atol=1e-5
    )
    assert y_test.tolist() == [0, 1, 2, 3, 4]
    assert (source.x.dtype, x_test.dtype, source.y.dtype, y_test.dtype) == (torch.float32,) * 2 + (torch.int64,) * 2


@pytest.fixture
def no_debian_package(monkeypatch, tmp_path):
    """Whatever this machine has in /usr/share, Fashion-MNIST is not there."""
    real = classification.Path
    monkeypatch.setattr(
        classification, "Path", lambda p: tmp_path / "nowhere" if str(p).startswith("/usr/share") else real(p)
    )


def test_fashion_mnist_missing_is_an_error_with_the_ways_to_get_it(tmp_path, no_debian_package):
    with pytest.raises(ActSearchError) as caught:
        data.fashion_mnist(str(tmp_path))
    for part in (str(tmp_path), "data.download=true", "data.root=", "dataset-fashion-mnist"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
)
def test_fashion_mnist_one_file_missing_is_an_error_before_the_search(tmp_path, no_debian_package, missing):
    every = {f"{p}-{kind}" for p in PARTS for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")}
    write_fashion(tmp_path, False, only=every - {missing})
    with pytest.raises(ActSearchError, match=missing):
        data.fashion_mnist(str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "zipped"),
    [
        *((d, z) for d in (truncate, lambda raw: b"", lambda raw: raw[:3]) for z in (False, True)),
        (lambda raw: raw[:4] + b"\xff" * 8 + raw[12:], False),  # senseless dimensions
        (lambda raw: raw[:12] + b"\xff" * 8 + raw[20:], True),  # zlib's own error
        (flip, True),  # only the checksum tells
    ],
)
def test_fashion_mnist_damaged_file_is_an_error_that_names_it(tmp_path, zipped, damage):
    write_fashion(tmp_path, zipped)
    path = tmp_path / ("t10k-images-idx3-ubyte" + ".gz" * zipped)
    path.write_bytes(damage(path.read_bytes()))
    source = data.fashion_mnist(str(tmp_path))
    with pytest.raises(ActSearchError, match=f"{path} is no IDX file"):
        source.test()


def test_fashion_mnist_asks_torchvision_only_if_told(tmp_path, monkeypatch):
    import torchvision.datasets

    def refuse(root, download):
        raise RuntimeError(f"no network for {root}\nat all")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    write_fashion(tmp_path, False)
    data.fashion_mnist(str(tmp_path))
    with pytest.raises(ActSearchError, match=r"Fashion-MNIST could not be downloaded .*no network.*data\.root"):
        data.fashion_mnist(str(tmp_path), download=True)


# --- CIFAR-10 -------------------------------------------------------------------------------------

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def write_cifar(root, without=()):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    generator, pixels = np.random.default_rng(1), {}
    for i, name in enumerate(BATCHES):
        pixels[name] = generator.integers(0, 256, (3, 3072)).astype(np.uint8)
        if name not in without:
            batch = {b"data": pixels[name], b"labels": [i, i + 1, 0], b"batch_label": name.encode()}
            (folder / name).write_bytes(pickle.dumps(batch))
    return pixels


def test_cifar10_reads_its_batches_in_order(tmp_path):
    pixels = write_cifar(tmp_path)
    source = data.cifar10(str(tmp_path))
    images = np.concatenate([pixels[n] for n in BATCHES[:5]]).reshape(15, 3, 32, 32) / 255
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True, ddof=1)
    np.testing.assert_allclose(source.x.numpy(), (images - mean) / std, rtol=0, atol=1e-5)
    assert source.y.tolist() == [0, 1, 0, 1, 2, 0, 2, 3, 0, 3, 4, 0, 4, 5, 0]
    x_test, y_test = source.test()
    test_images = pixels["test_batch"].reshape(3, 3, 32, 32) / 255
    np.testing.assert_allclose(x_test.numpy(), (test_images - mean) / std, rtol=0, atol=1e-5)
    assert y_test.tolist() == [5, 6, 0]


def test_cifar10_missing_is_an_error_with_the_ways_to_get_it(tmp_path):
    with pytest.raises(ActSearchError, match=r"cifar-10-batches-py.*data\.download=true.*data\.root="):
        data.cifar10(str(tmp_path))


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch"])
def test_cifar10_one_batch_missing_is_an_error_before_the_search(tmp_path, missing):
    write_cifar(tmp_path, without=[missing])
    with pytest.raises(ActSearchError, match=missing):
        data.cifar10(str(tmp_path))


def test_cifar10_damaged_batch_is_an_error_that_names_it(tmp_path):
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(truncate(path.read_bytes()))
    with pytest.raises(ActSearchError, match="data_batch_2"):
        data.cifar10(str(tmp_path))


# --- a user's data --------------------------------------------------------------------------------

GOOD = (np.ones((6, 4)), np.array([0, 1, 2, 0, 1, 2]), [[1, 2, 3, 4]], [2])


def test_a_users_tuple_of_arrays_becomes_float32_and_int64():
    made = Data(GOOD, "mine", standardise=False)
    assert made.source.x.dtype == torch.float32
    assert made.source.x.tolist() == GOOD[0].tolist()
    assert made.source.y.dtype == torch.int64
    assert made.source.y.tolist() == [0, 1, 2, 0, 1, 2]
    x_test, y_test = made.test()
    assert x_test.dtype == torch.float32
    assert x_test.tolist() == [[1, 2, 3, 4]]
    assert y_test.tolist() == [2]


def test_a_users_source_is_taken_as_it_is():
    x, y, test = torch.zeros(3, 2), torch.tensor([0, 1, 0]), lambda: (torch.zeros(1, 2), torch.tensor([1]))
    taken = take(Source(x, y, test), "mine").source
    assert taken.x.data_ptr() == x.data_ptr()
    assert torch.equal(taken.y, y)
    assert taken.test is test  # it is not read yet


def replaced(place, value):
    return tuple(value if i == place else part for i, part in enumerate(GOOD))


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (None, "got NoneType"),
        (GOOD[:3], "got tuple"),
        (list(GOOD), "got list.*train_test_split"),
        (replaced(0, "text"), "x has text"),
        (replaced(2, [[1, 2], [3]]), "no array"),
        (replaced(0, np.ones((5, 4))), r"x, y have shapes \(5, 4\) and \(6,\)"),
        (replaced(0, np.ones(6)), r"x, y have shapes \(6,\)"),
        (replaced(1, np.eye(6)), r"\(6, 6\)"),
        (replaced(1, np.ones(6)), r"floats \(float64\)"),
        (replaced(3, [2, 2]), r"x_test, y_test have shapes \(1, 4\) and \(2,\)"),
        (replaced(3, [2.0]), r"y_test has floats"),
        ((np.ones((0, 4)), np.ones(0, int), *GOOD[2:]), r"\(0, 4\)"),
        (replaced(1, np.arange(6) - 1), "6 different labels in 6 examples"),
        (replaced(3, [-1]), "y_test has class -1, which y lacks"),
        (replaced(3, [3]), "the same in y and y_test"),
    ],
)
def test_a_users_wrong_data_is_an_error_that_says_what_is_wanted(made, part):
    with pytest.raises(ActSearchError, match=part) as caught:
        make_data(lambda: made, "mine", 1, None, False)
    assert "'mine'" in str(caught.value)


def test_make_data_passes_keywords_and_wraps_foreign_errors():
    made = make_data(lambda scale: (GOOD[0] * scale, *GOOD[1:]), "mine", 2, None, False, scale=3)
    assert made.source.x.max() == 3
    assert (made.n_train, made.n_validation, made.goal.out_shape, made.in_shape) == (4, 2, (3,), (4,))

    def broken():
        raise KeyError("column\nname")

    with pytest.raises(ActSearchError, match="'mine' could not be loaded: KeyError"):
        make_data(broken, "mine", 2, None, False)
    with pytest.raises(ActSearchError, match=r"'mine' could not be loaded: TypeError.*widht"):
        make_data(lambda: GOOD, "mine", 2, None, False, widht=3)


# --- splits ---------------------------------------------------------------------------------------


def counted(**keywords):
    """100 examples, each its own row, so that a split shows which examples it has."""
    x = torch.arange(100.0).view(100, 1).repeat(1, 3)
    source = Source(x, torch.arange(100) % 7, lambda: (x[:5], torch.arange(5)))
    return Data(source, "counted", **keywords)


@pytest.mark.parametrize(("subset", "n_train"), [(None, 80), (80, 80), (30, 30), (1, 1)])
@pytest.mark.parametrize("resample", [False, True])
def test_a_split_is_disjoint_and_pairs_x_with_y(subset, n_train, resample):
    made = counted(n_validation=20, subset=subset, resample=resample)
    split = made.split(3)
    train, val = split.x_train[:, 0].long(), split.x_val[:, 0].long()
    assert (len(train), len(val)) == (made.n_train, made.n_validation) == (n_train, 20)
    assert len(set(train.tolist()) | set(val.tolist())) == n_train + 20
    assert torch.equal(split.y_train, train % 7)
    assert torch.equal(split.y_val, val % 7)
    assert val.tolist() != sorted(val.tolist())  # shuffled


def test_one_split_for_all_seeds_unless_resample(rng_untouched):
    fixed, drawn = counted(n_validation=20), counted(n_validation=20, resample=True)
    with rng_untouched():
        assert torch.equal(fixed.split(0).x_val, fixed.split(1).x_val)
        assert not torch.equal(drawn.split(0).x_val, drawn.split(1).x_val)
    assert torch.equal(drawn.split(1).x_val, counted(n_validation=20, resample=True).split(1).x_val)
    assert torch.equal(fixed.split(5).x_train, counted(n_validation=20).split(8).x_train)


def test_validation_examples_do_not_depend_on_the_subset():
    val = counted(n_validation=20).split(0).x_val
    assert torch.equal(counted(n_validation=20, subset=10).split(0).x_val, val)


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"n_validation": 0}, r"data\.n_validation=0.*at least 1"),
        ({"n_validation": -3}, r"data\.n_validation=-3"),
        ({"n_validation": 100}, r"data\.n_validation=100.*100 examples.*data\.n_validation=20"),
        ({"n_validation": 10, "subset": 0}, r"data\.subset=0.*Choose 1 to 90, or null"),
        ({"n_validation": 10, "subset": 91}, r"data\.subset=91.*100 examples, of which 10 validate"),
    ],
)
def test_wrong_sizes_are_errors_with_the_possible_ones(keywords, part):
    with pytest.raises(ActSearchError, match=part):
        counted(**keywords)


@pytest.mark.parametrize(
    "keywords", [{}, {"subset": 30}, {"resample": True}, {"subset": 30, "resample": True}], ids=str
)
def test_without_test_is_the_same_data_and_cannot_reach_the_test_set(keywords):
    made = counted(n_validation=20, **keywords)
    bare = made.without_test()
    assert str(bare) == str(made)
    for seed in (0, 4):
        a, b = made.split(seed), bare.split(seed)
        assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("x_train", "y_train", "x_val", "y_val"))
    with pytest.raises(RuntimeError, match="asked for the test set"):
        bare.test()
    assert torch.equal(made.test()[1], torch.arange(5))


def test_data_says_what_it_is():
    assert str(counted(n_validation=20)) == "counted: 80 train, 20 validation (one fixed split)"
    assert "drawn anew per seed" in str(counted(n_validation=20, subset=10, resample=True))
    assert counted(n_validation=20).goal.out_shape == (7,)


def test_split_moves_all_four_tensors():
    split = counted(n_validation=20).split(0).to(torch.device("meta"))
    assert {t.device.type for t in (split.x_train, split.y_train, split.x_val, split.y_val)} == {"meta"}


def test_loading_data_does_not_import_the_heavy_packages():
    """sklearn and torchvision take seconds to import: only the data sets that need them pay."""
    code = "import sys, actsearch.data; print([m for m in ('sklearn', 'torchvision', 'mnist1d') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_inputs_that_are_no_numbers_or_of_another_shape_are_refused():
    x, y = torch.zeros(8, 3), torch.arange(8) % 2
    with pytest.raises(ActSearchError, match=r"'mine'.*\(3,\).*\(4,\)"):
        take((x, y, torch.zeros(8, 4), y), "mine")
    with pytest.raises(ActSearchError, match="no finite numbers"):
        take((x / 0, y, x, y), "mine")

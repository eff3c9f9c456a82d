"""Data sets as tensors: a pool for training and validation, and a test set that only finalists are scored on.

A data set is a function that returns `Source`, or simply the tuple (x, y, x_test, y_test) where it has classes. `Data`
adds what is the same for all: the split, a subset, standard checks. Knows nothing of models or activations.
"""

from __future__ import annotations

import gzip
import os
import pickle
import random
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.goal import Goal, classification, next_token, pixels

Pair = tuple[Tensor, Tensor]


def _nothing() -> None: ...


@dataclass(frozen=True)
class Source:
    """x: (n, …) float32 standardised inputs, or int64 tokens from 0; y: (n,) int64 classes from 0, or what the goal's
    loss takes.

    test: gives (x_test, y_test), called once, by the finalists' stage alone. prepare_test: begins, without
    waiting, whatever slow work `test` would have to do. goal: the loss and the metric; None: y has classes, which
    are to be told apart. validation: (x, y) of which some validate; None: some of x and y do. n_tokens: of how many
    kinds tokens are; None: as many as are seen here.
    """

    x: Tensor
    y: Tensor
    test: Callable[[], Pair]
    prepare_test: Callable[[], None] = _nothing
    goal: Goal | None = None
    validation: Pair | None = None
    n_tokens: int | None = None


@dataclass(frozen=True)
class Split:
    """Resident on the training device. Indices into x and y of the runs' batches are drawn from the seed."""

    x_train: Tensor
    y_train: Tensor
    x_val: Tensor
    y_val: Tensor
    goal: Goal

    def to(self, device: torch.device) -> Split:
        x_train, y_train, x_val, y_val = (t.to(device) for t in (self.x_train, self.y_train, self.x_val, self.y_val))
        return Split(x_train, y_train, x_val, y_val, self.goal)


class Data:
    """A data set with its split.

    n_validation: examples held out of training for every choice. subset: training examples used (None: all
    the others). resample: draw the split anew for each seed; otherwise one split for all. goal: the source's, or
    classification. n_tokens: of inputs that are tokens; None: inputs are numbers.
    Raises ActSearchError if there are fewer examples than that.
    """

    def __init__(
        self, source: Source, name: str, n_validation: int, subset: int | None = None, resample: bool = False
    ) -> None:
        self.source, self.name, self.resample = source, name, resample
        for key, value in (("n_validation", n_validation), ("subset", subset)):
            if not isinstance(value, int | None) or isinstance(value, bool):
                raise ActSearchError(f"data.{key}={value}: write a whole number of examples.")
        if not isinstance(resample, bool):
            raise ActSearchError(f"data.resample={resample}: write true or false.")
        if n_validation < 1:
            raise ActSearchError(f"data.n_validation={n_validation}: the search needs at least 1 validation example.")
        total = len(source.x)
        if source.validation is not None and n_validation > len(source.validation[0]):
            n = len(source.validation[0])
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {n} examples to validate on. Choose at most {n}."
            )
        if source.validation is None and n_validation >= total:
            raise ActSearchError(
                f"data.n_validation={n_validation}, but '{name}' has {total} examples to train and validate on. "
                f"Choose fewer, e.g. data.n_validation={total // 5}."
            )
        most = total - n_validation if source.validation is None else total
        if subset is not None and not 1 <= subset <= most:
            less = f", of which {n_validation} validate" if source.validation is None else " to train on"
            raise ActSearchError(
                f"data.subset={subset}: '{name}' has {total} examples{less}. Choose 1 to {most}, or null for all."
            )
        self.n_validation, self._subset = n_validation, subset
        self.n_train = most if subset is None else subset
        if source.goal is None and source.y.min() == source.y.max():
            raise ActSearchError(f"'{name}': all examples are of class {int(source.y[0])}. There is nothing to learn.")
        self.goal = source.goal or classification(int(source.y.max()) + 1)
        seen = [source.x] if source.validation is None else [source.x, source.validation[0]]
        counted = None if source.x.is_floating_point() else 1 + max(int(x.max()) for x in seen)
        self.n_tokens = source.n_tokens or counted
        self.in_shape = tuple(source.x.shape[1:])
        self._fixed: Split | None = None

    def split(self, seed: int) -> Split:
        """Train and validation tensors for a run with this seed."""
        if self.resample:
            return self._draw(np.random.SeedSequence([seed, 3]))
        if self._fixed is None:
            self._fixed = self._draw(np.random.SeedSequence([0, 3]))
        return self._fixed

    def _draw(self, stream: np.random.SeedSequence) -> Split:
        generator = np.random.default_rng(stream)
        order = torch.from_numpy(generator.permutation(len(self.source.x)))
        x, y = self.source.x, self.source.y
        if self.source.validation is None:
            x_val, y_val = x, y
            val, train = order[: self.n_validation], order[self.n_validation :][: self.n_train]
        else:
            x_val, y_val = self.source.validation
            val, train = torch.from_numpy(generator.permutation(len(x_val)))[: self.n_validation], order[: self.n_train]
        return Split(x[train], y[train], x_val[val], y_val[val], self.goal)

    def without_test(self) -> Data:
        """The same data without the way to its test set: what training processes get."""
        return Data(
            replace(self.source, test=_no_test, prepare_test=_nothing), self.name, self.n_validation, self._subset,
            self.resample,
        )  # fmt: skip

    def test(self) -> Pair:
        """The test set: (x, y). Selection never calls this."""
        return self.source.test()

    def __str__(self) -> str:
        kind = "drawn anew per seed" if self.resample else "one fixed split"
        return f"{self.name}: {self.n_train:,} train, {self.n_validation:,} validation ({kind})"


def _no_test() -> Pair:
    raise RuntimeError("the search asked for the test set")


def make_data(
    function: Callable[..., Any], name: str, n_validation: int, subset: int | None, resample: bool, **keywords: Any
) -> Data:
    """Calls a data set function (ours or a user's) and checks what comes back."""
    try:
        made = function(**keywords)
    except ActSearchError:
        raise
    except Exception as error:
        raise ActSearchError(f"the data set '{name}' could not be loaded: {one_line(error)}") from error
    return Data(as_source(made, name), name, n_validation, subset, resample)


def as_source(made: Any, name: str) -> Source:
    """A Source from itself or from (x, y, x_test, y_test): arrays or tensors."""
    if isinstance(made, Source):
        _check(made.x, made.y, name, "x, y", classes=made.goal is None)
        if made.goal is not None:
            _check_goal(made.goal, made.y[:2], name)
        return made
    if not (isinstance(made, tuple) and len(made) == 4):
        raise ActSearchError(
            f"the data set '{name}' returned {type(made).__name__}. It must return (x, y, x_test, y_test), "
            "arrays or tensors, or an actsearch.data.Source."
        )
    try:
        x, y, x_test, y_test = (torch.as_tensor(part) for part in made)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ActSearchError(f"the data set '{name}' returned what is no array: {one_line(error)}") from None
    _check(x, y, name, "x, y")
    _check(x_test, y_test, name, "x_test, y_test")
    if x_test.shape[1:] != x.shape[1:]:
        raise ActSearchError(
            f"the data set '{name}': an example of x has shape {tuple(x.shape[1:])}, one of x_test "
            f"{tuple(x_test.shape[1:])}. They must be alike."
        )
    if int(y_test.max()) > int(y.max()):
        raise ActSearchError(
            f"the data set '{name}': y_test has class {int(y_test.max())}; number the classes the same in y and y_test."
        )
    test = (x_test.float(), y_test.long())
    return Source(x.float(), y.long(), lambda: test)


def _check(x: Tensor, y: Tensor, name: str, where: str, classes: bool = True) -> None:
    fits = x.dim() > 1 and len(x) == len(y) > 0
    if not fits or (classes and (y.dim() != 1 or y.is_floating_point())):
        wanted = "(n,) integer classes, or a Source with another goal" if classes else "as many answers y"
        raise ActSearchError(
            f"the data set '{name}': {where} have shapes {tuple(x.shape)} and {tuple(y.shape)} "
            f"({y.dtype}). Wanted: (n, …) inputs and {wanted}."
        )
    for part, numbers in (("inputs", x), ("answers", y)):
        if not torch.isfinite(numbers).all():
            raise ActSearchError(
                f"the data set '{name}': {where} have {part} that are no finite numbers. Clean them first."
            )
    if classes and int(y.min()) < 0:
        raise ActSearchError(f"the data set '{name}': {where} have class {int(y.min())}; classes are numbered from 0.")


def _check_goal(goal: Goal, y: Tensor, name: str) -> None:
    """Tries the loss and the score on outputs of nothing."""
    outputs = torch.zeros(len(y), *goal.out_shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch's, that shapes are broadcast: (n, 1) with (n,) is a mistake
            loss = goal.loss(outputs, y)
        scores = torch.zeros(len(y)) if goal.score is None else goal.score(outputs, y)
    except Exception as error:  # whatever a user's function raises
        raise ActSearchError(
            f"the data set '{name}': its goal does not take outputs {tuple(outputs.shape)} with y {tuple(y.shape)}: "
            f"{one_line(error)}"
        ) from error
    if loss.dim() or scores.shape != (len(y),):
        raise ActSearchError(
            f"the data set '{name}': for {len(y)} examples its goal gives a loss {tuple(loss.shape)} and scores "
            f"{tuple(scores.shape)}. Wanted: one number, and ({len(y)},)."
        )


def cache_folder(root: str | None) -> Path:
    """Where data sets lie: `data.root`, or the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "actsearch"


# --- data sets ------------------------------------------------------------------------------------

LARGE_TEST = 20_000
TEST_SEED = 1_000_003  # of the generator; the published data use 42


def mnist1d(root: str | None = None, test: str = "large") -> Source:
    """MNIST-1D (Greydanus & Kobak 2024): 4,000 examples of (40,), 10 classes, generated, nothing downloaded.

    test: `large`, 20,000 further examples of the same generator under another seed, standardised as the
    published ones are; or `published`, the set's own 1,000.
    """
    if test not in ("large", "published"):
        raise ActSearchError(f"data.test={test}: MNIST-1D has a 'large' and a 'published' test set.")
    folder = cache_folder(root)
    part = _cached(folder / "mnist1d.npz", _mnist1d_published, ("x", "y", "x_test", "y_test", "mean", "std"))
    pair = (torch.from_numpy(part["x"]), torch.from_numpy(part["y"]))
    if test == "published":
        held_out = (torch.from_numpy(part["x_test"]), torch.from_numpy(part["y_test"]))
        return Source(*pair, lambda: held_out)

    path = folder / f"mnist1d-test-{LARGE_TEST}.npz"
    mean, std = float(part["mean"]), float(part["std"])

    def prepare() -> None:
        if not path.exists():  # about 7 s: a process of its own makes it while the search runs
            code = f"import actsearch.data as d; d._mnist1d_large({str(path)!r}, {mean!r}, {std!r})"
            env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
            subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)

    def load() -> Pair:
        made = _mnist1d_large(str(path), mean, std)
        return torch.from_numpy(made["x"]), torch.from_numpy(made["y"])

    return Source(*pair, load, prepare)


def digits(root: str | None = None) -> Source:
    """scikit-learn's 1,797 handwritten digits, (1, 8, 8), 10 classes; a fixed fifth is the test set."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(y).long()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    pool, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    mean, std = images[pool].mean(), images[pool].std()
    images = (images - mean) / std
    return Source(images[pool], labels[pool], lambda: (images[held_out], labels[held_out]))


def fashion_mnist(root: str | None = None, download: bool = False) -> Source:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 images (1, 28, 28), 10 classes, 10,000 test images.

    From IDX files (also gzipped) in `root`, in torchvision's folder below it, or where Debian's package
    dataset-fashion-mnist puts them; torchvision downloads them if `download`.
    """
    folder = cache_folder(root)
    if download:
        _download("Fashion-MNIST", lambda tv: tv.FashionMNIST(str(folder), download=True))
    places = [folder, folder / "FashionMNIST" / "raw", Path("/usr/share/datasets/fashion-mnist")]
    place = next((p for p in places if _idx_file(p, "train-images-idx3-ubyte")), None)
    if place is None:
        raise ActSearchError(
            f"Fashion-MNIST is not in {folder}. Write data.download=true to download it there, data.root=FOLDER "
            "where its IDX files are, or install Debian's package dataset-fashion-mnist."
        )

    def load(part: str) -> Pair:
        images = _read_idx(place, f"{part}-images-idx3-ubyte")
        labels = _read_idx(place, f"{part}-labels-idx1-ubyte")
        return torch.from_numpy(images).unsqueeze(1).float().div_(255), torch.from_numpy(labels).long()

    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        _idx_path(place, name)  # now, not after the search
    x, y = load("train")
    mean, std = x.mean(), x.std()

    def test() -> Pair:
        x_test, y_test = load("t10k")
        return (x_test - mean) / std, y_test

    return Source((x - mean) / std, y, test)


def cifar10(root: str | None = None, download: bool = False) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 images (3, 32, 32), 10 classes, 10,000 test images.

    From the folder cifar-10-batches-py in `root`; torchvision downloads it if `download`.
    """
    folder = cache_folder(root)
    if download:
        _download("CIFAR-10", lambda tv: tv.CIFAR10(str(folder), download=True))
    place = folder / "cifar-10-batches-py"
    missing = [n for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch") if not (place / n).exists()]
    if missing:
        raise ActSearchError(
            f"CIFAR-10 is not in {place} (no {missing[0]}). Write data.download=true to download it there, or "
            "data.root=FOLDER, the folder in which cifar-10-batches-py lies."
        )

    def load(*names: str) -> Pair:
        images, labels = [], []
        for name in names:
            try:
                with open(place / name, "rb") as file:
                    batch = pickle.load(file, encoding="bytes")
                images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
                labels.append(np.asarray(batch[b"labels"], dtype=np.int64))
            except Exception as error:  # a damaged pickle raises almost anything
                raise ActSearchError(
                    f"{place / name} is no batch of CIFAR-10 ({one_line(error)}). Get it again."
                ) from None
        x = torch.from_numpy(np.concatenate(images)).float().div_(255)
        return x, torch.from_numpy(np.concatenate(labels))

    x, y = load(*(f"data_batch_{i}" for i in range(1, 6)))
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)

    def test() -> Pair:
        x_test, y_test = load("test_batch")
        return (x_test - mean) / std, y_test

    return Source((x - mean) / std, y, test)


UNKNOWN = 0  # the token of a character that the training part does not have


def text(path: str | None = None, context: int = 64, n_test: int = 500) -> Source:
    """A character language model of a text file, by perplexity. x: (n, context) characters, y: the next of each.

    path: of a UTF-8 file; None: the help on Python's topics that every Python has (its pydoc_data.topics: English and
    code, about 460,000 characters, another text in another version of Python). The first third of it trains, the second
    validates, the last tests, each in windows that do not overlap. n_test: windows that test, evenly spaced. Characters
    are numbered as the training part has them; others are all one unknown.
    """
    for key, value in (("context", context), ("n_test", n_test)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ActSearchError(f"data.{key}={value}: write a whole number, at least 1.")
    written = _read_text(path)
    third = len(written) // 3
    most = third // (context + 1)
    if most < max(2, n_test):
        raise ActSearchError(
            f"data.path={path}: a third of it is {third:,} characters, {most} windows of {context + 1}, but "
            f"data.n_test={n_test}. Choose a longer text, or smaller data.context and data.n_test."
        )

    def windows(part: int, n: int) -> list[str]:
        starts = (part * third + i * third // n for i in range(n))
        return [written[start : start + context + 1] for start in starts]

    train = windows(0, most)
    number_of = {c: i for i, c in enumerate(sorted(set("".join(train))), start=UNKNOWN + 1)}

    if len(number_of) < 2:
        raise ActSearchError(f"data.path={path}: it has one character, over and over. There is nothing to predict.")

    def numbered(parts: list[str]) -> Pair:
        tokens = torch.tensor([[number_of.get(c, UNKNOWN) for c in w] for w in parts])
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    x, y = numbered(train)
    return Source(
        x, y, lambda: numbered(windows(2, n_test)), goal=next_token(y, len(number_of) + 1),
        validation=numbered(windows(1, most)), n_tokens=len(number_of) + 1,
    )  # fmt: skip


def image(picture: str = "china", size: int = 128) -> Source:
    """Implicit fitting of one of scikit-learn's sample images, by PSNR. x: (n, 2) the row and the column of a pixel,
    from -1 to 1; y: (n, 3) its red, green and blue, from 0 to 1.

    size: pixels of the longer side; each is the mean over the area that it covers. A fifth of them, drawn once, tests.
    """
    from sklearn.datasets import load_sample_images

    images = load_sample_images()
    known = [Path(file).stem for file in images.filenames]
    if picture not in known:
        raise unknown("picture in data.picture:", picture, known)
    whole = torch.tensor(images.images[known.index(picture)]).permute(2, 0, 1)[None].float() / 255
    longest = max(whole.shape[2:])
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= longest:
        raise ActSearchError(f"data.size={size}: write a whole number of pixels from 8 to {longest}.")
    height, width = (round(side * size / longest) for side in whole.shape[2:])
    y = F.interpolate(whole, (height, width), mode="area")[0].flatten(1).T.contiguous()
    rows, columns = (torch.linspace(-1, 1, n) for n in (height, width))
    x = torch.cartesian_prod(rows, columns)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    pool, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    return Source(x[pool], y[pool], lambda: (x[held_out], y[held_out]), goal=pixels(y[pool]))


# --- files ----------------------------------------------------------------------------------------


def _cached(path: Path, make: Callable[[], dict[str, np.ndarray]], names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays in `path`, made and written first if it is not there. Never leaves half a file."""
    if path.exists():
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in names or arrays}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ActSearchError(f"{path} is damaged ({one_line(error)}). Delete it; it is made anew.") from None
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            try:
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            except BaseException:  # a full disk, Ctrl-C
                os.unlink(file.name)
                raise
        os.replace(file.name, path)
    except OSError as error:
        raise ActSearchError(f"data.root: cannot write {path} ({one_line(error)}). Choose a folder you own.") from None
    return arrays


def _mnist1d_examples(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw examples by the published generator: (n, 40) and (n,), shuffled. Leaves numpy's and random's state."""
    from mnist1d.data import get_dataset_args, get_templates
    from mnist1d.transform import transform
    from mnist1d.utils import set_seed

    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.get_rng_state()
    try:
        args, templates = get_dataset_args(), get_templates()
        set_seed(seed)
        labels = np.repeat(templates["y"], n // 10)
        examples = [transform(templates["x"][label], templates["t"], args)[0] for label in labels]
        order = np.random.permutation(len(labels))
        return np.stack(examples)[order], labels[order]
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        torch.set_rng_state(torch_state)


def _mnist1d_published() -> dict[str, np.ndarray]:
    x, y = _mnist1d_examples(42, 5000)
    mean, std = x.mean(), x.std()
    x = ((x - mean) / std).astype(np.float32)
    return {"x": x[:4000], "y": y[:4000], "x_test": x[4000:], "y_test": y[4000:], "mean": mean, "std": std}


def _mnist1d_large(path: str, mean: float, std: float) -> dict[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        x, y = _mnist1d_examples(TEST_SEED, LARGE_TEST)
        return {"x": ((x - mean) / std).astype(np.float32), "y": y}

    return _cached(Path(path), make, ("x", "y"))


def _read_text(path: str | None) -> str:
    """A text file; None: the topics of Python's help, in order of their names."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ActSearchError(f"data.path={path} cannot be read ({one_line(error)}). Write a UTF-8 text file.") from None


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def _idx_path(folder: Path, name: str) -> Path:
    path = _idx_file(folder, name)
    if path is None:
        raise ActSearchError(f"{folder} has no {name}. Get all four files of Fashion-MNIST.")
    return path


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes: magic 0, 0, 8, dimensions; one big-endian int32 per dimension; the bytes."""
    path = _idx_path(folder, name)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = raw[3]
        shape = np.frombuffer(raw, ">i4", dims, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ActSearchError(f"{path} is no IDX file ({one_line(error)}). Get it again.") from None


def _download(name: str, get: Callable[[Any], object]) -> None:
    import torchvision.datasets

    try:
        get(torchvision.datasets)
    except Exception as error:  # urllib's, ssl's, torchvision's RuntimeError: all mean "no data"
        raise ActSearchError(
            f"{name} could not be downloaded ({one_line(error)}). Is there a network? "
            "Put the files there yourself and set data.root."
        ) from error

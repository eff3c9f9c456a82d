"""Files of data sets: the cache folder, IDX files, downloads."""

from __future__ import annotations

import gzip
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actsearch.errors import ActSearchError, one_line
from actsearch.files import whole_file


def cache_folder(root: str | None) -> Path:
    """The folder for data sets: `root` (data.root in the config), or a folder in the user's cache if that is None."""
    if root is not None:
        return Path(root).expanduser()
    return user_folder("XDG_CACHE_HOME", ".cache")


def user_folder(variable: str, below_home: str) -> Path:
    """The folder for actsearch's files of one kind, by the XDG base directory specification."""
    base = Path(os.environ.get(variable, ""))
    if not base.is_absolute():  # empty, or against the specification
        home = Path(os.path.expanduser("~"))
        base = home / below_home if home.is_absolute() else Path(tempfile.gettempdir())  # a user without a home
    return base / "actsearch"


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]], names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays in the .npz file at `path`. If there is no such file, `make` returns them and they are written first.

    names: the arrays to read; all if empty. The file is written completely or not at all.
    Raises ActSearchError if the file is damaged or cannot be written.
    """
    if path.exists():
        try:
            with np.load(path) as arrays:
                return {name: arrays[name] for name in names or arrays}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ActSearchError(f"{path} is damaged ({one_line(error)}). Delete it: it is then made again.") from None
    arrays = make()
    try:
        with whole_file(path) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise ActSearchError(f"data.root: cannot write {path} ({one_line(error)}). Choose a folder you own.") from None
    return arrays


def idx_file(folder: Path, name: str) -> Path | None:
    """The path of an IDX file or of its gzipped form; None if neither exists."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def idx_path(folder: Path, name: str) -> Path:
    """The path of an IDX file or of its gzipped form. Raises ActSearchError if neither exists."""
    path = idx_file(folder, name)
    if path is None:
        raise ActSearchError(f"{folder} has no {name}. Get all four files of Fashion-MNIST.")
    return path


def read_idx(folder: Path, name: str) -> np.ndarray:
    """The array in an IDX file of unsigned bytes. Raises ActSearchError if the file is missing or damaged.

    Such a file has four bytes 0, 0, 8, number of dimensions; then each dimension as a big-endian int32; then the data.
    """
    path = idx_path(folder, name)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dims = raw[3]
        shape = np.frombuffer(raw, ">i4", dims, offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ActSearchError(f"{path} is no IDX file ({one_line(error)}). Download it again.") from None


def download_with(name: str, get: Callable[[Any], object]) -> None:
    """Calls `get` with torchvision.datasets to download a data set. Raises ActSearchError if that fails."""
    import torchvision.datasets

    try:
        get(torchvision.datasets)
    except Exception as error:  # urllib, ssl and torchvision raise many types, and all mean that there are no data
        raise ActSearchError(
            f"{name} could not be downloaded ({one_line(error)}). Is there a network? "
            "Otherwise put the files into a folder yourself and write data.root=FOLDER."
        ) from error

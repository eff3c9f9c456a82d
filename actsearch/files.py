"""Atomic writing: a file is written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A context manager that yields a temporary file, opened for writing, and moves it to `path` at the end.

    After an error, a full disk or Ctrl-C the temporary file is deleted, and a file that already was at `path` is
    unchanged. Missing folders are created. Raises OSError if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)  # only the owner can read a temporary file
    os.replace(file.name, path)

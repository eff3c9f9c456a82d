"""Standard output and error, made so that writing to them neither fails nor shows a password.

May import errors alone. Imports no torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

from actsearch.errors import hide_password


class Output(io.TextIOBase):
    """A stream over sys.stdout or sys.stderr. What is printed must not end a study that has been trained for hours.

    Characters that the stream's encoding lacks are written as ?. When the reader is gone (`actsearch | head`), or the
    stream is closed, what is written is dropped. failed: why it was dropped, for another reason than these, e.g. a full
    disk.
    """

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream
        self.failed: OSError | None = None

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, AttributeError):  # the stream is closed, or none
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        shown = hide_password(text).encode(self.encoding, "replace").decode(self.encoding)
        self._try("write", shown)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, method: str, *words: str) -> None:
        try:
            if self._stream is not None:
                getattr(self._stream, method)(*words)
        except OSError as error:
            self.failed = None if isinstance(error, BrokenPipeError) else error
            _discard(self._stream)
            self._stream = None
        except ValueError:  # it was closed
            self._stream = None


def _discard(stream: Any) -> None:
    """Leads the stream's file to /dev/null, so that Python, when it flushes at the end, finds no error either."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        number, null = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def open_standard_streams() -> tuple[Output, Output]:
    """Opens /dev/null where standard input, output or error is closed (`>&-`), and makes output and error safe.

    Otherwise the next file that is opened, maybe a database, would be what other code takes for its output. Returns
    output and error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
    sys.stdout, sys.stderr = output, error = Output(sys.stdout), Output(sys.stderr)
    return output, error

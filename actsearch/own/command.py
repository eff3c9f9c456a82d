"""A program of any language as own training: conf/train/command.yaml names `train`."""

from __future__ import annotations

import json
import os
import shlex
import string
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from actsearch.activations.spec import Spec
from actsearch.errors import ActSearchError, unknown
from actsearch.export import export

LAST_LINES = 3  # of a program that failed, which are shown


def train(activation: Any, seed: int, command: str, test: bool, **settings: Any) -> Iterator[dict[str, float]]:
    """Runs a command and yields each line of its output that is a JSON object with numbers.

    command: its words may have the places {activation}, {activation_file} (a Python file with the module), {seed},
    {test} (1 for a finalist, whose test set may be scored, else 0) and those of the settings; {{ is a brace. No shell
    reads it: write bash -c '…' for one. The same stand in the environment: ACTSEARCH_ACTIVATION, ACTSEARCH_SEED, ….
    All other lines are printed. Raises ActSearchError for a place
    that does not exist, a program that is not found, and an exit code other than 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {"activation": str(activation), "seed": seed, "test": int(test), **settings}
        names = _places(command)
        known = [*values, "activation_file"]
        for name in names:
            if name not in known:
                raise unknown("place in train.command:", f"{{{name}}}", [f"{{{key}}}" for key in known])
        if "activation_file" in names:
            values["activation_file"] = _file(str(activation), Path(folder))
        words = [word.format(**values) for word in shlex.split(command)]
        env = {f"ACTSEARCH_{key.upper()}": str(value) for key, value in values.items()}
        try:
            process = subprocess.Popen(
                words, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise ActSearchError(f"train.command: '{words[0]}' cannot be started ({error.strerror}).") from None
        assert process.stdout is not None
        last: deque[str] = deque(maxlen=LAST_LINES)
        try:
            for line in process.stdout:
                found = _object(line)
                if found is not None:
                    yield found
                else:
                    print(line, end="", flush=True)
                    last += [line.strip()] * bool(line.strip())
        except GeneratorExit:  # the run ends at this rung
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()
            raise
        if code := process.wait():
            raise ActSearchError(f"the command ended with exit code {code}: {' / '.join(last) or 'no output'}")


def files_of(command: str) -> list[Path]:
    """The files that a command names: its program, scripts and configs."""
    return [path for word in shlex.split(command) if (path := Path(word)).is_file()]


def _places(command: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(command) if name is not None]
    except ValueError as error:
        raise ActSearchError(f"train.command: {error}. Write {{{{ and }}}} for braces that are no places.") from None


def _file(activation: str, folder: Path) -> str:
    if "|" in activation:
        raise ActSearchError(f"{{activation_file}} holds one activation, and '{activation}' names several.")
    path = folder / "activation.py"
    list(export(Spec.parse(activation), str(path), onnx=False))
    return str(path)


def _object(line: str) -> dict[str, float] | None:
    """The numbers of a line that is a JSON object with at least one."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)} or None

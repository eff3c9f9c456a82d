"""Writes a spec as a Python file and as ONNX, after running both and comparing them with the spec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch

from actsearch.activations.catalog import CATALOG
from actsearch.activations.spec import Spec
from actsearch.errors import ActSearchError, one_line
from actsearch.export import check
from actsearch.export.module import SourceFile, input_shape, own_name
from actsearch.files import whole_file

CHANNELS = 8  # the number of channels in the checks, if none is given


def module_source(spec: Spec, name: str | None = None, channels: int | None = None, dim: int = 1) -> str:
    """The text of a Python file with the spec as an nn.Module, which does not need actsearch.

    name: the name of the class in snake_case. channels, dim: the defaults of the class.
    """
    return SourceFile(spec, name, channels, dim).text()


def export(
    spec: Spec,
    path: str | None = None,
    channels: int | None = None,
    dim: int = 1,
    onnx: bool | None = None,
    overwrite: bool = False,
) -> Iterator[tuple[str, str]]:
    """Writes `<name>.py` and, if possible, `<name>.onnx`; yields (form, result) for each form as it is checked.

    path: the .py file, or a folder (None: the current one). channels, dim: the number and dimension of the
    channels, for learned parameters and for the ONNX file. onnx: True: required; False: not written; None: written if
    its packages are installed. Nothing is written before everything is checked.
    Raises ActSearchError if the spec cannot be exported, or if another file would be overwritten.
    """
    missing = check.missing_for_onnx()
    install = f"{', '.join(missing)} not installed: pip install 'actsearch[onnx]'"
    if onnx and missing:
        raise ActSearchError(f"task.onnx=true: {install}.")
    file = _file(spec, path)
    written = SourceFile(spec, None if spec.name in CATALOG else file.stem, channels, dim)
    text = written.text()
    outputs = {file: text.encode()}
    _may_write(outputs, overwrite)
    with check.loaded(text) as module:
        yield "python", check.in_python(spec, written.make(module, channels or CHANNELS), channels or CHANNELS, dim)
        try:
            getattr(module, written.test_name)()
        except AssertionError as error:
            raise ActSearchError(
                f"'{spec}' cannot be exported: its file fails its own test ({one_line(error)})."
            ) from None
        one_size = written.weighted or spec.activation.kind == "channelwise" or channels is not None
        made = written.make(module, channels or CHANNELS if one_size else None).eval()
        with torch.no_grad():
            n_in = spec.module(channels or CHANNELS, dim).in_channels or CHANNELS
            _, *shape = input_shape(made, 2, n_in, dim, tokens=dim != 1)
            free = [i for i in range(len(shape) + 1) if not one_size or i != dim % (len(shape) + 1)]
            yield "TorchScript", check.as_torchscript(made, tuple(shape))
            yield "torch.export", check.by_torch_export(made, tuple(shape), free)
            if missing or onnx is False:
                yield "ONNX", "not asked for" if onnx is False else f"not tried: {install}"
            else:
                said, raw = check.as_onnx(made, tuple(shape), free)
                yield "ONNX", said
                if raw is not None:
                    outputs[file.with_suffix(".onnx")] = raw
                elif onnx:
                    raise ActSearchError(f"task.onnx=true: '{spec}' cannot be converted to ONNX. Set task.onnx=false.")
    _may_write(outputs, overwrite)
    yield "wrote", ", ".join(f"{path} ({len(raw):,} bytes)" for path, raw in _write(outputs).items())


def _file(spec: Spec, path: str | None) -> Path:
    """The .py file to write."""
    given = Path(path or ".")
    if given.suffix == ".py" and not given.is_dir():
        return given
    if given.suffix and not given.is_dir():
        raise ActSearchError(f"task.path={path}: it must be a .py file or a folder.")
    return given / f"{own_name(spec)}.py"


def _may_write(outputs: dict[Path, bytes], overwrite: bool) -> None:
    """Raises ActSearchError if a file with other contents stands in the place of an output."""
    for path, raw in outputs.items():
        try:
            other = path.exists() and path.read_bytes() != raw
        except OSError as error:
            raise ActSearchError(f"task.path={path} cannot be read ({one_line(error)}). Choose another.") from None
        if other and not overwrite:
            raise ActSearchError(f"{path} is another file. Choose another task.path, or task.overwrite=true.")


def _write(outputs: dict[Path, bytes]) -> dict[Path, bytes]:
    """Writes all files under temporary names, and then moves them to their places."""
    try:
        with ExitStack() as stack:
            for path, raw in outputs.items():
                stack.enter_context(whole_file(path)).write(raw)
    except OSError as error:
        raise ActSearchError(f"task.path cannot be written ({one_line(error)}). Choose another.") from None
    return outputs

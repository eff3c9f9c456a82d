"""Checks that an exported file computes what its spec computes, by running it in four forms.

The forms are Python, TorchScript, a program of torch.export, and ONNX.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from actsearch.activations.spec import Spec
from actsearch.errors import ActSearchError, one_line
from actsearch.export.module import SHAPES, input_shape

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}  # relative to max(|y|, 1)
SPECIAL = torch.tensor([0.0, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 0.5, -0.5, 100.0, -100.0])
ROWS = 97


@contextmanager
def loaded(text: str) -> Iterator[ModuleType]:
    """The file as an imported module. It lies in a temporary folder meanwhile, because TorchScript reads its source."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.py"
        path.write_text(text, encoding="utf-8")
        found = importlib.util.spec_from_file_location("exported", path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        before = sys.dont_write_bytecode, sys.modules.get("exported")
        sys.dont_write_bytecode, sys.modules["exported"] = True, module
        try:
            found.loader.exec_module(module)
            yield module
        finally:
            sys.dont_write_bytecode = before[0]
            del sys.modules["exported"]
            if before[1] is not None:
                sys.modules["exported"] = before[1]


def inputs(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Shuffled inputs (n, *shape): evenly spaced over ±12, with some points where activations have kinks, and ±100."""
    x = torch.empty(n, *shape)
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(seed))
    points = torch.linspace(-12.0, 12.0, x.numel())
    points[: len(SPECIAL)] = SPECIAL[: x.numel()]
    return points[order].view_as(x)


def difference(given: Tensor, wanted: Tensor) -> float:
    """The largest |given - wanted| / max(|wanted|, 1); inf if somewhere only one of the two is finite."""
    given, wanted = given.double(), wanted.double()
    same = (given == wanted) | (given.isnan() & wanted.isnan())
    off = torch.where(same, 0.0, (given - wanted).abs() / wanted.abs().clamp(min=1.0))
    return float(torch.where(off.isnan(), torch.inf, off).max())


def in_python(spec: Spec, made: nn.Module, channels: int, dim: int) -> str:
    """Compares the exported class with the spec's own module and returns the result in words.

    Compared are values, and gradients of x and of all parameters, in evaluation and in training mode. made: an instance
    of the exported class; it is given the weights of the spec's module. Raises ActSearchError if the two differ.
    """
    worst, n = 0.0, 0
    for dtype, tolerance in TOLERANCE.items():
        original, copy = spec.module(channels, dim).to(dtype), made.to(dtype)
        with torch.no_grad():
            for p in original.parameters():  # makes the parameters of each channel different
                p.add_(torch.linspace(0.0, 0.1, p.numel()).view_as(p))
        copy.load_state_dict({k.removeprefix("weighted."): v for k, v in original.state_dict().items()})
        n_in = original.in_channels or channels
        first = len(input_shape(original.eval(), 2, n_in, dim)) - 2
        for positions in [s for s in SHAPES if len(s) >= first]:
            x = inputs(ROWS, (n_in, *positions) if dim == 1 else (*positions, n_in)).to(dtype)
            for training in (False, True):
                try:
                    wanted = _run(original, x, training)
                except (RuntimeError, ValueError, IndexError):  # a user's own module may take vectors only
                    continue
                pairs = zip(_run(copy, x, training), wanted, strict=True)
                off = max(difference(a, b) for a, b in pairs)
                if off > tolerance:
                    raise ActSearchError(
                        f"'{spec}' cannot be exported: its copy differs by {off:.2g} in {str(dtype)[6:]}. Does its "
                        "function depend on anything that may change between two calls?"
                    )
                worst, n = max(worst, off), n + x.numel()
    said = "equal" if worst == 0.0 else f"equal but for rounding (max difference {worst:.1e})"
    return f"{said}: values and gradients, float64, float32 and bfloat16, {n} numbers"


def _run(module: nn.Module, x: Tensor, training: bool) -> list[Tensor]:
    module.train(training)
    x = x.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        y = module(x)
    weight = torch.linspace(0.5, 1.5, y.numel()).view_as(y).to(y.dtype)
    leaves = [x, *module.parameters()]
    gradients = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
    return [y.detach(), *[torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True)]]


def as_torchscript(made: nn.Module, shape: tuple[int, ...]) -> str:
    """Converts a module by torch.jit, from its source or else by a trace, and returns the result in words.

    shape: the shape of one row of x.
    """
    x, other = inputs(5, shape), inputs(7, shape, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; a trace may hold for one shape only
        try:
            scripted: Any = torch.jit.script(made)
            how = "script"
        except Exception as error:  # torch.jit raises errors of many kinds
            why = one_line(error)
            try:
                scripted, how = torch.jit.trace(made, (x,)), "trace"
            except Exception as error:
                return f"no: {one_line(error)}; as script: {why}"
        return _said(how, scripted(other), made(other))


def by_torch_export(made: nn.Module, shape: tuple[int, ...], free: Sequence[int]) -> str:
    """Converts a module by torch.export and returns the result in words. free: the dimensions of x of any size."""
    try:
        program = torch.export.export(made, (inputs(5, shape),), dynamic_shapes=(_dims(free),))
    except Exception as error:
        return f"no: {one_line(error)}"
    other = inputs(7, shape, seed=1)
    return _said(_shown(shape, free), program.module()(other), made(other))


def missing_for_onnx() -> list[str]:
    """The packages that ONNX needs and that are not installed."""
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def as_onnx(made: nn.Module, shape: tuple[int, ...], free: Sequence[int]) -> tuple[str, bytes | None]:
    """Converts a module to ONNX: the result in words, and the file's bytes, or None if onnxruntime's outputs differ."""
    import onnxruntime
    from onnxscript import opset20

    op: Any = opset20
    # torch 2.15 translates logsigmoid as log(sigmoid(x)), which is -inf below -88, and hypot not at all
    stable: Any = {
        torch.ops.aten.log_sigmoid.default: lambda x: op.Neg(op.Softplus(op.Neg(x))),
        torch.ops.aten.hypot.default: lambda x, y: op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y))),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                made, (inputs(5, shape),), dynamo=True, verbose=False, input_names=["x"], output_names=["y"],
                dynamic_shapes=(_dims(free),), custom_translation_table=stable,
            )  # fmt: skip
        proto = program.model_proto
        _strip(proto)
        raw = proto.SerializeToString(deterministic=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        other = inputs(7, shape, seed=1)
        y = torch.from_numpy(session.run(["y"], {"x": other.numpy()})[0])
    except Exception as error:
        return f"no: {one_line(error)}", None
    versions = f"opset {proto.opset_import[0].version}, onnxruntime {onnxruntime.__version__}"
    said = _said(f"{_shown(shape, free)}, {versions}", y, made(other))
    return said, None if said.startswith("no") else raw


def _dims(free: Sequence[int]) -> dict[int, Any]:
    return {i: torch.export.Dim("batch" if i == 0 else f"size{i}") for i in free}


def _shown(shape: tuple[int, ...], free: Sequence[int]) -> str:
    sizes = [dim.__name__ if (dim := _dims(free).get(i)) else str(size) for i, size in enumerate((0, *shape))]
    return f"x: ({', '.join(sizes)})"


def _strip(message: Any) -> None:
    """Removes the exporter's notes about the code, which include paths of this machine."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                _strip(inner)


def _said(how: str, given: Tensor, wanted: Tensor) -> str:
    off = difference(given.detach(), wanted.detach())
    if off > TOLERANCE[torch.float32]:
        return f"no ({how}): it differs by {off:.2g}"
    return f"equal ({how})" if off == 0.0 else f"equal ({how}), max difference {off:.1e}"

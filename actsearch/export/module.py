"""Writes a spec as the text of a Python file: the function, an nn.Module and a test. The file needs only torch."""

from __future__ import annotations

import ast
import inspect
import keyword
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

import actsearch
from actsearch.activations.catalog import CATALOG
from actsearch.activations.expression import parse
from actsearch.activations.spec import Learned, Spec
from actsearch.activations.stable import stable
from actsearch.errors import ActSearchError, one_line
from actsearch.export.collect import Collector, splice
from actsearch.export.expression import module_text
from actsearch.export.layout import WIDTH, call, imports, literal, numbers, plain
from actsearch.export.places import beside, import_of, place_of, torch_path

POINTS = (2.0, -1.0, 0.5, -4.0, 7.0, 0.0)  # inputs of the test in the file, few enough for one line
NOT_PARAMETERS = {"self", "x", "channels", "dim", "shape", "torch", "nn", "F", "Tensor"}  # the class needs them
SHAPES = ((), (3,), (2, 3))  # sizes of the positions to try; some modules with weights take only images


def own_name(spec: Spec) -> str:
    """The name of a spec's file: that of the catalogue entry or of the user's function, or 'expression'."""
    last = spec.name.rpartition(".")[2]
    return last if last.isidentifier() else "expression"


def input_shape(module: nn.Module, n: int, channels: int, dim: int, tokens: bool = False) -> tuple[int, ...]:
    """The smallest input shape that the module takes: (n, channels, …), or (n, …, channels) if dim is -1.

    tokens: whether there must be positions, so not (n, channels). Raises ActSearchError if the module takes no shape.
    """
    why = ""
    for positions in SHAPES[tokens:]:
        shape = (n, channels, *positions) if dim == 1 else (n, *positions, channels)
        try:
            module(torch.zeros(shape, dtype=next((p.dtype for p in module.parameters()), None)))
        except (ValueError, RuntimeError, IndexError) as error:
            why = one_line(error)
        else:
            return shape
    raise ActSearchError(f"with task.dim={dim} it takes no input ({why}).")


def spread(module: nn.Module) -> None:
    """Sets a module's weights to values other than its initial ones, the same in every module of its kind."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))


class SourceFile:
    """The Python file of a spec.

    name: the name of its class in snake_case; None: the spec's own. channels, dim: the defaults of the class.
    Raises ActSearchError if the source of the spec's function cannot be read.
    """

    def __init__(self, spec: Spec, name: str | None = None, channels: int | None = None, dim: int = 1) -> None:
        self.spec, self.entry, self.channels, self.dim = spec, spec.activation, channels, dim
        self.name = name = name or own_name(spec)
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ActSearchError(f"'{name}' cannot be the name of a class. Use letters, digits and _.")
        self.learned = {k: v.init for k, v in spec.params.items() if isinstance(v, Learned)}
        self.fixed = {k: v for k, v in spec.params.items() if not isinstance(v, Learned)}
        self.weighted = self.entry.kind == "weighted"
        for param in spec.params:
            if hasattr(nn.Module(), param) or param in NOT_PARAMETERS:
                raise ActSearchError(
                    f"'{spec}' cannot be exported: '{param}' means something else in a class. Rename it."
                )
        self.per_channel = any(p.name in self.learned and not p.shared for p in self.entry.params)
        camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
        self.class_name = self.entry.fn.__name__ if self.weighted else camel
        self.test_name = f"test_{name}"
        self.imports = {"import torch", "from torch import Tensor", "from torch import nn"}
        self.pieces: dict[str, str] = {}
        self.call = self._collect()

    def make(self, file: Any, channels: int | None) -> nn.Module:
        """An instance of the exported class. file: the imported file. channels: passed on if the class takes it."""
        made, known = getattr(file, self.class_name), {"channels": channels, "dim": self.dim}
        wanted = inspect.signature(made).parameters
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # for initial weights
            return made(**{k: v for k, v in known.items() if k in wanted})

    def text(self) -> str:
        parts = [*self.pieces.values(), *([] if self.weighted else [self._class()]), self._test()]
        run = f'if __name__ == "__main__":\n    {self.test_name}()\n    print("{self.name}: as recorded")\n'
        head = f"{self._head()}\n{imports(self.imports)}"
        return "\n\n".join(part.strip("\n") + "\n" for part in (head, *parts, run)).replace("\n\n\n\n", "\n\n\n")

    # --- the parts ------------------------------------------------------------------------------------

    def _collect(self) -> str:
        """Copies the spec's function; returns the name by which the class calls it."""
        fn = self.entry.fn
        path = torch_path(fn)
        if path is not None:
            self.imports |= {"import torch.nn.functional as F"} if path.startswith("F.") else set()
            return path
        sources: dict[str, str] = {}
        if self.entry.family == "expression":
            made, learned = stable(parse(self.spec.name)), set(self.learned)
            name = f"{self.name}_" if self.name in made.functions else self.name  # else it would call itself
            module = "expression"
            sources[module] = module_text(made, name, learned, lambda used: import_of(CATALOG[used], sources))
        else:
            module, name = place_of(self.entry, sources)
        taken = {self.test_name, *([] if self.weighted else [self.class_name])}
        packages = {"actsearch", module.partition(".")[0], *beside(module)}
        # a function gets a tensor for a parameter only if that is learned or drawn at random
        value = "Tensor | float" if self.learned or self.entry.kind == "stochastic" else "float"
        collector = Collector(packages, taken, sources, value)
        kinds = {k: "str" if isinstance(v, str) else "float" for k, v in self.fixed.items()}
        called = collector.add(module, name, kinds | dict.fromkeys(self.learned, "Tensor"))
        self.imports |= collector.imports
        self.pieces = collector.pieces
        if self.weighted:
            self.pieces[called] = _with_defaults(self.pieces[called], {"dim": self.dim, **self.fixed})
        return called

    def _head(self) -> str:
        formula = self.entry.formula.rstrip(".")
        about = [f"{self.class_name}: {formula}.", f"Source: {self.entry.source}."]
        about += [f"Written by actsearch {actsearch.__version__} (MIT licence) from '{self.spec}'."]
        first, *rest = [textwrap.fill(line, WIDTH - 4, break_on_hyphens=False) for line in map(plain, about)]
        return f'"""{first}\n\n' + "\n".join(rest) + '\n"""\n'

    def _class(self) -> str:
        kind, defaults = self.entry.kind, {k: self.learned.get(k, v) for k, v in self.spec.params.items()}
        args = [f"{k}: {'str' if isinstance(v, str) else 'float'} = {literal(v)}" for k, v in defaults.items()]
        body, sets = [], [f"self.{k} = {k}" for k in self.fixed]
        if self.per_channel:
            args = [f"channels: int | None = {self.channels}", f"dim: int = {self.dim}", *args]
            sets = ["shape = () if channels is None else (channels,)", "self.dim = dim", *sets]
        elif kind == "channelwise":
            args, sets = [f"dim: int = {self.dim}", *args], ["self.dim = dim", *sets]
        for param in self.entry.params:
            if param.name in self.learned:
                shape = "()" if param.shared else "shape"
                sets.append(f"self.{param.name} = nn.Parameter(torch.full({shape}, {param.name}))")
        if args:
            body += [*call("def __init__", ["self", *args], " -> None:", 4), "        super().__init__()"]
            body += [f"        {line}" for line in sets] + [""]
        passed = ["x", *[f"{p.name}={self._passed(p.name, p.shared)}" for p in self.entry.params]]
        passed += {"channelwise": ["dim=self.dim"], "stochastic": ["training=self.training"]}.get(kind, [])
        body += ["    def forward(self, x: Tensor) -> Tensor:", *call(f"return {self.call}", passed, "", 8)]
        if self.per_channel:
            body += ["", *ALONG.splitlines()]
        if self.fixed:
            shown = ", ".join(f"{k}={{self.{k}}}" for k in self.fixed)
            body += ["", "    def extra_repr(self) -> str:", f'        return f"{shown}"']
        return "\n".join([f"class {self.class_name}(nn.Module):", *self._about(), "", *body])

    def _passed(self, name: str, shared: bool) -> str:
        along = name in self.learned and not shared
        return f"self._along(self.{name}, x.dim())" if along else f"self.{name}"

    def _about(self) -> list[str]:
        """The class's docstring."""
        lines = []
        if self.entry.kind == "elementwise":
            lines.append("Elementwise: x has any shape.")
        if self.entry.kind == "stochastic":
            lines.append("Elementwise. Draws random numbers in training mode; eval() makes it deterministic.")
        if self.entry.kind == "channelwise":
            lines.append("x: (N, C), (N, C, …) with dim=1, or (N, …, C) with dim=-1: its channels are dimension dim.")
        if self.entry.width is not None:
            w = self.entry.width(**self.fixed)
            lines.append(f"Takes {w:g} input channels for each output channel." if w > 1 else
                         f"Gives {1 / w:g} output channels for each input channel.")  # fmt: skip
        if self.learned:
            names = " and ".join(filter(None, (", ".join([*self.learned][:-1]), [*self.learned][-1])))
            are = "are" if len(self.learned) > 1 else "is"
            lines.append(f"{names} {are} learned; the arguments say where training starts.")
        if self.per_channel:
            lines.append(
                "channels: their number, in dimension dim (1 or -1); each has its own value. None: all share one."
            )
        first, *rest = [part for line in lines for part in textwrap.wrap(line, WIDTH - 4)]
        return [f'    """{first}"""'] if not rest else [f'    """{first}', "", *[f"    {r}" for r in rest], '    """']

    # --- its test -------------------------------------------------------------------------------------

    def _test(self) -> str:
        channels, x = self._sample()
        if not self._mixed():  # points without a finite value or slope are left out
            y, slopes = self._values(self.spec.module().double().eval(), x)
            x = x[:, (y.isfinite() & slopes.isfinite())[0]]
            channels = x.shape[1]
        module = self.spec.module(channels, self.dim).double().eval()
        if self.weighted:
            spread(module)
        y, slopes = self._values(module, x)
        takes = self.per_channel or (self.weighted and "channels" in inspect.signature(self.entry.fn).parameters)
        made = {"channels": channels} if takes else {}
        arguments = ", ".join(f"{k}={literal(v)}" for k, v in made.items())
        view = f"x.view({', '.join(map(str, x.shape))})"
        lines = [
            f"def {self.test_name}() -> None:",
            '    """Values and gradients are those recorded when this file was written."""',
            f"    module = {self.class_name}({arguments}).double().eval()",
        ]
        if self.weighted:
            lines += [
                "    with torch.no_grad():",
                "        for parameter in module.parameters():",
                "            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))",
            ]
        lines += [
            f"    x = torch.tensor({numbers(x)}, dtype=torch.float64, requires_grad=True)",
            f"    y = module({view})",
            "    (y * y).sum().backward()" if self._mixed() else "    y.sum().backward()",
            f"    values = {numbers(y)}",
            f"    slopes = {numbers(slopes)}",
            "    torch.testing.assert_close(y.flatten().tolist(), values, rtol=1e-6, atol=1e-7)",
            "    assert x.grad is not None",
            "    torch.testing.assert_close(x.grad.tolist(), slopes, rtol=1e-6, atol=1e-7)",
        ]
        if list(module.parameters()):
            lines += [
                "    for parameter in module.parameters():",
                "        assert parameter.grad is None or torch.isfinite(parameter.grad).all()",
            ]
        if self.entry.kind == "stochastic":
            lines += [f"    assert torch.isfinite(module.train()({view})).all()"]
        return "\n".join(lines)

    def _mixed(self) -> bool:
        """Whether an output depends on several inputs. The gradient of the sum of outputs would then show little."""
        return self.entry.kind in ("channelwise", "weighted")

    def _sample(self) -> tuple[int, Tensor]:
        """The number of output channels and an input for the test, small enough for one line of numbers."""
        width = self.entry.width(**self.fixed) if self.entry.width else 1.0
        channels = max(1, int(len(POINTS) / max(width, 1.0)))
        module = self.spec.module(channels, self.dim).eval()
        n_in = module.in_channels or channels
        if len(input_shape(module, 1, n_in, self.dim)) > 2:
            channels, module = 1, self.spec.module(1, self.dim).eval()
            shape = (1, 1, 2, 3)
        else:
            shape = (1, n_in)
        return channels, torch.tensor(sorted(POINTS[: n_in if len(shape) == 2 else 6]), dtype=torch.float64).view(shape)

    def _values(self, module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = module(x)
        return y.detach(), torch.autograd.grad((y * y).sum() if self._mixed() else y.sum(), x)[0]


ALONG = '''\
    def _along(self, parameter: Tensor, dims: int) -> Tensor:
        """A parameter with one number for each channel, shaped to broadcast against (N, C, …) or (N, …, C)."""
        if self.dim == 1 and parameter.dim() == 1 and dims > 2:
            return parameter.view([-1] + [1] * (dims - 2))
        return parameter
'''


def _with_defaults(text: str, defaults: dict[str, Any]) -> str:
    """The text of a class with other defaults in its constructor."""
    edits = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            named = [*node.args.posonlyargs, *node.args.args]
            pairs = zip(named[len(named) - len(node.args.defaults) :], node.args.defaults, strict=True)
            edits += [(default, literal(defaults[a.arg])) for a, default in pairs if a.arg in defaults]
    return splice(text, edits)

"""Out again: every activation as a file without actsearch that does the same, in Python, torch.export and ONNX."""

import ast
import importlib.util
import subprocess
import sys
import textwrap

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn

from actsearch.activations import CATALOG, Activation, Param, Spec
from actsearch.activations.spec import Learned
from actsearch.command import main as cli
from actsearch.errors import ActSearchError
from actsearch.export import check, export, module_source
from actsearch.export.collect import Collector
from actsearch.export.module import SourceFile, input_shape


def specs_of(entry):
    """By itself; with other numbers and words; with all that can be learned, or fixed if it is learned by default."""
    yield Spec.of(entry.name)
    numbers = {p.name: (p.default + p.high) / 2 for p in entry.params if p.high is not None}
    words = {p.name: p.choices[-1] for p in entry.params if p.choices}
    if numbers or words:
        yield Spec.of(entry.name, numbers | words)
    learned = {p.name: "learned" for p in entry.params if p.low is not None and not p.learned}
    if learned and entry.kind in ("elementwise", "channelwise"):
        yield Spec.of(entry.name, learned)


SPECS = {str(spec): spec for entry in CATALOG.values() for spec in specs_of(entry)}
each_spec = pytest.mark.parametrize("text", SPECS)


def dims(spec):
    """Those in which the channels may stand, where that makes a difference."""
    where = spec.activation.kind == "channelwise" or any(isinstance(value, Learned) for value in spec.values)
    return (1, -1) if where else (1,)


def made_of(spec, channels=6, dim=1):
    written = SourceFile(spec, None, None, dim)
    with check.loaded(written.text()) as file:
        yield written.make(file, channels)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every spec's file, in one folder: (folder, names)."""
    folder = tmp_path_factory.mktemp("exported")
    for i, spec in enumerate(SPECS.values()):
        (folder / f"test_{i}_{spec.name}.py").write_text(module_source(spec))
    return folder


# --- the whole catalogue --------------------------------------------------------------------------


@each_spec
def test_equals_the_original_in_values_and_gradients_of_three_dtypes(text):
    spec = SPECS[text]
    for dim in dims(spec):
        for made in made_of(spec, 6, dim):
            assert check.in_python(spec, made, 6, dim).startswith("equal: values and gradients")


@each_spec
def test_needs_torch_and_nothing_of_actsearch(text):
    tree = ast.parse(module_source(SPECS[text]))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "torch" in modules
    assert {m.split(".")[0] for m in modules} <= {"torch", *sys.stdlib_module_names}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"Value", "Activation", "Param", "Spec", "ActSearchError"}


def forms(made, shape):
    """What becomes of a module as TorchScript, by torch.export and as ONNX. shape: of one row of x."""
    free = [i for i in range(len(shape) + 1) if i != 1]
    return [
        check.as_torchscript(made, shape),
        check.by_torch_export(made, shape, free),
        check.as_onnx(made, shape, free)[0],
    ]


def shape_of(spec, made):
    return input_shape(made.eval(), 2, spec.module(6).in_channels, 1)[1:]


class Side(nn.Module):
    """Several modules on one input, their outputs side by side."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x):
        return torch.stack([part(x) for part in self.parts])


def test_all_together_as_torchscript_torch_export_and_onnx():
    """Those of one shape as one program, for each alone takes a second; one by one below, which names what fails."""
    groups = {}
    for spec in SPECS.values():
        for made in made_of(spec):
            groups.setdefault(shape_of(spec, made), []).append(made)
    assert sum(map(len, groups.values())) == len(SPECS) > 60
    assert len(groups) < 6
    for shape, modules in groups.items():
        for said in forms(Side(modules).eval(), shape):
            assert said.startswith("equal"), said


def test_numbers_and_learned_parameters_are_typed_so_that_torchscript_takes_them():
    """Without types of their own, these would only be traced: TorchScript multiplies no `Tensor | float`."""
    for text in ("star_relu", "pelu", "srelu", "celu(alpha=2)", "sin(omega=learned)", "prelu", "(a * x)(a=0.5)"):
        spec = Spec.parse(text)
        for made in made_of(spec):
            assert check.as_torchscript(made.eval(), shape_of(spec, made)).startswith("equal (script)"), text


@pytest.mark.slow
@each_spec
def test_one_by_one_as_torchscript_torch_export_and_onnx(text):
    for made in made_of(SPECS[text]):
        for said in forms(made, shape_of(SPECS[text], made)):
            assert said.startswith("equal"), said


def test_every_file_passes_its_own_test_where_there_is_no_actsearch(files):
    run = textwrap.dedent("""
        import pathlib, runpy, sys
        sys.modules["actsearch"] = None  # importing it fails
        for path in sorted(pathlib.Path(".").glob("test_*.py")):
            runpy.run_path(str(path), run_name="__main__")
        import pytest
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "."]))
    """)
    done = subprocess.run([sys.executable, "-c", run], cwd=files, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as recorded") == len(SPECS)
    assert f"{len(SPECS)} passed" in done.stdout


def test_files_are_written_as_a_formatter_writes_them(files):
    assert_formatted(files)


def assert_formatted(folder):
    for path in folder.glob("*.py"):
        text = path.read_text()
        compile(text, str(path), "exec")
        assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines()), path.name
        assert text.endswith("\n")
    if importlib.util.find_spec("ruff") is not None:  # of the dev extra
        command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "--diff", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("leaky_relu6(negative_slope=0.2)", ("= 0.2)", "= 0.3)")),
        ("silu", ("torch.sigmoid(", "torch.tanh(")),
        ("swiglu", ("a * ", "b * ")),
        ("frelu", ("torch.maximum", "torch.minimum")),
        ("prelu", ("= 0.25", "= 0.26")),
    ],
)
def test_a_file_that_was_changed_fails_its_test(text, change):
    spec = Spec.parse(text)
    written = SourceFile(spec if text != "silu" else Spec.parse("silu(beta=2)"))
    before = written.text()
    assert change[0] in before
    for given, fails in ((before, False), (before.replace(*change), True)):
        with check.loaded(given) as file:
            if fails:
                with pytest.raises(AssertionError):
                    getattr(file, written.test_name)()
            else:
                getattr(file, written.test_name)()


# --- what a file looks like -----------------------------------------------------------------------


def test_a_file_to_the_letter():
    assert module_source(Spec.parse("leaky_relu(negative_slope=0.02)")) == textwrap.dedent('''\
        """LeakyRelu: x for x > 0, negative_slope * x otherwise.

        Source: Maas et al. 2013.
        Written by actsearch 0.1.0 (MIT licence) from 'leaky_relu(negative_slope=0.02)'.
        """

        import torch
        import torch.nn.functional as F
        from torch import Tensor, nn


        def leaky_relu(x: Tensor, negative_slope: float) -> Tensor:
            if isinstance(negative_slope, Tensor):
                # the kernel behind F.prelu, which itself cannot broadcast; torch.where costs 11 times as much
                return torch.ops.aten._prelu_kernel(x, negative_slope.to(x.dtype))  # x may be bfloat16, weights float32
            return F.leaky_relu(x, negative_slope)


        class LeakyRelu(nn.Module):
            """Elementwise: x has any shape."""

            def __init__(self, negative_slope: float = 0.02) -> None:
                super().__init__()
                self.negative_slope = negative_slope

            def forward(self, x: Tensor) -> Tensor:
                return leaky_relu(x, negative_slope=self.negative_slope)

            def extra_repr(self) -> str:
                return f"negative_slope={self.negative_slope}"


        def test_leaky_relu() -> None:
            """Values and gradients are those recorded when this file was written."""
            module = LeakyRelu().double().eval()
            x = torch.tensor([-4.0, -1.0, 0.0, 0.5, 2.0, 7.0], dtype=torch.float64, requires_grad=True)
            y = module(x.view(1, 6))
            y.sum().backward()
            values = [-0.08, -0.02, 0.0, 0.5, 2.0, 7.0]
            slopes = [0.02, 0.02, 0.02, 1.0, 1.0, 1.0]
            torch.testing.assert_close(y.flatten().tolist(), values, rtol=1e-6, atol=1e-7)
            assert x.grad is not None
            torch.testing.assert_close(x.grad.tolist(), slopes, rtol=1e-6, atol=1e-7)


        if __name__ == "__main__":
            test_leaky_relu()
            print("leaky_relu: as recorded")
    ''')


def test_channels_and_dim_are_the_classes_defaults_and_name_is_its_own():
    text = module_source(Spec.parse("silu(beta=learned(2))"), "my_swish", channels=5, dim=-1)
    with check.loaded(text) as file:
        made = file.MySwish()
        assert made.beta.shape == (5,)
        assert made.beta.tolist() == [2.0] * 5
        assert made(torch.zeros(2, 3, 5)).shape == (2, 3, 5)
        assert file.MySwish(None).beta.shape == ()
        file.test_my_swish()
    with pytest.raises(ActSearchError, match="'2fast' cannot be the name of a class"):
        module_source(Spec.parse("relu"), "2fast")


def test_a_class_with_weights_starts_with_the_parameters_of_the_spec(monkeypatch, library):
    own = library("""
        import torch
        from torch import nn

        class Scaled(nn.Module):
            def __init__(self, channels, dim=1, scale=1.0):
                super().__init__()
                self.weight, self.scale = nn.Parameter(torch.ones(channels)), scale

            def forward(self, x):
                return self.scale * self.weight * x
    """)
    entry = Activation("scaled", own.Scaled, "own", "s * w * x", "none", (Param("scale", 1.0),), kind="weighted")
    monkeypatch.setitem(CATALOG, "scaled", entry)
    text = module_source(Spec.of("scaled", {"scale": 3.0}))
    assert "def __init__(self, channels, dim=1, scale=3.0):" in text
    with check.loaded(text) as file:
        file.test_scaled()
        assert file.Scaled(4)(torch.ones(2, 4)).tolist() == [[3.0] * 4] * 2


# --- expressions and own functions ----------------------------------------------------------------

EXPRESSIONS = {
    "x * tanh(softplus(x))": ["softplus"],
    "min(max(a * x, x), 6)(a=0.02)": [],
    "(a * x + where(x > 0, x, b) + c)(a=learned(0.3), b=1, c=learned(0.1))": [],
    "relu(x) + arcsinh(x) - leaky_relu(x - 1, negative_slope=0.1) * gelu(x, approximate=tanh)": ["gelu", "leaky_relu"],
    "sqrt(abs(x))": [],  # no slope at 0
    "x / (1 + exp(-x))": [],  # as it is evaluated, not as it is written
    "x * tanh(log(1 + exp(x)))": ["softplus"],
    "where(x > 0, x, exp(x) - 1)": [],
    "(x / sqrt(a + exp(-x)))(a=learned(2))": [],  # parts that occur twice are lines of their own
    "sqrt(x ** 2 + 1)": [],
    "where(x > a, x, sin(x))(a=learned(0.5))": [],  # no gradient for a
    "(a * sqrt(abs(x)))(a=learned(2))": [],
    "+".join(f"{i}.5*tanh({i}*x+{i})*sigmoid(x*{i})" for i in range(2, 8)): [],  # of several lines
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_becomes_a_file_as_well(text, tmp_path):
    spec = Spec.parse(text)
    said = dict(export(spec, str(tmp_path / "fish.py")))
    assert all(said[what].startswith("equal") for what in ("python", "torch.export", "ONNX"))
    path = tmp_path / "fish.py"
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert functions[-2:] == ["fish", "test_fish"]
    assert {*EXPRESSIONS[text]} <= {*functions[:-2]}
    assert "class Fish(nn.Module)" in path.read_text()
    assert "expression" not in said["python"]
    assert_formatted(tmp_path)


def test_an_expression_may_have_the_name_of_a_function_that_it_calls():
    with check.loaded(module_source(Spec.parse("x * gelu(x)"), "gelu")) as file:
        x = torch.tensor([-1.0, 2.0])
        assert torch.equal(file.Gelu()(x), x * nn.functional.gelu(x))


def test_a_users_own_function_by_its_path(library, tmp_path):
    library(
        """
        import torch
        from helpers import half

        def bent(x, alpha=0.5, twice=False):
            if isinstance(alpha, torch.Tensor):
                alpha = alpha.to(x.dtype)
            return torch.where(x > 0, x, alpha * half(x))
        """,
        helpers="def half(x):\n    return x / 2\n",
    )
    text = module_source(Spec.parse("ownlib.bent(alpha=0.3)"))
    assert "class Bent(nn.Module)" in text
    assert "helpers" not in text  # a file beside it: copied too
    assert "def half(x):" in text
    with check.loaded(text) as file:
        assert file.bent(torch.tensor([-1.0]), 0.5).item() == -0.25
        assert file.Bent()(torch.tensor([-2.0, 2.0])).tolist() == pytest.approx([-0.3, 2.0])
    assert [what for what, _ in export(Spec.parse("ownlib.bent"), str(tmp_path / "out"), onnx=False)][-1] == "wrote"
    assert (tmp_path / "out" / "bent.py").exists()


def test_parameters_that_a_class_cannot_have():
    for name in ("training", "channels", "F"):
        with pytest.raises(ActSearchError, match=f"'{name}' means something else in a class"):
            module_source(Spec.parse(f"({name} * x)({name}=0.5)"))


# --- what is copied -------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Makes an importable module `ownlib` of some text, beside others by name; gives it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(text, **others):
        for name, body in {"ownlib": text, **others}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("ownlib")

    yield make
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
        del sys.modules[name]


def copied(name="f", kinds=None, packages=("ownlib", "helpers", "actsearch")):
    collector = Collector(set(packages), set())
    collector.add("ownlib", name, kinds or {})
    return collector


def test_a_function_brings_what_it_uses_and_no_more(library):
    library(
        """
        import math
        import torch
        from torch import Tensor
        from helpers import shift as moved

        UNUSED = 1
        ROOT = math.sqrt(2)  # of two
        LOW, HIGH = -ROOT, ROOT

        def other(x): return x

        def f(x: Tensor) -> Tensor:
            # between bounds
            return torch.clamp(moved(x), LOW, HIGH)
        """,
        helpers="""
        LOW = 0.5

        def shift(x):
            return x + LOW
        """,
    )
    made = copied()
    assert list(made.pieces) == ["ROOT", "HIGH", "LOW_", "shift", "f"]  # a statement by one of its names
    assert made.pieces["ROOT"] == "ROOT = math.sqrt(2)  # of two\n"
    assert made.pieces["shift"] == "def shift(x):\n    return x + LOW_\n"  # the other module's LOW
    assert "# between bounds\n    return torch.clamp(shift(x), LOW, HIGH)" in made.pieces["f"]
    assert made.imports == {"import math", "import torch", "from torch import Tensor"}
    space = {}
    exec("\n".join([*sorted(made.imports), *made.pieces.values()]), space)
    assert space["f"](torch.tensor([-9.0, 0.25, 9.0])).tolist() == pytest.approx([-(2**0.5), 0.75, 2**0.5])


def test_local_names_attributes_and_methods_are_not_taken_for_the_modules(library):
    library("""
        import torch
        LOW = 1.0

        def low(x):
            return x

        def f(x, LOW=2.0):
            low = [v for v in (x, LOW)]
            return low[0].low + (lambda LOW: LOW)(3.0)
    """)
    assert list(copied().pieces) == ["f"]


def test_what_cannot_be_copied_says_why(library, monkeypatch):
    own = library(
        """
        from math import *

        def f(x):
            return x * tau

        def make(n):
            def inner(x):
                return n * x
            return inner

        closure = make(3)
        shape = lambda x: x
        """
    )
    with pytest.raises(ActSearchError, match="'tau' in 'ownlib' is given by no statement"):
        copied()
    monkeypatch.setitem(CATALOG, "closure", Activation("closure", own.closure, "own", "3 * x", "none"))
    with pytest.raises(ActSearchError, match="'closure' cannot be exported: its function has no name in a file"):
        module_source(Spec.of("closure"))
    copied("shape")  # a statement of its own


def test_a_name_for_two_things_is_refused(library):
    library("import numpy as torch\n\ndef f(x):\n    return torch.abs(x)\n")
    with pytest.raises(ActSearchError, match="'torch' means two things in what 'f' uses"):
        copied()


def test_a_copy_that_behaves_otherwise_is_refused(library, monkeypatch, tmp_path):
    own = library("""
        calls = []

        def f(x):
            calls.append(1)
            return x * (1.0 if len(calls) > 3 else 2.0)
    """)
    monkeypatch.setitem(CATALOG, "moody", Activation("moody", own.f, "own", "x or 2 * x", "none"))
    with pytest.raises(ActSearchError, match="its copy differs by"):
        list(export(Spec.of("moody"), str(tmp_path / "moody.py"), onnx=False))
    assert not list(tmp_path.glob("moody*"))
    own = library("""
        calls = []

        def f(x):
            calls.append(1)
            return x * len(calls)
    """)
    monkeypatch.setattr(check, "in_python", lambda *arguments: "not looked at")
    monkeypatch.setitem(CATALOG, "counts", Activation("counts", own.f, "own", "n * x", "none"))
    with pytest.raises(ActSearchError, match="its file fails its own test"):
        list(export(Spec.of("counts"), str(tmp_path / "moody.py"), onnx=False))


# --- checks that can fail -------------------------------------------------------------------------


class Wrong(nn.Module):
    """An error in evaluation that no gradient shows."""

    def forward(self, x):
        return torch.relu(x) + (0.0 if self.training else 1e-3)


def test_checks_see_what_is_wrong():
    with pytest.raises(ActSearchError, match=r"'relu' cannot be exported: its copy differs by 0\.001 in float64"):
        check.in_python(Spec.parse("relu"), Wrong(), 4, 1)

    class Sorted(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    assert check.by_torch_export(Sorted(), (4,), [0]).startswith("no: ")
    said, raw = check.as_onnx(Sorted(), (4,), [0])
    assert said.startswith("no: ")
    assert raw is None
    nan, inf = torch.tensor([torch.nan]), torch.tensor([torch.inf])
    assert check.difference(nan, nan) == check.difference(inf, inf) == 0.0
    assert check.difference(nan, inf) == check.difference(torch.zeros(1), nan) == torch.inf
    assert check.difference(torch.tensor([100.0]), torch.tensor([101.0])) == pytest.approx(1 / 101)


def test_onnx_has_any_batch_and_nothing_of_this_machine():
    import onnx

    for made in made_of(Spec.parse("leaky_relu(negative_slope=learned)")):
        _, raw = check.as_onnx(made.eval(), (6,), [0])
        assert raw is not None
        (x,) = onnx.load_from_string(raw).graph.input
        assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["batch", 6]
        assert b".py" not in raw
        assert b"/" not in raw
        assert check.as_onnx(made, (6,), [0])[1] == raw


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs `actsearch task=export words…` in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(cli, "exit_code", 0)
        monkeypatch.setattr(sys, "argv", ["actsearch", "task=export", *words])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


SLOPE = 'task.activation="leaky_relu6(negative_slope=0.02)"'


def test_the_command_writes_and_says_what_it_checked(command, tmp_path):
    code, out, err = command(SLOPE)
    assert (code, err) == (0, "")
    lines = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert list(lines) == ["python", "TorchScript", "torch.export", "ONNX", "wrote"]
    assert all(lines[what].startswith("equal") for what in list(lines)[:4])
    assert "onnxruntime" in lines["ONNX"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leaky_relu6.onnx", "leaky_relu6.py"]
    assert (tmp_path / "leaky_relu6.py").read_text() == module_source(Spec.parse("leaky_relu6(negative_slope=0.02)"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert command(SLOPE)[0] == 0  # the same bytes again
    code, _, err = command('task.activation="leaky_relu6(negative_slope=0.03)"')
    assert code == 2
    assert "leaky_relu6.py is another file. Choose another task.path, or task.overwrite=true." in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert command('task.activation="leaky_relu6(negative_slope=0.03)"', "task.overwrite=true")[0] == 0
    assert "0.03" in (tmp_path / "leaky_relu6.py").read_text()
    assert (tmp_path / "leaky_relu6.onnx").read_bytes() != before["leaky_relu6.onnx"]


def test_another_onnx_file_is_not_overwritten_either(command, tmp_path):
    (tmp_path / "relu.onnx").write_bytes(b"mine")
    code, _, err = command("task.activation=relu")
    assert code == 2
    assert "relu.onnx is another file" in err
    assert [p.name for p in tmp_path.iterdir()] == ["relu.onnx"]
    assert command("task.activation=relu", "task.onnx=false")[0] == 0
    assert (tmp_path / "relu.onnx").read_bytes() == b"mine"


def test_a_path_is_a_folder_or_a_file(command, tmp_path):
    assert command("task.activation=relu", "task.path=a/b", "task.onnx=false")[0] == 0
    assert command("task.activation=prelu", "task.path=mine.py", "task.channels=3", "task.onnx=false")[0] == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == ["a/b/relu.py", "mine.py"]
    assert "class Prelu(nn.Module)" in (tmp_path / "mine.py").read_text()
    assert "channels: int | None = 3" in (tmp_path / "mine.py").read_text()


def test_onnx_that_is_not_there(command, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    code, _, err = command("task.activation=relu", "task.onnx=true")
    assert code == 2
    assert "task.onnx=true: no_such_package not installed: pip install 'actsearch[onnx]'." in err
    assert not list(tmp_path.iterdir())
    code, out, _ = command("task.activation=relu")
    assert code == 0
    assert "ONNX         not tried: no_such_package not installed" in out
    assert [p.name for p in tmp_path.iterdir()] == ["relu.py"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "task.activation=null: it must be one spec"),
        (["task.activation=[relu,gelu]"], "it must be one spec"),
        (["task.activation=3"], "task.activation=3: it must be one spec"),
        (["task.activation=reelu"], "Did you mean 'relu'?"),
        (['task.activation="relu | gelu"'], "a file holds one activation"),
        (["task.activation=relu", "task.chanels=3"], "Did you mean 'task.channels'?"),
        (["task.activation=relu", "task.channels=0"], "task.channels=0: it must be 1 or more"),
        (["task.activation=relu", "task.channels=true"], "task.channels=True: it must be 1 or more"),
        (["task.activation=relu", "task.dim=2"], "task.dim=2: channels stand in dimension 1 or -1"),
        (["task.activation=relu", "task.onnx=maybe"], "task.onnx=maybe: it must be true, false or null"),
        (["task.activation=relu", "task.overwrite=1"], "task.overwrite=1: it must be true or false"),
        (["task.activation=relu", "task.path=relu.txt"], "task.path=relu.txt: it must be a .py file or a folder"),
        (["task.activation=relu", "task.path=/dev/null/x"], "cannot be"),
        (["task.activation=crelu", "task.channels=3"], "'crelu' cannot give 3 channels"),
        (["task.activation=meta_acon", "task.dim=-1"], "'meta_acon' averages over positions"),
        (["task.activation=frelu", "task.dim=-1"], "with task.dim=-1 it takes no input"),
    ],
)
def test_wrong_values_are_one_line_and_leave_nothing(command, tmp_path, words, said):
    code, _, err = command(*words)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())

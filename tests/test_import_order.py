"""Imports run only down the list of rooms, and inside a room in no circle: the house has a direction."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import actsearch

PACKAGE = Path(actsearch.__file__).parent
ROOMS = [
    "errors",
    "output",
    "files",
    "random_states",
    "processes",
    "packed",
    "activations",
    "question",
    "contents",
    "module_values",
    "export",
    "swap",
    "data",
    "models",
    "training",
    "records",
    "space",
    "measure",
    "verdicts",
    "report",
    "study",
    "tracking",
    "results",
    "own",
    "job",
    "clock",
    "outcome",
    "pipeline",
    "config",
    "api",
    "command",
    "__main__",
]
LAZY = "__init__"  # the package's own: gives its names on demand


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def files():
    return {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(tree, names):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        for target in targets:
            parts = target.split(".")
            if parts[0] != "actsearch":
                continue
            while parts and ".".join(parts[1:]) not in names:
                parts.pop()
            if len(parts) > 1:
                found.add(".".join(parts[1:]))
    return found


def foreign_imports_of(path):
    """The packages of others that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found - {"actsearch"}


def room_of(module):
    return module.split(".")[0]


@pytest.fixture(scope="module")
def arrows():
    paths = files()
    return {
        module: imports_of(ast.parse(path.read_text()), set(paths)) for module, path in paths.items() if module != LAZY
    }


def test_the_list_names_every_room_once(arrows):
    assert len(set(ROOMS)) == len(ROOMS)
    assert {room_of(module) for module in arrows} == set(ROOMS)


def test_rooms_import_only_from_rooms_above_them(arrows):
    crossing = [(a, b) for a, targets in arrows.items() for b in targets if room_of(a) != room_of(b)]
    assert len(crossing) > 100  # the parser does see them
    assert not [f"{a} imports {b}" for a, b in crossing if ROOMS.index(room_of(b)) > ROOMS.index(room_of(a))]


def test_inside_a_room_there_is_no_circle(arrows):
    left = dict(arrows)
    while left:
        free = {module for module, targets in left.items() if not targets & set(left) - {module}}
        assert free, f"a circle among {sorted(left)}"
        left = {module: targets for module, targets in left.items() if module not in free}


def test_only_the_ways_in_know_hydra_and_only_tracking_knows_mlflow():
    homes = {"hydra": {"config", "command"}, "omegaconf": {"config", "command", "api"}, "mlflow": {"tracking"}}
    for module, path in files().items():
        for name in foreign_imports_of(path):
            assert room_of(module) in homes.get(name, {room_of(module)}), f"{module} imports {name}"


def test_training_and_verdicts_know_no_optuna():
    below = (
        "activations",
        "question",
        "export",
        "swap",
        "data",
        "models",
        "training",
        "records",
        "measure",
        "verdicts",
    )
    for module, path in files().items():
        if room_of(module) in below:
            assert "optuna" not in foreign_imports_of(path), module


def test_verdicts_know_neither_training_nor_storage(arrows):
    for module, targets in arrows.items():
        if room_of(module) == "verdicts":
            assert {room_of(target) for target in targets} <= {
                "errors",
                "packed",
                "activations",
                "question",
                "records",
                "verdicts",
            }


def test_a_question_is_plain_values():
    code = "from actsearch.question import identity, metrics, options, recipe"
    code = f"import sys; {code}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

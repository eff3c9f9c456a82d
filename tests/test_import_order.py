"""Files of the package import only from files above them in this list (DESIGN §3): the house has a direction."""

import ast
from pathlib import Path

import actsearch

PACKAGE = Path(actsearch.__file__).parent
ORDER = [
    "errors",
    "processes",
    "activations.activation",
    "activations.numerics",
    "activations.rectifiers",
    "activations.sigmoidal",
    "activations.shrinkage",
    "activations.periodic",
    "activations.exponential",
    "activations.self_gated",
    "activations.learnable",
    "activations.channels",
    "activations.kernels",
    "activations.catalog",
    "activations.tree",
    "activations.expression",
    "activations.imported",
    "activations.spec",
    "activations.fingerprint",
    "activations",
    "export.fold",
    "export.collect",
    "export.places",
    "export.layout",
    "export.expression",
    "export.module",
    "export.check",
    "export",
    "swap.functions",
    "swap.kinds",
    "swap.tracing",
    "swap.widths",
    "swap.in_place",
    "swap.lookalikes",
    "swap.rewrite",
    "swap.survey",
    "swap.makers",
    "swap",
    "goal",
    "data",
    "recipe",
    "models.blocks",
    "models.initialise",
    "models.mlp",
    "models.cnn",
    "models.resnet",
    "models.transformer",
    "models.slots",
    "models.torchvision",
    "models.timm",
    "models",
    "grammar",
    "search_space",
    "diagnostics",
    "shape",
    "properties",
    "training.reference",
    "training.layer",
    "training.convolution",
    "training.layers",
    "training.losses",
    "training.update",
    "training.fused",
    "training.plan",
    "training.worker",
    "training",
    "cost",
    "environment",
    "statistics",
    "verdict",
    "optuna_private",
    "samplers",
    "storage",
    "study",
    "comparison",
    "finalists",
    "tracking",
    "job",
    "report",
    "report.sentence",
    "report.tables",
    "report.properties",
    "report.files",
    "report.terminal",
    "report.result",
    "report.plots",
    "report.costs",
    "report.page",
    "pipeline",
    "api",
    "config",
    "tasks",
    "cli",
    "__main__",
]
LAZY = "__init__"  # the package's own: gives its names on demand


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


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


def files():
    return {module_of(path): path for path in PACKAGE.rglob("*.py")}


def test_the_list_names_every_file_once():
    assert len(set(ORDER)) == len(ORDER)
    assert set(files()) - {LAZY} == set(ORDER)


def test_files_import_only_from_files_above_them():
    paths = files()
    wrong, arrows = [], 0
    for place, module in enumerate(ORDER):
        for target in imports_of(ast.parse(paths[module].read_text()), set(ORDER)):
            arrows += 1
            if ORDER.index(target) >= place:
                wrong.append(f"{module} imports {target}")
    assert not wrong
    assert arrows > 60  # the parser does see them


def test_only_the_command_line_knows_hydra_and_only_tracking_knows_mlflow():
    homes = {"hydra": {"cli"}, "omegaconf": {"cli"}, "mlflow": {"tracking"}}
    for module, path in files().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert module in homes.get(name.split(".")[0], {module}), f"{module} imports {name}"


def test_training_knows_neither_optuna_nor_the_layers_above():
    for module, path in files().items():
        if module.startswith(("training", "models", "activations")) or module in (
            "data",
            "diagnostics",
            "recipe",
            "swap.functions",
            "swap.kinds",
            "swap.tracing",
            "swap.rewrite",
            "swap.widths",
            "swap.survey",
            "swap.makers",
            "swap",
        ):
            assert "optuna" not in {
                n.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                for n in ([a.name for a in node.names] if isinstance(node, ast.Import) else [])
                + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            }, module

"""The shape of the package: imports point one way, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import mnist_exp

PACKAGE = Path(mnist_exp.__file__).parent

# A room imports from itself and from rooms before it.
ORDER = [
    "errors", "text", "suggest", "keras_spec", "config", "runs", "data", "model", "training", "inference", "analysis",
    "report", "tracking", "engine", "sweeps", "commands", "cli",
]  # fmt: skip

# Where each heavy library may be imported at all.
ROOMS = {
    "hydra": {"config", "cli", "sweeps"},  # cli: its information flags; sweeps: its launchers
    "omegaconf": {"config", "sweeps"},
    "pydantic": {"config", "runs"},  # runs: the schema of result.json
    "keras": {"model", "training", "inference", "analysis", "engine", "commands"},  # commands: annotations only, see below
    "onnxruntime": {"inference"},
    "ai_edge_litert": {"inference"},
    "tensorflow": {"training", "model", "inference", "analysis"},  # model: `backend` imports it quietly
    "mlflow": {"tracking"},
    "optuna": {"sweeps"},
    "matplotlib": {"report"},
    "rich": {"report"},
    "sklearn": {"data"},
    "scipy": {"data", "inference", "sweeps"},  # inference: photographs in MNIST's form
    "pyarrow": {"data"},
    "PIL": {"data", "inference"},
}  # fmt: skip

# Where each may be imported together with a module: a folder, or single modules, which are themselves imported late.
# Everywhere else it is imported inside functions, or for annotations.
WITH_MODULE = {
    "keras": {"model", "training", "inference", "analysis", "engine/keras_check.py"},
    "tensorflow": {"training", "analysis"},  # not model: `backend` prepares TensorFlow before it is imported
    "mlflow": {"tracking/mlflow_model.py", "tracking/pyfunc_loader.py"},
    "optuna": {"sweeps/optuna_adapter.py", "sweeps/optuna_study.py", "sweeps/study_plots.py"},
    "matplotlib": {"report/feature_maps.py", "report/figure.py", "report/plots.py"},
    "scipy": {"inference", "sweeps"},
    "PIL": {"inference"},
    "sklearn": set(),
    "pyarrow": set(),
    "onnxruntime": set(),
    "ai_edge_litert": set(),
}  # fmt: skip


def modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, *, at_import: bool = False) -> set[str]:
    """Dotted names that a module imports; `at_import`, only those that importing it imports."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            names |= imported(node, at_import=at_import)
    return names


def test_imports_point_one_way():
    """From the command towards the config, never back."""
    for path, tree in modules().items():
        here = room(path)
        if here.startswith("__"):
            continue
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] == "mnist_exp" and len(parts) > 1 and parts[1] in ORDER:
                assert ORDER.index(parts[1]) <= ORDER.index(here), f"{path} imports {name}"


def test_heavy_libraries_stay_in_their_rooms():
    """Each is imported only where it lives."""
    for path, tree in modules().items():
        for name in imported(tree):
            library = name.split(".")[0]
            if library in ROOMS:
                assert room(path) in ROOMS[library], f"{path} imports {name}"


def test_heavy_libraries_are_imported_when_they_are_needed():
    """Importing the command line, or a module that it reads first, imports no heavy library."""
    for path, tree in modules().items():
        for name in imported(tree, at_import=True):
            allowed = WITH_MODULE.get(name.split(".")[0])
            module = path.relative_to(PACKAGE).as_posix()
            assert allowed is None or {room(path), module} & allowed, f"{module} imports {name} with itself"


def test_only_the_command_line_imports_verbs():
    """A verb is thin: what another module needs of it belongs to the engine."""
    for path, tree in modules().items():
        verbs = {name for name in imported(tree) if name.startswith("mnist_exp.commands")}
        assert not verbs or path.name == "cli.py", f"{path} imports {verbs}"


def test_modules_have_one_subject():
    """No drawers for everything, and none too long to be read at once."""
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in ("utils", "helpers", "common", "misc")
        assert len(path.read_text(encoding="utf-8").splitlines()) < 500, path
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.name == "__init__.py", path

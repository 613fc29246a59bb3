"""The structure of the package: imports point one way, and heavy libraries stay in their folders."""

from __future__ import annotations

import ast
from pathlib import Path

import mnist_exp

PACKAGE = Path(mnist_exp.__file__).parent

# A room imports from itself and from rooms before it.
ORDER = [
    "immediate_exit", "errors", "text", "suggest", "help_pages", "registrations", "keras_spec", "config", "runs", "data", "model", "training", "inference", "analysis",
    "report", "tracking", "engine", "plugin", "sweeps", "serving", "commands", "cli", "child_command", "notebook_display", "api", "plugin_testing",
]  # fmt: skip

# The modules that may import each heavy library.
ROOMS = {
    "hydra": {"config", "cli", "sweeps"},  # cli: its information flags; sweeps: its launchers
    "omegaconf": {"config", "sweeps"},
    "pydantic": {"config", "runs", "report"},  # runs: the schema of result.json; report: the JSON documents
    "keras": {"model", "training", "inference", "analysis", "engine", "commands", "api"},  # commands, api: annotations only, see below
    "onnxruntime": {"inference"},
    "ai_edge_litert": {"inference"},
    "tensorflow": {"training", "model", "inference", "analysis"},  # model: `backend` imports it quietly
    "mlflow": {"tracking"},
    "optuna": {"sweeps"},
    "matplotlib": {"report"},
    "bokeh": {"report"},
    "jinja2": {"report"},
    "rich": {"report"},
    "sklearn": {"data"},
    "scipy": {"data", "inference", "sweeps"},  # inference: photographs in MNIST style
    "pyarrow": {"data"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "PIL": {"data", "inference", "report", "tracking"},  # tracking: previews of images, as MLflow's
    "cv2": {"inference"},
}  # fmt: skip

# Libraries that take time to import: a wrong request is reported without them.
HEAVY = {
    "numpy", "scipy", "keras", "tensorflow", "mlflow", "optuna", "matplotlib", "bokeh", "PIL", "cv2", "starlette",
    "uvicorn",
}  # fmt: skip
# Libraries that few requests need, some of which may not be installed: imported inside functions everywhere.
RARE = {"sklearn", "pyarrow", "onnxruntime", "ai_edge_litert", "ray"}


def modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, *, at_import: bool = False) -> set[str]:
    """Return the dotted names that a module imports; with `at_import`, only those imported along with it."""
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
    """Imports lead from the command towards the config, never back."""
    for path, tree in modules().items():
        here = room(path)
        if here.startswith("__"):
            continue
        for name in imported(tree):
            parts = name.split(".")
            if parts[0] == "mnist_exp" and len(parts) > 1 and parts[1] in ORDER:
                assert ORDER.index(parts[1]) <= ORDER.index(here), f"{path} imports {name}"


def test_heavy_libraries_stay_in_their_folders():
    """Each is only imported in the folders listed here."""
    for path, tree in modules().items():
        for name in imported(tree):
            library = name.split(".")[0]
            if library in ROOMS:
                assert room(path) in ROOMS[library], f"{path} imports {name}"


def import_closure(*roots: str) -> dict[str, set[str]]:
    """Map every module of the package that these modules import, directly or not, to its own imports."""
    names = {module_name(path): imported(tree, at_import=True) for path, tree in modules().items()}
    closure: dict[str, set[str]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in names and name not in closure:
            closure[name] = names[name]
            waiting += names[name]
    return closure


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def libraries(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_heavy_libraries_are_imported_when_they_are_needed():
    """Importing the command line, or a module that it needs at its start, imports no heavy library."""
    verbs = [name for name in map(module_name, modules()) if name.startswith("mnist_exp.commands.")]
    assert len(verbs) > 10
    for module, names in import_closure("mnist_exp.__main__", "mnist_exp.engine.prediction", *verbs).items():
        assert not libraries(names) & HEAVY, f"{module} imports {libraries(names) & HEAVY} with itself"


def test_training_imports_neither_mlflow_nor_matplotlib():
    """The uploader, a process of its own, imports MLflow; plots are drawn at the end."""
    for module, names in import_closure("mnist_exp.engine.run").items():
        assert not libraries(names) & {"mlflow", "matplotlib"}, f"{module} imports {names} with itself"


def test_rare_libraries_are_imported_inside_functions():
    """Commands that do not need ONNX, for example, work without it."""
    for path, tree in modules().items():
        names = imported(tree, at_import=True)
        assert not libraries(names) & RARE, f"{path} imports {libraries(names) & RARE} with itself"


def test_only_the_command_line_imports_verbs():
    """Functions of a verb that other modules need belong to the engine."""
    for path, tree in modules().items():
        verbs = {name for name in imported(tree) if name.startswith("mnist_exp.commands")}
        assert not verbs or path.name == "cli.py", f"{path} imports {verbs}"


def test_modules_have_one_subject():
    """No module is a catch-all or too long to be read at once."""
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in ("utils", "helpers", "common", "misc")
        assert len(path.read_text(encoding="utf-8").splitlines()) < 500, path
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.name == "__init__.py", path

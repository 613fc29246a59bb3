"""The saved model that a verb works on, and its data."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mnist_exp.config.command_schemas import SavedConfig
from mnist_exp.config.overrides import Request, key_of, quoted
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import PARTS, DataConfig, TrainConfig
from mnist_exp.config.validation import check_request, compose_checked
from mnist_exp.engine.plugins import require, warn_of_changes
from mnist_exp.engine.preparation import MODEL_FILES, complete_data, resolve_data
from mnist_exp.errors import Problem, RequestError, WorkError, first_line
from mnist_exp.model import backend
from mnist_exp.registrations import explain_missing
from mnist_exp.runs.directory import ENSEMBLE, MODEL, explain_missing_model, list_runs
from mnist_exp.runs.lookup import find_run, read_config
from mnist_exp.runs.regular_files import file_inside
from mnist_exp.runs.result import RunResult
from mnist_exp.text import display_path, format_shape, shape_override
from mnist_exp.tracking.failure import describe_failure
from mnist_exp.tracking.registry import NotRegistered, look_up
from mnist_exp.tracking.store import make_absolute, own_store_uri

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset
    from mnist_exp.runs.directory import RunSummary

Own = TypeVar("Own", bound=SavedConfig)

# Groups whose overrides apply to the config of the model's run.
OVER_RUN = ("data", "device", "plots")
# Keys of `data` that say how the values in files are to be read; null if that is evident from the files.
_HOW_READ = ("scale", "label_offset", "label_column", "transpose")
# Digit data sets in MNIST style; photographs are converted to it.
_IN_MNISTS_FORM = ("mnist", "kaggle", "digits")


@dataclass(frozen=True)
class Saved:
    """A saved model, from a run or from a file that belongs to no run."""

    name: str
    file: Path
    run: Path | None
    """The run's directory; None for a file."""
    result: RunResult | None
    """The run's result; None for a file."""
    settings: Path | None = None
    """The folder with the training's `config.yaml`, if known."""

    def load(self) -> keras.Model:
        """Load the model, which takes raw pixels, in float32 with plain Keras. Raises `RequestError`."""
        backend.load()
        from mnist_exp.inference.scoring import load

        try:
            return load(self.file)
        except Exception as error:  # Keras, HDF5 and ZIP raise errors of many types
            why = explain_missing(error) or f"not a model that Keras can load: {first_line(error)}"
            raise RequestError(f"{display_path(self.file)}: {why}") from error


def find_saved(wanted: str | None, outputs: Path, store: str | None = None) -> Saved:
    """Find the model of a run (named in any way that `find_run` accepts), of a `models:/…` URI, or in a file
    or a folder that `ensemble` wrote.

    Args:
        wanted: The value of `run=`.
        outputs: The output folder.
        store: The URI of MLflow's store; None for `MLFLOW_TRACKING_URI` or else the output folder's own store.

    Raises:
        RequestError: There is no such model.
        WorkError: MLflow does not respond.
    """
    if wanted is None:
        raise RequestError("run: missing; give run=latest, run=best, a run's directory or name, or a .keras file")
    path = Path(wanted).expanduser()
    if path.suffix.lower() in MODEL_FILES and not path.is_dir():
        if not path.is_file():
            raise RequestError(f"run={wanted}: there is no such file")
        return Saved(path.name, path, None, None)
    if wanted.startswith("models:/") and not path.exists():
        return _find_registered(wanted, outputs, store)
    if os.path.lexists(path / ENSEMBLE):
        return _find_ensemble(path)
    return find_run_model(find_run(wanted, outputs))


def find_run_model(run: RunSummary) -> Saved:
    """Return the model of a run. Raises `RequestError` if it has none yet."""
    try:
        file = file_inside(run.path, MODEL)
    except FileNotFoundError as error:
        raise RequestError(f"{display_path(run.path)}: {explain_missing_model(run)}") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{display_path(run.path)}: {error}") from error
    return Saved(run.name, file, run.path, run.result, run.path)


def _find_ensemble(folder: Path) -> Saved:
    """Return the model in a folder that `ensemble` wrote. Raises `RequestError`."""
    try:
        return Saved(folder.resolve().name, file_inside(folder, MODEL), None, None, folder)
    except (OSError, ValueError) as error:
        raise RequestError(f"{display_path(folder)}: {error}") from error


def _find_registered(uri: str, outputs: Path, store: str | None) -> Saved:
    """Resolve a `models:/…` URI to a local run's model, or download it for the lifetime of this process."""
    named = store or os.environ.get("MLFLOW_TRACKING_URI")
    folder = tempfile.TemporaryDirectory(prefix="mnist-exp-")
    atexit.register(folder.cleanup)
    fetched = Path(folder.name)
    address = make_absolute(named) if named else own_store_uri(outputs)
    try:
        origin = look_up(uri, address)
        here = [run for run in list_runs(outputs) if origin.run_id and origin.run_id == run.result.mlflow_run_id]
        file = None if here else origin.download(fetched)
    except (NotRegistered, FileNotFoundError) as error:
        raise RequestError(f"run={uri}: {error}") from error
    except Exception as error:  # MLflow raises errors of many types
        raise WorkError(f"run={uri}: {describe_failure(error, address)}") from error
    if file is None:
        return find_run_model(here[0])
    return Saved(origin.name, file, None, None, fetched if (fetched / "config.yaml").is_file() else None)


def resolve_saved(request: Request, schema: type[Own]) -> tuple[Own, Saved, TrainConfig]:
    """Return a verb's own config, its model, and the config of the model's run with the overrides applied.

    Raises `RequestError` with all problems.
    """
    own, over_run = split_overrides(request)
    checked = check_request(own, schema)
    problems = [*checked.problems]
    if checked.config is None:
        raise RequestError(problems)
    config = checked.config
    try:
        saved = find_saved(config.run, Path(config.outputs))
        of_run = compose_run_config(saved, request, over_run)
    except RequestError as error:
        if problems:
            problems += error.problems or [Problem("not-found", COMMAND_LINE, str(error), "run")]
            raise RequestError(sorted(set(problems))) from error
        raise
    if problems:
        raise RequestError(problems)
    return config, saved, of_run


def split_overrides(request: Request) -> tuple[Request, tuple[str, ...]]:
    """Split a request into one with the verb's own overrides, and the overrides for the run's config."""
    over_run = tuple(text for text in request.overrides if key_of(text).split(".")[0] in OVER_RUN)
    return replace(request, overrides=tuple(t for t in request.overrides if t not in over_run)), over_run


def compose_run_config(saved: Saved, request: Request, over_run: tuple[str, ...]) -> TrainConfig:
    """Return the config of the model's run (for a file, the default config), with overrides applied.

    The returned config has no data fallback. Raises `RequestError`.
    """
    if saved.result is not None:
        require(saved.result, str(display_path(saved.file.parent)))
        warn_of_changes(saved.result)
    base = read_config(saved.settings) if saved.settings else None
    base_file = saved.settings / "config.yaml" if saved.settings else None
    declared = declared_overrides(base, over_run) if base else ()
    composed = replace(request, verb="train", overrides=(*over_run, *declared), base=base, base_file=base_file)

    def complete(data: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return complete_data(data, needs_train=False)
        except RequestError:
            if saved.run is None:
                saved.load()  # a damaged model is reported even if the data is missing
            raise

    config, _ = compose_checked(composed, TrainConfig, complete)
    return config.model_copy(update={"data": config.data.model_copy(update={"fallback": None}).for_model()})


def declared_overrides(base: Mapping[str, Any], over_run: tuple[str, ...]) -> tuple[str, ...]:
    """Return overrides that give the user's own data (`data=csv`, …) the run's shape and classes, unless given.

    Data of the run's own kind is also read as the run's, for example from the same column.
    """
    given = dict(text.split("=", 1) for text in over_run if "=" in text)
    data = base.get("data")
    if given.get("data") not in PARTS or given["data"] == "digits" or not isinstance(data, Mapping):
        return ()
    keys = ["shape", "classes", *["resize"] * (given["data"] == "folder")]
    if data.get("source") == given["data"]:
        keys += _HOW_READ
    wanted = [key for key in keys if data.get(key) is not None and f"data.{key}" not in given]
    return tuple(f"data.{key}={_as_override(data[key])}" for key in wanted)


def _as_override(value: object) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def refuse_other_form(saved: Saved, shape: Sequence[int], classes: int, data: DataConfig) -> None:
    """Raise `RequestError` if the data's shape or number of classes does not fit the model."""
    if (*data.shape, data.classes) != (*shape, classes):
        advice = ""
        if data.source == "folder":
            resize = data.resize or "fit"
            advice = f"; use data.resize={resize} {shape_override(shape)} data.classes={classes}"
        raise RequestError(
            f"{data.name} has images of {format_shape(data.shape)} and {data.classes} classes, but "
            f"{saved.name} takes {format_shape(shape)} and has {classes} classes{advice}"
        )


def normalizes(saved: Saved, config: TrainConfig, shape: tuple[int, int, int]) -> bool:
    """Return whether image files are converted to MNIST style.

    They are if the model was trained on digits or, for a file without a config, takes 28×28×1.
    """
    return shape[2] == 1 and (config.data.name in _IN_MNISTS_FORM if saved.settings else shape == (28, 28, 1))


def load_data(config: TrainConfig, request: Request, trained: Sequence[str] | None = None) -> Dataset:
    """Load the configured data, split as in training, without repeated images. Raises `RequestError`.

    `trained` holds the model's class names if the data may lack a training set (`names_for_other_data`).
    """
    from mnist_exp.data.formats import prepare

    data = config.data.model_copy(update={"balance": None})
    return prepare(resolve_data(request, config, trained)[2], data)


def names_for_other_data(saved: Saved, config: TrainConfig) -> tuple[str, ...] | None:
    """Return the model's class names if the configured data is not its run's; None for the run's own data."""
    base = read_config(saved.settings) if saved.settings else {}
    own = base.get("data")
    if isinstance(own, Mapping) and (own.get("source"), own.get("dir")) == (config.data.source, config.data.dir):
        return None
    return model_class_names(saved, config)


def model_class_names(saved: Saved, config: TrainConfig) -> tuple[str, ...]:
    """Return the names of a model's classes, or their numbers if they have none."""
    trained = saved.result and saved.result.data.class_names
    return tuple(trained or config.data.class_names or map(str, range(config.data.classes)))

"""The Python API: the verbs of the command as functions. `import mnist_exp` offers everything in `__all__`.

Training and scoring run in a child process, so they yield the same weights as the command, whatever the TensorFlow
settings of this process, and Ctrl-C interrupts them. Arguments are overrides as on the command line, or keywords,
with `__` or a literal dot between the parts of a key:

    run = mnist_exp.train("model=mlp", seed=1, training__epochs=3)
    run = mnist_exp.train("model=mlp", **{"training.epochs": 3})
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mnist_exp.child_command import override_text, problem_of, run_verb
from mnist_exp.config.conditions import Condition
from mnist_exp.config.overrides import Request
from mnist_exp.engine.preparation import MODEL_FILES
from mnist_exp.engine.saved_model import Saved, compose_run_config, find_saved
from mnist_exp.errors import Problem, RequestError, WorkError
from mnist_exp.notebook_display import as_frame, frame_html, picture_html, rows_html
from mnist_exp.report.run_documents import runs_document
from mnist_exp.runs.directory import PLOTS, list_runs, read_history, summarize_runs
from mnist_exp.runs.lookup import find_run
from mnist_exp.runs.selection import ListedRun, metrics_of, select_runs
from mnist_exp.text import format_percent

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt
    import pandas as pd

    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.inference.predictor import FileName, Predictor
    from mnist_exp.inference.scoring import Probabilities
    from mnist_exp.runs.result import RunResult

__all__ = [
    "Comparison", "Evaluation", "Problem", "RangeTest", "RequestError", "Run", "Study", "Sweep", "WorkError",
    "check", "compare", "evaluate", "load", "lr_find", "report", "resume", "runs", "sweep", "train", "tune",
]  # fmt: skip


# ── Results ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Run:
    """A run: its files, its results, and its model."""

    def __init__(
        self,
        path: str | Path,
        saved: Saved | None = None,
        normalize: bool | None = None,
        label_column: int | str | None = None,
    ) -> None:
        self.path = Path(path).resolve()
        """The run's directory, or the file of a model that belongs to no run."""
        self._found, self._normalize, self._label_column = saved, normalize, label_column

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def result(self) -> RunResult:
        """The content of `result.json`. Raises `RequestError` for a model file without a run."""
        for summary in summarize_runs([self.path]):
            return summary.result
        raise RequestError(f"{self.path}: not a run directory")

    @cached_property
    def config(self) -> TrainConfig:
        """The run's resolved config; the default one for a model file without a run."""
        return compose_run_config(self._saved, Request("train"), ())

    @property
    def history(self) -> pd.DataFrame:
        """The metrics of each epoch."""
        return as_frame(read_history(self.path)).set_index("epoch")

    @property
    def metrics(self) -> dict[str, float]:
        """The `val/…` metrics of the saved epoch and the `test/…` metrics of the saved model."""
        return metrics_of(self.result)

    @property
    def plots(self) -> dict[str, Path]:
        """The pictures by name, such as `accuracy`."""
        return {picture.stem: picture for picture in sorted((self.path / PLOTS).glob("*.png"))}

    @cached_property
    def _saved(self) -> Saved:
        return self._found or find_saved(str(self.path), self.path.parent)

    @cached_property
    def _predictor(self) -> Predictor:
        from mnist_exp.engine.prediction import load_predictor

        return load_predictor(self._saved, self.config, self._normalize, self._label_column)

    @property
    def model(self) -> keras.Model:
        """The saved Keras model, which takes raw pixels. Loading it imports TensorFlow into this process."""
        return self._predictor.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in label order."""
        return self._predictor.class_names

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self._predictor.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self._predictor.shape

    @property
    def normalizes(self) -> bool:
        """Whether image files are converted to MNIST style or only scaled."""
        return self._predictor.normalizes

    def predict(self, images: npt.ArrayLike | FileName | Sequence[FileName]) -> Probabilities:
        """Return class probabilities (n, classes).

        Args:
            images: Pixels from 0 to 255, shape (n, height, width) or (n, height, width, channels), or without n
                for a single image; or one or more file names, as for `mnist-exp predict`.

        Raises:
            RequestError: The images or files are unusable.
        """
        return self._predictor.predict(images)

    def evaluate(self, *overrides: str, **keys: Any) -> Evaluation:
        """Score the model on its own or another data set, as `mnist-exp evaluate` does."""
        return evaluate(self, *overrides, **keys)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.result.status}>" if self.path.is_dir() else f"<Run {self.path}>"

    def _repr_html_(self) -> str:
        rows = {"run": self.name}
        if self.path.is_dir():
            rows["status"] = self.result.status
            rows |= {name: f"{value:.4f}" for name, value in self.metrics.items()}
            rows["path"] = str(self.path)
        picture = self.plots.get("accuracy")
        return rows_html(list(rows.items())) + (picture_html(picture) if picture else "")


class _Documented:
    """A result that a command printed as a JSON document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = dict(document)
        """The document of `format=json`."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._title()}>"

    def _title(self) -> str:
        return str(self.document["document"])


class RangeTest(_Documented):
    """A learning rate range test."""

    @property
    def learning_rate(self) -> float:
        """The proposed learning rate; with a schedule, its peak."""
        return float(self.document["learning_rate"])

    @property
    def curve(self) -> pd.DataFrame:
        """A row per step: the learning rate, the loss and the smoothed loss."""
        return as_frame(self.document["curve"]).set_index("step")

    @property
    def picture(self) -> Path:
        """The plot of the curve."""
        return Path(self.document["folder"]) / "lr_find.png"

    def _title(self) -> str:
        return f"{self.document['model']}: {self.document['override']}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>" + picture_html(self.picture)


class _InDirectory(_Documented):
    """A sweep or study."""

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.document["path"])


class Sweep(_InDirectory):
    """The jobs of a sweep."""

    @property
    def jobs(self) -> pd.DataFrame:
        """A row per job: the swept keys, the status and the results."""
        return as_frame(self.document["jobs"])

    @property
    def runs(self) -> list[Run]:
        """The runs of the jobs; jobs without a run are left out."""
        return [Run(job["path"]) for job in self.document["jobs"] if job["path"]]

    @property
    def best(self) -> Run | None:
        """The run of the job with the best validation accuracy; None if there is none."""
        return Run(self.document["best"]) if self.document["best"] else None

    def _title(self) -> str:
        return f"{self.document['sweep']}: {len(self.document['jobs'])} jobs"

    def _repr_html_(self) -> str:
        return frame_html(self.jobs.drop(columns=["path", "reason"]))


class Study(_InDirectory):
    """The trials of a search."""

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial: the searched keys, the status and the value."""
        return as_frame(self.document["trials"])

    @property
    def best(self) -> Run | None:
        """The run of the best trial; None if there is none."""
        return Run(self.document["best_run"]) if self.document["best_run"] else None

    def _title(self) -> str:
        return f"{self.document['study']}: {len(self.document['trials'])} trials"

    def _repr_html_(self) -> str:
        return frame_html(self.trials.drop(columns=["reason"]))


class Comparison(_Documented):
    """A comparison between groups of runs. The runs of a group differ only in their seed."""

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        return str(self.document["summary"])

    @property
    def groups(self) -> pd.DataFrame:
        """A row per group, best first."""
        return as_frame({**group, "metrics": {}} for group in self.document["groups"])

    @property
    def pairs(self) -> pd.DataFrame:
        """A row per pair of groups: the difference, its interval and the verdict."""
        return as_frame(self.document["pairs"])

    @property
    def picture(self) -> Path:
        """The plot of the learning curves."""
        return Path(self.document["picture"])

    def _title(self) -> str:
        return self.summary

    def _repr_html_(self) -> str:
        groups = self.groups.drop(columns=["runs"])
        return f"<p>{html.escape(self.summary)}</p>" + frame_html(groups) + picture_html(self.picture)


class Evaluation(_Documented):
    """The metrics of a saved model."""

    @property
    def metrics(self) -> dict[str, float]:
        """The loss, the accuracy and further metrics."""
        return dict(self.document["metrics"])

    @property
    def classes(self) -> pd.DataFrame:
        """A row per class: images, precision, recall and F1 score."""
        return as_frame(self.document["classes"]).set_index("name")

    @property
    def folder(self) -> Path:
        """The folder with the pictures and tables."""
        return Path(self.document["folder"])

    def _title(self) -> str:
        return (
            f"accuracy {format_percent(self.document['accuracy'])} on {self.document['data']['images']:,} images"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>" + frame_html(self.classes)


# ── Verbs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def train(*overrides: str, **keys: Any) -> Run:
    """Train a model as `mnist-exp train` does, and return the run.

    Args:
        *overrides: Overrides and flags of the command line, such as `model=mlp`.
        **keys: Values by key, such as `seed=1` or `training__epochs=3`.

    Raises:
        RequestError: The request was wrong; nothing was created.
        WorkError: The training failed.
        KeyboardInterrupt: The training was interrupted; `resume` continues it.
    """
    return Run(run_verb("train", overrides, keys)["path"])


def sweep(*overrides: str, **keys: Any) -> Sweep:
    """Train all combinations of several values, as `mnist-exp -m` does. A tuple lists them: `seed=(0, 1, 2)`.

    Raises:
        RequestError: A job is invalid; nothing was created.
        WorkError: Some jobs failed. The same call runs the unfinished jobs again.
    """
    return Sweep(run_verb("train", ("-m", *overrides), keys, choices=True))


def lr_find(*overrides: str, **keys: Any) -> RangeTest:
    """Propose a learning rate for a training as `mnist-exp lr_find` does.

    Raises:
        RequestError: The request was wrong; nothing was created.
        WorkError: No learning rate can be proposed; the message says what to change.
    """
    return RangeTest(run_verb("lr_find", overrides, keys))


def tune(*overrides: str, **keys: Any) -> Study:
    """Search with Optuna as `mnist-exp tune` does. A tuple gives the choices of a key.

    Raises:
        RequestError: The search is invalid; nothing was created.
        WorkError: No trial finished.
    """
    return Study(run_verb("tune", overrides, keys, choices=True))


def resume(run: Run | str | Path = "latest", *overrides: str, **keys: Any) -> Run:
    """Continue an interrupted run exactly, or train a finished one longer, as `mnist-exp resume` does.

    Raises:
        RequestError: The run cannot be resumed.
        WorkError: The training failed.
    """
    return Run(run_verb("resume", (f"run={override_text(_place(run))}", *overrides), keys)["path"])


def evaluate(run: Run | str | Path = "latest", *overrides: str, **keys: Any) -> Evaluation:
    """Score a saved model as `mnist-exp evaluate` does.

    Raises:
        RequestError: There is no such model, or the data does not fit it.
        WorkError: A bound of `require` does not hold.
    """
    return Evaluation(run_verb("evaluate", (f"run={override_text(_place(run))}", *overrides), keys))


def compare(*runs: Run | Sweep | str | Path, **keys: Any) -> Comparison:
    """Compare runs and sweeps as `mnist-exp compare` does; by default, all runs on the data of the newest run.

    Args:
        *runs: Runs, sweeps, their names or paths, or patterns.
        **keys: Keys of `compare`, such as `metric="test/accuracy"`.

    Raises:
        RequestError: The runs cannot be compared.
    """
    return Comparison(run_verb("compare", (_places(runs),) if runs else (), keys))


def report(*runs: Run | Sweep | Study | str | Path, **keys: Any) -> Path:
    """Write the report of a run, a sweep, a study or a comparison as `mnist-exp report` does, and return its path.

    Args:
        *runs: A run, sweep or study, or several runs to compare; their names or paths, or patterns. Also `run=…`.
        **keys: Keys of `report`, such as `output="new.html"`.

    Raises:
        RequestError: There is no such run, the runs cannot be compared, or the file exists.
        WorkError: The disk is full.
    """
    if "run" in keys:
        run = keys.pop("run")
        runs += tuple(run) if isinstance(run, (list, tuple)) else (run,)
    return Path(run_verb("report", (_places(runs),), keys)["path"])


def check(*overrides: str, **keys: Any) -> list[Problem]:
    """Return all problems of a config, or an empty list if it can be trained. Problems are not raised.

    Raises:
        WorkError: The check itself failed.
    """
    document = run_verb("check", overrides, keys, raises=False)
    if document["document"] != "check":
        raise WorkError(str(document["message"]))
    return [problem_of(entry) for entry in document["problems"]]


def runs(
    where: str | None = None, sort: str | None = None, limit: int | None = None, outputs: str | Path = "outputs"
) -> pd.DataFrame:
    """List runs as a table: status, metrics, the settings that differ, tags, note and path.

    Args:
        where: A condition, such as `"val/accuracy>0.99 and model.name=='pyramid'"`.
        sort: A metric or key, preceded by `-` for descending order. By default, the newest run is first.
        limit: The maximum number of rows.
        outputs: The output folder.

    Raises:
        RequestError: The condition is wrong.
    """
    try:
        condition = None if where is None else Condition.parse(where)
    except ValueError as error:
        raise RequestError(f"where: {error}") from error
    listed = [ListedRun.read(summary) for summary in list_runs(Path(outputs))]
    selected = select_runs(listed, condition, sort)
    entries = [entry.model_dump() for entry in runs_document(selected[:limit], len(selected)).runs]
    kept = ("run", "status", "epochs", "data", "tags", "note", "path")
    frame = as_frame({key: entry[key] for key in (*kept, "metrics", "settings")} for entry in entries)
    return frame.set_index("run") if entries else frame


def load(
    run: Run | str | Path = "latest",
    outputs: str | Path = "outputs",
    normalize: bool | None = None,
    label_column: int | str | None = None,
) -> Run:
    """Find a run or a model file. The model is loaded on first use.

    Args:
        run: What `run=` takes: a run's directory or name, `latest`, `best`, or a model file.
        outputs: The output folder.
        normalize: Whether to convert image files to MNIST style; None: only if the model was trained on digits.
        label_column: The name or number of the label's column in CSV files to classify, as `data.label_column`;
            None: the one that the header names, or that of the run's data if it was read from CSV files.

    Raises:
        RequestError: There is no such run or file.
    """
    wanted, folder = _place(run), Path(outputs).expanduser()
    if wanted.startswith("models:/") or Path(wanted).suffix.lower() in MODEL_FILES:
        saved = find_saved(wanted, folder)
        return Run(saved.run or saved.file, saved, normalize, label_column)
    return Run(find_run(wanted, folder).path, None, normalize, label_column)


class _CallableModule(ModuleType):
    """A subpackage of `mnist_exp` that can be called as the function of the same name."""

    def __call__(self, *arguments: Any, **keys: Any) -> Any:
        """Call the function of `mnist_exp.api`."""
        return globals()[self.__name__.rpartition(".")[2]](*arguments, **keys)


for _function in (report, runs):
    sys.modules[f"mnist_exp.{_function.__name__}"].__class__ = _CallableModule
    sys.modules[f"mnist_exp.{_function.__name__}"].__doc__ = _function.__doc__


def _place(run: Run | Sweep | Study | str | Path) -> str:
    return str(run.path if isinstance(run, (Run, Sweep, Study)) else run)


def _places(runs: Iterable[Run | Sweep | Study | str | Path]) -> str:
    """Return the override that names runs."""
    return f"run=[{','.join(json.dumps(_place(run), ensure_ascii=False) for run in runs)}]"

"""The models and images that the demo page works with."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

from mnist_exp.config.overrides import Request, key_of
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Images, Part
from mnist_exp.engine.live_view import Answer, LiveView
from mnist_exp.engine.picture_subject import select_part
from mnist_exp.engine.saved_model import (
    Saved,
    compose_run_config,
    find_run_model,
    load_data,
    names_for_other_data,
    refuse_other_form,
)
from mnist_exp.errors import RequestError
from mnist_exp.runs.directory import MODEL, RunSummary, list_runs
from mnist_exp.runs.log import warn
from mnist_exp.text import format_shape

MOST_MODELS = 4
"""The maximum number of models in memory."""
_MOST_RUNS = 500  # listed, the newest ones


class DemoSession:
    """The loaded models, the examples, and the runs that can be added."""

    def __init__(self, request: Request, over_run: tuple[str, ...], outputs: Path, channels: int) -> None:
        """Start without models.

        Args:
            request: The command line.
            over_run: Its overrides for the configs of the runs.
            outputs: The output folder, whose runs can be added.
            channels: The maximum number of feature maps per layer.
        """
        self._request, self._over_run = request, over_run
        self._outputs, self._channels = outputs, channels
        self._models: list[LiveView] = []
        self._places: list[Path] = []  # of the models: the directories of their runs, or their files
        self._at_start = 0  # the number of models that the page shows at its start
        self._examples: Part | None = None
        self._examples_name = ""
        self._computing = threading.Lock()  # one computation at a time, each on all cores

    @property
    def models(self) -> list[LiveView]:
        """The loaded models; those that were added from the page are the last."""
        return self._models

    @property
    def is_busy(self) -> bool:
        """Whether a request is being worked on."""
        return self._computing.locked()

    def add(self, saved: Saved, config: TrainConfig) -> LiveView:
        """Load a model that the page shows from the start.

        Raises `RequestError` if that is impossible, or if the model takes other images than the first.
        """
        self._at_start += 1
        return self._load(saved, config)

    def _load(self, saved: Saved, config: TrainConfig) -> LiveView:
        model = LiveView(saved, config, self._channels)
        if self._models and (model.shape, model.class_names) != (self.shape, self._models[0].class_names):
            first = self._models[0]
            sizes = [f"{format_shape(one.shape)} and {len(one.class_names)} classes" for one in (model, first)]
            why = f"{sizes[0]} instead of {sizes[1]}" if sizes[0] != sizes[1] else "other class names"
            raise RequestError(f"{model.name} cannot be compared with {first.name}: it has {why}")
        self._models.append(model)
        self._places.append(_place_of(saved))
        return model

    @property
    def shape(self) -> tuple[int, int, int]:
        """The height, width and channels of the images."""
        return self._models[0].shape

    def load_examples(self, saved: Saved, config: TrainConfig) -> None:
        """Load the data of a run for examples; if it is missing, there are none.

        Raises `RequestError` if data that the command line names cannot be used.
        """
        try:
            data = load_data(config, self._request, names_for_other_data(saved, config))
            refuse_other_form(saved, self.shape, len(self._models[0].class_names), config.data)
        except RequestError as error:
            if any(key_of(text).split(".")[0] == "data" for text in self._over_run):
                raise
            warn(f"no examples on the page: {error}")
            return
        self._examples_name, self._examples = select_part(data, saved)

    def describe(self) -> dict[str, Any]:
        """Return everything that the page needs at its start, as JSON values."""
        return {
            "shape": self.shape,
            "classes": self._models[0].class_names,
            "normalizes": self._models[0].normalizes,
            "models": [model.describe() for model in self._models[: self._at_start]],
            "examples": 0 if self._examples is None else len(self._examples),
            "part": self._examples_name,
        }

    def example(self, number: int) -> dict[str, Any] | None:
        """Return an example as JSON values; None if there is no such example."""
        if self._examples is None or not 0 <= number < len(self._examples):
            return None
        pixels, label = self._examples.images[number], int(self._examples.labels[number])
        return {"pixels": encode(pixels), "label": label}

    def respond(self, numbers: list[int], image: Images) -> list[Answer]:
        """Return the answers of the models with these numbers."""
        with self._computing:
            return [self._models[number].respond(image) for number in numbers]

    def read_photograph(self, content: bytes) -> list[dict[str, Any]]:
        """Return the model's inputs for a photograph, as JSON values. Raises `RequestError`."""
        with self._computing:
            readings = self._models[0].read_photograph(content)
            return [{"pixels": encode(one.image), "box": one.box, "warning": one.warning} for one in readings]

    def list_runs(self) -> list[dict[str, Any]]:
        """Return the output folder's runs that have a model, the newest first, as JSON values."""
        return [
            {"id": self._identify(run), "name": run.name, "accuracy": run.result.val_accuracy}
            for run in list_runs(self._outputs)
            if (run.path / MODEL).is_file()
        ][:_MOST_RUNS]

    def add_run(self, wanted: str) -> int:
        """Load a run of the output folder, unless it is loaded, and return its number. Raises `RequestError`.

        Args:
            wanted: The `id` of the run in `list_runs`.
        """
        run = next((run for run in list_runs(self._outputs) if self._identify(run) == wanted), None)
        if run is None:
            raise RequestError("there is no such run")
        with self._computing:
            saved = find_run_model(run)
            if _place_of(saved) in self._places:
                return self._places.index(_place_of(saved))
            if len(self._models) >= MOST_MODELS:
                raise RequestError(f"at most {MOST_MODELS} runs can be loaded; restart the command to load others")
            self._load(saved, compose_run_config(saved, self._request, self._over_run))
            return len(self._models) - 1

    def _identify(self, run: RunSummary) -> str:
        return run.path.relative_to(self._outputs).as_posix()


def _place_of(saved: Saved) -> Path:
    """Return the directory of a model's run, or the file of a model without a run."""
    return (saved.run or saved.file).resolve()


def encode(pixels: Images) -> str:
    """Return pixels as text, row by row."""
    return base64.b64encode(pixels.tobytes()).decode()

"""Draw feature maps of chosen layers before training and after each epoch, for `training.watch`."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from mnist_exp.analysis.activations import compute_outputs
from mnist_exp.config.schema import TrainConfig
from mnist_exp.data.dataset import Dataset
from mnist_exp.model.build import build
from mnist_exp.model.layer_selection import find_layers, locate_layers
from mnist_exp.model.preprocessing import Statistics
from mnist_exp.report import feature_maps
from mnist_exp.report.class_labels import class_labels
from mnist_exp.report.figure import resolution
from mnist_exp.text import format_shape
from mnist_exp.tracking.recorder import RunRecord
from mnist_exp.training.batch_statistics import compile_statistics
from mnist_exp.training.callback import Callback
from mnist_exp.training.loop import Progress, mean_weights

FOLDER = "plots/watch"
_IMAGES, _CHANNELS = 5, 12
_LONGEST_NAME = 14  # columns


class FeatureMaps(Callback):
    """Draws the feature maps of the watched layers before training and after each epoch, for the same few images.

    The maps are those of the model that would be saved: in float32, with averaged weights if the config averages
    them. A separate copy of the model computes them, so that training itself is not affected.
    """

    def __init__(
        self,
        config: TrainConfig,
        statistics: Statistics,
        data: Dataset,
        record: RunRecord,
        model: keras.Model,
        progress: Progress,
    ) -> None:
        self._model, self._progress, self._record, self._dpi = model, progress, record, config.plots.dpi
        self._estimate = compile_statistics(model, data.train, config)
        self._twin = build(config, statistics, "float32", compiled=False)
        places = locate_layers(config.model.layers.specs, config.data.shape)
        watched = config.training.watch
        self._layers = list(
            dict.fromkeys(layer for one in watched for layer in find_layers(self._twin, one, places))
        )
        name, part = ("val", data.val) if data.val is not None else ("train", data.train)
        numbers = part.first_of_each(_IMAGES)
        self._images = part.images[numbers]
        names = class_labels(data.class_names, _LONGEST_NAME)
        self._labels = [f"{name} {number}\n{names[part.labels[number]]}" for number in numbers]
        self._run_title = f"{record.directory.name} · {record.result.data.title}"
        self._digits = max(3, len(str(config.training.epochs)))

    def draw_initial(self) -> None:
        """Draw the maps before training, as epoch 0, at which the sliders of MLflow's image charts begin."""
        self._twin.set_weights(self._model.get_weights())
        self._draw(0)

    def on_epoch(self, row: Mapping[str, float], is_best: bool) -> None:
        """Draw a picture per layer, and send it to the tracker."""
        with mean_weights(self._model, self._estimate, self._progress.recent):
            self._twin.set_weights(self._model.get_weights())
        self._draw(int(row["epoch"]))

    def _draw(self, epoch: int) -> None:
        """Draw the outputs of the copy's layers, and send the pictures to the tracker."""
        folder = self._record.path / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        outputs = compute_outputs(self._twin, self._layers, self._images)
        for layer, maps in zip(self._layers, outputs, strict=True):
            file = f"{layer.name}-epoch-{epoch:0{self._digits}}.png"
            title = f"epoch {epoch}: {layer.name} ({format_shape(maps.shape[1:])})\n{self._run_title}"
            with resolution(self._dpi):
                feature_maps.responses(
                    self._images, self._labels, maps, _CHANNELS, title, folder / file, first=True
                )
            self._record.image(f"{FOLDER}/{file}", f"watch/{layer.name}", epoch)

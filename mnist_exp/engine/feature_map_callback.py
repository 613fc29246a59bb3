"""`training.watch`: after each epoch, what some layers make of the same few images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mnist_exp.config.schema import TrainConfig
from mnist_exp.runs.directory import shown_data
from mnist_exp.text import format_shape

if TYPE_CHECKING:
    import keras

    from mnist_exp.data.dataset import Dataset
    from mnist_exp.model.preprocessing import Statistics
    from mnist_exp.tracking.recorder import RunRecord

FOLDER = "plots/watch"
_IMAGES, _CHANNELS = 5, 12


def watching(
    config: TrainConfig, found: Statistics, data: Dataset, record: RunRecord
) -> Callable[[keras.Model, int], None]:
    """A function that draws the feature maps of the watched layers of a model, after so many epochs.

    They are those of the model that would be saved: in float32, with the mean of the weights where that is kept.
    A twin computes them, so that the one that is trained is left alone.
    """
    from mnist_exp.analysis.activations import outputs_of
    from mnist_exp.analysis.layer_selection import choose, places_in
    from mnist_exp.model.build import build
    from mnist_exp.report import feature_maps
    from mnist_exp.training.loop import mean_weights

    twin = build(config, found, "float32")
    places = places_in(config.model.layers, config.data.shape)
    layers = list(
        dict.fromkeys(layer for wanted in config.training.watch for layer in choose(twin, wanted, places))
    )
    name, part = ("val", data.val) if data.val is not None else ("train", data.train)
    numbers = part.first_of_each(_IMAGES)
    images = part.images[numbers]
    labels = [f"{name} {number}\n{data.class_names[part.labels[number]][:10]}" for number in numbers]
    of_run = f"{record.directory.name} · {shown_data(record.result)}"
    digits = max(3, len(str(config.training.epochs)))

    def draw(model: keras.Model, epoch: int) -> None:
        with mean_weights(model):
            twin.set_weights(model.get_weights())
        folder = record.path / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for layer, maps in zip(layers, outputs_of(twin, layers, images), strict=True):
            file = f"{layer.name}-epoch-{epoch:0{digits}}.png"
            title = f"epoch {epoch}: {layer.name} ({format_shape(maps.shape[1:])})\n{of_run}"
            feature_maps.responses(images, labels, maps, _CHANNELS, title, folder / file, first=True)
            record.artifact(f"{FOLDER}/{file}", FOLDER)

    return draw

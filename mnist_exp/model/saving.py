"""Save a trained model as files that plain Keras loads without this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import keras
import numpy as np
import yaml

from mnist_exp import registrations
from mnist_exp.runs.atomic import replace_file, write_text


def save_model(model: keras.Model, folder: Path, formats: Collection[str] = ("h5", "yaml")) -> None:
    """Write a model (float32, compiled, with its optimizer's state) into a run's directory.

    `model.keras` is always written: it is the model that is scored. `model` must not be used afterwards (see
    `save_hdf5`).
    """
    save_keras(model, folder)
    if "yaml" in formats:
        save_architecture(model, folder)
    if "h5" in formats:
        save_hdf5(model, folder)


def save_keras(model: keras.Model, folder: Path) -> None:
    """Write `model.keras`."""
    with replace_file(folder / "model.keras") as path:
        model.save(path)


def save_architecture(model: keras.Model, folder: Path) -> None:
    """Write `architecture.yaml` and `model.weights.h5`, neither of which contains the optimizer."""
    architecture = json.loads(model.to_json())
    architecture.pop("compile_config", None)
    write_text(folder / "architecture.yaml", yaml.safe_dump(architecture, sort_keys=False))
    # A compiled model's weights are saved with the optimizer's state, at three times the size.
    bare = keras.models.model_from_json(json.dumps(architecture))
    bare.set_weights(model.get_weights())
    with replace_file(folder / "model.weights.h5") as path:
        bare.save_weights(path)


def save_hdf5(model: keras.Model, folder: Path) -> None:
    """Write `model.h5`.

    `model` must not be used afterwards: saving removes the optimizer from its compile config.
    """
    optimizer = optimizer_of(model)
    with replace_file(folder / "model.h5") as path:
        model.save(path, include_optimizer=optimizer is not None and fits_hdf5(optimizer))


def optimizer_of(model: keras.Model) -> keras.Optimizer | None:
    """Return a model's optimizer; None if the model was never compiled and thus lacks the attribute."""
    return getattr(model, "optimizer", None)


def fits_hdf5(optimizer: keras.Optimizer) -> bool:
    """Return whether Keras can write a built optimizer to HDF5 and read it back.

    Keras 3.15 cannot read Lamb back, and gives some of Adafactor's variables the same name.
    """
    paths = [variable.path for variable in optimizer.variables]
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    return len(set(paths)) == len(paths) and isinstance(again, keras.Optimizer)


def inner_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from inner_layers(layer)
        else:
            yield layer


def function_sha256(model: keras.Model) -> str:
    """Return the SHA-256 of all that determines a saved model's outputs: weights, architecture and plug-ins.

    The model must be as it was loaded: precisions are part of its architecture.
    """
    sources = {plugin.name: plugin.sha256 for plugin in registrations.loaded()}
    known = {registrations.find("layer", type(layer).__name__) for layer in inner_layers(model)}
    used = sorted({sources[one.plugin] for one in known if one is not None})
    return hashlib.sha256("\n".join([weights_sha256(model), model.to_json(), *used]).encode()).hexdigest()


def weights_sha256(model: keras.Model) -> str:
    """Return the SHA-256 of the bytes of all arrays in `model.get_weights()`, in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

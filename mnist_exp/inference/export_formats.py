"""Export formats of a model: how each is written, loaded and run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import yaml

from mnist_exp.data.dataset import Images
from mnist_exp.inference.scoring import BATCH, Probabilities
from mnist_exp.model.saving import save_architecture, save_hdf5, save_keras

Pixels = npt.NDArray[np.float32]
Run = Callable[[Pixels], Probabilities]
"""Maps raw images (n, height, width, channels), for any n, to class probabilities (n, classes)."""


@dataclass(frozen=True)
class Written:
    """An export format: its files, and the functions that write a model to a folder and load it from there."""

    files: tuple[str, ...]
    write: Callable[[keras.Model, Path], None]
    load: Callable[[Path], Run]
    runtime: str
    """The name of the Python package that `load` uses."""

    def size(self, folder: Path) -> int:
        """Return the total size of the format's files in `folder`, in bytes."""
        found = [folder / name for name in self.files]
        files = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path])]
        return sum(file.stat().st_size for file in files if file.is_file())

    @property
    def shown_runtime(self) -> str:
        """The runtime with its version, for display."""
        return f"{self.runtime} {version(self.runtime)}"


def _load_keras(name: str) -> Callable[[Path], Run]:
    return lambda folder: _run_keras(keras.saving.load_model(folder / name))


def _load_architecture(folder: Path) -> Run:
    architecture = yaml.safe_load((folder / "architecture.yaml").read_text(encoding="utf-8"))
    model = keras.models.model_from_json(json.dumps(architecture))
    model.load_weights(folder / "model.weights.h5")
    return _run_keras(model)


def _run_keras(model: keras.Model) -> Run:
    return lambda images: np.asarray(model.predict_on_batch(images))


def _load_saved_model(folder: Path) -> Run:
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    return lambda images: np.asarray(loaded.serve(tf.constant(images)))


def _load_onnx(folder: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    file = str(folder / "model.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    [pixels] = session.get_inputs()
    return lambda images: np.asarray(session.run(None, {pixels.name: images})[0])


def _load_litert(folder: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(folder / "model.tflite"))
    [pixels], [probabilities] = interpreter.get_input_details(), interpreter.get_output_details()
    try:
        interpreter.allocate_tensors()
    except RuntimeError as error:
        if "Select TensorFlow op" not in str(error):
            raise
        raise ValueError("LiteRT cannot run one of the layers; it supports no recurrent layers") from error

    def run(images: Pixels) -> Probabilities:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(pixels["index"], images.shape, strict=True)
            interpreter.allocate_tensors()
        interpreter.set_tensor(pixels["index"], images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(probabilities["index"]))

    return run


def _export(file: str, format: str) -> Callable[[keras.Model, Path], None]:
    def write(model: keras.Model, folder: Path) -> None:
        pixels = keras.InputSpec(dtype="float32", shape=model.input_shape, name="pixels")
        model.export(folder / file, format=format, verbose=False, input_signature=[pixels])

    return write


FORMATS = {
    "keras": Written(("model.keras",), save_keras, _load_keras("model.keras"), "keras"),
    "h5": Written(("model.h5",), save_hdf5, _load_keras("model.h5"), "keras"),
    "yaml": Written(("architecture.yaml", "model.weights.h5"), save_architecture, _load_architecture, "keras"),
    "savedmodel": Written(
        ("saved_model",), _export("saved_model", "tf_saved_model"), _load_saved_model, "tensorflow"
    ),
    "onnx": Written(("model.onnx",), _export("model.onnx", "onnx"), _load_onnx, "onnxruntime"),
    "litert": Written(("model.tflite",), _export("model.tflite", "litert"), _load_litert, "ai-edge-litert"),
}


def run_all(run: Run, images: Images) -> Probabilities:
    """Return class probabilities (n, classes), float32, for raw images (n, height, width, channels)."""
    batches = [images[first : first + BATCH].astype(np.float32) for first in range(0, len(images), BATCH)]
    return np.concatenate([run(batch) for batch in batches]).astype(np.float32, copy=False)


def seconds_per_image(run: Run, images: Images, batch: int) -> float:
    """Return the median time per image over 100 batches, or as many as run in half a second.

    Images are repeated if there are fewer than `batch`.
    """
    pixels = np.resize(images, (batch, *images.shape[1:])).astype(np.float32)
    for _ in range(3):  # compile the model and warm the caches
        run(pixels)
    taken: list[float] = []
    while len(taken) < 100 and sum(taken) < 0.5:
        started = time.perf_counter()
        run(pixels)
        taken.append(time.perf_counter() - started)
    return median(taken) / batch

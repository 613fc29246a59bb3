"""Check a config with Keras: layers, shapes, optimizer, loss and metrics."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnist_exp.analysis.summary import multiply_adds
from mnist_exp.config.compose import Composition
from mnist_exp.config.schema import TrainConfig
from mnist_exp.errors import Problem, RequestError
from mnist_exp.inference.scoring import inspect_classifier
from mnist_exp.keras_spec.arguments import Fault
from mnist_exp.keras_spec.layer_specs import LayerSpec
from mnist_exp.model.compile_args import make_loss, make_metrics, make_optimizer, try_on_targets, try_optimizer
from mnist_exp.model.graph import apply_layers
from mnist_exp.model.keras_errors import Report, first_sentence, reporting_at
from mnist_exp.model.layer_selection import NoSuchLayer, find_layers, freeze
from mnist_exp.model.preprocessing import Statistics, apply_preprocessing, count_parameters
from mnist_exp.model.warm_start import compare, load_donor
from mnist_exp.text import display_path, format_shape, shape_override
from mnist_exp.training.callback import make_callbacks
from mnist_exp.training.keras_augment import make_augmentation, try_augmentation
from mnist_exp.training.schedule import try_schedule

_LEAST_SIDE, _MOST_SIDE = 8, 257  # pixels: image sizes that are tried for a model of fixed size


def check(config: TrainConfig, composition: Composition, faults: Sequence[Fault] = ()) -> None:
    """Find the problems of a config that only Keras can detect: layers, shapes, optimizer, loss and metrics.

    The model is built for the data that the config declares; no data is read.

    Args:
        config: The config; if problems have already been reported, with defaults in place of invalid values.
        composition: The composed config, which knows where each value was set.
        faults: The faults that are already known. Keras objects with faults are not created.

    Raises:
        RequestError: With all problems found.
    """
    checks = _KerasCheck(config, composition, faults)
    checks.run()
    if checks.problems:
        raise RequestError(sorted(set(checks.problems)))


class _KerasCheck:
    """The checks of one config, and the problems that they find."""

    def __init__(self, config: TrainConfig, composition: Composition, faults: Sequence[Fault]) -> None:
        self._config, self._composition, self._faults = config, composition, faults
        self.problems: list[Problem] = []
        self._places: dict[str, str] = {}
        """The config path of each layer, by the layer's name."""

    def run(self) -> None:
        """Collect the problems."""
        optimizer, loss = self._make_optimizer(), self._make_loss()
        self._check_augmentation()
        self._check_plugins()
        self._check_teacher()
        model = self._build()
        if (
            model is not None
            and self._fits(model)
            and optimizer is not None
            and loss is not None
            and not self.problems
        ):
            self._train(model, optimizer, loss)
        elif optimizer is not None:
            self._try_optimizer(optimizer)

    def _report(self, path: str, message: str) -> None:
        self.problems.append(self._composition.problem(path, message, "rejected-by-keras"))

    def _is_faulty(self, *paths: str) -> bool:
        """Return whether there is a fault at or below one of these paths."""
        return any(f"{fault.path}.".startswith(f"{path}.") for fault in self._faults for path in paths)

    def _make_optimizer(self) -> keras.Optimizer | None:
        if self._is_faulty("optimizer"):
            return None
        with reporting_at("optimizer", self._report):
            return make_optimizer(self._config.optimizer, self._config.training.ema)
        return None

    def _try_optimizer(self, optimizer: keras.Optimizer) -> None:
        with reporting_at("optimizer", self._report):
            try_optimizer(optimizer)

    def _make_loss(self) -> keras.Loss | None:
        """Return the loss; None if the loss or a metric cannot be computed."""
        training = self._config.training
        if self._is_faulty("training.loss", "training.label_smoothing", "training.metrics"):
            return None
        with reporting_at("training", self._report):
            loss, metrics = make_loss(training), make_metrics(training)
            try_on_targets(loss, metrics, training, self._config.data.classes)
            return loss
        return None

    def _check_augmentation(self) -> None:
        for spec in self._config.aug.layers.specs:
            if isinstance(spec, LayerSpec):
                with reporting_at(spec.place, self._report):
                    try_augmentation(make_augmentation(spec), self._config.data.shape)

    def _check_plugins(self) -> None:
        """Check that the schedule and the callbacks of plug-ins work."""
        if not self._is_faulty("schedule"):
            with reporting_at("schedule", self._report):
                try_schedule(self._config.schedule)
        for index, entry in enumerate(self._config.training.callbacks):
            place = f"training.callbacks.{index}"
            if not self._is_faulty(place):
                try:
                    make_callbacks([entry])
                except Exception as error:  # of any type, in a plug-in
                    self._report(place, f"cannot be created: {type(error).__name__}: {first_sentence(error)}")

    def _check_teacher(self) -> None:
        """Check that the teacher returns probabilities of the data's classes for images of the data's shape."""
        data, run = self._config.data, self._config.teacher
        if run is None:
            return
        try:
            shape, classes = inspect_classifier(load_donor(Path(run)), str(display_path(Path(run))))
        except RequestError as error:
            self._report("teacher", str(error))
            return
        if (shape, classes) != (tuple(data.shape), data.classes):
            found = f"{format_shape(shape)} and {classes}"
            self._report(
                "teacher",
                f"must take images of {format_shape(data.shape)} and return {data.classes} probabilities, "
                f"found {found}",
            )

    def _build(self) -> keras.Model | None:
        config = self._config
        inputs = keras.Input(config.data.shape, name="pixels", dtype="float32")
        x = apply_preprocessing(config.preprocess, Statistics(), inputs)
        outputs = apply_layers(config.model.layers.specs, x, self._report, self._places)
        if outputs is None:
            return None
        try:
            model = keras.Model(inputs, outputs)
        except ValueError as error:  # two layers share a name
            self._report("model.layers", first_sentence(error))
            return None
        for layer in model.layers:
            self._check_regularizers(layer)
        return model

    def _check_regularizers(self, layer: keras.Layer) -> None:
        """Check that a layer's regularizers can be computed: some of them require a matrix.

        The step in `_train` does not show this: its batch size is fixed, but the training loop's is unknown.
        """
        place = self._places.get(layer.name, "model.layers")
        given = {name: value for name, value in vars(layer).items() if name.endswith("_regularizer") and value}
        for name, regularizer in given.items():
            of_outputs = name == "activity_regularizer"
            weights = [weight for weight in layer.weights if weight.regularizer is regularizer]
            for penalized in [layer.output] if of_outputs else weights:
                shape = "×".join("any" if size is None else str(size) for size in penalized.shape)
                try:
                    keras.layers.Lambda(regularizer)(keras.KerasTensor(penalized.shape))
                except Exception:
                    what = f"outputs of {shape}" if of_outputs else f"a {penalized.name} of {shape}"
                    message = f"{type(regularizer).__name__} cannot be computed for {what}"
                    self._report(f"{place}.{name}", message)

    def _fits(self, model: keras.Model) -> bool:
        """Check the model's output, its watched and frozen layers, initial weights and size.

        Returns whether the output fits.
        """
        config = self._config
        if model.output_shape != (None, config.data.classes):
            if self._explain_fixed_size(model):
                return False
            shape = "×".join(str(size) for size in model.output_shape[1:])
            message = f"must end in {config.data.classes} values, one per class, but ends in {shape}"
            self._report("model.layers", message)
            return False
        for index, wanted in enumerate(config.training.watch):
            try:
                find_layers(model, wanted, self._places)
            except NoSuchLayer as error:
                self._report(f"training.watch.{index}", str(error))
        self._freeze(model)
        if config.init_from is not None:
            _check_donor(model, config.init_from, self._report)
        for key, most, found, what in (
            ("max_parameters", config.budget.max_parameters, count_parameters(model), "parameters"),
            ("max_macs", config.budget.max_macs, sum(map(multiply_adds, model.layers)), "multiply-adds per image"),
        ):
            if most is not None and found > most:
                message = f"the model has {found:,} {what}, {found - most:,} more than the limit of {most:,}"
                self._report(f"budget.{key}", message)
        return True

    def _explain_fixed_size(self, model: keras.Model) -> bool:
        """Report a last convolution whose kernel covers its whole input only in images of another size.

        Returns whether there is one.
        """
        data = self._config.data
        convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
        if not convolutions or convolutions[-1].filters != data.classes or max(convolutions[-1].kernel_size) == 1:
            return False
        last, sides = convolutions[-1], range(_MOST_SIDE)
        if any(layer.weights for layer in model.layers[model.layers.index(last) + 1 :]):
            return False
        side = bisect_left(sides, data.classes, lo=_LEAST_SIDE, key=self._count_outputs)
        if side == len(sides) or self._count_outputs(side) != data.classes:
            return False
        scaling = f"data.resize=fit {shape_override((side, side, data.shape[2]))} scales them, or choose "
        self._report(
            self._places.get(last.name, "model.layers"),
            f"Conv2D's kernel {format_shape(last.kernel_size)} must cover its whole input, but gets "
            f"{format_shape(last.input.shape[1:3])} for images of {format_shape(data.shape[:2])}; this model "
            f"takes images of {side}×{side}: {scaling if data.source == 'folder' else 'choose '}another model",
        )
        return True

    def _count_outputs(self, side: int) -> int:
        """Return the number of the model's outputs for square images; 0 if the layers do not fit them."""
        config = self._config
        inputs = keras.Input((side, side, config.data.shape[2]), dtype="float32")
        x = apply_preprocessing(config.preprocess, Statistics(), inputs)
        outputs = apply_layers(config.model.layers.specs, x, lambda path, message: None, {})
        return 0 if outputs is None else math.prod(outputs.shape[1:])

    def _freeze(self, model: keras.Model) -> None:
        """Freeze layers as in training, and check that some weights remain trainable."""
        wanted = self._config.training.freeze
        for index, layer in enumerate(wanted):
            try:
                freeze(model, layer, self._places)
            except NoSuchLayer as error:
                self._report(f"training.freeze.{index}", str(error))
        if wanted and not model.trainable_variables:
            self._report("training.freeze", "freezes all weights, so nothing is left to train")

    def _train(self, model: keras.Model, optimizer: keras.Optimizer, loss: keras.Loss) -> None:
        """Check that the model outputs probabilities, that a training step succeeds, and that it can be saved."""
        config = self._config
        images = np.full((2, *config.data.shape), 128, np.float32)
        targets = np.eye(2, config.data.classes) if config.training.one_hot else np.arange(2)
        try:
            total = float(np.sum(model(images))) / 2
            if not abs(total - 1) < 1e-3:
                message = f"must end in probabilities, but the outputs sum to {total:.3g}: add Softmax"
                self._report("model.layers", message)
                return
            model.compile(optimizer, loss, run_eagerly=True, jit_compile=False)
            model.train_on_batch(images, targets)
        # Keras builds models that TensorFlow cannot compute, for example with unequal strides
        except Exception as error:
            self._explain_failed_step(model, images, error)
            return
        try:
            keras.models.model_from_json(model.to_json())
        except Exception as error:
            self._report("model.layers", f"can be trained but not saved: {first_sentence(error)}")

    def _explain_failed_step(self, model: keras.Model, images: Any, error: Exception) -> None:
        """Report whether the optimizer or a layer is at fault."""
        self._try_optimizer(make_optimizer(self._config.optimizer, self._config.training.ema))
        if not self.problems:
            place = _first_that_fails(model, images, self._places)
            self._report(place, f"can be built but not run: {first_sentence(error)}")


def _check_donor(model: keras.Model, run: str, report: Report) -> None:
    try:
        taken = compare(model, load_donor(Path(run))).taken
    except RequestError as error:
        report("init_from", str(error))
    else:
        if not taken:
            report("init_from", f"no layer of {run} has the name and shapes of a layer of this model")


def _first_that_fails(model: keras.Model, images: Any, places: dict[str, str]) -> str:
    for layer in model.layers[1:]:
        try:
            keras.Model(model.input, layer.output)(images, training=True)
        except Exception:
            return places.get(layer.name, "model.layers")
    return "model.layers"  # the forward pass works

"""Names and arguments read from Keras' source equal those of the imported classes."""

from __future__ import annotations

import inspect

import pytest

from mnist_exp.keras_spec.signatures import class_arguments, classes, spell_out


@pytest.mark.parametrize("kind", ["layers", "optimizers", "losses", "metrics", "initializers", "regularizers"])
def test_names_and_arguments_are_those_of_the_classes(kind: str):
    """Each exported class has the same arguments and required arguments."""
    import keras

    module = getattr(keras, kind)
    exported = {name: member for name, member in vars(module).items() if inspect.isclass(member)}
    assert set(exported) >= set(classes(kind)) - {"Input"}
    for name in set(classes(kind)) - {"Input"}:
        member = exported[name]
        parameters = list(inspect.signature(member.__init__).parameters.values())[1:]
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        found = class_arguments(kind, name)
        assert found is not None
        assert found.known == {p.name for p in named}, name
        assert found.required == {p.name for p in named if p.default is p.empty}, name


@pytest.mark.parametrize("name", ["bce", "KLD", "mae", "MAPE", "mse", "MSLE"])
def test_abbreviations_are_those_of_keras(name: str):
    """They mean the same loss and metric; Keras has no abbreviation of the metric `kl_divergence`."""
    import keras

    assert keras.losses.get(name).__name__ == spell_out(name)
    if name != "KLD":
        assert keras.metrics.get(name).name == spell_out(name)

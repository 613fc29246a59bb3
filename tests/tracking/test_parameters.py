"""The parameters of a run in MLflow."""

from __future__ import annotations

from mnist_exp.tracking.parameters import chosen_parameters

CONFIG = {
    "seed": 0, "name": None, "outputs": "outputs", "tracking": {"enabled": True},
    "data": {"name": "digits", "limit": None, "mirrors": ["http://127.0.0.1"], "files": {"test_images": "t"}},
    "model": {"name": "linear", "width": 8, "layers": ["Flatten", {"type": "Dense", "units": 10}, "Softmax"]},
    "optimizer": {"type": "SGD", "learning_rate": 0.1, "momentum": 0.0, "clipnorm": None},
}  # fmt: skip


def test_parameters_are_the_chosen_settings():
    """Settings that are off, and those of files and trackers, are left out."""
    assert chosen_parameters(CONFIG, ["model=linear", "data=digits"]) == {
        "seed": "0", "data.name": "digits", "model.name": "linear", "model.width": "8",
        "optimizer.type": "SGD", "optimizer.learning_rate": "0.1",
    }  # fmt: skip


def test_every_overridden_key_is_a_parameter():
    """Swept keys too, whatever their values, so that the table of runs can show them."""
    few = chosen_parameters(CONFIG, [])
    overrides = ["optimizer.momentum=0", "++model.layers.1.units=10", "~data.limit", "tracking.enabled=true"]
    more = chosen_parameters(CONFIG, overrides)
    assert {key: more[key] for key in more.keys() - few.keys()} == {
        "optimizer.momentum": "0.0", "model.layers.1.units": "10", "data.limit": "null",
    }  # fmt: skip

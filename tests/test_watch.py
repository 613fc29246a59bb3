"""`training.watch`: pictures before training and after each epoch, with unchanged weights."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support.cli import Cli

from mnist_exp.report import feature_maps
from mnist_exp.report.progress import TrainingDisplay

NET = (
    "model.layers=[{type: Conv2D, filters: 3, kernel_size: 5, activation: relu}, MaxPooling2D, BatchNormalization,"
    "{type: Dropout, rate: 0.3}, Flatten, {type: Dense, units: 10}, Softmax]"
)
TRAINED = (NET, "aug=shift", "training.ema=0.9", "training.batch_size=16", "training.epochs=3")


def names(run: Path | None) -> set[str]:
    assert run is not None
    return {path.name for path in (run / "plots" / "watch").glob("*")}


@pytest.mark.slow
def test_watching_changes_no_bit(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Neither weights nor fingerprint change; the maps are those of the model that would be saved."""
    drawn: dict[str, Any] = {}
    responses = feature_maps.responses

    def listen(images: Any, labels: Any, values: Any, channels: Any, title: str, path: Path, **more: Any) -> None:
        drawn[path.name] = (images, values)
        responses(images, labels, values, channels, title, path, **more)

    monkeypatch.setattr(feature_maps, "responses", listen)
    plain = cli(*TRAINED, small=True)
    watched = cli(*TRAINED, "training.watch=[0,dense]", small=True)
    for key in ("weights_sha256", "fingerprint", "best", "test"):
        assert watched.result[key] == plain.result[key], key
    expected = {f"{layer}-epoch-{epoch:03}.png" for layer in ("conv2d", "dense") for epoch in range(4)}
    assert names(watched.run) == expected == set(drawn)
    assert watched.run is not None
    lines = [json.loads(line) for line in (watched.run / "journal.jsonl").read_text().splitlines()]
    kept = {(line["file"], line["key"], line["step"]) for line in lines if line["kind"] == "image"}
    assert kept == {
        (f"plots/watch/{layer}-epoch-{epoch:03}.png", f"watch/{layer}", epoch)
        for layer in ("conv2d", "dense") for epoch in range(4)
    }  # fmt: skip
    saved: Any = keras.saving.load_model(watched.run / "model.keras")
    images, values = drawn[f"conv2d-epoch-{watched.result['best']['epoch']:03}.png"]
    first = keras.Model(saved.inputs, saved.get_layer("conv2d").output)
    np.testing.assert_allclose(values, first.predict(images, verbose=0), rtol=1e-5, atol=1e-6)
    assert len(images) == 5
    assert values.min() == 0  # after the activation, which a fused pooling computes in a training


@pytest.mark.slow
def test_a_resumed_run_has_every_picture(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """They are byte for byte the same; other layers may be watched after resuming."""
    straight = cli(*TRAINED, "training.watch=[conv2d]", "name=run", small=True)
    left = [9]
    on_steps = TrainingDisplay.on_steps

    def interrupting(display: Any, *arguments: Any) -> None:
        on_steps(display, *arguments)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingDisplay, "on_steps", interrupting)
    left[0] = 3
    cut = cli(*TRAINED, "training.watch=[conv2d]", "name=run", small=True, status=130)
    done = cli("resume", f"run={cut.run}")
    assert done.result["weights_sha256"] == straight.result["weights_sha256"]
    assert done.result["exact"] is True
    assert names(done.run) == names(straight.run)
    left[0] = 3
    cut = cli(*TRAINED, "training.watch=[conv2d]", small=True, status=130)
    done = cli("resume", f"run={cut.run}", "training.watch=[dense]")
    assert done.result["weights_sha256"] == straight.result["weights_sha256"]
    assert {name.split("-")[0] for name in names(done.run)} == {"conv2d", "dense"}


@pytest.mark.parametrize(
    ("watch", "message"),
    [
        ("[conv2,0]", "training.watch.0: there is no layer 'conv2' (did you mean 'conv2d'?); the layers are 0 conv2d, 1 max_p"),
        ("[7]", "training.watch.0: there is no layer 7; the layers are 0 conv2d"),
        ("[1.5]", "training.watch.0"),
        ("conv2d", "training.watch=conv2d: must be a list"),
    ],
)  # fmt: skip
def test_wrong_layers_are_refused_before_anything_is_created(cli: Cli, watch: str, message: str):
    """The message lists the existing layers, along with all other problems."""
    refused = cli(*TRAINED, f"training.watch={watch}", "optimizer.lerning_rate=1", small=True, status=2)
    assert message in refused.err
    assert "lerning_rate" in refused.err
    assert not Path("outputs").exists()


def test_without_validation_training_images_are_watched(cli: Cli):
    """A layer in a repeated list selects all its repetitions."""
    done = cli(
        "model.layers=[{type: Repeat, times: 2, layers: [{type: Conv2D, filters: 2, kernel_size: 3}]}, Flatten,"
        "{type: Dense, units: 10}, Softmax]",
        "data.val_fraction=0", "training.select={metric: val/loss, mode: min}", "training.watch=[0.layers.0]",
        "training.epochs=1", small=True, status=None,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert names(done.run) == {
        f"{layer}-epoch-{epoch:03}.png" for layer in ("conv2d", "conv2d_1") for epoch in (0, 1)
    }

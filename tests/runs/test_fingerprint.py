"""The fingerprint: equal exactly when the weights would be."""

from __future__ import annotations

import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.runs.fingerprint import as_values, fingerprint


def of(*overrides: str, data: str = "d", kind: str = "cpu", precision: str = "float32", threads: int = 2) -> str:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return fingerprint(as_values(config), data_sha256=data, kind=kind, precision=precision, threads=threads)


@pytest.mark.parametrize(
    "override",
    ["name=x", "outputs=elsewhere", "tracking=none", "tracking.experiment=y", "data.dir=/tmp", "data.mirrors=[]",
     "data.fallback=null", "device=cpu", "training.keep_checkpoint=true", "training.watch=[0]",
     "training.checkpoint_seconds=1", "sweep.name=z", "device.threads=2"],
)  # fmt: skip
def test_what_does_not_change_the_weights_does_not_change_it(override: str):
    """Names and places do not count, nor does writing out what `auto` would choose."""
    assert of(override) == of()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model=linear", "model.dropout=0.1", "aug=shift", "optimizer.learning_rate=0.1", "data.limit=9",
     "training.epochs=6", "training.select={metric: val/loss, mode: min}", "device.deterministic=false", "preprocess=standardize"],
)  # fmt: skip
def test_what_changes_the_weights_changes_it(override: str):
    """So does everything else."""
    assert of(override) != of()


def test_data_precision_and_threads_count():
    """The digest of the data, and the device, precision and threads as resolved, are part of it."""
    assert len({of(), of(data="e"), of(kind="gpu"), of(precision="bfloat16"), of(threads=1)}) == 5


def test_code_and_versions_count(monkeypatch: pytest.MonkeyPatch):
    """Another version of ours, of Keras, TensorFlow or NumPy may train other weights."""
    before = of()
    for name, value in (("code_digest", lambda: "other"), ("version", lambda name: "0")):
        with monkeypatch.context() as patch:
            patch.setattr(f"mnist_exp.runs.fingerprint.{name}", value)
            assert of() != before
    assert of() == before

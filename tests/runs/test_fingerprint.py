"""Fingerprints are equal exactly if the weights would be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.runs.fingerprint import CODE_ROOTS, as_values, digest_of, fingerprint, import_closure


def of(*overrides: str, data: str = "d", kind: str = "cpu", precision: str = "float32", threads: int = 2) -> str:
    config, _ = compose_checked(Request("train", overrides), TrainConfig)
    return fingerprint(as_values(config), data_sha256=data, kind=kind, precision=precision, threads=threads)


@pytest.mark.parametrize(
    "override",
    ["name=x", "outputs=elsewhere", "tracking=none", "tracking.experiment=y", "data.dir=/tmp", "data.mirrors=[]",
     "data.fallback=null", "device=cpu", "training.keep_checkpoint=true", "training.watch=[0]",
     "training.checkpoint_seconds=1", "sweep.name=z", "device.threads=2",
     "save=[keras]", "sweep.keep_models=best", "plots.draw=none", "plots.draw=[loss]", "plots.dpi=50"],
)  # fmt: skip
def test_settings_without_effect_on_the_weights_do_not_count(override: str):
    """Names and places do not count, nor does spelling out what `auto` would choose."""
    assert of(override) == of()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model=linear", "model.dropout=0.1", "aug=shift", "optimizer.learning_rate=0.1", "data.limit=9",
     "training.epochs=6", "training.select={metric: val/loss, mode: min}", "device.deterministic=false", "preprocess=standardize"],
)  # fmt: skip
def test_all_other_settings_count(override: str):
    """Each of them changes the fingerprint."""
    assert of(override) != of()


def test_a_time_budget_counts_instead_of_the_epochs_that_fit():
    """The number of epochs is measured, and may differ when the same job is begun again."""
    config, _ = compose_checked(Request("train", ("training.max_seconds=60",)), TrainConfig)
    begun = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 11})})
    same = {"data_sha256": "d", "kind": "cpu", "precision": "float32", "threads": 2}
    assert fingerprint(as_values(begun), **same) == of("training.max_seconds=60")  # type: ignore[arg-type]
    assert len({of(), of("training.max_seconds=60"), of("training.max_seconds=61")}) == 3


def test_data_precision_and_threads_count():
    """The data's digest and the resolved device, precision and threads are part of it."""
    assert len({of(), of(data="e"), of(kind="gpu"), of(precision="bfloat16"), of(threads=1)}) == 5


def test_the_teacher_counts_by_its_weights():
    """Its path does not count, and without a teacher, neither does its share in the loss."""
    digests = {"data_sha256": "d", "kind": "cpu", "precision": "float32", "threads": 2}
    learnt = {
        (path, weight, sha256): fingerprint(
            as_values(
                compose_checked(
                    Request("train", (f"teacher={path}", f"training.distillation.weight={weight}")), TrainConfig
                )[0]
            ),
            **digests,  # type: ignore[arg-type]
            teacher_sha256=sha256,
        )
        for path, weight, sha256 in (("a", 0.5, "x"), ("b", 0.5, "x"), ("a", 0.6, "x"), ("a", 0.5, "y"))
    }
    assert len({of(), *learnt.values()}) == 4
    assert learnt["a", 0.5, "x"] == learnt["b", 0.5, "x"]
    values = as_values(compose_checked(Request("train"), TrainConfig)[0])
    for key in ("teacher", "training"):  # an older version's config
        values[key] = None if key == "teacher" else {k: v for k, v in values[key].items() if k != "distillation"}
    assert fingerprint(values, **digests) == of()  # type: ignore[arg-type]


def test_code_and_versions_count(monkeypatch: pytest.MonkeyPatch):
    """Other versions of this package, Keras, TensorFlow or NumPy may train other weights."""
    before = of()
    for name, value in (("code_digest", lambda: "other"), ("version", lambda name: "0")):
        with monkeypatch.context() as patch:
            patch.setattr(f"mnist_exp.runs.fingerprint.{name}", value)
            assert of() != before
    assert of() == before


CODE = """
def scaled(x, report, kind):
    \"\"\"Double a number.\"\"\"
    if x < 0:
        raise ValueError(f"negative: {x}")  # never
    report("path", "a message")
    return {"kind": kind, "x": 2 * x}
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("Double a number.", "Return twice the number.", False),
        ("  # never", "", False),
        ('f"negative: {x}"', '"must not be negative"', False),
        ('"a message"', '"a better message"', False),
        ("\n    if", "\n\n    if", False),
        ("2 * x", "3 * x", True),
        ("x < 0", "x <= 0", True),
        ('"kind": kind', '"type": kind', True),
    ],
)
def test_wording_is_not_part_of_the_code_digest(old: str, new: str, counts: bool):
    """Docstrings, comments, layout and messages do not count; code does."""
    assert old in CODE
    digests = {digest_of({"a": ast.parse(code)}) for code in (CODE, CODE.replace(old, new))}
    assert len(digests) == 1 + counts


# Loaded by building and training, and not in the digest, because its result is in the fingerprint itself.
COMPOSING = ("mnist_exp.cli", "mnist_exp.config.", "mnist_exp.text")

BUILD_AND_TRAIN = """
import sys
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.model import backend

words = ("data=digits", "model=resnet_mini", "data.limit=60", "training.epochs=1", "aug=elastic",
         "aug.layers=[RandomFlip]", "training.ema=0.9", "debug=nan_check")
config, _ = compose_checked(Request("train", words), TrainConfig)
backend.load()
from mnist_exp.data.formats import find, prepare
from mnist_exp.model.build import build
from mnist_exp.model.preprocessing import statistics
from mnist_exp.training import device
from mnist_exp.training.loop import fit

precision = device.resolve(config.device).precision
data = prepare(find(config.data, print), config.data)
fit(build(config, statistics(data.train.images, config.preprocess), precision), data, config)
print(*(name for name, module in sys.modules.items() if name.startswith("mnist_exp.") and not hasattr(module, "__path__")))
"""


@pytest.mark.slow
def test_the_code_digest_covers_all_that_builds_and_trains(use: Callable[[str], None]):
    """All modules that a process loads to build and train a model count, except those that compose configs."""
    use("digits")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", BUILD_AND_TRAIN], capture_output=True, text=True, check=True, env=environment
    )
    loaded = {name for name in done.stdout.splitlines()[-1].split() if not name.startswith(COMPOSING)}
    covered = set(import_closure(CODE_ROOTS))
    assert set(CODE_ROOTS) <= covered
    assert loaded - covered == set()
    of_config = {name for name in covered if name.startswith(COMPOSING)}
    typed = ("schema", "data_schema", "distillation_schema", "field_types", "metric_directions", "store_uri")
    assert of_config == {"mnist_exp.text", *(f"mnist_exp.config.{name}" for name in typed)}
    assert covered - loaded == of_config

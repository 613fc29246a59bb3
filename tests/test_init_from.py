"""Warm start: runs that start from another run's weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from support.cli import Cli
from support.golden import Golden

NET = (
    "model.layers=[Flatten,{type: Dense, units: 12, name: hidden%s},{type: Dense, units: 10, name: out}, Softmax]"
)
STILL = "optimizer.learning_rate=1e-12"


def weights(run: Path | None) -> dict[str, list[np.ndarray]]:
    assert run is not None
    model: Any = keras.saving.load_model(run / "model.keras")
    return {layer.name: layer.get_weights() for layer in model.layers}


def close(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def test_layers_with_the_same_name_and_shapes_start_from_the_other_run(cli: Cli, golden: Golden):
    """The other layers of both runs are reported; those of this run start from random weights."""
    donor = cli(NET % "", small=True)
    other = "model.layers=[Flatten,{type: Dense, units: 12, name: hidden},BatchNormalization,{type: Dense, units: 10, use_bias: false, name: out}, Softmax]"
    done = cli(other, STILL, "seed=5", "init_from=latest", small=True)
    first, second = weights(donor.run), weights(done.run)
    assert close(first["hidden"], second["hidden"])
    assert not np.allclose(first["out"][0], second["out"][0], atol=1e-3)
    assert donor.run is not None
    origin = done.result["init_from"]
    left = origin.pop("left")
    assert [text.partition(":")[0] for text in left] == ["batch_normalization", "out"]
    golden("\n".join(left))
    assert origin == {
        "run": str(donor.run),
        "weights_sha256": donor.result["weights_sha256"],
        "taken": ["hidden"],
        "trained_on": [
            {"sha256": donor.result["data"]["sha256"], "val_fraction": 0.1, "split_seed": 0, "limit": 300}
        ],
        "validation_images_seen": 0,
    }
    assert f"init    hidden from outputs/runs/{donor.run.name}" in done.out
    assert all(f"not taken: {text}\n" in done.out for text in left)
    config = yaml.safe_load((done.run / "config.yaml").read_text(encoding="utf-8"))  # type: ignore[operator]
    assert config["init_from"] == str(donor.run)  # which run `latest` was


@pytest.mark.slow
def test_other_preprocessing_is_reported(cli: Cli):
    """The weights were trained on differently scaled inputs."""
    cli(NET % "", small=True)
    done = cli(NET % "", "preprocess=standardize", "init_from=latest", small=True)
    assert "init    hidden, out from " in done.out
    assert re.search("not taken: preprocessing: unit .*, standardize ", done.out)


@pytest.mark.slow
def test_a_frozen_layer_stays_as_it_was(cli: Cli):
    """With `trainable: false`, its weights are bit-identical while other layers are trained."""
    donor = cli(NET % "", small=True)
    done = cli(NET % ", trainable: false", "init_from=latest", small=True)
    first, second = weights(donor.run), weights(done.run)
    assert all(np.array_equal(a, b) for a, b in zip(first["hidden"], second["hidden"], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first["out"], second["out"], strict=True))


def training_images(run: Path | None, part: str) -> set[bytes]:
    """Return the images of a part of a run's data, as its own config describes them."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.config.validation import compose_checked
    from mnist_exp.data.formats import find, prepare
    from mnist_exp.runs.lookup import read_config

    assert run is not None
    config = compose_checked(Request("train", base=read_config(run)), TrainConfig)[0].data
    images = getattr(prepare(find(config, print), config), part).images
    return {image.tobytes() for image in images}


@pytest.mark.slow
def test_a_limit_does_not_mix_the_parts_of_two_runs(cli: Cli):
    """A run that starts from one with another limit validates on none of its training images."""
    donor = cli("data.limit=900", small=True)
    done = cli("data.limit=300", "init_from=latest", small=True)
    assert not training_images(donor.run, "train") & training_images(done.run, "val")
    assert done.result["init_from"]["validation_images_seen"] == 0
    assert "validation images of this run" not in done.out


@pytest.mark.slow
def test_validating_on_images_already_trained_on_is_reported(cli: Cli):
    """Their number is reported and recorded, including images that the other run's own start had seen."""
    digits = ("data=digits",)  # of MNIST's 60,000 images, two small samples would hardly share one
    donor = cli(*digits, "data.limit=900", small=True)
    second = cli(*digits, "data.limit=300", "data.split_seed=5", "init_from=latest", small=True)
    own = training_images(second.run, "val")
    seen = len(own & training_images(donor.run, "train"))
    assert seen > 5
    assert second.result["init_from"]["validation_images_seen"] == seen
    assert f"{seen} of the {len(own)} validation images" in second.out
    third = cli(*digits, "data.limit=300", "data.split_seed=6", f"init_from={second.run}", small=True)
    trained_on = training_images(donor.run, "train") | training_images(second.run, "train")
    seen = len(training_images(third.run, "val") & trained_on)
    assert third.result["init_from"]["validation_images_seen"] == seen
    compared = cli("compare", f"run=[{donor.run},{second.run},{third.run}]", status=2)
    assert f"{seen} of its validation images" in compared.err
    by_test = cli("compare", f"run=[{second.run},{third.run}]", "metric=test/accuracy", "across_data=true").out
    assert "of its validation images" not in by_test


@pytest.mark.slow
def test_a_start_on_other_data_is_of_unknown_images(cli: Cli):
    """The number of validation images seen is then recorded as unknown, not as 0."""
    donor = cli(small=True)
    assert donor.run is not None
    result = donor.run / "result.json"
    result.write_text(result.read_text(encoding="utf-8").replace(donor.result["data"]["sha256"], "0" * 64))
    done = cli("init_from=latest", small=True)
    assert done.result["init_from"]["validation_images_seen"] is None
    assert "unknown whether" in done.out


@pytest.mark.slow
def test_a_warm_start_lowers_the_first_loss(cli: Cli):
    """Its fingerprint depends on the initial weights."""
    donor = cli("optimizer.learning_rate=0.01", small=True)
    fresh = cli("seed=1", small=True)
    tuned = cli("seed=1", f"init_from={donor.run}", small=True)
    read = [Path(str(run)) / "history.csv" for run in (fresh.run, tuned.run)]
    losses = [float(path.read_text(encoding="utf-8").splitlines()[1].split(",")[1]) for path in read]
    assert losses[1] < losses[0]
    assert fresh.result["fingerprint"] != tuned.result["fingerprint"]
    again = cli("seed=1", f"init_from={fresh.run}", small=True)
    assert again.result["fingerprint"] != tuned.result["fingerprint"]


@pytest.mark.slow
def test_the_jobs_of_a_sweep_start_from_one_run(cli: Cli):
    """`latest` is resolved when the sweep starts."""
    donor = cli(small=True)
    swept = cli("-m", "seed=0,1", "init_from=latest", small=True)
    (sweep,) = Path("outputs/sweeps").iterdir()
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sweep.glob("*/config.yaml")]
    assert [config["init_from"] for config in configs] == [str(donor.run)] * 2, swept.out


@pytest.mark.slow
def test_a_sweep_over_initial_weights(cli: Cli):
    """Runs may be given by any kind of name; configs contain paths."""
    donors = [cli(f"seed={seed}", small=True).run for seed in (0, 1)]
    assert donors[0] is not None
    swept = cli("-m", f"init_from={donors[0].name},latest", small=True)
    (sweep,) = Path("outputs/sweeps").iterdir()
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(sweep.glob("*/config.yaml"))]
    assert {config["init_from"] for config in configs} == set(map(str, donors)), swept.out


def test_a_damaged_model_does_not_hide_other_problems(cli: Cli):
    """Both are reported."""
    donor = cli(small=True).run
    assert donor is not None
    (donor / "model.keras").write_bytes(b"damaged")
    said = cli(f"init_from={donor}", "optimizer.type=Adm", small=True, status=2).err
    assert "optimizer.type: " in said
    assert "model.keras: " in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((NET % "",), "init_from: "),
        (("init_from=nowhere",), "nowhere: "),
    ],
)
def test_an_unusable_run_is_refused(cli: Cli, overrides: tuple[str, ...], message: str, golden: Golden):
    """The message names the run; nothing is created."""
    donor = cli(small=True)
    before = sorted(Path("outputs/runs").iterdir())
    done = cli(f"init_from={donor.run}", *overrides, small=True, status=2)
    assert message in done.err
    golden(done.err)
    assert sorted(Path("outputs/runs").iterdir()) == before


def test_a_damaged_or_missing_model_is_refused(cli: Cli, golden: Golden):
    """The message names the file."""
    donor = cli(small=True)
    assert donor.run is not None
    (donor.run / "model.keras").write_bytes(b"PK damaged")
    golden(cli("init_from=latest", small=True, status=2).err)
    (donor.run / "model.keras").unlink()
    golden(cli("init_from=latest", small=True, status=2).err)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_a_keras_file_starts_a_run_whose_frozen_layers_stay(cli: Cli, ending: str):
    """The other layers are trained; the run records the file, and its config the frozen layers."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    hidden, out = layers.Dense(12, name="hidden"), layers.Dense(10, name="out")
    keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), hidden, out]).save(f"donor.{ending}")
    done = cli(NET % "", f"init_from=donor.{ending}", "training.freeze=[1]", small=True)
    trained = weights(done.run)
    assert close(trained["hidden"], hidden.get_weights())
    assert not close(trained["out"], out.get_weights())
    assert done.result["init_from"]["run"] == str(Path(f"donor.{ending}").resolve())
    assert done.result["init_from"]["taken"] == ["hidden", "out"]
    assert done.result["init_from"]["validation_images_seen"] is None


@pytest.mark.parametrize(
    ("override", "place", "meant"),
    [
        ("training.freeze=[hiden]", "training.freeze.0", "hidden"),
        ("training.freeze=[0,7]", "training.freeze.1", "out"),
        ("training.freeze=[hidden,out]", "training.freeze", ""),
        ("init_from=donor.keras", "init_from", ""),
    ],
)
def test_check_refuses_layers_and_files_that_are_not_there(cli: Cli, override: str, place: str, meant: str):
    """With the nearest names."""
    refused = cli("check", "data=digits", NET % "", override, status=2).err
    assert place in refused
    assert meant in refused

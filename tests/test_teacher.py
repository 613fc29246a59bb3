"""Runs that learn from a teacher, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import pytest
import yaml
from support.cli import Cli
from support.golden import Golden
from test_init_from import training_images
from test_resume import Interruption
from test_resume_kill import ended, kill_at, the_run

from mnist_exp.model.saving import function_sha256
from mnist_exp.model.warm_start import load_donor

NET = ("model.layers=[Flatten, {type: Dense, units: 16, activation: relu}, {type: Dropout, rate: 0.2}, "
       "{type: Dense, units: 10}, Softmax]")  # fmt: skip
WORDS = ("data=digits", "data.limit=300", "training.epochs=2", "training.batch_size=8", "aug=shift", "tracking=none",
         "plots=false")  # fmt: skip


def test_a_run_records_its_teacher(cli: Cli):
    """The config has its path, the result its weights; both the teacher and its share change the fingerprint."""
    teacher = cli(*WORDS, "model=linear", "name=teacher")
    assert teacher.run is not None
    done = cli(*WORDS, "teacher=latest", "model=linear", "training.distillation.weight=0.3")
    assert done.run is not None
    assert done.result["teacher"] == {
        "run": str(teacher.run),
        "weights_sha256": teacher.result["weights_sha256"],
        "trained_on": [
            {"sha256": teacher.result["data"]["sha256"], "val_fraction": 0.1, "split_seed": 0, "limit": 300}
        ],
        "validation_images_seen": 0,
        "sha256": function_sha256(load_donor(teacher.run)),
    }
    assert yaml.safe_load((done.run / "config.yaml").read_text())["teacher"] == str(teacher.run)
    assert f"teacher outputs/runs/{teacher.run.name}, weight 0.3, temperature 4" in done.out
    other = cli(*WORDS, "model=linear", f"teacher={done.run}", "training.distillation.weight=0.3")
    hotter = cli(*WORDS, "model=linear", "teacher=teacher", "training.distillation={weight: 0.3, temperature: 5}")
    results = [teacher.result, done.result, other.result, hotter.result]
    assert len({result["fingerprint"] for result in results}) == 4
    assert len({result["weights_sha256"] for result in results}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("more", [("training.ema=0.9", "training.class_weight=balanced"),
                                  ("training.average_last=2", "training.loss=categorical_crossentropy",
                                   "training.label_smoothing=0.1", "aug.mixup=0.5", "device.precision=bfloat16")])  # fmt: skip
def test_a_killed_student_is_resumed_exactly(cli: Cli, more: tuple[str, ...]):
    """It ends with the weights, optimizer state and history of an uninterrupted run."""
    cli(*WORDS, "model=linear", "seed=9", "outputs=elsewhere")
    [teacher] = Path("elsewhere/runs").iterdir()
    words = (*WORDS, NET, f"teacher={teacher}", *more)
    cli(*words)
    straight = ended(the_run())
    shutil.rmtree("outputs")
    kill_at("inside an epoch", 3, *words)
    done = cli("resume", "run=latest")
    assert len(done.result["resumed"]) == 1
    assert ended(the_run()) == straight


@pytest.mark.slow
def test_a_missing_or_changed_teacher_is_not_resumed_from(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, golden: Golden
):
    """The message names the teacher; a copy of the teacher elsewhere is accepted."""
    for seed in (9, 10):
        cli(*WORDS, "model=linear", f"seed={seed}", f"outputs=of-{seed}")
    [teacher], [other] = (list(Path(f"of-{seed}/runs").iterdir()) for seed in (9, 10))
    Interruption(monkeypatch).after(1)
    run = cli(*WORDS, NET, f"teacher={teacher}", status=130).run
    shutil.copytree(teacher, "copy")
    before = (teacher / "model.keras").read_bytes()
    (teacher / "model.keras").write_bytes((other / "model.keras").read_bytes())
    changed = cli("resume", f"run={run}", status=2).err
    assert "SHA-256" in changed
    golden(changed)
    (teacher / "model.keras").write_bytes(before)
    shutil.move(teacher, "moved")
    missing = cli("resume", f"run={run}", status=2).err
    assert "teacher=" in missing
    golden(missing)
    done = cli("resume", f"run={run}", "teacher=copy")
    assert done.result["exact"]
    assert done.result["status"] == "finished"


@pytest.mark.slow
def test_a_repeated_sweep_trains_nothing_unless_the_teacher_changed(cli: Cli):
    """The teacher may be given relative to the working directory."""
    for seed in (9, 10):
        cli(*WORDS, "model=linear", f"seed={seed}", f"outputs=of-{seed}")
    [teacher], [other] = (list(Path(f"of-{seed}/runs").iterdir()) for seed in (9, 10))
    words = (
        "-m",
        *WORDS,
        "model=linear",
        f"teacher={teacher}",
        "training.distillation.weight=0.2,0.8",
        "sweep.name=s",
    )
    cli(*words)
    assert "2 finished, 0 to resume, 0 to start" in cli(*words).out
    (teacher / "model.keras").write_bytes((other / "model.keras").read_bytes())
    assert "2 finished" not in cli(*words).out
    jobs = [json.loads(file.read_text()) for file in Path("outputs/sweeps/s").glob("*/result.json")]
    assert len({job["teacher"]["weights_sha256"] for job in jobs}) == 2


def test_each_teacher_of_a_sweep_is_checked(cli: Cli):
    """A job whose teacher does not fit is found, even if the first job's teacher does."""
    cli(*WORDS, "model=linear", "name=right")
    save_model("small.keras", (8, 8, 1))
    said = cli("-m", *WORDS, "model=linear", "teacher=right,small.keras", status=2).err
    assert "8×8×1" in said
    assert not Path("outputs/sweeps").exists()


@pytest.mark.slow
def test_a_student_in_a_time_budget(cli: Cli):
    """The teacher takes part in the measured steps, and the run ends as one with that number of epochs."""
    cli(*WORDS, "model=linear", "seed=9", "name=teacher")
    words = (*(word for word in WORDS if "epochs" not in word), "model=linear", "teacher=teacher")
    done = cli(*words, "training.max_seconds=2")
    plain = cli(*words, f"training.epochs={done.result['epochs']}")
    repeated = cli(f"from={done.run}", "tracking=none")
    assert done.result["weights_sha256"] == plain.result["weights_sha256"] == repeated.result["weights_sha256"]
    assert repeated.result["fingerprint"] == plain.result["fingerprint"]


def save_model(
    path: str, shape: tuple[int, ...] = (28, 28, 1), classes: int = 10, *, softmax: bool = True
) -> None:
    layers = keras.layers
    last = [layers.Softmax()] if softmax else []
    keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes), *last]).save(path)


@pytest.mark.slow
def test_a_teacher_is_more_than_its_weights(cli: Cli):
    """Two models with the same weights, one of which scales its input, are different teachers."""
    layers = keras.layers
    last = layers.Dense(10, activation="softmax")
    keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), last]).save("raw.keras")
    keras.Sequential([keras.Input((28, 28, 1)), layers.Rescaling(1 / 255), layers.Flatten(), last]).save(
        "scaled.keras"
    )
    raw, scaled = (cli(*WORDS, "model=linear", f"teacher={name}.keras").result for name in ("raw", "scaled"))
    assert raw["teacher"]["weights_sha256"] == scaled["teacher"]["weights_sha256"]
    assert raw["teacher"]["sha256"] != scaled["teacher"]["sha256"]
    assert raw["fingerprint"] != scaled["fingerprint"]
    cli("-m", *WORDS, "model=linear", "teacher=raw.keras,scaled.keras", "sweep.name=both")
    assert len(list(Path("outputs/sweeps/both").glob("*/result.json"))) == 2


@pytest.mark.slow
def test_files_and_ensembles_are_teachers(cli: Cli):
    """Their weights are recorded; it is unknown which images they were trained on."""
    runs = [cli(*WORDS, "model=linear", f"seed={seed}").run for seed in (1, 2)]
    cli("ensemble", f"run=[{runs[0]},{runs[1]}]", "output=both")
    save_model("own.h5")
    for teacher in ("both", "own.h5"):
        done = cli(*WORDS, "model=linear", f"teacher={teacher}")
        assert done.result["teacher"]["run"] == str(Path(teacher).resolve())
        assert done.result["teacher"]["validation_images_seen"] is None
        assert "unknown whether" in done.out


@pytest.mark.slow
def test_a_teacher_trained_on_validation_images_is_reported(cli: Cli):
    """The number is recorded, also for runs that start from the student, and `compare` excludes the run."""
    teacher = cli(*WORDS, "model=linear", "data.limit=900")
    student = cli(*WORDS, "model=linear", "data.split_seed=5", f"teacher={teacher.run}")
    own = training_images(student.run, "val")
    seen = len(own & training_images(teacher.run, "train"))
    assert seen > 5
    assert student.result["teacher"]["validation_images_seen"] == seen
    assert f"{seen} of the {len(own)} validation images" in student.out
    assert f"{seen} of its validation images" in cli("compare", f"run=[{teacher.run},{student.run}]", status=2).err
    third = cli(*WORDS, "model=linear", "data.split_seed=6", f"init_from={student.run}")
    trained_on = training_images(teacher.run, "train") | training_images(student.run, "train")
    seen = len(training_images(third.run, "val") & trained_on)
    assert third.result["init_from"]["validation_images_seen"] == seen


def test_check_reports_all_problems_of_a_teacher(cli: Cli, golden: Golden):
    """Each with its place."""
    save_model("small.keras", (8, 8, 1))
    save_model("logits.keras", softmax=False)
    save_model("classes.keras", classes=7)
    Path("damaged.keras").write_bytes(b"PK damaged")
    check = ("check", "data=digits", "model=linear", "optimizer.type=Adm")
    bad = (
        "training.distillation.weight=1.5",
        "training.distillation.temperature=0",
        "training.loss=mean_squared_error",
    )
    for words, places in (
        (("teacher=nowhere", "init_from=nothing", *bad[:2]),
         ("teacher=nowhere", "init_from=nothing", "distillation.weight", "distillation.temperature")),
        (("teacher=small.keras", bad[2]), ("teacher: ", "training.loss=mean_squared_error")),
        (("teacher=classes.keras",), ("teacher: ",)),
        (("teacher=logits.keras",), ("teacher: ",)),
        (("teacher=damaged.keras",), ("teacher: ",)),
        (("training.distillation={weight: 0.1, temperature: 2}",),
         ("training.distillation.weight=0.1", "training.distillation.temperature=2")),
    ):  # fmt: skip
        said = cli(*check, *words, status=2).err
        assert "optimizer.type: " in said or "optimizer.type=Adm" in said
        for place in places:
            assert place in said, said
        golden(said)
    assert not Path("outputs").exists()


def test_a_teacher_with_code_is_refused(cli: Cli):
    """A model file cannot run code: `Lambda` layers are not loaded."""
    ran: Any = keras.layers.Lambda(lambda x: x * 1.0)
    layers = keras.layers
    keras.Sequential([keras.Input((28, 28, 1)), ran, layers.Flatten(), layers.Dense(10), layers.Softmax()]).save(
        "l.keras"
    )
    assert "teacher: " in cli("check", "data=digits", "model=linear", "teacher=l.keras", status=2).err

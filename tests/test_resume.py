"""Resuming a run: exactly where it stopped, or not at all if that is impossible."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import SMALL, Cli
from support.golden import Golden

from mnist_exp.report.progress import TrainingDisplay
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.runs.result import parse_result
from mnist_exp.training.device import cpu_features

TRAINED = ("training.epochs=3", "training.batch_size=8", "aug=shift", "name=run")


class Interruption:
    """Sends Ctrl-C after a number of compiled calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        on_steps = TrainingDisplay.on_steps

        def interrupting(display: Any, *arguments: Any) -> None:
            on_steps(display, *arguments)
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = None
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TrainingDisplay, "on_steps", interrupting)

    def after(self, calls: int) -> None:
        self.left = calls


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return Interruption(monkeypatch).after


@pytest.fixture
def interrupted(cli: Cli, interrupt: Callable[[int], None]) -> Callable[..., Path]:
    """Create a run that is interrupted in its second epoch (34 steps, in calls of 20, 13 and 1)."""

    def make(*words: str) -> Path:
        interrupt(3)
        done = cli(*TRAINED, *words, small=True, status=130)
        assert done.run is not None
        return done.run

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_seconds(run: Path) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in (run / "history.csv").read_text().splitlines()]


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run's `result.json`."""
    result = json.loads((run / "result.json").read_text())
    change(result)
    (run / "result.json").write_text(json.dumps(result))


def test_an_interrupted_run_is_resumed_exactly(cli: Cli, interrupted: Callable[..., Path]):
    """It continues in its directory at the step where it stopped, with the result of an uninterrupted run."""
    run = interrupted()
    assert json.loads((run / "result.json").read_text())["status"] == "interrupted"
    assert sorted(file.name for file in (run / "checkpoint").iterdir()) == [
        "000001-00000000.state", "000001-00000020.state"
    ]  # fmt: skip
    done = cli("resume", "run=latest")
    assert done.run == run
    assert "resume  at epoch 2, after step 20" in done.out
    straight = cli(*TRAINED, small=True)
    assert straight.run is not None
    for key in ("weights_sha256", "fingerprint", "best", "test", "epochs", "status"):
        assert done.result[key] == straight.result[key], key
    assert without_seconds(run) == without_seconds(straight.run)
    assert {path.name for path in run.rglob("*")} == {path.name for path in straight.run.rglob("*")}
    [resumed] = done.result["resumed"]
    assert (resumed["epochs"], resumed["steps"], resumed["overrides"], resumed["exact"]) == (1, 20, [], True)
    assert "reason" not in done.result
    log = (run / "run.log").read_text()
    assert log.index("interrupted after 1 of 3") < log.index("epoch 3/3")
    assert "there is no interrupted run" in cli("resume", "run=latest", status=2).err


def test_the_command_that_resumes_the_run_is_printed(cli: Cli, interrupt: Callable[[int], None]):
    """It is in the last line of the output, quoted for a shell, and it works."""
    interrupt(3)
    done = cli(*TRAINED, "outputs=some runs", small=True, status=130)
    *_, last = done.out.splitlines()
    match = re.fullmatch(r"to resume: mnist-exp resume '(run=some runs/runs/run-\d+-\d+)'", last)
    assert match
    cli("resume", match[1])


def test_a_resumed_run_continues_its_journal(cli: Cli, interrupted: Callable[..., Path]):
    """The model is only recorded at the end, and the metrics of each epoch once."""
    run = interrupted()
    kinds = [line["kind"] for line in journal(run)]
    assert "model" not in kinds
    assert kinds[-1] == "end"
    cli("resume", f"run={run}")
    lines = journal(run)[len(kinds) :]
    assert lines[0] == {
        "kind": "resumed", "status": "RUNNING", "epochs": 1, "steps": 20, "overrides": [], "exact": True,
        "fingerprint": json.loads((run / "result.json").read_text())["fingerprint"],
        "at": lines[0]["at"], "time": lines[0]["time"],
    }  # fmt: skip
    epochs = [line["step"] for line in journal(run) if "train/loss" in line.get("values", {})]
    assert epochs == [1, 2, 3]
    assert [line["kind"] for line in journal(run)].count("run") == 1
    assert lines[-1]["status"] == "FINISHED"


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


REFUSED = [
    (["optimizer.learning_rate=0.1"], "optimizer.learning_rate is 0.001, not 0.1"),
    (["seed=1"], "seed is 0, not 1"),
    (["name=other"], "name is run, not other"),
    (["aug=none"], "aug.name is shift, not none"),
    (["device.deterministic=false"], "device.deterministic is true, not false"),
    (["tracking.enabled=true"], "tracking.enabled is false, not true"),
    (["tracking.uri=http://127.0.0.1:1"], "not http://127.0.0.1:1"),
    (["tracking.experiment=other"], "tracking.experiment is mnist-exp, not other"),
    (["training.epochs=1"], "1 epoch and 20 steps"),
    (["training.epochs=0"], "training.epochs=0: "),
    (["training.batchsize=4"], "training.batchsize=4: "),
    (["-m", "seed=0,1"], "-m "),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that tests may copy."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def run(kept: Path, interrupted: Callable[..., Path]) -> Path:
    """Return a copy of an interrupted run that is created once."""
    if not list(kept.iterdir()):
        shutil.copytree(interrupted().parents[1], kept / "outputs")
        shutil.rmtree("outputs")
    shutil.copytree(kept / "outputs", "outputs")
    [path] = Path("outputs/runs").iterdir()
    return path


@pytest.mark.parametrize(("words", "told"), REFUSED)
def test_another_config_is_refused(cli: Cli, run: Path, words: list[str], told: str, golden: Golden):
    """The message has the key and both values; nothing is changed."""
    before = contents(run)
    err = cli("resume", f"run={run}", *words, status=2).err
    assert told in err
    golden(err)
    assert contents(run) == before


def test_settings_without_effect_on_the_weights_may_change(cli: Cli, run: Path):
    """These are the data's place, the checkpoints, and the tracker's waiting time, as well as unchanged values."""
    words = (
        "training.checkpoint_seconds=1",
        "training.keep_checkpoint=true",
        "seed=0",
        "tracking.wait_seconds=1",
        "budget.max_parameters=10000",
    )
    done = cli("resume", f"run={run}", *words)
    assert done.result["status"] == "finished"
    assert (run / "checkpoint").is_dir()


def wrong_labels(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    from mnist_exp.engine import resumed_state

    prepare = resumed_state.prepare

    def changed(source: Any, data: Any) -> Any:
        dataset = prepare(source, data)
        return replace(dataset, sha256="0" * 64)

    monkeypatch.setattr(resumed_state, "prepare", changed)


def other_config(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["training"]["batch_size"] = 9
    (run / "config.yaml").write_text(yaml.safe_dump(values))


def damage(*names: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def change(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
        for name in names:
            (run / "checkpoint" / name).write_bytes(b"")

    return change


OTHERWISE: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], object], str]] = {
    "data": (wrong_labels, "SHA-256"),
    "config.yaml": (other_config, "config.yaml: "),
    "code": (
        lambda monkeypatch, run: monkeypatch.setattr("mnist_exp.engine.resumption.code_digest", lambda: "0"),
        "mnist-exp's code",
    ),
    "versions": (
        lambda _, run: edit(run, lambda result: result["versions"].update(keras="3.0.0")), "was 3.0.0"
    ),
    "no checkpoint": (lambda _, run: shutil.rmtree(run / "checkpoint"), "/checkpoint: "),
    "damaged checkpoints": (
        damage("000001-00000000.state", "000001-00000020.state"), "000001-00000020.state: "
    ),
    "another run's": (lambda _, run: edit(run, lambda result: result.update(started=1)), "to another run"),
    "threads": (
        lambda _, run: edit(run, lambda result: result["device"].update(threads=999)),
        "999 threads",
    ),
    "device": (
        lambda _, run: edit(run, lambda result: result["device"].update(device="GPU X", kind="cpu")),
        "GPU X",
    ),
    "gpu": (
        lambda _, run: edit(run, lambda result: result["device"].update(device="GPU X", kind="gpu")),
        "device.kind=cpu",
    ),
    "result.json": (lambda _, run: (run / "result.json").write_text("{"), "result.json: damaged"),
    "no run": (lambda _, run: (run / "result.json").unlink(), "result.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_run_that_cannot_be_resumed_exactly_is_refused(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    """The message says what differs; nothing is changed."""
    change, told = OTHERWISE[what]
    change(monkeypatch, run)
    before = contents(run)
    assert told in cli("resume", f"run={run}", status=2).err
    assert contents(run) == before


def test_a_run_in_use_is_refused(cli: Cli, run: Path, golden: Golden):
    """As soon as that process has ended, the run is resumed, even if its lock file is still there."""
    with RunDirectory.open(run):
        before = contents(run)
        golden(cli("resume", f"run={run}", status=2).err)
        assert contents(run) == before
    (run / ".lock").write_text("")
    assert cli("resume", f"run={run}").result["status"] == "finished"


def test_a_damaged_checkpoint_is_skipped(cli: Cli, run: Path):
    """A warning names it; the previous checkpoint leads to the same weights."""
    (run / "checkpoint" / "000001-00000020.state").write_bytes(b"\0" * 1000)
    done = cli("resume", f"run={run}")
    assert "warning: " in done.out
    assert "000001-00000020.state: damaged: " in done.out
    assert "resume  at epoch 2\n" in done.out
    assert done.result["weights_sha256"] == cli(*TRAINED, small=True).result["weights_sha256"]


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_over(cli: Cli, run: Path):
    """It ends with the weights of an uninterrupted run."""
    shutil.rmtree(run / "checkpoint")
    (run / "history.csv").unlink()
    done = cli("resume", f"run={run}")
    assert "resume  from the beginning" in done.out
    assert done.result["weights_sha256"] == cli(*TRAINED, small=True).result["weights_sha256"]


@pytest.mark.slow
def test_a_run_is_found_from_elsewhere(
    cli: Cli, interrupted: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is resumed in its own directory, with the tracker next to it."""
    path = interrupted("tracking=local").resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("resume", f"run={path}")
    assert done.run == path
    assert list(Path().iterdir()) == []
    assert (path.parents[1] / "mlflow.db").is_file()


@pytest.mark.slow
def test_training_longer_is_what_it_would_have_been(cli: Cli, run: Path):
    """An interrupted run, and then a finished run whose checkpoint was kept, can be trained longer."""
    cli("resume", f"run={run}", "training.epochs=4", "training.keep_checkpoint=true")
    done = cli("resume", f"run={run}", "training.epochs=5")
    straight = cli(*TRAINED, "training.epochs=5", small=True)
    for key in ("weights_sha256", "fingerprint", "best", "test", "epochs", "planned_epochs"):
        assert done.result[key] == straight.result[key], key
    assert straight.run is not None
    assert without_seconds(run) == without_seconds(straight.run)
    assert [entry["overrides"] for entry in done.result["resumed"]] == [
        ["training.epochs=4", "training.keep_checkpoint=true"], ["training.epochs=5"]
    ]  # fmt: skip
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 5
    assert not (run / "checkpoint").exists()
    steps = [line["step"] for line in journal(run) if "train/loss" in line.get("values", {})]
    assert steps == [1, 2, 3, 4, 5]


def test_a_resumption_that_was_killed_at_its_start_is_resumed(cli: Cli, run: Path):
    """It had changed the number of epochs in the config, but not yet in the result."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["training"]["epochs"] = 4
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    done = cli("resume", f"run={run}")
    assert (done.result["epochs"], done.result["planned_epochs"]) == (4, 4)


def test_a_run_that_died_after_training_is_finished(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """It was killed in its final evaluation; no further epoch is announced."""

    def end(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("mnist_exp.engine.run_plots.draw_training", end)
        cli("plots=all", small=True, status=143)
    done = cli("resume", "run=latest")
    assert "resume  after the last epoch\n" in done.out
    assert done.result["status"] == "finished"


@pytest.mark.slow
def test_a_finished_run_is_refused(cli: Cli, golden: Golden):
    """The message says what would train it longer, or why nothing can."""
    done = cli("training.keep_checkpoint=true", small=True)
    golden(cli("resume", f"run={done.run}", status=2).err)
    golden(cli("resume", f"run={done.run}", "training.epochs=1", status=2).err)
    without = cli(small=True)
    golden(cli("resume", f"run={without.run}", "training.epochs=9", status=2).err)
    patience = ("training.early_stopping.patience=1", "training.early_stopping.min_delta=0.9")
    early = cli("training.epochs=5", "training.keep_checkpoint=true", *patience, small=True)
    golden(cli("resume", f"run={early.run}", "training.epochs=9", status=2).err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "refused"),
    [("cosine", True), ("one_cycle", True), ("exponential", True), ("linear", True), ("reduce_on_plateau", False)],
)
def test_schedules_that_depend_on_the_number_of_epochs_are_not_trained_longer(
    cli: Cli, interrupted: Callable[..., Path], schedule: str, refused: bool
):
    """The message names the schedule; other schedules can be trained longer."""
    run = interrupted(f"schedule={schedule}")
    before = contents(run)
    done = cli("resume", f"run={run}", "training.epochs=4", status=2 if refused else 0)
    assert (f"schedule={schedule} " in done.err) == refused
    assert (contents(run) == before) == refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "refused", "override"),
    [
        (3, False, "aug={until: 0.4, mixup: 0.2, cutmix: 1}"),
        (4, True, "aug.until=0.4"),
        (4, False, "aug.until=0.6"),
    ],
)
def test_augmentation_that_stops_is_resumed_exactly(
    cli: Cli, interrupted: Callable[..., Path], epochs: int, refused: bool, override: str
):
    """Training longer is refused if augmentation had stopped: finished steps would have been augmented."""
    loss = "training.loss=categorical_crossentropy"
    run = interrupted(loss, override)  # after 54 of 102 steps
    before = contents(run)
    words = (f"training.epochs={epochs}",)
    done = cli("resume", f"run={run}", *words, status=2 if refused else 0)
    if refused:
        assert "aug.until=0.4" in done.err
        assert contents(run) == before
    else:
        straight = cli(*TRAINED, loss, override, *words, small=True)
        assert done.result["weights_sha256"] == straight.result["weights_sha256"]
        assert done.result["fingerprint"] == straight.result["fingerprint"]


@pytest.mark.slow
def test_another_precision_is_recorded(cli: Cli, interrupted: Callable[..., Path]):
    """The requested precision is used, and the result says that the run is not exact."""
    run = interrupted("device.precision=float32")
    features = json.loads((run / "result.json").read_text())["device"]["cpu_features"]
    assert features == list(cpu_features())  # recorded
    edit(run, lambda result: result["device"].update(cpu_features=[*features, "of another CPU"]))
    done = cli("resume", f"run={run}", "device.precision=bfloat16")
    assert "a CPU with of another CPU" in done.out
    assert "warning: the run used CPU, " in done.out
    assert done.result["exact"] is False
    assert [entry["exact"] for entry in done.result["resumed"]] == [False]
    assert done.result["device"]["precision"] == "bfloat16"


CPU: dict[str, Any] = {"kind": "cpu", "device": "CPU", "threads": 2, "precision": "float32"}


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({}, []),  # of a version that did not record it
        ({"cpu_features": ["avx", "avx2"], "onednn": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}, []),
        ({"cpu_features": ["avx2", "avx512f"], "onednn": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}, ["without avx, with avx512f"]),
        ({"cpu_features": ["avx", "avx2"], "onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"}},
         ["ONEDNN_MAX_CPU_ISA was not set and is AVX2", "TF_ENABLE_ONEDNN_OPTS was 0 and is not set"]),
        ({"kind": "gpu", "cpu_features": [], "onednn": {}}, []),
        ({"threads": 1, "cpu_features": ["avx", "avx2"], "onednn": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}, ["CPU, 1 threads"]),
    ],
)  # fmt: skip
def test_another_cpu_is_reported(recorded: dict[str, Any], told: list[str]):
    """If oneDNN may select other code than it did for the run: on CPUs, and if the run recorded it."""
    from mnist_exp.engine.resumption import device_differences
    from mnist_exp.training.device import Device

    result = parse_result({"started": 0, "status": "killed", "data": {}, "device": {**CPU, **recorded}})
    here = Device(result.device.kind, "CPU", 2, "float32", ("avx", "avx2"), {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    found = device_differences(result, here)
    assert len(found) == len(told)
    assert all(words in sentence for words, sentence in zip(told, found, strict=True))


@pytest.mark.slow
def test_a_job_of_a_sweep_is_resumed(cli: Cli, interrupt: Callable[[int], None], home_data: list[str]):
    """It is selected by name and resumed in its directory."""
    interrupt(4)
    cli("-m", *SMALL, *home_data, *TRAINED, "seed=3,4", status=130)
    [job] = Path("outputs/sweeps").glob("*/seed-3")
    done = cli("resume", f"run={job.parent.name}/seed-3")
    assert done.run == job.resolve()
    assert done.result["weights_sha256"] == cli(*TRAINED, "seed=3", small=True).result["weights_sha256"]


@pytest.mark.slow
def test_a_warm_started_run_is_resumed_without_the_other_run(cli: Cli, interrupted: Callable[..., Path]):
    """Its checkpoint contains the weights."""
    donor = cli("name=donor", small=True)
    straight = cli(*TRAINED, f"init_from={donor.run}", small=True)
    run = interrupted(f"init_from={donor.run}")
    assert donor.run is not None
    shutil.rmtree(donor.run)
    done = cli("resume", "run=latest")
    assert done.run == run
    assert done.result["weights_sha256"] == straight.result["weights_sha256"]
    assert done.result["fingerprint"] == straight.result["fingerprint"]
    assert yaml.safe_load((run / "config.yaml").read_text())["init_from"] == str(donor.run)


def test_resume_requires_a_run(cli: Cli, golden: Golden):
    """The message says what `run=` takes."""
    golden(cli("resume", status=2).err)


@pytest.mark.slow
def test_a_damaged_journal_is_reported_before_anything_changes(cli: Cli):
    """The message names the line; without the file, the run can be resumed."""
    run = cli("name=f1", "training.keep_checkpoint=true", small=True).run
    assert run is not None
    cli("name=f10", small=True)
    journal = run / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], lines[3][:30] + "\n", *lines[4:]]), encoding="utf-8")
    before = (run / "result.json").read_bytes()
    said = cli("resume", "run=f1", "training.epochs=3", status=2).err
    assert "journal.jsonl:4: damaged" in said
    assert (run / "result.json").read_bytes() == before
    journal.write_text("".join([*lines, '{"kind": "confetti", "time": 1}\n']), encoding="utf-8")
    said = cli("resume", "run=f1", "training.epochs=3", status=2).err
    assert f"journal.jsonl:{len(lines) + 1}: unknown event" in said
    assert (run / "result.json").read_bytes() == before
    journal.unlink()
    assert cli("resume", "run=f1", "training.epochs=3").result["epochs"] == 3


def test_a_run_can_be_resumed_after_an_upgrade(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch):
    """If asked for: what follows is not bit-identical, and the result says so."""
    monkeypatch.setattr("mnist_exp.engine.resumption.code_digest", lambda: "0")
    edit(run, lambda result: result["versions"].update(keras="3.0.0"))
    assert "any_version=true" in cli("resume", f"run={run}", status=2).err
    done = cli("resume", f"run={run}", "any_version=true")
    assert "keras is " in done.out + done.err
    assert done.result["status"] == "finished"
    assert done.result["exact"] is False
    assert [entry["exact"] for entry in done.result["resumed"]][-1] is False

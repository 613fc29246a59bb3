"""A corpus of wrong configs: every problem is reported, with the right place and the intended name.

Typos are made from every key, group, option, layer and argument that there is, so that what is added is covered.
The output shows the share of each kind that was answered correctly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.cli import soak

from mnist_exp.config.compose import compose
from mnist_exp.config.hydra_adapter import conf_folder
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.errors import RequestError
from mnist_exp.keras_spec.layer_faults import ALLOWED, AUGMENTATIONS
from mnist_exp.keras_spec.signatures import class_arguments, classes

LINE = "command line"


@dataclass(frozen=True)
class Case:
    """A wrong config: the overrides, the user's files, and a pattern of each problem's place and message."""

    kind: str
    words: tuple[str, ...]
    expected: tuple[tuple[str, str], ...]
    files: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}: {' '.join(self.words)}"[:90]


def misspelt(name: str) -> str:
    """Return a misspelled name: two letters in the middle swapped; short names lose or gain a letter."""
    middle = max(len(name) // 2, 1)
    if len(name) > 3 and name[middle - 1] != name[middle]:
        return name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return name[:middle] + "z" + name[middle:] if len(name) > 2 else name + "zz"


def keys(values: Any, path: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{path}{key}.")


def typos_of_keys() -> Iterator[Case]:
    values = compose(Request("train", ("data=digits",))).values
    for path in keys(values):
        parent, dot, last = path.rpartition(".")
        if isinstance(values.get(path), dict) or parent == "data.files":
            continue
        wrong = f"{parent}{dot}{misspelt(last)}"
        yield Case(
            "a key",
            (f"{wrong}=1",),
            ((LINE, rf"^{re.escape(wrong)}=1: no such key( or group)? \(did you mean '{re.escape(path)}'\?\)"),),
        )


def typos_of_groups_and_options() -> Iterator[Case]:
    for folder in sorted(
        path for path in conf_folder().iterdir() if path.is_dir() and path.name not in ("hydra", "tune")
    ):
        wrong = misspelt(folder.name)
        yield Case("a group", (f"{wrong}=x",), ((LINE, rf"^{wrong}=x: .*did you mean '{folder.name}'\?"),))
        for option in sorted(path.stem for path in folder.glob("*.yaml") if len(path.stem) > 3):
            wrong = misspelt(option)
            yield Case(
                "an option",
                (f"{folder.name}={wrong}",),
                ((LINE, rf"^{folder.name}={wrong}: no such option \(did you mean '{option}'\?\)"),),
            )


def user_file(group: str, text: str, name: str = "mine") -> dict[str, str]:
    return {f"{group}/{name}.yaml": text}


def model_of(*entries: str) -> dict[str, str]:
    return user_file("model", "# mine\nname: mine\nlayers:\n" + "".join(f"  - {entry}\n" for entry in entries))


def needs(kind: str, place: str, path: str) -> tuple[tuple[str, str], ...]:
    """Return the problem of a layer's missing arguments, which is reported even if its name is misspelled."""
    found = class_arguments("layers", kind)
    assert found is not None
    names = " and ".join(sorted(found.required))
    return ((place, rf"^{re.escape(path)}: {kind} needs {names}$"),) if names else ()


def typos_of_layers() -> Iterator[Case]:
    for kind in sorted(ALLOWED):
        wrong = misspelt(kind)
        yield Case(
            "a layer",
            ("model=mine",),
            (
                (
                    r"mine\.yaml:5",
                    rf"^model\.layers\.1\.type: there is no layer '{wrong}' \(did you mean '{kind}'\?\)",
                ),
                *needs(kind, r"mine\.yaml:5", "model.layers.1"),
            ),
            model_of("ReLU", wrong),
        )
        arguments = class_arguments("layers", kind)
        assert arguments is not None
        for argument in sorted(name for name in arguments.known if len(name) > 2)[:2]:
            given = "".join(f", {name}: 1" for name in sorted(arguments.required - {argument}))
            entry = f"{{type: {kind}{given}, {misspelt(argument)}: 1}}"
            yield Case(
                "an argument",
                ("model=mine",),
                (
                    (
                        r"mine\.yaml:4",
                        rf"{kind} has no argument '{misspelt(argument)}' \(did you mean '{argument}'\?\)",
                    ),
                ),
                model_of(entry),
            )
        if arguments.required:
            yield Case(
                "a missing argument",
                ("model=mine",),
                (
                    (
                        r"mine\.yaml:4",
                        rf"^model\.layers\.0: {kind} needs {' and '.join(sorted(arguments.required))}",
                    ),
                ),
                model_of(kind),
            )
    for kind in sorted(AUGMENTATIONS):
        yield Case(
            "an augmentation",
            (f"aug.layers=[{misspelt(kind)}]",),
            (
                (
                    LINE,
                    rf"^aug\.layers\.0\.type: there is no layer '{misspelt(kind)}' \(did you mean '{kind}'\?\)",
                ),
                *needs(kind, LINE, "aug.layers.0"),
            ),
        )


def typos_of_objectives() -> Iterator[Case]:
    for kind in sorted(classes("optimizers")):
        yield Case(
            "an optimizer",
            (f"optimizer.type={misspelt(kind)}",),
            ((LINE, rf"^optimizer\.type: there is no optimizer '{misspelt(kind)}' \(did you mean '{kind}'\?\)"),),
        )
    for argument in ("beta_1", "epsilon", "amsgrad", "global_clipnorm", "gradient_accumulation_steps"):
        yield Case(
            "an argument",
            (f"+optimizer.{misspelt(argument)}=1",),
            (
                (
                    LINE,
                    rf"^optimizer\.{misspelt(argument)}: Adam has no argument '{misspelt(argument)}' \(did you mean '{argument}'\?\)",
                ),
            ),
        )
    for loss in (
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "categorical_focal_crossentropy",
        "kl_divergence",
    ):
        yield Case(
            "a loss",
            (f"training.loss={misspelt(loss)}",),
            ((LINE, rf"^training\.loss: there is no loss '{misspelt(loss)}' \(did you mean '{loss}'\?\)"),),
        )
    for metric in ("sparse_top_k_categorical_accuracy", "f1_score", "categorical_crossentropy"):
        yield Case(
            "a metric",
            (f"training.metrics=[{misspelt(metric)}]",),
            (
                (
                    LINE,
                    rf"^training\.metrics\.0: there is no metric '{misspelt(metric)}' \(did you mean '{metric}'\?\)",
                ),
            ),
        )


VALUES = [
    ("seed=x", "seed=x: must be an integer"), ("seed=-1", "must be greater than or equal to 0"), ("seed=1.5", "must be an integer"),
    ("data.val_fraction=1", "must be less than 1"), ("data.val_fraction=-0.1", "must be greater than or equal to 0"),
    ("data.limit=0", "must be greater than or equal to 1"), ("data.classes=1", "must be greater than or equal to 2"),
    ("data.shape=28", r"data.shape=28: must be \[height, width, channels\]"), ("data.shape=[28,28]", r"data\.shape"), ("data.shape=[28,28,0]", r"data\.shape"),
    ("data.split_seed=x", "must be an integer"), ("data.class_names=[a]", "class_names must have one name per class"),
    ("aug.rotation_range=181", "must be less than or equal to 180"), ("aug.rotation_range=x", "must be a number"),
    ("aug.shear_range=90", "must be less than 90"), ("aug.zoom_range=1", "must be less than 1"), ("aug.zoom_range=[2,1]", r"0 < low <= high"),
    ("aug.horizontal_flip=perhaps", "must be a boolean"), ("aug.fill_mode=mirror", "must be 'constant', 'nearest', 'reflect' or 'wrap'"),
    ("aug.cval=256", "must be less than or equal to 255"), ("aug.elastic_alpha=-1", "must be greater than or equal to 0"),
    ("aug.elastic_sigma=0", "must be greater than 0"), ("aug.layers=x", "must be a list"),
    ("aug.mixup=-1", "must be greater than or equal to 0"), ("aug.cutmix=101", "must be less than or equal to 100"),
    ("aug.mixup=0.2", "set training.loss=categorical_crossentropy"), ("aug.cutmix=1", "set training.loss=categorical_crossentropy"),
    ("aug.until=0", "must be greater than 0"), ("aug.until=1.1", "must be less than or equal to 1"), ("aug.until=soon", "must be a number"),
    ("optimizer.learning_rate=-1", "must be greater than 0"), ("optimizer.learning_rate=fast", "must be a number"),
    ("optimizer.weight_decay=-1", "must be greater than or equal to 0"), ("optimizer.clipnorm=0", "must be greater than 0"),
    ("schedule.type=cosin", r"did you mean 'cosine'\?"), ("schedule.warmup_epochs=-1", "must be greater than or equal to 0"),
    ("schedule.warmup_epochs=6", "must not exceed training.epochs=5"), ("schedule.warmup_fraction=1", "must be less than 1"),
    ("schedule.final_fraction=2", "must be less than or equal to 1"), ("schedule.initial_fraction=-1", "must be greater than or equal to 0"),
    ("training.epochs=0", "must be greater than or equal to 1"), ("training.epochs=five", "must be an integer"), ("training.epochs=100001", "must be less than or equal to 100000"),
    ("training.max_seconds=0", "must be greater than 0"), ("training.max_seconds=soon", "must be a number"),
    ("training.batch_size=0", "must be greater than or equal to 1"), ("training.batch_size=1.5", "must be an integer"),
    ("training.label_smoothing=1", "must be less than 1"), ("training.label_smoothing=0.1", "needs one-hot targets"),
    ("training.distillation.weight=1.1", "must be less than or equal to 1"), ("training.distillation.weight=-0.1", "must be greater than or equal to 0"),
    ("training.distillation.temperature=0", "must be greater than 0"), ("training.distillation.temperature=hot", "must be a number"),
    ("training.distillation.weight=0.4", "needs a teacher"), ("training.distillation.temperature=2", "needs a teacher"),
    ("training.average_last=1", "must be greater than or equal to 2"), ("training.average_last=2.5", "must be an integer"),
    ("training.ema=1", "must be less than 1"), ("training.ema=0", "must be greater than 0"),
    ("training.early_stopping.patience=0", "must be greater than or equal to 1"), ("training.early_stopping.min_delta=-1", "must be greater than or equal to 0"),
    ("training.select.metric=val/loss", r"lowest val/loss.*mode=min"), ("training.select.mode=min", r"highest val/accuracy.*mode=max"),
    ("training.select.mode=highest", "must be 'max' or 'min'"), ("training.select.metric=accuracy", "must be val/<metric>"),
    ("training.keep_checkpoint=maybe", "must be a boolean"), ("training.checkpoint_seconds=0", "must be greater than 0"), ("training.metrics=accuracy", "must be a list"),
    ("preprocess.type=zac", r"did you mean 'zca'\?"), ("preprocess.epsilon=-1", "must be greater than 0"), ("preprocess.epsilon=1", "unit takes no epsilon"),
    ("device.threads=0", "must be greater than or equal to 1"), ("device.precision=float16", "must be 'auto', 'float32' or 'bfloat16'"),
    ("device.kind=tpu", "must be 'auto', 'cpu' or 'gpu'"), ("device.deterministic=2", "must be a boolean"),
    ("tracking.uri=mlruns", "must be an MLflow store's URI"), ("tracking.wait_seconds=-1", "must be greater than or equal to 0"), ("tracking.enabled=no-no", "must be a boolean"),
    ("tracking.experiment=Default", "must not be MLflow's own"), ("debug.max_steps=0", "must be greater than or equal to 1"),
    ("budget.max_parameters=0", "must be greater than or equal to 1"), ("name=''", "must not be empty"), ("outputs=''", "must not be empty"),
    ("model.dropout=a", None), ("model.layers=null", "must be a list"),
]  # fmt: skip


def wrong_values() -> Iterator[Case]:
    for word, message in VALUES:
        if message is not None:
            yield Case("a value", (word,), ((LINE, message),))


def wrong_files() -> Iterator[Case]:
    optimizer = "# mine\ntype: Adam\nlearning_rate: {}\nweight_decay: null\nclipnorm: null\n"
    yield Case(
        "a value in a file",
        ("optimizer=mine",),
        ((r"mine\.yaml:3", r"^optimizer\.learning_rate: must be greater than 0, found -3"),),
        user_file("optimizer", optimizer.format(-3)),
    )
    yield Case(
        "a value in a file",
        ("optimizer=mine",),
        ((r"mine\.yaml:6", r"^optimizer\.lerning: Adam has no argument 'lerning'"),),
        user_file("optimizer", optimizer.format(1) + "lerning: 1\n"),
    )
    yield Case(
        "YAML",
        ("model=mine",),
        ((r"mine\.yaml:1", r"^model: is a group of keys, not a value"),),
        user_file("model", "- a\n"),
    )
    for text, line in (
        ("name: [x\nlayers: []\n", 2), ("name: x\n layers: []\n", 2), ("name: 'x\nlayers: []\n", 3), ("name: x\n\tlayers: []\n", 2),
        ("layers:\n  - {type: ReLU\n", 3), ("name: x\nname: y\nlayers: []\n", 2), ("name: x: y\n", 1),
    ):  # fmt: skip
        yield Case(
            "YAML", ("model=mine",), ((rf"mine\.yaml:{line}", "^not valid YAML"),), user_file("model", text)
        )
    unclosed = ((r"mine\.yaml:1", "'\\${' is never closed"),)
    yield Case("YAML", ("model=mine",), unclosed, user_file("model", "name: ${\nlayers: []\n"))
    yield Case(
        "a knob",
        ("model=mine",),
        ((r"mine\.yaml:3", r"^model\.width: no layer in model\.layers uses this parameter"),),
        user_file("model", "# mine\nname: mine\nwidth: 3\nlayers: [Flatten]\n"),
    )
    yield Case(
        "a knob",
        ("model=mine",),
        ((r"mine\.yaml:3", r"^model\.layers\.0\.units: \$\{model\.width\}: .*model\.width"),),
        user_file("model", "name: mine\nlayers:\n  - {type: Dense, units: '${model.width}'}\n"),
    )


OVERRIDES = [
    (("runs",), "only the first word can be a command"), (("model",), "expected key=value"), (("model.layers[0].filters=1",), r"with dots: model\.layers\.0\.filters="),
    (("~model.layers.1",), "model.layers.1="), (("seed=1,2",), "needs -m"), (("model=[a",), None), (("learning_rate=1",), "optimizer.learning_rate"),
    (("epochs=3",), "no such key"), (("optimizer.learning_rate=${nope}",), "nope"), (("model=null",), "model=null"),
    (("data._target_=os.system",), None), (("training.ema=0.9", "training.average_last=3"), "average_last needs ema: null, found 0.9"),
]  # fmt: skip


def wrong_overrides() -> Iterator[Case]:
    for words, message in OVERRIDES:
        if message is not None:
            yield Case("an override", words, ((LINE, message),))


def several() -> Iterator[Case]:
    yield Case(
        "several at once",
        ("model=mine", "optimizer.learning_rate=-1", "aug=rotat45", "training.epohs=3", "+optimizer.beta=1", "training.loss=mse_"),
        (
            (r"mine\.yaml:5", r"^model\.layers\.1\.fliters: Conv2D has no argument 'fliters' \(did you mean 'filters'\?\)"),
            (r"mine\.yaml:6", r"^model\.layers\.2\.type: there is no layer 'MaxPoling2D' \(did you mean 'MaxPooling2D'\?\)"),
            (LINE, r"^optimizer\.learning_rate=-1: must be greater than 0"),
            (LINE, r"^aug=rotat45: no such option \(did you mean 'rotate45'\?\)"),
            (LINE, r"^training\.epohs=3: no such key \(did you mean 'training.epochs'\?\)"),
            (LINE, r"^optimizer\.beta: Adam has no argument 'beta'"),
            (LINE, r"^training\.loss: there is no loss 'mse_'"),
        ),
        model_of("ReLU", "{type: Conv2D, fliters: 3, filters: 3, kernel_size: 3}", "MaxPoling2D"),
    )  # fmt: skip


CASES = [
    *typos_of_keys(), *typos_of_groups_and_options(), *typos_of_layers(), *typos_of_objectives(), *wrong_values(),
    *wrong_files(), *wrong_overrides(), *several(),
]  # fmt: skip


def answered(case: Case, folder: Path) -> str | None:
    """Return None if a case is answered correctly, else what is wrong with the answer."""
    for name, text in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    request = Request("train", case.words, config_dir=str(folder) if case.files else None)
    try:
        compose_checked(request, TrainConfig)
    except RequestError as error:
        found = error.problems
    else:
        return "nothing was refused"
    if len(found) != len(case.expected):
        return f"{len(found)} problems: {found}"
    for place, message in case.expected:
        if not any(re.search(place, p.place) and re.search(message, p.message) for p in found):
            return f"expected {place} {message}, found {found}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("every", [6, soak(1)])
def test_the_corpus_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int):
    """Each problem, and no other, is reported with its file and line and the intended name."""
    wrong: dict[str, list[str]] = {}
    cases = CASES[::every]
    for number, case in enumerate(cases):
        wrong.setdefault(case.kind, [])
        if (what := answered(case, tmp_path / str(number))) is not None:
            wrong[case.kind].append(f"{case}\n    {what}")
    with capsys.disabled():
        print()
        for kind, failed in wrong.items():
            total = sum(case.kind == kind for case in cases)
            print(f"  {kind:<20} {total - len(failed):>3} of {total:>3} answered")
    assert len(CASES) >= 150
    assert not any(wrong.values()), "\n".join(line for failed in wrong.values() for line in failed)

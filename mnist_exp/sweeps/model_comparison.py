"""McNemar's test of single models on the images of one test set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Dataset
from mnist_exp.data.formats import find, prepare
from mnist_exp.data.sources import NotFound
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import find_run_model
from mnist_exp.errors import RequestError
from mnist_exp.runs.log import say
from mnist_exp.sweeps.comparison import print_mcnemar
from mnist_exp.sweeps.groups import Group, TrainedRun
from mnist_exp.sweeps.intervals import holm, mcnemar
from mnist_exp.text import display_path

NamedRun = tuple[str, TrainedRun]


def compare_models(groups: Sequence[Group]) -> None:
    """Print McNemar's exact test for groups of one run each, or for the two runs of one group.

    Only models with the same test set are compared.
    """
    pairs = pair_models(groups)
    if not pairs:
        return
    judged = {run.summary.path: run for pair in pairs for _, run in pair}
    data: dict[str, Dataset] = {}
    try:
        set_up(config_of(next(iter(judged.values()))))  # one process has one device and number of threads
        right = {path: right_on_test(run, data) for path, run in judged.items()}
    except RequestError as error:
        say(f"note    no McNemar's test: {error}")
        return
    tests = [mcnemar(right[first.summary.path], right[second.summary.path]) for (_, first), (_, second) in pairs]
    corrected = holm(np.array([p for *_, p in tests]))
    sizes = " or ".join(f"{size:,}" for size in sorted({len(images) for images in right.values()}))
    say(f"McNemar's exact test of models on the same {sizes} test images:")
    print_mcnemar(
        [
            (first, second, only_first, only_second, float(p))
            for ((first, _), (second, _)), (only_first, only_second, _), p in zip(
                pairs, tests, corrected, strict=True
            )
        ]
    )  # fmt: skip
    say("The test compares these models, not their configs: another seed gives another model.")


def pair_models(groups: Sequence[Group]) -> list[tuple[NamedRun, NamedRun]]:
    """Return the pairs of models that share a test set, each model with its name."""
    single = [(group.mark, group.runs[0]) for group in groups if len(group.runs) == 1]
    if len(groups) == 1 and len(groups[0].runs) == 2:
        single = [(f"seed {run.seed}", run) for run in groups[0].runs]
    scored = [(name, run) for name, run in single if run.value("test/accuracy") is not None]
    return [(first, second) for first, second in combinations(scored, 2) if first[1].data == second[1].data]


def config_of(run: TrainedRun) -> TrainConfig:
    """Return a run's config, with its device as resolved. Raises `RequestError`."""
    file = run.summary.path / "config.yaml"
    device = run.summary.result.device.model_dump(include={"kind", "threads", "precision"})
    saved = {key: value for key, value in run.values.items() if key != "from"}
    saved["device"] = {**saved["device"], **device}
    return compose_checked(Request("train", base=saved, base_file=file), TrainConfig)[0]


def right_on_test(run: TrainedRun, data: dict[str, Dataset]) -> npt.NDArray[np.bool_]:
    """Return which test images a run's saved model classifies correctly, bool (n,).

    Args:
        run: A finished run.
        data: The data sets read so far, keyed by SHA-256. A data set that is read now is added.

    Raises:
        RequestError: The data is missing or has changed, or the model cannot be loaded.
    """
    config = config_of(run)
    if run.data not in data:
        try:
            data[run.data] = prepare(find(config.data, lambda _: None), config.data)
        except NotFound as error:
            raise RequestError(str(error)) from error
    test = data[run.data].test
    if data[run.data].sha256 != run.data or test is None:
        raise RequestError(
            f"{config.data.name} has changed since {display_path(run.summary.path)} was trained on it"
        )
    model = find_run_model(run.summary).load()
    from mnist_exp.inference.scoring import predict  # imports Keras, which `load` has already started

    right: npt.NDArray[np.bool_] = predict(model, test.images).argmax(axis=1) == test.labels
    return right

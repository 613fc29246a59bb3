"""`mnist-exp compare`: compare runs and sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import CompareConfig
from mnist_exp.config.metric_directions import Direction, direction_of
from mnist_exp.config.overrides import Request
from mnist_exp.config.provenance import COMMAND_LINE
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.saved_model import saved_of_run
from mnist_exp.errors import DIVERGED, Problem, RequestError
from mnist_exp.runs.directory import RunSummary, list_runs, make_directory, read_history, stamped
from mnist_exp.runs.fingerprint import LIBRARIES
from mnist_exp.runs.log import say, warn
from mnist_exp.runs.lookup import find_runs, is_finished, read_config
from mnist_exp.suggest import near_or_all
from mnist_exp.sweeps.groups import Group, Trained, group_key, grouped, marked, repeated, trained
from mnist_exp.text import display_path

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mnist_exp.data.dataset import Dataset
    from mnist_exp.sweeps.comparison import Pair

PICTURE = "compare.png"


def compare(request: Request, started: float) -> None:
    """Print the results of groups of runs and which groups differ, and plot their curves.

    Raises `RequestError`.
    """
    config, _ = compose_checked(request, CompareConfig)
    chosen, remark = choose_runs(config)
    runs, left_out = those_that_count(chosen, config.metric)
    if len(runs) < 2:
        reasons = "".join(f"\n  {display_path(path)}: {reason}" for path, reason in left_out.items())
        raise RequestError(f"{len(runs)} of {len(chosen)} runs can be compared; it takes two{reasons}")
    direction = direction_by(config)
    refuse_different_data(runs, config)

    from mnist_exp.sweeps.comparison import best_first, paired, print_short, sensitivity, summary

    groups = marked(best_first(grouped(runs), config.metric, direction))
    pairs = paired(groups, config.metric, groups_with_divergence(groups, chosen))
    picture = draw(groups, config)
    say(summary(groups, pairs, config.metric, direction))
    if remark:
        say(remark)
    if config.full:
        print_all(groups, pairs, left_out, config.metric, direction)
    else:
        for text in _at_most(2, [f"without {display_path(path)}: {reason}" for path, reason in left_out.items()]):
            say(text)
        say(f"data    {_data_of(groups)}")
        print_short(groups, pairs, config.metric, direction)
    if any(pair.difference for pair in pairs):
        say(condition(sum(pair.difference is not None for pair in pairs)))
        if sentence := sensitivity(pairs, config.metric):
            say(sentence)
    if not config.full:
        notes = len(remarks(groups, config.metric))
        and_notes = f", and {notes} note{'s' * (notes > 1)} on these figures" if notes else ""
        say(f"full=true prints all groups and metrics, the tests of each pair, the runs left out{and_notes}.")
    if names := {str(name) for run in runs if (name := run.summary.result.data.stands_in_for)}:
        warn(f"these are figures for the fallback of {', '.join(sorted(names))}")
    say(f"picture {display_path(picture)}")


def _at_most(count: int, lines: Sequence[str]) -> list[str]:
    """Return the lines, or if there are too many, the first ones and the number of the others."""
    if len(lines) <= count:
        return list(lines)
    return [*lines[: count - 1], f"without {len(lines) - count + 1} more"]


def condition(tests: int) -> str:
    """Return how the verdicts are reached and when they hold."""
    together = f", corrected for {tests} comparisons (Holm)" if tests > 1 else ""
    return (
        f"Verdicts: paired t tests{together}, for differences that vary about normally between seeds; withheld if "
        "spreads differ much or a run diverged."
    )


def print_all(
    groups: Sequence[Group],
    pairs: Sequence[Pair],
    left_out: Mapping[Path, str],
    decisive: str,
    direction: Direction,
) -> None:
    """Print every group, metric and pair, what is left out, and McNemar's test of single models."""
    from mnist_exp.sweeps.comparison import print_means, print_pairs

    introduce(groups, left_out)
    metrics = list(dict.fromkeys([decisive, "val/accuracy", "test/accuracy"]))
    print_means(groups, [*metrics, "seconds"])
    if len(groups) > 1:
        metrics = [metric for metric in metrics if any(group.values(metric) for group in groups)]
        print_pairs(groups, metrics, decisive, pairs, direction)
        say(f"Verdicts by {decisive}. Differences of accuracies are in percentage points. Intervals are of what")
        say("the seed changes, on the images that there are; `could show` is the smallest significant difference.")
    else:
        say("These runs differ only in their seed: there is one group, and nothing to compare it with.")
    compare_models(groups)
    for remark in remarks(groups, decisive):
        say(f"note    {remark}")


def direction_by(config: CompareConfig) -> Direction:
    """Return which values of the metric are better. Raises `RequestError` if that is neither known nor given."""
    known = direction_of(config.metric)
    if known is None and config.mode is None:
        message = (
            f"metric={config.metric}: it is not known which values are better; add mode=max if higher ones are, "
            "else mode=min"
        )
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    if known is not None and config.mode not in (None, known):
        better = "higher" if known == "max" else "lower"
        message = f"mode={config.mode}: {better} values of {config.metric} are better"
        raise RequestError([Problem("unusable", COMMAND_LINE, message, "mode")])
    return known or config.mode or "max"


def choose_runs(config: CompareConfig) -> tuple[list[RunSummary], str]:
    """Find the requested runs; without `run=`, all finished or diverged runs on the newest one's data.

    Returns:
        The runs, and a remark on others, which is empty if there are none.

    Raises:
        RequestError: With every name that matches no run, and a picture that would be overwritten.
    """
    problems: list[Problem] = []
    outputs = Path(config.outputs)
    if config.output is not None and Path(config.output).expanduser().exists():
        message = f"output={config.output}: already exists; name a new file"
        problems.append(Problem("unusable", COMMAND_LINE, message, "output"))
    found: dict[Path, RunSummary] = {}
    for wanted in config.run or ():
        try:
            found |= {run.path.resolve(): run for run in find_runs(wanted, outputs)}
        except RequestError as error:
            problems.append(Problem("not-found", COMMAND_LINE, f"run={error}", "run"))
    if problems:
        raise RequestError(problems, "this comparison")
    if config.run is not None:
        return list(found.values()), ""
    runs = list_runs(outputs)
    finished = [run for run in runs if is_finished(run)]
    if not finished:
        raise RequestError(f"there is no finished run in {outputs}; 'mnist-exp' trains one")
    data = finished[0].result.data.sha256
    others = sum(run.result.data.sha256 != data for run in finished)
    if config.across_data:
        others, data = 0, None
    remark = f"without {others} run{'s' * (others > 1)} on other data than the newest; run=… chooses others"
    counted = [run for run in runs if is_finished(run) or DIVERGED in run.result.reason]
    return [run for run in counted if data in (None, run.result.data.sha256)], remark if others else ""


def those_that_count(chosen: Sequence[RunSummary], metric: str) -> tuple[list[Trained], dict[Path, str]]:
    """Return the runs that can be compared, and the reasons for leaving out others.

    Raises `RequestError` if a run is damaged, or none has the metric.
    """
    left_out: dict[Path, str] = {}
    runs: list[Trained] = []
    damaged: list[str] = []
    for run in chosen:
        if not is_finished(run):
            left_out[run.path] = "diverged" if DIVERGED in run.result.reason else run.status
        elif metric.startswith("val/") and (seen := run.result.validation_images_seen):
            left_out[run.path] = f"started from weights that were trained on {seen} of its validation images"
        elif not run.result.exact:
            left_out[run.path] = "was resumed on another device, so its seed does not determine it"
        else:
            try:
                runs.append(trained(run, read_config(run.path)))
            except RequestError as error:
                damaged.append(str(error))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                damaged.append(f"{run.path}: config.yaml or result.json is not that of a run: {error}")
    if damaged:
        raise RequestError("\n".join(damaged))
    known = sorted({name for run in runs for name in run.metrics})
    if runs and metric not in known:
        raise RequestError(f"metric={metric}: none of these runs has it{near_or_all(metric, known)}")
    left_out |= {run.summary.path: f"has no {metric}" for run in runs if run.value(metric) is None}
    left_out |= {
        run.summary.path: f"diverged: its {metric} is {value}"
        for run in runs
        if (value := run.value(metric)) is not None and not math.isfinite(value)
    }
    runs = [run for run in runs if run.summary.path not in left_out]
    twins = repeated(runs)
    left_out |= {path: f"repeats {display_path(other)}, which is newer" for path, other in twins.items()}
    return [run for run in runs if run.summary.path not in twins], left_out


def groups_with_divergence(groups: Sequence[Group], chosen: Sequence[RunSummary]) -> set[str]:
    """Return the marks of the groups of which a chosen run diverged, unless another run has its seed."""
    keys = {group_key(group.runs[0]): group for group in groups}
    found = set()
    for summary in chosen:
        values = [*(summary.result.best or {}).values(), *(summary.result.test or {}).values()]
        if DIVERGED not in summary.result.reason and all(map(math.isfinite, values)):
            continue
        try:
            run = trained(summary, read_config(summary.path))
        except (RequestError, KeyError, TypeError, ValueError, AttributeError):  # ended before it was recorded
            continue
        group = keys.get(group_key(run))
        if group is not None and run.seed not in {other.seed for other in group.runs}:
            found.add(group.mark)
    return found


def refuse_different_data(runs: Sequence[Trained], config: CompareConfig) -> None:
    """Raise `RequestError` if the runs used different images or labels, unless that was requested.

    Fallback data is never compared with other data.
    """
    sets: dict[str, list[Trained]] = {}
    for run in runs:
        sets.setdefault(run.data, []).append(run)
    stands_in = any(run.summary.result.data.stands_in_for for run in runs)
    if len(sets) > 1 and (stands_in or not config.across_data):
        advice = "one is the fallback for another, and is never compared with other data"
        lines = [
            f"  {of[0].summary.result.data.name} {digest[:8]}: "
            + ", ".join(str(display_path(run.summary.path)) for run in of)
            for digest, of in sets.items()
        ]
        raise RequestError(
            f"these runs are on {len(sets)} different data sets:\n"
            + "\n".join(lines)
            + f"\n{advice if stands_in else 'across_data=true compares them nevertheless'}"
        )


def introduce(groups: Sequence[Group], left_out: Mapping[Path, str]) -> None:
    """Print which groups are compared, and which runs are left out."""
    for path, reason in left_out.items():
        say(f"without {display_path(path)}: {reason}")
    say(f"data    {_data_of(groups)}")
    for group in groups:
        seeds = ", ".join(str(run.seed) for run in group.runs)
        say(f"{group.mark:<7} {group.label}; seed{'s' * (len(group.runs) > 1)} {seeds}")


def _data_of(groups: Sequence[Group]) -> str:
    """Return the names of the data sets, with those that they stood in for."""
    sets = {run.data: run.summary.result.data.title for group in groups for run in group.runs}
    return "; ".join(dict.fromkeys(sets.values()))


def draw(groups: Sequence[Group], config: CompareConfig) -> Path:
    """Plot the learning curves. Returns the picture's path. Raises `RequestError`."""
    histories = [[read_history(run.summary.path) for run in group.runs] for group in groups]
    rows = [row for of in histories for history in of for row in history]
    if not rows or any(not history for of in histories for history in of):
        raise RequestError("a run's history.csv has no epochs")
    name = config.metric.partition("/")[2]
    wanted = [f"val/{name}", "val/accuracy", f"train/{name}", "train/accuracy"]
    metric = next((metric for metric in wanted if all(metric in row for row in rows)), None)
    if metric is None:
        raise RequestError("the runs' history.csv have no metric in common")

    from mnist_exp.report import plots

    several = any(len(group.runs) > 1 for group in groups)
    title = f"{metric} · {_data_of(groups)}" + "\nmean of the seeds, band: ± 1 standard deviation" * several
    curves = [
        (f"{group.mark}  {group.label}  (n = {len(group.runs)})", of)
        for group, of in zip(groups, histories, strict=True)
    ]
    try:
        if config.output is None:
            path = make_directory(Path(config.outputs) / "compare", stamped("compare")) / PICTURE
        else:
            path = Path(config.output).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
        plots.comparison(curves, metric, title, path)
    except OSError as error:
        raise RequestError(f"output: {error.filename} cannot be written: {error.strerror}") from error
    return path


def compare_models(groups: Sequence[Group]) -> None:
    """Print McNemar's exact test for groups of one run each, or for the two runs of one group.

    They must share a test set.
    """
    single = [(group.mark, group.runs[0]) for group in groups if len(group.runs) == 1]
    if len(groups) == 1 and len(groups[0].runs) == 2:
        single = [(f"seed {run.seed}", run) for run in groups[0].runs]
    pairs = [
        (first, second) for first, second in combinations(single, 2)
        if first[1].data == second[1].data
        and all(run.value("test/accuracy") is not None for _, run in (first, second))
    ]  # fmt: skip
    if not pairs:
        return
    import numpy as np

    from mnist_exp.sweeps.comparison import print_mcnemar
    from mnist_exp.sweeps.intervals import holm, mcnemar

    judged = {run.summary.path: run for pair in pairs for _, run in pair}
    data: dict[str, Dataset] = {}
    try:
        right = {path: right_on_test(run, data) for path, run in judged.items()}
    except RequestError as error:
        say(f"note    no McNemar's test: {error}")
        return
    found = [mcnemar(right[first.summary.path], right[second.summary.path]) for (_, first), (_, second) in pairs]
    corrected = holm(np.array([p for *_, p in found]))
    say(f"McNemar's exact test of models on the same {len(right[pairs[0][0][1].summary.path]):,} test images:")
    print_mcnemar(
        [
            (first, second, only_first, only_second, float(p))
            for ((first, _), (second, _)), (only_first, only_second, _), p in zip(
                pairs, found, corrected, strict=True
            )
        ]
    )  # fmt: skip
    say("It judges these models, not their configurations: another seed gives another model.")


def right_on_test(run: Trained, data: dict[str, Dataset]) -> npt.NDArray[np.bool_]:
    """Return which test images a run's saved model classifies correctly, bool (n,).

    Args:
        run: A finished run.
        data: The data sets that were read so far, by SHA-256. A further one is added.

    Raises:
        RequestError: The data is missing or has changed, or the model cannot be loaded.
    """
    from mnist_exp.data.load import find, prepare
    from mnist_exp.data.sources import NotFound

    file = run.summary.path / "config.yaml"
    saved = {key: value for key, value in run.values.items() if key != "from"}
    config, _ = compose_checked(Request("train", base=saved, base_file=file), TrainConfig)
    if run.data not in data:
        try:
            data[run.data] = prepare(find(config.data, lambda _: None), config.data)
        except NotFound as error:
            raise RequestError(str(error)) from error
    test = data[run.data].test
    if data[run.data].sha256 != run.data or test is None:
        raise RequestError(f"{config.data.name} is no longer what {display_path(run.summary.path)} was trained on")
    model = saved_of_run(run.summary).load()
    from mnist_exp.inference.scoring import predict

    right: npt.NDArray[np.bool_] = predict(model, test.images).argmax(axis=1) == test.labels
    return right


def remarks(groups: Sequence[Group], metric: str) -> list[str]:
    """Return remarks that qualify the figures."""
    runs = [run for group in groups for run in group.runs]
    found = []
    parts = {tuple(run.settings.get(f"data.{key}") for key in ("val_fraction", "split_seed")) for run in runs}
    if metric.startswith("val/") and len(parts) > 1:
        found.append(f"{metric} is of different validation images; test/accuracy is of the same")
    results = [run.summary.result for run in runs]
    if resumed := sum(bool(of.resumed) for of in results):
        found.append(f"seconds are without {resumed} run{'s' * (resumed > 1)} that went on after an interruption")
    if len({(of.device.device, of.device.threads) for of in results}) > 1:
        found.append("seconds are of different devices or numbers of threads")
    versions = {tuple(of.versions.get(name) for name in LIBRARIES) for of in results}
    if len(versions) > 1 or len({of.code_sha256 for of in results}) > 1:
        found.append("these runs are of different versions of mnist-exp or its libraries")
    return found

"""`mnist-exp compare`: the coverage of intervals, the validity of verdicts, and refused requests."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats
from support.cli import Cli, soak
from support.golden import Golden

from mnist_exp.engine import preparation
from mnist_exp.sweeps import model_comparison
from mnist_exp.sweeps.comparison import format_interval
from mnist_exp.sweeps.intervals import (
    Difference,
    differences,
    holm,
    mcnemar,
    mean_of,
    sample_size,
    sign_flip,
    verdicts,
)

SIMULATED = 4000
RUNS, SWEEPS = Path("outputs/runs"), Path("outputs/sweeps")


@cache
def config_of(*words: str) -> dict[str, Any]:
    """Return a run's resolved config."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.config.validation import compose_checked
    from mnist_exp.runs.fingerprint import as_values

    return as_values(compose_checked(Request("train", ("data=digits", "tracking=none", *words)), TrainConfig)[0])


IMAGES = {"train": 1347, "val": 150, "test": 300}


def write_run(
    folder: Path,
    *words: str,
    seed: int = 0,
    val: float | None = 0.9,
    test: float | None = 0.8,
    data: str = "d" * 64,
    started: float = 0,
    epochs: int = 3,
    **result: Any,
) -> Path:
    """Write the files of a finished run that `compare` reads."""
    folder.mkdir(parents=True)
    config = {**config_of(*words), "seed": seed}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    best = {"epoch": epochs, "val/loss": 0.5} | ({} if val is None else {"val/accuracy": val})
    about = {
        "status": "finished",
        "started": started,
        "data": {"name": config["data"]["name"], "sha256": data, "stands_in_for": None, "images": IMAGES},
        "device": {"kind": "cpu", "device": "CPU", "threads": 2, "precision": "float32"},
        "best": best,
        "test": None if test is None else {"loss": 0.6, "accuracy": test},
        "seconds": {"total": 3.0 + seed},
        **result,
    }
    (folder / "result.json").write_text(json.dumps(about))
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy"])
        for epoch in range(1, epochs + 1):
            rows.writerow([epoch, 1 / epoch, 1 - 1 / epoch, 1 / epoch, (val or 0) - 0.1 / epoch])
    return folder


def write_groups(*, seeds: Sequence[int] = (0, 1, 2, 3), gain: float = 0.05, test_gain: float = 0.0) -> None:
    """Write runs of two models whose accuracy depends far more on the seed than on the model."""
    for seed in seeds:
        common, noise = 0.05 * seed, 0.001 * (seed % 2)
        write_run(RUNS / f"linear-{seed}", "model=linear", seed=seed, val=0.5 + common, test=0.5 + common)
        gained = {"val": 0.5 + common + gain + noise, "test": 0.5 + common + test_gain + noise}
        write_run(RUNS / f"mlp-{seed}", "model=mlp", seed=seed, **gained)


def rows_of(out: str) -> list[list[str]]:
    """Return the printed lines, split into words."""
    return [line.split() for line in out.splitlines()]


# The intervals.


def simulated(rng: np.random.Generator, n: int, groups: int, truth: Sequence[float]) -> list[np.ndarray]:
    """Return accuracies of groups that share seeds, with a common effect of each seed."""
    shared = rng.normal(0, 0.004, n)
    return [0.9 + truth[group] + shared + rng.normal(0, 0.002 * (1 + group), n) for group in range(groups)]


def pairs_of(values: Sequence[np.ndarray]) -> tuple[list[tuple[int, int]], list[Difference]]:
    places = [(first, second) for first in range(len(values)) for second in range(first + 1, len(values))]
    return places, differences([(values[first], values[second]) for first, second in places])


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_of_a_mean_covers_it(n: int):
    """It covers the mean in 94 to 96 % of simulated groups."""
    rng = np.random.default_rng(n)
    found = [mean_of(list(rng.normal(0.9, 0.01, n))).interval for _ in range(SIMULATED)]
    covered = np.mean([interval is not None and interval[0] <= 0.9 <= interval[1] for interval in found])
    assert 0.94 <= covered <= 0.96


@pytest.mark.parametrize("n", [soak(2), 3, soak(5), soak(10)])
def test_the_interval_of_a_difference_covers_it(n: int):
    """It covers the difference in 94 to 96 % of simulated pairs, for any difference."""
    rng = np.random.default_rng(n)
    for truth in (0.0, 0.003):
        hits = 0
        for _ in range(SIMULATED):
            [found] = pairs_of(simulated(rng, n, 2, (truth, 0.0)))[1]
            assert found.interval is not None
            hits += found.interval[0] <= truth <= found.interval[1]
        assert 0.94 <= hits / SIMULATED <= 0.96


@pytest.mark.parametrize(("n", "groups"), [soak(2, 2), (3, 3), soak(5, 4), soak(10, 5)])
def test_equal_groups_are_rarely_found_different(n: int, groups: int):
    """For any number of groups, at most 5 % of comparisons give a verdict other than "not distinguishable"."""
    rng = np.random.default_rng(n)
    wrong = 0
    for _ in range(SIMULATED):
        values = simulated(rng, n, groups, [0.0] * groups)
        wrong += any(found.is_real for found in pairs_of(values)[1])
    assert wrong / SIMULATED <= 0.05 + 2 * (0.05 * 0.95 / SIMULATED) ** 0.5
    assert wrong / SIMULATED > 0.02  # nor is it by never finding anything


def test_few_test_images_find_no_differences_either():
    """This also holds for so few images that accuracies are often equal."""
    rng = np.random.default_rng(0)
    for n in (2, 5):
        wrong = 0
        for _ in range(SIMULATED):
            first, second = rng.binomial(20, 0.9, (2, n)) / 20
            wrong += differences([(first, second)])[0].is_real
        assert wrong / SIMULATED <= 0.055


@pytest.mark.parametrize("truth", [(0.0, 0.0, 0.0), soak((0.0, 0.0, 1.0)), soak((0.0, 0.005, 0.015))])
def test_intervals_of_several_differences_hold(truth: Sequence[float]):
    """Each covers in at least 95 % of cases, all together in at least 90 %, and none contradicts its verdict."""
    rng = np.random.default_rng(1)
    each, together = np.zeros(3), 0
    for _ in range(SIMULATED):
        places, found = pairs_of(simulated(rng, 5, 3, truth))
        hits = []
        for (first, second), difference in zip(places, found, strict=True):
            assert difference.interval is not None
            low, high = difference.interval
            assert difference.is_real == (low >= 0 or high <= 0)
            # An interval that ends at 0 says that there is a difference.
            real = truth[first] - truth[second]
            hits.append(low <= real <= high and not (difference.is_real and real == 0))
        each += hits
        together += all(hits)
    assert (each / SIMULATED >= 0.94).all()
    assert together / SIMULATED >= 0.90


def test_holms_p():
    """The p-values are those of Holm's published example."""
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_holm_finds_what_bonferroni_does_not():
    """A difference that is significant only in a later step has an interval that ends at 0."""
    sure = ([1.0, 1.01, 0.99, 1.0], [0.0, 0.0, 0.0, 0.01])
    likely = ([0.50, 0.62, 0.50, 0.62], [0.45, 0.50, 0.42, 0.44])
    assert 0.025 < stats.ttest_rel(*likely).pvalue < 0.05
    first, second = differences([sure, likely])
    assert first.is_real
    assert second.is_real
    assert second.interval is not None
    assert second.interval[0] == 0


def test_values_without_spread_prove_nothing():
    """They give neither an interval nor a significant difference."""
    [found] = differences([([0.9, 0.8, 0.7], [0.85, 0.75, 0.65])])
    assert found.mean == pytest.approx(0.05)
    assert (found.interval, found.is_real) == (None, False)
    assert mean_of([0.9, 0.9]).interval is None
    assert mean_of([0.9]).deviation is None


def test_mcnemar_looks_at_where_models_disagree():
    """The exact test is correct for 9 of 10 disagreements on one side."""
    first = np.array([True] * 9 + [False] + [True] * 90)
    second = np.array([False] * 9 + [True] + [True] * 90)
    assert mcnemar(first, second) == (9, 1, pytest.approx(2 * 11 / 2**10))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_a_sign_flip_test_is_exact():
    """If all signs agree, 2 of 2ⁿ flips are as extreme; fewer than six seeds have no p-value."""
    first, second = np.array([0.91, 0.92, 0.95, 0.93, 0.96, 0.94]), np.array([0.90, 0.90, 0.91, 0.92, 0.91, 0.93])
    assert sign_flip(list(first), list(second)) == pytest.approx(2 / 2**6)
    mixed = [1.0, -2.0, 3.0, 4.0, 5.0, -1.0, 2.0]
    signs = np.array(list(product((1, -1), repeat=7)))
    extreme = np.abs(signs @ np.array(mixed)) >= abs(sum(mixed)) - 1e-9
    assert sign_flip(mixed, [0.0] * 7) == pytest.approx(extreme.mean())
    assert sign_flip(list(first[:5]), list(second[:5])) is None


def test_the_smallest_difference_that_could_be_shown_is_on_the_edge():
    """A mean difference just above it is significant, and one just below is not."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (2, 5))
    second -= second.mean() - first.mean()
    second *= first.std() / second.std()
    [found] = differences([(first, second)])
    assert found.smallest is not None
    for factor, real in ((1.01, True), (0.99, False)):
        second += first.mean() - second.mean() - factor * found.smallest
        assert differences([(first, second)])[0].is_real == real


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return values that are mostly slightly above the mean and sometimes far below it, as accuracies are."""
    return 1 - rng.exponential(size=shape)


def false_verdicts(
    values: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    spreads: np.ndarray,
    seeds: int,
    count: int,
) -> tuple[float, float]:
    """Return how often groups of the same mean get any verdict, and how often a verdict is withheld."""
    rng = np.random.default_rng(seeds)
    wrong = withheld = 0
    for _ in range(count):
        groups = values(rng, (len(spreads), seeds)) * spreads[:, None]
        found = verdicts(differences(list(combinations(groups, 2))))
        wrong += "different" in found
        withheld += "extreme" in found or "unequal" in found
    return wrong / count, withheld / count


HARD = [(5, 2, 5.0), (10, 6, 5.0), (7, 4, 10.0), (3, 2, 30.0)]
ALL = [(n, g, ratio) for n in range(3, 11) for g in range(2, 7) for ratio in (1.0, 3.0, 10.0, 30.0)]


@pytest.mark.parametrize(
    ("seeds", "groups", "ratio"),
    [HARD[0], *(soak(*case) for case in (*HARD[1:], *ALL))],
)
def test_verdicts_are_rarely_false_whatever_the_spreads(seeds: int, groups: int, ratio: float):
    """They are false in at most 5 % of comparisons of normal values and 7 % of skewed ones, for any spreads."""
    spreads, count = np.geomspace(1, ratio, groups), 1000
    normal, _ = false_verdicts(lambda rng, shape: rng.normal(size=shape), spreads, seeds, count)
    assert normal <= 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5
    uneven, withheld = false_verdicts(skewed, spreads, seeds, count)
    assert uneven <= 0.07 + 2 * (0.07 * 0.93 / count) ** 0.5
    assert withheld < 0.1 or ratio > 1 or seeds < 7


def test_equal_spreads_of_normal_values_are_judged():
    """A difference of two standard deviations is found, not withheld."""
    rng = np.random.default_rng(0)
    found = [
        verdicts(differences([(rng.normal(2, 1, 10), rng.normal(0, 1, 10))])) == ["different"] for _ in range(500)
    ]
    assert np.mean(found) > 0.85


@pytest.mark.parametrize(
    ("mean", "deviation", "alpha"), [(1, 1, 0.05), (0.5, 1, 0.05), (2, 1, 0.01), (0.2, 1, 0.005)]
)
def test_the_sample_size_has_the_stated_power(mean: float, deviation: float, alpha: float):
    """A t test with this many seeds detects the difference with a probability of about 80 %, by the exact formula."""
    n = sample_size(mean, deviation, alpha)
    assert n is not None

    def power(n: int) -> float:
        return float(stats.nct.sf(stats.t.isf(alpha / 2, n - 1), n - 1, mean / deviation * n**0.5))

    assert power(n) > 0.79
    assert power(n - 1) < 0.81
    assert sample_size(0, deviation, alpha) is None


# The command.


def write_accuracies(values: Mapping[str, Sequence[float]]) -> None:
    """Write a run for each model and seed, with these validation accuracies."""
    for model, accuracies in values.items():
        for seed, val in enumerate(accuracies):
            write_run(RUNS / f"{model}-{seed}", f"model={model}", seed=seed, val=val)


def test_no_more_than_a_thousand_seeds_are_asked_for(cli: Cli):
    """Means that differ only by rounding would need billions."""
    values = {"linear": (0.873, 0.898, 0.911), "mlp": (0.9, 0.885, 0.897)}
    write_accuracies(
        {model: [float(np.float32(val)) for val in accuracies] for model, accuracies in values.items()}
    )
    assert "if the true difference is as measured: more than 1,000 (A vs. B)." in cli("compare").out


def test_an_undetected_difference_states_how_many_seeds_it_needs(cli: Cli):
    """It is given for groups that are not distinguishable from the best one, and for no others."""
    values = {
        "linear": (0.801, 0.805, 0.8, 0.804),
        "mlp": (0.803, 0.801, 0.802, 0.806),
        "pyramid": (0.501, 0.506, 0.503, 0.504),
    }
    write_accuracies(values)
    out = cli("compare").out
    [needed] = re.findall(r"Seeds per group for a significant result .*: (.*)\.", out)
    assert re.fullmatch(r"\d+ \(A vs\. B\)", needed)
    assert needed in cli("compare", "full=true").out


def test_a_stricter_level_is_stated(cli: Cli):
    """Unequal spreads require p < 0.01, so smaller differences than the interval suggests are not significant."""
    wide, narrow = (0.95, 0.9, 0.93, 0.91, 0.94), (0.8, 0.81, 0.8, 0.812, 0.802)
    write_accuracies({"mlp": wide, "linear": narrow})
    assert "significant (at p < 0.01, because the spreads differ)." in cli("compare").out
    write_accuracies({"pyramid": (0.6, 0.61, 0.602, 0.612, 0.6)})
    assert "significant (at p < 0.01 for pairs whose spreads differ)." in cli("compare").out


def test_intervals_never_touch_0_by_rounding(cli: Cli):
    """An end near 0 has more digits. One that is cut off at 0 is written as 0 and explained."""
    assert format_interval((0.00001, 0.05), "val/accuracy", signed=True) == "+0.001 … +5.00"
    assert format_interval((-0.00004, 0.5), "val/accuracy", signed=True) == "-0.004 … +50.00"
    assert format_interval((-0.3, 0.000002), "val/loss", signed=True) == "-0.3000 … +2e-06"
    assert format_interval((0.0, 0.05), "val/accuracy", signed=True) == "0 … +5.00"
    # The second step of Holm's method finds the first difference, whose interval contains 0.
    values = {
        "linear": (0.898, 0.903, 0.904, 0.904),
        "mlp": (0.895, 0.886, 0.89, 0.887),
        "pyramid": (0.494, 0.497, 0.501, 0.496),
    }
    write_accuracies(values)
    out = cli("compare", "full=true").out
    assert out.startswith("A is best; better than B by 0 to 2.89 points, C by ")
    assert " 0 … +2.89 " in out
    assert "An interval that ends at exactly 0 is cut off there" in out


def test_the_short_output_begins_with_a_summary(cli: Cli):
    """It has at most 20 lines for any number of groups and omitted runs; `full=true` prints everything."""
    write_groups(gain=0.05)
    for seed in range(4):
        write_run(RUNS / f"close-{seed}", "model=pyramid", seed=seed, val=0.548 + 0.05 * seed + 0.004 * (seed % 2))
        write_run(RUNS / f"broken-{seed}", "model=pyramid", seed=seed, status="failed")
    out = cli("compare", "run=outputs/runs").out
    first = out.splitlines()[0]
    assert re.fullmatch(
        r"A has the best mean; not distinguishable from B; better than C by \d+\.\d\d to \d+\.\d\d points \(95 % interval\)",
        first,
    )
    assert "paired t tests" in out
    assert "measured differences of at least" in out
    for width in range(4, 14):
        for seed in range(3):
            write_run(
                RUNS / f"w{width}-{seed}",
                f"model.width={width}",
                "model=pyramid",
                seed=seed,
                val=0.4 + 0.01 * seed,
            )
    out = cli("compare", "run=outputs/runs").out
    assert len(out.splitlines()) <= 20
    full = cli("compare", "run=outputs/runs", "full=true").out
    assert len(full.splitlines()) > 60
    assert full.splitlines()[0] == out.splitlines()[0]


def test_differences_that_cannot_occur_are_not_called_significant(cli: Cli):
    """Accuracies differ by at most 100 points; if a larger difference would be needed, the output says so."""
    write_accuracies({"linear": (0.5, 0.25), "mlp": (0.5, 0.8)})
    assert "no difference can be significant; add seeds" in cli("compare").out
    write_accuracies({"pyramid": (0.9, 0.66)})
    out = cli("compare", "full=true").out
    found = re.search(
        r"at least ([\d.]+) (?:to ([\d.]+) )?points.* are significant; for (\d) of 3 pairs, none can be", out
    )
    assert found
    assert max(float(text) for text in found.groups()[:2] if text) <= 100
    assert out.count("> 100") >= int(found[3])


def test_a_tie_is_called_a_tie(cli: Cli):
    """The sum of the same values in another order can differ in the last bit."""
    write_accuracies({"linear": (0.3, 0.2, 0.1), "mlp": (0.1, 0.2, 0.3), "pyramid": (0.0, 0.1, 0.2)})
    first = cli("compare", "full=true").out.splitlines()[0]
    assert re.match(r"(A|B) has the best mean, shared with (A|B); not distinguishable from ", first)
    assert first.count("C") == 1


def test_unequal_spreads_give_no_verdict(cli: Cli):
    """There is none if a group's spread is more than ten times another's."""
    for seed in range(4):
        write_run(RUNS / f"a-{seed}", "model=linear", seed=seed, val=0.9 + 0.00001 * seed)
        write_run(RUNS / f"b-{seed}", "model=mlp", seed=seed, val=0.5 + 0.01 * (seed % 2))
    out = cli("compare").out
    assert out.startswith(
        "A has the best mean; verdict on B withheld: a group's spread is over ten times another's\n"
    )
    assert "is better than" not in out
    assert "Withheld verdicts: for a spread over ten times another's, " in out
    assert "significant" not in out


def test_the_images_behind_a_verdict_are_counted(cli: Cli):
    """With few validation images, a difference can be due to only a few of them."""
    write_accuracies({"linear": (0.8,), "mlp": (0.9,)})
    assert "Intervals" not in cli("compare").out
    for seed, model in enumerate(("linear", "mlp"), start=1):
        write_run(RUNS / f"{model}-{seed}", f"model={model}", seed=seed, val=0.85)
    assert (
        " between seeds on the same 150 validation images (one image is 0.667 points), not " in cli("compare").out
    )
    assert " between seeds on the same 300 test images, not " in cli("compare", "metric=test/loss").out


def test_different_images_are_not_called_the_same(cli: Cli):
    """As many of another split, or of another data set, are not the same."""
    for seed in range(2):
        write_run(RUNS / f"a-{seed}", "model=linear", seed=seed)
        write_run(RUNS / f"b-{seed}", "model=linear", "data.split_seed=1", seed=seed)
    assert "Intervals of val/accuracy show how much it varies between seeds, not " in cli("compare").out
    assert "on the same 300 test images" in cli("compare", "metric=test/accuracy").out
    write_run(RUNS / "c", "model=linear", seed=0, data="e" * 64)
    both = cli("compare", "metric=test/accuracy", "across_data=true").out
    assert "Intervals of test/accuracy show how much it varies between seeds, not " in both


def test_a_withheld_verdict_comes_with_its_remedy(cli: Cli, golden: Golden):
    """The pair does not count for the smallest significant difference, which could be less than its own."""
    write_accuracies({"linear": (0.90, 0.91, 0.90, 0.92), "mlp": (0.77, 0.87, 0.75, 0.81)})
    golden(cli("compare").out)


def test_a_diverged_run_withholds_the_verdict_on_its_group(cli: Cli):
    """Runs of a config that did not diverge are no fair sample of it."""
    data = ["data=digits", "data.limit=100", "training.epochs=1", "tracking=none", "model=linear"]
    wild = cli(*data, "seed=9", "optimizer.learning_rate=1e38", "optimizer=sgd", status=1)
    [folder] = RUNS.iterdir()
    result = json.loads((folder / "result.json").read_text())
    sha256, device = result["data"]["sha256"], result["device"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert "the loss is no longer a number" in result["reason"], wild.err
    for seed in range(3):
        copy = write_run(
            RUNS / f"a-{seed}", "model=linear", seed=seed, val=0.5 + 0.01 * seed, data=sha256, device=device
        )
        (copy / "config.yaml").write_text(yaml.safe_dump({**config, "seed": seed}))
        write_run(
            RUNS / f"b-{seed}",
            *data,
            "model=mlp",
            seed=seed,
            val=0.8 + 0.01 * seed + 0.001 * (seed % 2),
            data=sha256,
        )
    out = cli("compare").out
    assert "verdict on B withheld: a run diverged" in out.splitlines()[0]
    assert f"without {RUNS / folder.name}: diverged" in out
    assert "Withheld verdicts: for a config with a diverged run, " in out
    assert "significant" not in out


def test_groups_are_compared_by_their_seeds(cli: Cli):
    """An effect of the seed on both groups is not counted as noise."""
    write_groups()
    out = cli("compare", "full=true").out
    assert "A       model=mlp; seeds 0, 1, 2, 3" in out
    assert "B       model=linear; seeds 0, 1, 2, 3" in out
    linear = np.array([0.5, 0.55, 0.6, 0.65])
    mean, deviation = 100 * linear.mean(), 100 * linear.std(ddof=1)
    low, high = 100 * np.array(stats.ttest_1samp(linear, 0).confidence_interval())
    row = ["B", "4", f"{mean:.2f}", "%", f"{deviation:.2f}", f"{low:.2f}", "…", f"{high:.2f}"]
    assert row in rows_of(out)
    mlp = linear + 0.05 + np.array([0, 0.001, 0, 0.001])
    low, high = 100 * np.array(stats.ttest_rel(mlp, linear).confidence_interval())
    interval = [f"{low:+.2f}", "…", f"{high:+.2f}"]
    row = ["val/accuracy", "A", "−", "B", "4", "+5.05", *interval, f"{(high - low) / 2:.2f}", "<", "0.001", "–"]
    assert [*row, "A", "is", "better", "than", "B"] in rows_of(out)
    [picture] = Path("outputs/compare").glob("*/compare.png")
    assert f"plot    {picture}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_intervals_are_clipped_to_the_range_of_the_metric(cli: Cli):
    """The interval of an accuracy lies between 0 and 100 %, even for two runs."""
    for seed, (val, test) in enumerate([(0.99, 0.2), (0.999, 0.01)]):
        write_run(RUNS / f"a-{seed}", seed=seed, val=val, test=test)
    table = cli("compare", "full=true", "run=[a-0,a-1]").out
    ends = {line.split()[0]: line.split("%", 1)[-1] for line in table.splitlines() if "…" in line}
    assert ends["val/accuracy"].split("…")[1].strip() == "100.00"
    assert ends["test/accuracy"].split()[1] == "0.00"
    assert " 0.0 … " in next(line for line in table.splitlines() if line.split()[:1] == ["seconds"])


def test_resumed_runs_have_the_seconds_of_all_their_processes(cli: Cli):
    """Not those of its last process alone, which would make it look fast; none if an earlier one recorded none."""
    for seed in range(3):
        earlier = {1: {"resumed": [{"epochs": 1}], "earlier_seconds": 20.0}, 2: {"resumed": [{"epochs": 1}]}}
        write_run(RUNS / f"a-{seed}", seed=seed, **earlier.get(seed, {}))
    out = cli("compare", "full=true").out
    assert "seconds leave out 1 resumed run" in out
    assert [row[3] for row in rows_of(out) if row[:2] == ["seconds", "A"]] == ["13.5"]
    assert {row[0]: row[2] for row in rows_of(out) if row[1:2] == ["A"]} == {
        "val/accuracy": "3", "test/accuracy": "3", "seconds": "2",
    }  # fmt: skip


def test_seeds_are_paired_whatever_their_order(cli: Cli):
    """Only the seeds that both groups have are used for the difference."""
    write_groups(seeds=(3, 0, 2, 1))
    write_run(RUNS / "linear-9", "model=linear", seed=9, val=0.99)
    out = cli("compare", "full=true").out
    assert "A       model=linear; seeds 0, 1, 2, 3, 9" in out
    row = next(row for row in rows_of(out) if row[:4] == ["val/accuracy", "A", "−", "B"])
    assert row[4:6] == ["4", "-5.05"]
    assert "B is better than A" in out


def test_the_verdict_is_by_one_metric(cli: Cli):
    """It is validation accuracy by default; the test accuracy is shown as well."""
    write_groups(gain=0.05, test_gain=-0.05)
    out = cli("compare", "full=true").out
    assert "A       model=mlp" in out
    assert out.count("is better than") == 1
    assert "Verdicts by val/accuracy" in out
    out = cli("compare", "full=true", "metric=test/accuracy").out
    assert "A       model=linear" in out
    assert "Verdicts by test/accuracy" in out


def test_a_lower_loss_is_better(cli: Cli):
    """The first group has the lowest loss."""
    for seed, extra in enumerate((0.0, 0.001, 0.002)):
        best = {"epoch": 1, "val/accuracy": 0.9}
        write_run(RUNS / f"a{seed}", "model=linear", seed=seed, best={**best, "val/loss": 0.5 + extra})
        write_run(RUNS / f"b{seed}", "model=mlp", seed=seed, best={**best, "val/loss": 0.3 - extra})
    out = cli("compare", "full=true", "metric=val/loss").out
    assert "A       model=mlp" in out
    assert "A is better than B" in out


@pytest.mark.parametrize(
    ("metric", "words", "best"),
    [
        ("test/false_positives", [], "linear"),
        ("test/false_negatives", [], "linear"),
        ("test/true_positives", [], "mlp"),
        ("test/error_free", ["mode=max"], "mlp"),  # its name sounds like an error
        ("test/error_free", ["mode=min"], "linear"),
    ],
)
def test_the_better_direction_is_the_metrics(cli: Cli, metric: str, words: list[str], best: str):
    """It is known for Keras' metrics and given by the user for others."""
    for seed in range(3):
        scores = {"accuracy": 0.9, "loss": 0.5}
        low, high = ({**scores, metric[5:]: value + 0.01 * seed} for value in (2.0, 3.0 + 0.01 * (seed % 2)))
        write_run(RUNS / f"a{seed}", "model=linear", seed=seed, test=None)
        write_run(RUNS / f"b{seed}", "model=mlp", seed=seed, test=None)
        for name, test in (("a", low), ("b", high)):
            file = RUNS / f"{name}{seed}/result.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "test": test}))
    out = cli("compare", "full=true", f"metric={metric}", *words).out
    assert f"A       model={best}" in out
    assert "A is better than B" in out


def test_an_unknown_metric_needs_a_direction(cli: Cli):
    """A known metric must not be given the opposite one."""
    for name in "ab":
        best = {"epoch": 1, "val/accuracy": 0.9, "val/gloss": 0.5}
        write_run(RUNS / name, f"model={'linear' if name == 'a' else 'mlp'}", best=best)
    done = cli("compare", "full=true", "metric=val/gloss", status=2)
    assert "mode=min" in done.err
    assert "mode=max" in done.err
    assert "A" in cli("compare", "full=true", "metric=val/gloss", "mode=min").out
    assert "mode=min" in cli("compare", "full=true", "metric=val/accuracy", "mode=min", status=2).err


def test_no_seeds_in_common_give_no_verdict(cli: Cli):
    """At least two common seeds are needed."""
    for seed in range(3):
        write_run(RUNS / f"a{seed}", "model=linear", seed=seed, val=0.5 + 0.01 * seed)
        write_run(RUNS / f"b{seed}", "model=mlp", seed=seed + 2, val=0.9 + 0.01 * seed)
    out = cli("compare", "full=true").out
    assert "needs two common seeds" in out
    assert "is better" not in out


def test_omitted_runs_are_reported(cli: Cli):
    """Each has a reason."""
    write_groups()
    write_run(RUNS / "broken", "model=linear", seed=7, status="failed")
    write_run(RUNS / "resumed", "model=linear", seed=8, exact=False)
    write_run(RUNS / "blind", "model=linear", seed=9, val=None)
    write_run(RUNS / "older", "model=linear", seed=0, started=-1)
    (RUNS / "odd").mkdir()
    (RUNS / "odd/result.json").write_text("{")
    out = cli("compare", "full=true", "run=outputs/runs").out
    for told in (
        "broken: failed",
        "resumed: was resumed on another device or with another version",
        "blind: has no val/accuracy",
        "older: repeats outputs/runs/linear-0, which is newer",
        "odd: damaged",
    ):
        assert f"without outputs/runs/{told}" in out
    assert "B       model=linear; seeds 0, 1, 2, 3" in out


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["run=[outputs/runs/linear-0,linear-1]"], {"model=linear"}),
        (["run=linear-0,mlp-0"], {"model=linear", "model=mlp"}),
        (["run=mlp*"], {"model=mlp"}),
        (["run=[outputs/runs/linear-*,best]"], {"model=linear", "model=mlp"}),
        (["run=s"], {"optimizer.learning_rate=0.1", "optimizer.learning_rate=0.2"}),
        (["run=outputs/sweeps/s-20260101-000000"], {"optimizer.learning_rate=0.1", "optimizer.learning_rate=0.2"}),
        (["run=['s','linear-0']"], {"optimizer.learning_rate=0.1", "optimizer.learning_rate=0.001"}),
    ],
)
def test_runs_are_selected_by_path_or_name(cli: Cli, words: list[str], seen: set[str]):
    """`run=` takes paths, names, patterns, sweeps, and lists of them."""
    write_groups()
    for rate in ("0.1", "0.2"):
        folder = SWEEPS / f"s-20260101-000000/learning_rate-{rate}"
        write_run(folder, "model=linear", f"optimizer.learning_rate={rate}", seed=0, val=0.3)
    out = cli("compare", "full=true", *words).out
    labels = {line[8:].split(";")[0] for line in out.splitlines() if "; seed" in line}
    assert {word for label in labels for word in label.split()} >= seen
    assert ("model=mlp" in out) == ("model=mlp" in seen)


def test_runs_with_other_threads_are_another_group(cli: Cli):
    """Threads change the bits: such a run is no repetition; what `auto` chose counts, not how it was asked for."""
    one = {"kind": "cpu", "device": "CPU", "threads": 1, "precision": "float32"}
    write_run(RUNS / "a", "device.threads=1", device=one)
    write_run(RUNS / "b", "device.threads=auto", device={**one, "threads": 2})
    write_run(RUNS / "c", "device.threads=2", seed=1, device={**one, "threads": 2})
    out = cli("compare", "full=true").out
    labels = {line[8:] for line in out.splitlines() if "; seed" in line}
    assert labels == {"device.threads=1; seed 0", "device.threads=2; seeds 0, 1"}


def test_groups_are_labelled_by_their_differences(cli: Cli):
    """Options appear by name, parameters by value, and layers only if nothing else differs."""
    write_run(RUNS / "a", "model=mlp", "device.threads=1", "name=x")
    write_run(RUNS / "b", "model=mlp", "aug=shift", "device.threads=2")
    write_run(RUNS / "c", "model=pyramid", "training.epochs=7")
    write_run(RUNS / "d", "model=pyramid", "model.width=4")
    write_run(RUNS / "e", "model=pyramid", "model.layers.0.activation=null")
    out = cli("compare", "full=true").out
    labels = {line[8:].split("; seed")[0] for line in out.splitlines() if "; seed" in line}
    assert len(labels) == 5
    assert all("threads" not in label and "rotation" not in label and "name=" not in label for label in labels)
    assert "model=mlp aug=shift training.epochs=5" in labels
    assert any("model.width=4" in label for label in labels)


def test_long_labels_are_cut_in_the_short_table(cli: Cli):
    """Groups that differ in many layers have distinct labels of one line; `full=true` prints them in full."""
    for units in (16, 17):
        many = ", ".join([f"{{type: Dense, units: {units}, activation: relu}}"] * 12)
        layers = f"[Flatten, {many}, {{type: Dense, units: 10}}, Softmax]"
        write_run(RUNS / f"long-{units}", "model=mlp", f"model.layers={layers}")
    rows = [line.strip() for line in cli("compare").out.splitlines() if re.match(" *[AB]  ", line)]
    assert len(rows) == 2
    assert max(map(len, rows)) < 160
    assert all("…" in row for row in rows)
    assert len({re.split("  +", row)[1] for row in rows}) == 2
    labels = [line for line in cli("compare", "full=true").out.splitlines() if "; seed" in line]
    assert min(map(len, labels)) > 250


def test_different_data_is_refused(cli: Cli):
    """`across_data=true` allows it."""
    write_groups()
    for seed in range(4):
        write_run(RUNS / f"other-{seed}", "model=linear", "data.limit=500", seed=seed, data="e" * 64, started=-1)
    done = cli("compare", "full=true", "run=*", status=2)
    assert "these runs are on 2 different data sets" in done.err
    assert "digits eeeeeeee: outputs/runs/other-" in done.err
    assert not Path("outputs/compare").exists()
    out = cli("compare", "full=true", "run=*", "across_data=true").out
    assert "model=linear data.limit=500" in out
    assert "left out: 4 runs on data other than the newest run's" in cli("compare", "full=true").out


def test_fallback_data_is_never_compared_with_other_data(cli: Cli):
    """It is compared with the same fallback data, with a warning."""
    fallback = {"name": "digits", "sha256": "f" * 64, "stands_in_for": "mnist"}
    for seed in range(2):
        write_run(RUNS / f"linear-{seed}", "model=linear", seed=seed, val=0.5 + 0.1 * seed)
        folder = write_run(RUNS / f"digits-{seed}", "model=linear", seed=seed, val=0.5 + 0.1 * seed)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "data": fallback}))
    assert (
        "never compared with other data" in cli("compare", "full=true", "run=*", "across_data=true", status=2).err
    )
    out = cli("compare", "full=true", "run=digits-*").out
    assert "data    digits, the fallback for mnist" in out
    assert "warning: these results are for the fallback of mnist" in out


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["run=[nope,linear-0]"], "run=nope:"),
        (["run=x*"], "run=x*:"),
        (["run=linear"], "linear-3"),
        (["run=linear-0"], "at least two"),
        (["metric=accuracy"], "metric=accuracy:"),
        (["metric=val/acuracy"], "metric=val/acuracy: "),
        (["run="], "run=:"),
        (["run=[a,,b]"], "run=[a,,b]:"),
        (["output=here"], "output=here:"),
        (["output=there.png", "run=nope"], "2 problems"),
        (["runs=linear"], "runs=linear:"),
        (["outputs=elsewhere"], "elsewhere"),
        (["output=there.png/compare.png"], "output:"),
    ],
)
def test_a_wrong_request_writes_nothing(cli: Cli, words: list[str], place: str, golden: Golden):
    """The message names the key, and the exit status is 2."""
    write_groups()
    Path("there.png").write_text("mine")
    before = sorted(Path().rglob("*"))
    done = cli("compare", "full=true", *words, status=2)
    assert place in done.err
    golden(done.err)
    assert sorted(Path().rglob("*")) == before
    assert Path("there.png").read_text() == "mine"


def test_damaged_files_are_reported(cli: Cli):
    """The messages name the files; nothing is compared."""
    write_groups()
    (RUNS / "mlp-0/config.yaml").write_text("a: [")
    (RUNS / "mlp-1/config.yaml").write_text("a: 1")
    done = cli("compare", "full=true", status=2)
    assert "mlp-0/config.yaml:1: damaged" in done.err
    assert "outputs/runs/mlp-1: config.yaml or result.json is not from a run" in done.err
    (RUNS / "mlp-0/config.yaml").write_text((RUNS / "mlp-2/config.yaml").read_text())
    (RUNS / "mlp-1/config.yaml").write_text((RUNS / "mlp-2/config.yaml").read_text())
    (RUNS / "linear-0/history.csv").write_text("epoch,val/accuracy\n1,x\n")
    assert "linear-0/history.csv: damaged" in cli("compare", "full=true", status=2).err
    assert not Path("outputs/compare").exists()


@pytest.mark.slow
def test_two_trained_models_are_tested_on_the_same_images(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """McNemar's counts add up to the difference of the runs' own test accuracies, with their number of threads."""
    small = ["data=digits", "data.limit=200", "training.epochs=2", "tracking=none", "model=linear"]
    first = cli(*small, "optimizer.learning_rate=0.01")
    second = cli(*small, "optimizer.learning_rate=0.0001")
    chosen: list[Any] = []
    resolve = preparation.resolve
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "resolve", lambda config: chosen.append(config.threads) or resolve(config))
        done = cli("compare", "full=true", f"run=[{first.run},{second.run}]", "output=new/two.png")
    images = first.result["data"]["images"]["test"]
    assert f"models on the same {images} test images" in done.out
    assert chosen == [first.result["device"]["threads"]]
    row = next(row for row in rows_of(done.out) if row[:3] == ["A", "−", "B"])
    gained = first.result["test"]["accuracy"] - second.result["test"]["accuracy"]
    assert abs(int(row[3]) - int(row[4])) == round(abs(gained) * images)
    assert Path("new/two.png").read_bytes().startswith(b"\x89PNG")
    assert "plot    new/two.png" in done.out
    assert first.run is not None
    assert second.run is not None
    other_seed = shutil.copytree(first.run, first.run.with_name("other"))
    config = (other_seed / "config.yaml").read_text()
    (other_seed / "config.yaml").write_text(config.replace("seed: 0", "seed: 1", 1))
    out = cli("compare", "full=true", f"run=[{first.run},{other_seed}]").out
    assert "model=linear aug=none; seeds 0, 1" in out
    row = next(row for row in rows_of(out) if row[:5] == ["seed", "0", "−", "seed", "1"])
    assert row[5:] == ["0", "0", "1.000", "not", "distinguishable"]
    (second.run / "model.keras").write_bytes(b"damaged")
    assert "no McNemar's test: " in cli("compare", "full=true", f"run=[{first.run},{second.run}]").out


def test_the_size_of_each_test_set_is_printed(monkeypatch: pytest.MonkeyPatch):
    """Models of different data sets are compared in pairs that share one."""
    sizes = {"a": 1797, "b": 1797, "c": 10_000, "d": 10_000}
    runs = {name: (name, SimpleNamespace(summary=SimpleNamespace(path=name))) for name in sizes}
    monkeypatch.setattr(
        model_comparison, "pair_models", lambda _: [(runs["a"], runs["b"]), (runs["c"], runs["d"])]
    )
    monkeypatch.setattr(model_comparison, "config_of", lambda _: None)
    monkeypatch.setattr(model_comparison, "set_up", lambda _: None)
    right = {name: np.arange(size) % 3 > 0 for name, size in sizes.items()}
    monkeypatch.setattr(model_comparison, "right_on_test", lambda run, _: right[run.summary.path])
    said: list[str] = []
    monkeypatch.setattr(model_comparison, "say", said.append)
    model_comparison.compare_models([])
    assert " 1,797 or 10,000 " in said[0]

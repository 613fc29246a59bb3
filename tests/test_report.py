"""`mnist-exp report`: what it shows of runs, sweeps and studies, in a browser and without JavaScript."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import browser, needs_browser, opened, serious_violations
from support.cli import Cli
from support.golden import Golden
from test_compare import write_groups, write_run

from mnist_exp.engine.model_report import class_blocks
from mnist_exp.engine.report_subject import Scored
from mnist_exp.inference.metrics import assess
from mnist_exp.report.html_page import MOST_BYTES
from mnist_exp.runs.directory import RunDirectory
from mnist_exp.sweeps import report_pages

SMALL = ("data=digits", "data.limit=300", "training.epochs=2", "tracking=none")
SECTIONS = (
    "question", "curves", "classes", "confusion", "mistakes", "calibration", "activation", "features", "fields",
    "augmentation", "architecture", "data", "environment", "repeat", "config",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a small convolutional run, with its report."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("reported") / "outputs"
    layers = "model.layers=[{type: Conv2D, filters: 4, kernel_size: 5, activation: relu}, MaxPooling2D, Flatten, {type: Dense, units: 10}, Softmax]"
    words = [*SMALL, layers, "aug=rotate15", "name=seen", "report=true", f"outputs={outputs}"]
    assert main(words) == 0
    return outputs


@pytest.fixture
def sweep(cli: Cli) -> Path:
    """Return the directory of a sweep of eight jobs, with its report."""
    cli("-m", *SMALL, "model=linear,mlp", "aug=none,rotate15", "seed=0,1", "sweep.name=grid", "report=true")
    return Path("outputs/sweeps/grid")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as launched:
        yield launched


def anchors(html: str) -> list[str]:
    return re.findall(r'<h2 id="(\w+)">', html)


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


# A run.


@pytest.mark.slow
def test_a_run_has_all_sections_in_a_small_file(run: Path):
    """The report at the end of a training shows everything, and is below its limit."""
    html = text_of(run / "report.html")
    assert anchors(html) == list(SECTIONS)
    assert len(html.encode()) < MOST_BYTES
    result = json.loads(text_of(run / "result.json"))
    for value in (
        result["data"]["sha256"], result["weights_sha256"], result["versions"]["keras"], result["host"],
        f"{result['test']['accuracy']:.2%}".replace("%", " %"), f"outputs/runs/{run.name}",
    ):  # fmt: skip
        assert value in html, value
    assert "outputs" not in re.findall(r"<th scope=\"row\">([\w.]+)</th>", html.partition('id="curves"')[0])
    rows = dict(re.findall(r'<th scope="row">([\w.]+)</th><td>([^<]*)</td>', html.partition('id="curves"')[0]))
    assert rows == {"data": "digits", "aug": "rotate15", "data.limit": "300", "training.epochs": "2"} | {
        key: value for key, value in rows.items() if key.startswith("model.layers")
    }
    assert "This report lacks" not in html
    assert "Red regions support the class (Grad-CAM)." in html  # which has no negative values
    assert "blue regions" not in html


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["model.keras", "history.csv", "config.yaml", "damaged model", "unfinished"])
def test_what_does_not_exist_is_named(cli: Cli, run: Path, lost: str):
    """The report shows what exists of a run that kept no model, is damaged, or did not finish."""
    if lost == "damaged model":
        (run / "model.keras").write_text("damaged")
    elif lost == "unfinished":
        result = json.loads(text_of(run / "result.json")) | {
            "status": "failed",
            "test": None,
            "reason": "<b>disk</b>",
        }
        (run / "result.json").write_text(json.dumps(result))
        (run / "model.keras").unlink()
    else:
        (run / lost).unlink()
    cli("report", f"run={run}")
    html = text_of(run / "report.html")
    assert "This report lacks" in html
    assert ("confusion" in anchors(html)) == (lost == "history.csv")
    assert "question" in anchors(html)
    assert "environment" in anchors(html)
    assert ("This run failed: &lt;b&gt;disk" in html) == (lost == "unfinished")


@pytest.mark.slow
def test_a_run_of_a_plugin_or_of_lost_data_is_reported(cli: Cli, run: Path):
    """Without its data, a run's report has its curves and results."""
    config = text_of(run / "config.yaml")
    assert "source: digits" in config
    (run / "config.yaml").write_text(
        config.replace("source: digits", "source: npz").replace("dir: null", "dir: /gone")
    )
    cli("report", f"run={run}", "output=x/report.html")
    html = text_of(Path("x/report.html"))
    assert "the data, and the pictures that need it" in html
    assert "curves" in anchors(html)
    assert (run / "report.html").read_text(encoding="utf-8") != html


@pytest.mark.slow
def test_a_report_is_an_artifact_of_its_run(cli: Cli, run: Path):
    """The tracker receives it in the top folder; an earlier report is replaced."""
    (run / "model.keras").unlink()
    (run / "config.yaml").unlink()
    (run / "report.html").write_text("old")
    done = cli("report", f"run={run}")
    assert done.out.splitlines()[-1] == f"report  {run}/report.html"
    assert text_of(run / "report.html") != "old"
    events = [json.loads(line) for line in text_of(run / "journal.jsonl").splitlines()]
    artifact = [event for event in events if event.get("file") == "report.html"][-1]
    assert artifact.get("folder") is None


def test_a_report_that_fails_does_not_fail_the_run(
    cli: Cli, home_data: list[str], monkeypatch: pytest.MonkeyPatch
):
    """Any error in it at the end of training becomes a warning."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(report_pages, "write_page", fail)
    done = cli("report=true", small=True)
    assert "no report: by chance" in done.out
    assert done.result["status"] == "finished"
    assert done.run is not None
    assert not (done.run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], "run: "),
        (["run=nothing"], "run=nothing:"),
        (["run=[nothing,latest,other]"], "2 problems"),
        (["run=latest", "output=x.pdf"], "output"),
        (["run=latest", "output=taken.html"], "output=taken.html:"),
        (["run=latest", "metric=accuracy"], "metric"),
        (["run=latest", "format=xml"], "format"),
    ],
)
def test_a_wrong_request_creates_nothing(cli: Cli, words: list[str], place: str, golden: Golden):
    """The message names the key."""
    write_run(Path("outputs/runs/only"))
    Path("taken.html").write_text("mine")
    before = sorted(map(str, Path().rglob("*")))
    err = cli("report", *words, status=2).err
    assert place in err
    golden(err)
    assert sorted(map(str, Path().rglob("*"))) == before
    assert Path("taken.html").read_text() == "mine"


def test_a_run_in_use_is_not_changed(cli: Cli, golden: Golden):
    """The advice to write another file works."""
    run = write_run(Path("outputs/runs/only").resolve())
    with RunDirectory.open(run):
        golden(cli("report", f"run={run}", status=2).err)
        assert not (run / "report.html").exists()


def test_a_long_history_is_thinned(cli: Cli):
    """The caption says so, and names the file with all epochs."""
    run = write_run(Path("outputs/runs/only"), epochs=3000)
    cli("report", f"run={run}")
    html = text_of(run / "report.html")
    assert "1000 of 3000 epochs, evenly spaced" in html
    assert "history.csv in the run&#39;s directory has all." in html
    assert html.count("<tr>") < 1500


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        ("failed", "failed"),
        ("killed", "was killed"),
        ("interrupted", "was interrupted"),
        ("odd", "has the status odd"),
    ],
)
def test_an_unfinished_run_is_described_in_a_sentence(cli: Cli, status: str, phrase: str):
    """In the summary and in the notice."""
    run = write_run(Path("outputs/runs/only"), status=status, test=None, epochs=2, planned_epochs=5)
    cli("report", f"run={run}")
    html = text_of(run / "report.html")
    assert f"This run {phrase}." in html
    assert f"The run {phrase}; " in html


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e308, None])
def test_figures_that_are_no_numbers_are_reported(cli: Cli, bad: float | None):
    """A diverged or foreign run has a report, alone, in a sweep, a study and a comparison; it is ranked last."""
    sweep = Path("outputs/sweeps/foreign")
    for number, value in enumerate([bad, 0.7, 0.9]):
        write_run(sweep / f"trial-{number}", "model=linear", seed=number, val=value)
    result = json.loads(text_of(sweep / "trial-0/result.json"))
    result |= {"best": {"epoch": bad, "val/loss": bad, "val/accuracy": bad}, "test": {"accuracy": bad}}
    result |= {"seconds": {"total": bad}, "ended": bad, "status": "failed"}
    if bad is None:
        result |= {"best": None, "test": None, "seconds": {}}
    (sweep / "trial-0/result.json").write_text(json.dumps(result))
    if bad is not None:
        row = f"{bad}," * 7
        header = "epoch,train/loss,train/accuracy,val/loss,val/accuracy,learning_rate,seconds"
        (sweep / "trial-0/history.csv").write_text(f"{header}\n1{row[row.index(',') : -1]}\n{row[:-1]}\n")
    cli("report", f"run={sweep}/trial-0", "output=run.html")
    assert "curves" in anchors(text_of(Path("run.html")))
    cli("report", f"run={sweep}", "output=sweep.html")
    names = re.findall(r">(trial-\d)</td></tr>", text_of(Path("sweep.html")))
    assert names == ["trial-2", "trial-1", "trial-0"]
    cli(
        "report",
        f"run=[{sweep}/trial-0,{sweep}/trial-1,{sweep}/trial-2]",
        "metric=val/loss",
        "output=compared.html",
    )
    table = f"trial,state,val/accuracy,seed,seconds,reason\n0,finished,{bad},{bad},{bad},\n1,finished,0.7,1,3,\n"
    (sweep / "trials.csv").write_text(table if bad is not None else table.replace("None", ""))
    (sweep / "importances.csv").write_text(f"key,share\nseed,{bad or 0}\n")
    cli("report", f"run={sweep}", "output=study.html")
    assert "Trial 1 is" in text_of(Path("study.html"))


# Sweeps, studies and comparisons.


@pytest.mark.slow
def test_a_sweep_states_which_group_is_best(sweep: Path):
    """The summary names the best group, its mean and its interval; tables have a row per group, run and class."""
    html = text_of(sweep / "report.html")
    assert anchors(html) == [
        "verdicts", "question", "runs", "curves", "parallel", "classes", "data", "environment", "repeat"
    ]  # fmt: skip
    assert re.search(
        r'class="summary">A has the best mean; .* A is model=\w+ aug=\w+: mean val/accuracy [\d.]+ % over 2 seeds',
        html,
    )
    assert html.count(">finished</td>") == 8
    command = re.search(r"<code>(mnist-exp -m [^<]*)</code>", html)
    assert command
    words = command[1].split()
    assert {"model=linear,mlp", "aug=none,rotate15", "seed=0,1", "data=digits", "report=true"} <= set(words)


@pytest.mark.slow
def test_commands_name_the_plugins(cli: Cli):
    """The commands in the reports of a sweep, its jobs and their comparison load the plug-ins, and work."""
    plugin = "from mnist_exp import plugin\n@plugin.schedule()\ndef half(progress): return 0.5 + 0 * progress\n"
    Path("mine.py").write_text(plugin)
    given = ["--plugin", "mine.py"]
    cli(*given, "-m", *SMALL, "model=linear", "schedule.type=half", "seed=0,1", "sweep.name=grid", "report=true")
    sweep = Path("outputs/sweeps/grid")
    jobs = sorted(path.parent for path in sweep.glob("*/config.yaml"))
    cli("report", *given, f"run={jobs[0]}")
    cli("report", *given, f"run=[{jobs[0]}]", "output=one.html")
    for file in (sweep / "report.html", jobs[0] / "report.html", Path("one.html")):
        commands = [line for line in re.findall(r"mnist-exp [^<\n]*", text_of(file)) if "=" in line]
        assert commands
        assert all("--plugin mine.py" in command for command in commands if "compare" not in command), commands
    linear = text_of(jobs[0] / "report.html")
    assert "This model has no layer with pictures of this kind." in linear
    assert "Red regions" not in linear
    [repeat] = re.findall(r"<code>(mnist-exp --plugin mine.py -m [^<]*)</code>", text_of(sweep / "report.html"))
    assert "2 finished" in cli(*shlex.split(unescape(repeat))[1:]).out


@pytest.mark.slow
def test_a_study_shows_its_best_trial(cli: Cli):
    """With the values of all searched keys, and without the test scores of other trials."""
    space = ("optimizer.learning_rate=interval(0.001,0.01)", "model=linear,mlp")
    cli("tune", *SMALL, *space, "tune.trials=5", "tune.pruner=none", "tune.name=study", "report=true")
    html = text_of(Path("outputs/sweeps/study/report.html"))
    assert re.search(r'class="summary">Trial \d is the best of 5: val/accuracy [\d.]+ % with', html)
    assert html.count(">finished</td>") == 5
    assert {"best", "trials", "history", "parallel", "importance", "classes", "repeat"} <= set(anchors(html))
    importances = Path("outputs/sweeps/study/importances.csv").read_text().splitlines()[1:]
    for key, share in (line.split(",") for line in importances):
        assert f"{key} {100 * float(share):.0f} %" in html
    assert len(importances) == 2
    Path("outputs/sweeps/study/trials.csv").write_text("trial,state\nx,y\n")
    cli("report", "run=study")
    damaged = text_of(Path("outputs/sweeps/study/report.html"))
    assert damaged.count(">finished</td>") == 5
    assert "This study is not complete" in damaged


def write_study(trials: int) -> Path:
    """Write a study of two keys, with as many finished trials and two pruned ones; trial 0 is the best."""
    folder = Path("outputs/sweeps/study")
    images = {"name": "digits", "sha256": "d" * 64, "stands_in_for": None, "images": {"test": 300}}
    write_run(folder / "trial-000", "model=linear", test=0.9)
    write_run(folder / "trial-001", "model=mlp")
    result = json.loads(text_of(folder / "trial-000/result.json"))
    (folder / "trial-000/result.json").write_text(json.dumps(result | {"data": images}))
    rows = [f"{number},finished,{0.9 - number / 1000},0.0{number + 1},linear,1.5," for number in range(trials)]
    rows += [f"{trials},pruned,0.31,0.5,mlp,0.5,", f"{trials + 1},pruned,0.32,0.6,mlp,0.5,"]
    header = "trial,state,val/accuracy,optimizer.learning_rate,model,seconds,reason"
    (folder / "trials.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "importances.csv").write_text("key,importance\noptimizer.learning_rate,0.8\nmodel,0.2\n")
    return folder


def test_pruned_trials_are_drawn_faintly(cli: Cli):
    """In the charts of the values and the settings, with an entry in the legend; the alternatives count them."""
    folder = write_study(5)
    cli("report", f"run={folder}")
    html = text_of(folder / "report.html")
    drawn = re.findall(r'<script type="application/json" data-chart="(\w+)-1">(.*?)</script>', html)
    charts = dict(drawn)
    for name in ("history", "parallel"):
        assert '"pruned"' in charts[name]
        assert '"finished"' in charts[name]
    assert "[5, 6]" in charts["history"]
    assert "[0.31, 0.32]" in charts["parallel"]
    assert "5 finished and 2 pruned trials" in html
    table = html.partition('id="trials"')[2].partition("</thead>")[0]
    assert re.findall(r'<th scope="col"[^>]*>(\w+)</th>', table) == ["trial", "state", "model", "seconds"]


def test_missing_importances_have_a_reason(cli: Cli):
    """A finished search had too few different trials; an unfinished one has computed none yet."""
    folder = write_study(5)
    (folder / "importances.csv").unlink()
    cli("report", f"run={folder}")
    assert "it needs several finished trials" in text_of(folder / "report.html")
    (folder / "trials.csv").write_text("trial,state\nx,y\n")
    cli("report", f"run={folder}")
    assert "the search has not ended" in text_of(folder / "report.html")


@pytest.mark.parametrize(("wrong", "named"), [(0, []), (1, ["0"]), (5, ["0", "1", "2"])])
def test_only_classes_with_mistakes_have_the_lowest_recall(wrong: int, named: list[str]):
    """At most three of them are named; without mistakes, the sentence says so."""
    labels = np.arange(10, dtype=np.uint8) % 5
    predicted = (labels + (np.arange(10) < wrong)) % 5
    assessment = assess(labels, np.eye(5, dtype=np.float32)[predicted])
    nothing: Any = None
    scored = Scored(nothing, "test", nothing, tuple("01234"), nothing, assessment)
    text = getattr(class_blocks(scored)[0], "text", "")
    assert re.findall(r"(\d) \(", text) == named
    assert ("All images" in text) == (wrong == 0)


@pytest.mark.parametrize("trials", [5, 20])
def test_importances_of_few_trials_have_a_warning(cli: Cli, trials: int):
    """It names the number of finished trials, and the number from which there is no warning."""
    folder = write_study(trials)
    cli("report", f"run={folder}")
    importance = text_of(folder / "report.html").partition('id="importance"')[2].partition("</section>")[0]
    assert f"between the {trials} finished trials" in importance
    assert ("rest on only 5 finished trials" in importance) == (trials < 20)
    assert ("(here 20)" in importance) == (trials < 20)


def test_the_headline_has_intervals_and_says_what_times_include(cli: Cli):
    """The test accuracy of a study's best trial has the interval of its images; means have that of the seeds."""
    folder = write_study(5)
    cli("report", f"run={folder}")
    write_groups(gain=0.1)
    cli("report", "run=[outputs/runs]", "output=groups.html")
    study, groups = (
        dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text_of(file).partition("<section")[0]))
        for file in (folder / "report.html", Path("groups.html"))
    )
    assert study["Its test accuracy"] == "90.00 %"
    assert study["95 % interval (test)"] == "86.08 … 92.91 %"
    assert study["Time of all trials, without start-up and reading data"] == "8.5 s"
    assert re.fullmatch(r"[\d.]+ … [\d.]+ %", groups["95 % interval (test/accuracy)"])
    assert re.fullmatch(r"[\d.]+ … [\d.]+ %", groups["95 % interval (val/accuracy)"])
    assert "Time of all runs, without start-up and reading data" in groups


@pytest.mark.slow
def test_a_comparison_names_what_it_left_out(cli: Cli):
    """Runs without models are compared by their figures; what is missing is listed, once."""
    write_groups(gain=0.1)
    write_run(Path("outputs/runs/failed"), "model=mlp", seed=9, status="failed", reason="diverged <b>")
    cli("report", "run=[outputs/runs]", "output=new/x.html")
    html = text_of(Path("new/x.html"))
    assert 'class="summary">A is best; better than B by' in html
    assert "Report of a comparison" in html
    assert "1 of 9 runs did not finish: 1 failed" in html
    assert re.search(r">outputs/runs/failed</th><td>failed", html)
    assert "Models that could not be scored" in html
    cli("report", "run=[outputs/runs]")
    [file] = Path("outputs/report").glob("*/report.html")
    assert "better than B" in text_of(file)


@pytest.mark.slow
def test_compare_writes_a_report_on_request(cli: Cli):
    """Next to the plot, if that has a name."""
    write_groups(gain=0.1)
    cli("compare", "output=new/x.png", "report=true")
    assert "better than B" in text_of(Path("new/x.html"))


# In a browser.


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_show_values_and_the_page_is_accessible(run: Path, chromium: Any, scheme: str):
    """From a file, offline: nothing is requested, nothing violates the policy, axe-core finds nothing serious."""
    with opened(chromium, run / "report.html", color_scheme=scheme) as found:
        found.drawn()
        history = text_of(run / "history.csv").splitlines()
        first = dict(zip(history[0].split(","), history[1].split(","), strict=True))
        assert f"{float(first['train/accuracy']):.2%}".replace("%", " %") in found.hover(0)
        assert "predicted" in found.hover(2)
        assert serious_violations(found) == []
        assert found.foreign == []
        assert found.complaints == []
        blocked = found.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
        assert blocked == "TypeError"
        assert "Content Security Policy" in found.complaints[0]


@pytest.mark.slow
@needs_browser
def test_without_javascript_everything_is_there(run: Path, chromium: Any):
    """Pictures take the place of the charts, and no control is without function."""
    with opened(chromium, run / "report.html", java_script_enabled=False) as found:
        pictures = found.page.locator(".chart img")
        assert pictures.count() == found.page.locator(".chart").count() >= 4
        for number in range(pictures.count()):
            assert pictures.nth(number).is_visible()
        assert found.page.locator("input, button").count() == 0
        assert found.page.locator("table").count() >= 4


@pytest.mark.slow
@needs_browser
def test_a_page_fits_a_phone_and_paper(run: Path, chromium: Any):
    """It does not scroll sideways; on paper, pictures take the place of the charts."""
    with opened(chromium, run / "report.html", viewport={"width": 380, "height": 800}) as found:
        found.drawn()
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 380
        found.page.emulate_media(media="print")
        assert found.page.locator(".chart img").first.is_visible()
        assert not found.page.locator(".live").first.is_visible()


@pytest.mark.slow
@needs_browser
def test_tables_sort_and_filter(sweep: Path, chromium: Any):
    """By number or text, with the keyboard, too; the browser says how many rows remain."""
    with opened(chromium, sweep / "report.html") as found:
        found.drawn()
        table = found.page.locator("section", has=found.page.locator("#runs")).locator("[data-interactive]")
        heads = table.locator("thead th").all_inner_texts()

        def column(name: str) -> list[str]:
            number = next(index for index, head in enumerate(heads) if head.startswith(name)) + 1
            cells: list[str] = table.locator(f"tbody tr:visible :nth-child({number})").all_inner_texts()
            return cells

        def values(name: str) -> list[float]:
            return [float(text.removesuffix(" %")) for text in column(name)]

        assert values("val/accuracy") == sorted(values("val/accuracy"), reverse=True)
        button = table.get_by_role("button", name="val/accuracy")
        button.focus()
        found.page.keyboard.press("Enter")
        assert values("val/accuracy") == sorted(values("val/accuracy"))
        assert table.locator("th[aria-sort=ascending]").inner_text().startswith("val/accuracy")
        table.get_by_role("button", name="model").click()
        assert column("model") == ["linear"] * 4 + ["mlp"] * 4
        table.get_by_role("searchbox").fill("mlp rotate15")
        assert column("model") == ["mlp"] * 2
        assert table.get_by_role("status").inner_text() == "2 of 8 rows"
        table.get_by_role("searchbox").fill("")
        assert len(column("model")) == 8
        for chart in range(found.page.locator(".chart").count()):
            assert re.search(r"\d %", found.hover(chart)), chart
        assert serious_violations(found) == []
        assert found.foreign == []
        assert found.complaints == []

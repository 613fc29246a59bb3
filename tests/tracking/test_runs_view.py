"""The view of MLflow's runs page that `mnist-exp ui` opens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from support.cli import Cli
from support.collector import Collector
from support.journals import write_sweep_run

from mnist_exp.runs.events import ImageEvent, ParamsEvent
from mnist_exp.runs.journal import Journal
from mnist_exp.tracking import runs_view
from mnist_exp.tracking.runs_view import CHART_MODE, PARAMETER, TAG, find_swept_keys, run_charts_state, view_state

ID = "c" * 32


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


def write_sweep(name: str, content: Any) -> None:
    file = Path("outputs/sweeps") / name / "sweep.json"
    file.parent.mkdir(parents=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def write_run(name: str, run_id: str | None) -> None:
    folder = Path("outputs/runs") / name
    folder.mkdir(parents=True)
    result = {
        "name": name,
        "status": "finished",
        "started": 1,
        "data": {"name": "digits"},
        "mlflow_run_id": run_id,
    }
    (folder / "result.json").write_text(json.dumps(result))


def read_scripts() -> str:
    """Return the scripts of the installed MLflow's UI."""
    import mlflow

    folder = Path(mlflow.__file__).parent / "server/js/build/static/js"
    return "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.js")))


def test_mlflows_ui_reads_the_view():
    """The installed UI has the tag, the parameter, every field and the columns; fails first when MLflow changes."""
    scripts = read_scripts()
    assert f'"{TAG}"' in scripts
    assert f'"{PARAMETER}"' in scripts
    lists = re.findall(r'\["(?:searchFilter|selectedColumns)"(?:,"\w+")+\]', scripts)
    state = view_state([])
    assert state.keys() <= {name for found in lists for name in json.loads(found)}
    for field in ("runDateAndNestInfo", "duration"):
        assert field in state["columnOrder"]
        assert f'field:"{field}"' in scripts


def test_mlflows_ui_reads_the_charts():
    """The installed UI has the fields of charts and sections, and their types; fails first when MLflow changes."""
    scripts = read_scripts()
    states = (view_state([]), run_charts_state(ID, {"watch/conv2d": 3}))
    names = set().union(*states)
    for state in states:
        for part in (*state["compareRunCharts"], *state["compareRunSections"]):
            names |= part.keys()
        for chart in state["compareRunCharts"]:
            assert f'e.{chart["type"]}="{chart["type"]}"' in scripts
    for name in names:
        assert re.search(rf"\b{name}\b", scripts), name
    assert f'="{CHART_MODE.partition("=")[0]}"' in scripts
    # Sections are sorted by name unless they were reordered, and new ones are displayed.
    assert re.search(r"display:!0,isReordered:!1\}\)\}\),!n\)\{[^;]+;\w+\.sort\(", scripts)
    assert '"Model metrics"' in scripts
    assert '"System metrics"' in scripts


@pytest.mark.parametrize("state", [view_state([]), run_charts_state(ID, {"watch/conv2d": 3, "watch/conv2d_1": 2})])
def test_charts_show_curves_first(state: dict[str, Any]):
    """Training and validation share a chart; the sections of single values are collapsed."""
    sections = {section["uuid"]: section["display"] for section in state["compareRunSections"]}
    assert next(iter(sections)) == "curves"
    assert not any(sections[name] for name in ("best", "best/val", "test", "time", "train", "val"))
    curves = [chart for chart in state["compareRunCharts"] if chart["metricSectionId"] == "curves"]
    assert curves[0]["selectedMetricKeys"] == ["val/accuracy", "train/accuracy"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections.keys()
    assert state["isAccordionReordered"] is True
    assert len(json.dumps(state)) < 5000  # of a tag's value, MLflow keeps this many characters, or more


def test_the_view_of_a_run_shows_its_last_feature_maps():
    """Without the parameters that MLflow writes above each picture; at most 12 layers are shown."""
    state = run_charts_state(ID, {f"watch/{'long_name' * 8}_{number}": 3 for number in range(50)})
    images = [chart for chart in state["compareRunCharts"] if chart["type"] == "IMAGE"]
    assert len(images) == 12
    assert {(chart["step"], chart["showRunParams"]) for chart in images} == {(3, False)}
    assert state["searchFilter"] == f"attributes.run_id = '{ID}'"
    assert len(json.dumps(state)) < 5000


def test_the_view_shows_results_and_swept_keys():
    """A swept group is shown by its option; nothing is shown twice."""
    assert view_state(["model", "optimizer", "optimizer.learning_rate"])["selectedColumns"] == [
        "metrics.`test/accuracy`", "metrics.`best/val/accuracy`", "params.`model.name`", "params.`aug.name`",
        "params.`optimizer.type`", "params.`optimizer.learning_rate`", "metrics.`time/total`",
    ]  # fmt: skip


def test_the_newest_sweeps_keys_come_first():
    """Damaged files, links and strange keys are skipped."""
    write_sweep("old", {"started": 1, "swept": ["seed", "aug"]})
    write_sweep("new", {"started": 2, "swept": ["model.width", "x`,`y"]})
    write_sweep("number", {"started": 4, "swept": ["lost", 3]})
    write_sweep("damaged", "{")
    write_sweep("nested", "[" * 100_000)
    Path("secret.json").write_text(json.dumps({"started": 3, "swept": ["stolen"]}))
    Path("outputs/sweeps/link").mkdir()
    Path("outputs/sweeps/link/sweep.json").symlink_to(Path("secret.json").resolve())
    assert find_swept_keys(Path("outputs")) == ["model.width", "seed", "aug"]


def test_the_searched_keys_of_studies_are_shown():
    """They are the parameters of the study's MLflow run."""
    write_sweep("old", {"started": 1, "swept": ["seed"]})
    study = Path("outputs/sweeps/study")
    study.mkdir()
    lines = write_sweep_run(study, None)
    lines.write(ParamsEvent(values={"optimizer.learning_rate": "interval(0.1,1)", "+aug.rotation": "1,2"}))
    lines.close()
    assert find_swept_keys(Path("outputs")) == ["optimizer.learning_rate", "aug.rotation", "seed"]
    (study / "journal.jsonl").write_text("{")
    assert find_swept_keys(Path("outputs")) == ["seed"]


def test_ui_opens_the_view(cli: Cli, collector: Collector):
    """It is created in the experiment's tags, under a key of its own."""
    write_sweep("a", {"started": 1, "swept": ["seed"]})
    done = cli("ui", "open=false", f"tracking.uri={collector.uri}")
    assert done.out.strip() == (
        f"{collector.uri}/#/experiments/1/runs?workflowType=machine_learning&{PARAMETER}=mnist-exp"
    )
    path, _, body = collector.requests[-1]
    assert path == "/api/2.0/mlflow/experiments/set-experiment-tag"
    sent = json.loads(body)
    assert (sent["experiment_id"], sent["key"]) == ("1", f"{TAG}mnist-exp")
    assert json.loads(sent["value"]) == view_state(["seed"])


def refuse(*_: object, **__: object) -> None:
    raise URLError("403")


def test_ui_opens_the_plain_table_if_the_view_cannot_be_created(
    cli: Cli, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    """As on a server that this user may only read."""
    monkeypatch.setattr(runs_view, "post", refuse)
    done = cli("ui", "open=false", f"tracking.uri={collector.uri}")
    assert done.out.strip() == f"{collector.uri}/#/experiments/1/runs?workflowType=machine_learning"


def test_ui_opens_a_run(cli: Cli, collector: Collector):
    """`run=` takes a name; a run that MLflow does not have is refused."""
    write_run("first", ID)
    write_run("second", None)
    journal = Journal(Path("outputs/runs/first"))
    for step in (0, 1, 2):
        journal.write(ImageEvent(file="a.png", key="watch/schräg", step=step))
    journal.close()
    done = cli("ui", "open=false", "run=first", f"tracking.uri={collector.uri}")
    page, charts = done.out.splitlines()
    runs = f"{collector.uri}/#/experiments/1/runs"
    assert page == f"{runs}/{ID}?workflowType=machine_learning"
    assert charts == f"Charts: {runs}?workflowType=machine_learning&{CHART_MODE}&{PARAMETER}=mnist-exp-{ID}"
    sent = json.loads(collector.requests[-1][2])
    assert sent["key"] == f"{TAG}mnist-exp-{ID}"
    assert json.loads(sent["value"]) == run_charts_state(ID, {"watch/schr_g": 2})
    refused = cli("ui", "open=false", "run=second", f"tracking.uri={collector.uri}", status=2)
    assert "run=second: " in refused.err
    assert "'mnist-exp sync run=outputs/runs/second'" in refused.err


@pytest.mark.parametrize("damaged", [False, True])
def test_ui_opens_a_runs_page_without_its_charts(
    cli: Cli, collector: Collector, monkeypatch: pytest.MonkeyPatch, damaged: bool
):
    """As on a server that this user may only read; a damaged journal has no feature maps."""
    write_run("first", ID)
    if damaged:
        Path("outputs/runs/first/journal.jsonl").write_text("{\n")
    else:
        monkeypatch.setattr(runs_view, "post", refuse)
    done = cli("ui", "open=false", "run=first", f"tracking.uri={collector.uri}")
    page, *more = done.out.splitlines()
    assert page == f"{collector.uri}/#/experiments/1/runs/{ID}?workflowType=machine_learning"
    assert bool(more) is damaged

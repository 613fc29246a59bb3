"""The artifact locations in an output folder's MLflow database: all of them lie in its `mlartifacts`."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import Cli
from support.journals import write_run

from mnist_exp.runs.atomic import write_text
from mnist_exp.tracking.locations import LOCATIONS, ForeignLocation, link_artifact, refuse_foreign_locations
from mnist_exp.tracking.store import update_moved_locations

DATABASE = Path("outputs/mlflow.db")
RUNS = Path("outputs/runs")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a delivered run and a registered version of its model."""
    from mnist_exp.tracking.registry import register

    outputs = tmp_path_factory.mktemp("template") / "outputs"
    register(write_run(outputs / "runs" / "a"), None, "digits", None)
    return outputs


@pytest.fixture
def outputs(template: Path) -> Path:
    """Copy the folder here; its locations are updated for the move."""
    shutil.copytree(template, "outputs")
    update_moved_locations(DATABASE)
    return Path("outputs")


def change(table: str, column: str, location: str) -> None:
    """Change the database as an attacker could."""
    with closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.execute(f"update {table} set {column} = ?", (location,))


def locations() -> list[str]:
    with closing(sqlite3.connect(DATABASE)) as connection:
        return [
            row[0]
            for table, column in LOCATIONS
            for row in connection.execute(
                f"select {column} from {table}" + (" where experiment_id != 0" * (table == "experiments"))
            )
        ]


def test_every_location_of_ours_is_accepted(outputs: Path):
    """This includes locations after the folder was moved."""
    refuse_foreign_locations(DATABASE)
    assert len(locations()) == len(LOCATIONS)


ELSEWHERE = (
    "file:///tmp/elsewhere", "/tmp/elsewhere", "http://127.0.0.1:9/x", "s3://bucket", "../x", "{root}/../../x",
    "{root}/%2e%2e/x", "{root}-2", "mlflow-artifacts:/x", "{root}?x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("table", "column", "location"),
    [*((*place, ELSEWHERE[0]) for place in LOCATIONS), *((*LOCATIONS[0], text) for text in ELSEWHERE[1:])],
)
def test_a_location_elsewhere_is_refused(outputs: Path, table: str, column: str, location: str):
    """This holds for every table with locations and every scheme."""
    change(table, column, location.format(root=(outputs.resolve() / "mlartifacts").as_uri()))
    with pytest.raises(ForeignLocation, match="repair=true"):
        refuse_foreign_locations(DATABASE)


def test_nothing_is_written_elsewhere_and_the_command_repairs_it(outputs: Path, cli: Cli):
    """Training and delivery are refused; after the repair, the run is delivered into the folder."""
    elsewhere = Path("elsewhere").resolve()
    elsewhere.mkdir()
    change("experiments", "artifact_location", elsewhere.as_uri())
    change("runs", "artifact_uri", f"{elsewhere.as_uri()}/run")
    command = "'mnist-exp sync outputs=outputs repair=true'"
    small = ["model=linear", "data=digits", "data.limit=300", "training.epochs=1"]
    refused = cli(*small, status=2)
    assert command in refused.err
    assert f"{elsewhere.as_uri()}/run" in refused.err
    write_run(RUNS / "b")
    assert command in cli("sync", status=1).out
    assert command in cli("ui", "open=false", status=2).err
    assert len(list(RUNS.iterdir())) == 2
    done = cli("sync", "outputs=outputs", "repair=true")
    assert "2 locations replaced" in done.out
    assert "runs/b: delivered" in done.out
    root = (outputs.resolve() / "mlartifacts").as_uri()
    assert all(location.startswith(root) for location in locations())
    assert not list(elsewhere.iterdir())


def test_links_in_the_artifacts_folder_are_refused(outputs: Path, cli: Cli):
    """They could lead out of the folder."""
    [folder] = (outputs / "mlartifacts").glob("*/artifacts")
    (folder / "plots").rename(folder / "pictures")
    (folder / "plots").symlink_to(Path.cwd())
    write_run(RUNS / "b")
    assert "plots: is not a regular file" in cli("sync", status=1).out


def test_a_database_that_is_a_link_is_refused(outputs: Path, cli: Cli):
    """Runs would be written to another database."""
    DATABASE.rename("other.db")
    DATABASE.symlink_to(Path("other.db").resolve())
    assert "is a symbolic link" in cli("ui", "open=false", status=2).err


def test_mlflows_default_experiment_is_not_used(outputs: Path, cli: Cli):
    """A journal may name it, but its artifacts would go to another folder."""
    write_run(RUNS / "b", experiment="Default")
    assert "'Default' cannot be used" in cli("sync", status=1).out


def test_artifacts_are_linked_instead_of_copied(tmp_path: Path):
    """The artifact takes no space of its own, and keeps its content when the run's file is replaced."""
    file = Path("loss.png")
    file.write_bytes(b"a")
    location = (tmp_path / "mlartifacts" / "run" / "artifacts").as_uri()
    target = tmp_path / "mlartifacts" / "run" / "artifacts" / "plots" / "loss.png"
    for _ in range(2):
        assert link_artifact(file, location, "plots/loss.png", tmp_path / "mlflow.db")
        assert os.path.samefile(file, target)
        assert [path.name for path in target.parent.iterdir()] == ["loss.png"]
    write_text(file, "b")
    assert target.read_bytes() == b"a"


def test_artifacts_are_linked_inside_the_artifacts_folder_only(tmp_path: Path):
    """Other locations, and links that lead out of the folder, are left alone."""
    file, elsewhere = Path("loss.png"), tmp_path / "elsewhere"
    file.write_bytes(b"a")
    elsewhere.mkdir()
    root = tmp_path / "mlartifacts"
    root.mkdir()
    (root / "run").symlink_to(elsewhere)
    database = tmp_path / "mlflow.db"
    for location in (
        elsewhere.as_uri(),
        f"{root.as_uri()}/../elsewhere",
        f"{root.as_uri()}/%2e%2e/elsewhere",
        f"{root.as_uri()}/run",
        f"{root.as_uri()}/run/new",
        "s3://bucket/run",
        "mlflow-artifacts:/run",
    ):
        assert not link_artifact(file, location, "loss.png", database), location
    assert not list(elsewhere.iterdir())
    root.rename(tmp_path / "other")
    root.symlink_to(tmp_path / "other")
    assert not link_artifact(file, f"{root.as_uri()}/a", "loss.png", database)

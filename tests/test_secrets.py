"""Credentials in addresses are used but never shown: not on the terminal, in a file, or in a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli, Outcome
from support.collector import Collector

from mnist_exp.runs.journal import first_run, read
from mnist_exp.text import mask_credentials, without_credentials
from mnist_exp.tracking.known_stores import state_file

USER, PASSWORD = "planted-name", "planted-word"
SECRETS = (USER, PASSWORD)
TRAIN = ("model=linear", "data=digits", "data.limit=300", "training.epochs=1", "tracking.wait_seconds=120")


def first_uri(folder: Path) -> str | None:
    """Return the store that a journal names."""
    run = first_run(read(folder))
    assert run is not None
    return run.uri


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        yield server


def with_secret(collector: Collector) -> str:
    return f"http://{USER}:{PASSWORD}@{collector.host}"


def refuse_secrets(*done: Outcome, folder: str = "outputs") -> None:
    """Fail if a secret was printed or is in a file (databases are files too)."""
    for outcome in done:
        assert not any(secret in outcome.out + outcome.err for secret in SECRETS)
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert files
    for file in [*files, state_file()]:
        content = file.read_bytes() if file.exists() else b""
        assert not any(secret.encode() in content for secret in SECRETS), file


@pytest.mark.slow
def test_a_training_does_not_reveal_the_stores_credentials(
    cli: Cli, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    """They are used, but neither the store nor the output folder nor the terminal shows them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_secret(collector))
    trained = cli(*TRAIN, "training.keep_checkpoint=true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert trained.run is not None
    assert first_uri(trained.run) == f"http://***@{collector.host}"
    assert {header for _, header, _ in collector.requests} == {"Basic cGxhbnRlZC1uYW1lOnBsYW50ZWQtd29yZA=="}
    for path, _, body in collector.requests:
        assert not any(secret in path or secret.encode() in body for secret in SECRETS)
    refuse_secrets(trained)

    collector.requests.clear()
    assert "***" in cli("sync", f"tracking.uri=http://***@{collector.host}", status=2).err
    again = cli("sync", status=1)
    assert "the credentials of" in again.out
    resumed = cli("resume", f"run={trained.run}", "training.epochs=2", status=2)
    assert "MLFLOW_TRACKING_URI" in resumed.err
    assert collector.requests == []
    refuse_secrets(again, resumed)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_secret(collector))
    done = [cli("sync", status=None), cli("resume", f"run={trained.run}", "training.epochs=2")]
    assert {header for _, header, _ in collector.requests} == {"Basic cGxhbnRlZC1uYW1lOnBsYW50ZWQtd29yZA=="}
    refuse_secrets(*done)


@pytest.mark.slow
def test_other_addresses_and_hydras_flags_do_not_reveal_theirs(cli: Cli):
    """This covers mirrors and study storages in configs, parameters, tags and errors."""
    cli("dataset", "convert", "data=digits", "to=idx", "output=idx")
    mirror = f"http://{USER}:{PASSWORD}@127.0.0.1:9/mirror"
    files = sorted(path.name for path in Path("idx").iterdir())
    named = {part: next(name for name in files if name.startswith(part.replace("_", "-").replace("test", "t10k")))
             for part in ("train_images", "train_labels", "test_images", "test_labels")}  # fmt: skip
    data = ["data=idx", "data.dir=idx", f"data.mirrors=[{mirror}]", "data.shape=[28,28,1]", "data.classes=10"]
    data += [f"data.files.{part}={name}" for part, name in named.items()]
    words = [word for word in TRAIN if not word.startswith("data=")]
    trained = cli(*words, *data)
    stored = sqlite3.connect("outputs/mlflow.db").execute(
        "select value from params where key like 'data.mirrors%'"
    )
    assert "***@127.0.0.1:9/mirror" in str(list(stored))
    storage = f"mysql+pymysql://{USER}:{PASSWORD}/x@127.0.0.1:9/db?password={PASSWORD}"
    searched = cli("tune", *TRAIN, "tracking=none", "seed=0,1", f"tune.storage='{storage}'", status=2)
    shown = cli("--cfg", "job", f"tracking.uri=http://{USER}:{PASSWORD}@host")
    assert "http://***@host" in shown.out
    wrong = cli(
        "check", f"tracking.uri=http://{USER}:{PASSWORD}@host", f"optimizer.learning_rate={mirror}", status=2
    )
    refuse_secrets(trained, searched, shown, wrong)


@pytest.mark.slow
def test_a_sweep_does_not_reveal_the_stores_credentials(cli: Cli, collector: Collector):
    """The sweep's own files do not contain them either."""
    done = cli("-m", *TRAIN, "seed=0,1", f"tracking.uri={with_secret(collector)}", status=None)
    assert collector.requests
    stores = [first_uri(file.parent) for file in Path("outputs/sweeps").rglob("journal.jsonl")]
    assert stores == 3 * [f"http://***@{collector.host}"]
    refuse_secrets(done)


def test_ui_signs_in_and_shows_an_address_without_credentials(
    cli: Cli, collector: Collector, monkeypatch: pytest.MonkeyPatch
):
    """It uses those in the address, or those that MLflow's client reads."""
    done = cli("ui", "open=false", f"tracking.uri={with_secret(collector)}/")
    assert f"{collector.uri}/#/experiments/1/runs" in done.out
    assert collector.requests[-1][1] == "Basic cGxhbnRlZC1uYW1lOnBsYW50ZWQtd29yZA=="
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", PASSWORD)
    more = cli("ui", "open=false", f"tracking.uri={collector.uri}")
    assert collector.requests[-1][1] == f"Bearer {PASSWORD}"
    assert not any(secret in done.out + done.err + more.out + more.err for secret in SECRETS)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:word@host:5000/path", "http://***@host:5000/path"),
        ("https://token@host", "https://***@host"),
        ("mysql+pymysql://me:w/o?r@d@host/db", "mysql+pymysql://***@host/db"),
        ("postgresql://host/db?user=me&password=word&a=1", "postgresql://host/db?user=***&password=***&a=1"),
        ("x=[http://me:word@a,http://me:word@b]", "x=[http://***@a,http://***@b]"),
        ("API request to 'http://me:word@host/api' failed", "API request to 'http://***@host/api' failed"),
        ("sqlite:////home/me@word/x.db", "sqlite:////home/me@word/x.db"),
        ("models:/name@champion", "models:/name@champion"),
    ],
)
def test_credentials_are_masked_in_every_kind_of_address(text: str, masked: str):
    """This includes addresses inside other text; paths and aliases are unchanged."""
    assert mask_credentials(text) == masked
    assert mask_credentials(masked) == masked


@pytest.mark.parametrize(
    ("uri", "without"),
    [
        ("http://me:word@host:5000/path", "http://host:5000/path"),
        ("http://host/a?token=word&x=1", "http://host/a?x=1"),
        ("http://host:5000/me@here", "http://host:5000/me@here"),
    ],
)
def test_the_address_without_credentials_is_that_of_the_same_store(uri: str, without: str):
    """The host is never taken from the path."""
    assert without_credentials(uri) == without

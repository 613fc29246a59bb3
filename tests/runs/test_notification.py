"""The end of a run is reported to the command and the address that the environment names."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mnist_exp import cli
from mnist_exp.errors import Killed, RequestError, WorkError
from mnist_exp.report.documents import SweepDocument
from mnist_exp.runs.notification import ADDRESS, COMMAND, notify

DOCUMENT = SweepDocument(sweep="a", path="/a", swept=[], jobs=[], best=None, fallback_for=None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file to which the command writes its input."""
    monkeypatch.setenv(COMMAND, "cat >> told.json")
    return Path("told.json")


@pytest.mark.parametrize(
    ("words", "outcome", "status", "expected"),
    [
        (["seed=0"], DOCUMENT, 0, {"command": "train", "exit_status": 0, "message": "", "result": "sweep"}),
        (["tune"], WorkError("no trial"), 1, {"command": "tune", "exit_status": 1, "message": "no trial"}),
        (["resume", "run=a"], Killed(15), 143, {"command": "resume", "exit_status": 143}),
        (["train"], KeyboardInterrupt(), 130, {"exit_status": 130}),
    ],
)
def test_an_end_is_reported(monkeypatch: pytest.MonkeyPatch, told: Path, words, outcome, status, expected):  # type: ignore[no-untyped-def]
    """Successes, failures and interrupts are reported with the exit status and the result."""

    def run(*_: object) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(words) == status
    message = json.loads(told.read_text())
    assert (message["result"] or {}).get("document") == expected.pop("result", None)
    assert {key: message[key] for key in expected} == expected


def test_a_refused_request_and_other_verbs_are_not_reported(monkeypatch: pytest.MonkeyPatch, told: Path):
    """Nothing had begun."""

    def refuse(*_: object) -> None:
        raise RequestError("wrong")

    monkeypatch.setattr(cli, "_run", refuse)
    assert cli.main(["train"]) == 2
    monkeypatch.setattr(cli, "_run", lambda *_: DOCUMENT)
    assert cli.main(["runs"]) == 0
    assert cli.main(["train", "--help"]) == 0
    assert not told.exists()


def test_an_address_receives_the_message(monkeypatch: pytest.MonkeyPatch):
    """It is posted as JSON."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv(ADDRESS, f"http://127.0.0.1:{server.server_port}/hook")
        notify({"exit_status": 0}, signalled=False)
        thread.join()
    assert [json.loads(body) for body in received] == [{"exit_status": 0}]


@pytest.mark.parametrize(
    ("variable", "value"),
    [(COMMAND, "exit 3"), (ADDRESS, "http://me:secret@127.0.0.1:9/secret"), (ADDRESS, "file:///etc/passwd")],
)
def test_a_failed_report_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
):
    """It names the variable but not the address, which may contain a secret."""
    monkeypatch.setenv(variable, value)
    notify({}, signalled=False)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {variable}: ")
    assert "secret" not in err

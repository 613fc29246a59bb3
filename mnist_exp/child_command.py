"""Run a command in a child process, and return its JSON document."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, Any

from mnist_exp.config.hydra_adapter import parse_override
from mnist_exp.config.overrides import VERBATIM, quoted
from mnist_exp.errors import Code, Problem, RequestError, WorkError

_PACKAGE = Path(__file__).resolve().parents[1]
_PATIENCE = 60.0  # seconds for an interrupted process to save what it has


def run_verb(
    verb: str, overrides: Sequence[str], keys: Mapping[str, Any], *, raises: bool = True, choices: bool = False
) -> dict[str, Any]:
    """Run a verb in a child process and return its JSON document.

    The messages of the child process are printed on standard error.

    Args:
        verb: The verb.
        overrides: Words of the command line.
        keys: Values by key; `__` in a key becomes a dot.
        raises: Whether to raise the error that the document describes.
        choices: Whether a tuple gives several values to sweep or search over, rather than a list.
    """
    words = [*overrides]
    for key, value in keys.items():
        is_choice = choices and isinstance(value, tuple)
        text = ",".join(map(override_text, value)) if is_choice else _value(key, value)
        words.append(f"{key.replace('__', '.')}={text}")
    path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(
        [sys.executable, "-m", "mnist_exp", verb, *words, "format=json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # so that Ctrl-C reaches the child only through `_wait`
    )
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdout, child.stderr:
        messages = Thread(target=_forward, args=(child.stderr,), daemon=True)
        messages.start()
        output = _wait(child, child.stdout)
        messages.join()
    return _document_of(output, child.returncode, raises=raises)


def _wait(child: subprocess.Popen[str], stdout: IO[str]) -> str:
    """Return the child's output. If this process is interrupted, interrupt the child, which saves its work."""
    try:
        output = stdout.read()
        child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(_PATIENCE)
        except BaseException:  # a second interrupt, or the child did not end in time
            child.kill()
            child.wait()
        raise
    return output


def _forward(stream: IO[str]) -> None:
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)


def _document_of(output: str, status: int, *, raises: bool) -> dict[str, Any]:
    """Parse the document of a command. Raises the error that it describes, unless `raises` is False."""
    try:
        document: dict[str, Any] = json.loads(output)
    except ValueError as error:
        raise WorkError(f"mnist-exp ended with exit status {status} and without a result") from error
    if status == 0 or not raises:
        return document
    if status == 2:
        problems = [problem_of(entry) for entry in document["problems"]]
        raise RequestError(problems if all(problem.place for problem in problems) else str(document["message"]))
    if document["document"] == "error" and status > 128:
        raise KeyboardInterrupt
    failure = WorkError(str(document.get("message", f"mnist-exp ended with exit status {status}; see .document")))
    failure.document = document
    raise failure


def problem_of(entry: Mapping[str, Any]) -> Problem:
    """Return the problem that an entry of a document describes."""
    code: Code = entry["code"] or "invalid-value"
    return Problem(code, entry["place"], entry["message"], entry["path"])


def _value(key: str, value: Any) -> str:
    """Return the value of a key in the syntax of overrides."""
    return str(value) if key in VERBATIM and isinstance(value, str) else override_text(value)


def override_text(value: Any) -> str:
    """Return a value in the syntax of overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(override_text, value))}]"
    if not isinstance(value, (str, Path)):
        return str(value)
    try:
        is_plain = bool(str(value)) and parse_override(f"key={value}").value() == str(value)
    except Exception:  # not in Hydra's syntax
        is_plain = False
    return str(value) if is_plain else quoted(str(value))

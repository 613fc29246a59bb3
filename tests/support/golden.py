"""Golden messages: the wording that the tests rely on is kept in tests/messages.yaml, under the test's id.

A test asserts exit statuses, places, values and files itself, and passes what was printed to `golden`. After a
sentence was changed, `pytest --update-messages tests/test_check.py` rewrites the entries of the tests that passed;
review the difference before committing it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / "messages.yaml"
_REPOSITORY = Path(__file__).parents[2]
Golden = Callable[[str], None]

# Texts that differ between runs, or between MNIST and the built-in digits, its fallback.
_MASKS = (
    (r"\b\d{8}-\d{6}\b", "<stamp>"),
    (r"\bsum to [-\d.e]+", "sum to <figure>"),
    (r"\d{4}-\d\d-\d\d(?:[ T_]\d\d[:-]\d\d(?:[:-]\d\d)?)?", "<date>"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b", "<hash>"),
    (r"\d[\d,.]* ?%", "<percent>"),
    (r"\b\d+(?:\.\d+)? s\b", "<time>"),
    (r"\b\d+\.\d{3,}\b", "<figure>"),
    (r"\b\d[\d,]* images\b", "<count> images"),
    (r"(?<=has )0 to \d+$", "0 to <count>"),
    (r"\b(?i:mnist(?!-)|digits)\b", "<data>"),
    (r"(?<=\S)  +", "  "),  # columns are as wide as what is in them
    (r" +$", ""),
)

_seen: dict[str, list[str]] = {}
_collected: set[str] = set()


def mask(text: str, folder: Path) -> str:
    """Replace what differs from run to run; `folder` is the test's own temporary folder."""
    text = text.replace(str(_REPOSITORY), "<repository>")
    for path in (folder.resolve(), folder):
        text = text.replace(str(path), "<tmp>")
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/[^\s:'\"]+", "<tmp>", text)
    for pattern, name in _MASKS:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.strip("\n")


def read() -> dict[str, list[str]]:
    """Return the messages by test id."""
    return (yaml.safe_load(FILE.read_text(encoding="utf-8")) if FILE.exists() else None) or {}


def write(messages: dict[str, list[str]]) -> None:
    """Write the messages, sorted by test id."""

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    head = "# The wording of messages, by test. Rewritten by pytest --update-messages: see support/golden.py.\n"
    content = yaml.dump(messages, Dumper=Dumper, allow_unicode=True, width=10_000, sort_keys=True)
    FILE.write_text(head + content, encoding="utf-8")


def _key(nodeid: str) -> str:
    return nodeid.removeprefix("tests/")


@pytest.fixture
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Golden]:
    """Compare printed text, masked, with the next message that tests/messages.yaml has for this test."""
    update = request.config.getoption("--update-messages")
    expected = read().get(_key(request.node.nodeid), [])
    found: list[str] = []

    def compare(text: str) -> None:
        found.append(mask(text, tmp_path))
        request.node.user_properties.append(("message", found[-1]))
        if not update:
            assert len(found) <= len(expected), f"no golden message; pytest --update-messages adds {found[-1]!r}"
            assert found[-1] == expected[len(found) - 1]

    yield compare
    failed = getattr(request.node, "failed", False)
    assert update or failed or len(found) == len(expected), f"{len(expected)} golden messages, {len(found)} found"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-messages", action="store_true", help="rewrite tests/messages.yaml for the tests run"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _collected.update(_key(item.nodeid) for item in items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.failed = report.failed  # type: ignore[attr-defined]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A report brings the messages to the process that writes the file, if several run tests.
    if report.when == "call" and report.passed:
        messages = [str(text) for name, text in report.user_properties if name == "message"]
        _seen[_key(report.nodeid)] = messages


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write what was found, and report entries whose test no longer exists."""
    messages = read()
    unused = set()
    if _collected and not any("::" in argument for argument in config.args):
        files = {key.partition("::")[0] for key in _collected}
        unused = {key for key in messages if key.partition("::")[0] in files and key not in _collected}
    unused |= {key for key in messages if not (FILE.parent / key.partition("::")[0]).exists()}
    if config.getoption("--update-messages"):
        messages = {key: texts for key, texts in {**messages, **_seen}.items() if texts and key not in unused}
        write(messages)
    elif unused:
        terminalreporter.write_line(f"messages.yaml: no such test: {', '.join(sorted(unused))}")

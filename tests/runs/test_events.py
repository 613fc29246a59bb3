"""Journal events: each has one type, one form of bytes, and is read back as it was written."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

import mnist_exp
from mnist_exp.runs import events
from mnist_exp.runs.events import (
    ArtifactEvent,
    DatasetEvent,
    EndEvent,
    Event,
    ImageEvent,
    JournalEvent,
    MetricsEvent,
    ModelEvent,
    NoteEvent,
    ParamsEvent,
    ResumedEvent,
    RunEvent,
    TagsEvent,
    format_event,
    parse_event,
)
from mnist_exp.runs.journal import FILE, IdempotentJournal, read, read_from

PACKAGE = Path(mnist_exp.__file__).parent
SAMPLES = sorted((Path(__file__).parents[1] / "samples" / "outputs").rglob(FILE))
UNION = set(get_args(get_args(Event)[0]))

# The events and their bytes, which are the same in journals of earlier versions.
EXAMPLES: list[tuple[Event, str]] = [
    (
        RunEvent(time=1, name="é", key="k", experiment="e", tags={"a": "b"}, enabled=True, uri=None, parent=None),
        '{"kind": "run", "time": 1, "name": "é", "key": "k", "experiment": "e", "tags": {"a": "b"}, "enabled": true, '
        '"uri": null, "parent": null}',
    ),
    (
        RunEvent(time=1, name="n", key="k", experiment="e", tags={}, enabled=False, uri="http://h", parent="/s"),
        '{"kind": "run", "time": 1, "name": "n", "key": "k", "experiment": "e", "tags": {}, "enabled": false, '
        '"uri": "http://h", "parent": "/s"}',
    ),
    (
        ParamsEvent(time=2, values={"seed": "0", "name": "null"}),
        '{"kind": "params", "time": 2, "values": {"seed": "0", "name": "null"}}',
    ),
    (
        DatasetEvent(time=3, name="mnist", sha256="0f", source="/d", shape=[28, 28, 1], images={"train": 9, "test": 1}),
        '{"kind": "dataset", "time": 3, "name": "mnist", "sha256": "0f", "source": "/d", "shape": [28, 28, 1], '
        '"images": {"train": 9, "test": 1}}',
    ),
    (
        MetricsEvent(time=4, step=1, values={"best/epoch": 1, "val/loss": 0.1, "train/loss": float("inf"), "t": 1.0}),
        '{"kind": "metrics", "time": 4, "step": 1, "values": {"best/epoch": 1, "val/loss": 0.1, '
        '"train/loss": Infinity, "t": 1.0}}',
    ),
    (NoteEvent(time=5, text="| a |\n"), '{"kind": "note", "time": 5, "text": "| a |\\n"}'),
    (TagsEvent(time=6, values={"pruned": "true"}), '{"kind": "tags", "time": 6, "values": {"pruned": "true"}}'),
    (
        ArtifactEvent(time=7, file="history.csv", folder=None),
        '{"kind": "artifact", "time": 7, "file": "history.csv", "folder": null}',
    ),
    (
        ArtifactEvent(time=7, file="plots/a.png", folder="plots"),
        '{"kind": "artifact", "time": 7, "file": "plots/a.png", "folder": "plots"}',
    ),
    (
        ImageEvent(time=7, file="plots/watch/a.png", key="watch/a", step=2),
        '{"kind": "image", "time": 7, "file": "plots/watch/a.png", "key": "watch/a", "step": 2}',
    ),
    (
        ModelEvent(time=8, file="m.keras", shape=[8, 8, 1], classes=10, requirements=["keras==3"], weights_sha256="a"),
        '{"kind": "model", "time": 8, "file": "m.keras", "shape": [8, 8, 1], "classes": 10, '
        '"requirements": ["keras==3"], "weights_sha256": "a"}',
    ),
    (  # before weights were hashed
        ModelEvent(time=8, file="m.keras", shape=[8, 8, 1], classes=10, requirements=[]),
        '{"kind": "model", "time": 8, "file": "m.keras", "shape": [8, 8, 1], "classes": 10, "requirements": []}',
    ),
    (EndEvent(time=9, status="KILLED"), '{"kind": "end", "time": 9, "status": "KILLED"}'),
    (ResumedEvent(time=10, status="RUNNING"), '{"kind": "resumed", "time": 10, "status": "RUNNING"}'),
    (
        ResumedEvent(
            time=10, status="RUNNING", fingerprint="f", at=1.5, epochs=2, steps=7, overrides=["a=1"], exact=False
        ),
        '{"kind": "resumed", "time": 10, "status": "RUNNING", "fingerprint": "f", "at": 1.5, "epochs": 2, "steps": 7, '
        '"overrides": ["a=1"], "exact": false}',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("event", "line"), EXAMPLES, ids=lambda value: getattr(value, "kind", ""))
def test_an_event_is_written_and_read_back(event: Event, line: str):
    """Writing it gives the expected bytes, and reading them gives the same event."""
    assert format_event(event) == line.encode() + b"\n"
    assert parse_event(line.encode()) == event
    assert type(parse_event(line.encode())) is type(event)


def test_each_type_has_an_example():
    """A new event type needs an example above."""
    assert {type(event) for event, _ in EXAMPLES} == UNION


def test_every_event_that_is_written_is_in_the_union():
    """The package can read every event that it writes, and writes every type."""
    written = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name))
    }  # fmt: skip
    types = {name: kind for name, kind in vars(events).items() if isinstance(kind, type)}
    types = {
        name: kind for name, kind in types.items() if issubclass(kind, JournalEvent) and kind is not JournalEvent
    }
    assert {kind for name, kind in types.items() if name in written} == UNION
    assert {kind for kind in types.values() if not kind.__subclasses__()} == UNION  # bases are no events
    kinds = [kind.model_fields["kind"].default for kind in UNION]
    assert len(set(kinds)) == len(kinds)


def test_an_event_has_the_time_of_its_making(monkeypatch: pytest.MonkeyPatch):
    """It is in milliseconds since 1970, and follows the kind."""
    monkeypatch.setattr(events.time, "time_ns", lambda: 1_600_000_000_123_456_789)
    assert format_event(NoteEvent(text="")) == b'{"kind": "note", "time": 1600000000123, "text": ""}\n'


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.parent.name)
def test_journals_of_earlier_versions_are_read(file: Path):
    """Each line is an event and keeps its bytes when it is written again."""
    assert b"".join(map(format_event, read(file.parent))) == file.read_bytes()


def test_keys_of_later_versions_are_kept():
    """An `end` that is written again keeps unknown keys."""
    line = b'{"kind": "end", "time": 1, "status": "FINISHED", "reason": {"code": [1, null]}}'
    assert format_event(parse_event(line)) == line + b"\n"


def test_a_sweep_resumes_without_epochs():
    """The short form of `resumed` has no progress, so that no tags are made of it."""
    event = parse_event(b'{"kind": "resumed", "time": 1, "status": "RUNNING"}')
    assert isinstance(event, ResumedEvent)
    assert (event.epochs, event.exact, event.fingerprint) == (None, None, None)


def test_nan_is_written_as_json_does():
    """The loss of a diverged training is written as by Python's `json`."""
    line = b'{"kind": "metrics", "time": 1, "step": 1, "values": {"train/loss": NaN}}'
    assert format_event(parse_event(line)) == line + b"\n"


FOREIGN = [
    b"", b"\0", b"3", b"null", b'"end"', b"[]", b"{}", b'["kind"]',
    b'{"kind": "metr', b'{"kind": "note", "time": 1, "text": "\xff"}', b"[" * 100_000,
    b'{"kind": "confetti", "time": 1}', b'{"kind": ["end"], "time": 1}', b'{"kind": {}, "time": 1}', b'{"time": 1}',
    b'{"kind": "end", "status": "FINISHED"}', b'{"kind": "end", "time": "1", "status": "FINISHED"}',
    b'{"kind": "end", "time": 1}', b'{"kind": "end", "time": 1, "status": "DONE"}',
    b'{"kind": "run", "time": 1}', b'{"kind": "params", "time": 1, "values": {"seed": 0}}',
    b'{"kind": "metrics", "time": 1, "step": 1}', b'{"kind": "metrics", "time": 1, "step": true, "values": {}}',
    b'{"kind": "metrics", "time": 1, "step": 1, "values": {"\x1b[31m": null}}',
    b'{"kind": "model", "time": 1, "file": "m", "shape": [8, 8], "classes": 2, "requirements": []}',
    b'{"kind": "artifact", "time": 1, "file": null, "folder": null}',
]  # fmt: skip


@pytest.mark.parametrize("line", FOREIGN, ids=lambda line: line[:60].decode(errors="replace"))
def test_a_line_that_is_no_event_is_an_error_with_its_place(tmp_path: Path, line: bytes):
    """Damaged lines, unknown kinds and missing fields give one short message."""
    (tmp_path / FILE).write_bytes(b'{"kind": "note", "time": 1, "text": ""}\n' + line + b"\n")
    with pytest.raises(ValueError, match=FILE) as raised:
        read(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / FILE}:2: ")
    assert message.isprintable()
    assert len(message) < len(str(tmp_path)) + 120


def test_the_message_names_what_is_wrong(tmp_path: Path):
    """It has the kind and the field, or the beginning of the line."""
    for line, problem in {
        '{"kind": "end", "time": 1}': "end.status is missing or invalid: ",
        '{"kind": "confetti", "time": 1}': "unknown event: ",
        "3": "not an event: ",
        "{": "damaged: ",
    }.items():
        with pytest.raises(ValueError, match="missing|unknown|not an|damaged") as raised:
            parse_event(line.encode())
        assert str(raised.value) == problem + repr(line[:30])


def test_reading_continues_where_it_ended(tmp_path: Path):
    """A line that is still being written is read once, when it is complete."""
    first, second = (format_event(NoteEvent(text=text)) for text in "ab")
    (tmp_path / FILE).write_bytes(first + second[:9])
    events, position = read_from(tmp_path, 0)
    assert [event.text for event in events if isinstance(event, NoteEvent)] == ["a"]
    (tmp_path / FILE).write_bytes(first + second)
    assert read_from(tmp_path, position) == ([parse_event(second)], len(first + second))


def test_a_resumed_run_repeats_no_subject(tmp_path: Path):
    """Another step, other metrics, other weights and another description are other subjects."""
    model = {"file": "m", "shape": [8, 8, 1], "classes": 2, "requirements": []}
    once: list[Event] = [
        RunEvent(name="n", key="k", experiment="e", tags={}), ParamsEvent(values={}),
        DatasetEvent(name="d", sha256="0", source="s", shape=[], images={}), NoteEvent(text="a"),
        MetricsEvent(step=1, values={"a": 1, "b": 2}), MetricsEvent(step=2, values={"a": 1, "b": 2}),
        MetricsEvent(step=1, values={"a": 1}), ModelEvent(**model), ModelEvent(**model, weights_sha256="1"),
    ]  # fmt: skip
    repeated: list[Event] = [
        TagsEvent(values={}), ArtifactEvent(file="f"), ResumedEvent(), EndEvent(status="KILLED")
    ]  # fmt: skip
    again: list[Event] = [
        RunEvent(name="n", key="other", experiment="e", tags={}), ParamsEvent(values={"a": "1"}),
        DatasetEvent(name="d2", sha256="0", source="s", shape=[], images={}), NoteEvent(text="a"),
        MetricsEvent(step=1, values={"b": 7, "a": 7}), ModelEvent(**model, weights_sha256="1"),
    ]  # fmt: skip
    journal = IdempotentJournal(tmp_path)
    for event in [*once, *repeated, *again, *repeated]:
        journal.write(event)
    journal.close()
    written = [*once, *repeated, *repeated]
    assert read(tmp_path) == written
    journal = IdempotentJournal(tmp_path)
    for event in [*once, *again, *repeated]:
        journal.write(event)
    journal.close()
    assert read(tmp_path) == [*written, *repeated]

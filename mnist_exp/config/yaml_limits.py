"""Limits for YAML files from untrusted sources, checked on the text before it is turned into values.

A few lines with aliases can expand to billions of values; deep nesting, values that refer to themselves, and
numbers with many digits can keep a parser busy for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MOST_BYTES = 4 * 2**20
MOST_VALUES = 100_000
MOST_DEPTH = 64
LONGEST_TEXT = 20_000  # characters
LONGEST_NUMBER = 100  # characters

# The tags of plain values. Others, such as `!!python/object`, stand for objects, which configs cannot contain.
_TAGS = (
    None,
    "!",
    *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")),
)
_NUMBER = re.compile(r"[+-]?(0[xob][\da-f_]+|[\d_:]+)", re.IGNORECASE)
_TOO_DEEP = f"values are nested more than {MOST_DEPTH} levels deep"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def limit_exceeded(text: str) -> tuple[int, str] | None:
    """Return the line and description of the first limit that a YAML text exceeds; None if it exceeds none.

    Invalid YAML is checked only up to its first syntax error.
    """
    if len(text) > MOST_BYTES:
        return 1, f"is {len(text):,} characters long; the limit is {MOST_BYTES:,}"
    try:
        return next(_excesses(text), None)
    except (yaml.YAMLError, ValueError) as error:
        # libyaml has a limit of its own, which its scanner reaches before the parser reports any level.
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        return (mark.line + 1, _TOO_DEEP) if mark and "maximum nesting" in str(problem) else None


def _excesses(text: str) -> Iterator[tuple[int, str]]:
    # Each open collection: its anchor, and the number of values in it, including those that aliases expand to.
    open_nodes: list[tuple[str | None, int]] = []
    sizes: dict[str, int] = {}

    def add(count: int) -> None:
        if open_nodes:
            anchor, before = open_nodes[-1]
            open_nodes[-1] = anchor, before + count

    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        size = 1
        if (tag := getattr(event, "tag", None)) not in _TAGS:
            yield line, f"the tag {str(tag).replace('tag:yaml.org,2002:', '!!')} is not that of a plain value"
        if isinstance(event, yaml.ScalarEvent):
            yield from _of_scalar(event, line)
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                yield line, f"*{event.anchor} refers to the value that contains it"
            size = sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > MOST_DEPTH:
                yield line, _TOO_DEEP
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
        else:
            continue
        add(size)
        if size > MOST_VALUES or (open_nodes and open_nodes[-1][1] > MOST_VALUES):
            yield line, f"has more than {MOST_VALUES:,} values, counting those that aliases expand to"


def _of_scalar(event: yaml.ScalarEvent, line: int) -> Iterator[tuple[int, str]]:
    length = len(event.value)
    if length > LONGEST_TEXT:
        yield line, f"a value is {length:,} characters long; the limit is {LONGEST_TEXT:,}"
    if event.implicit[0] and length > LONGEST_NUMBER and _NUMBER.fullmatch(event.value):
        yield line, f"a number is {length:,} characters long; the limit is {LONGEST_NUMBER}"


def excess_of_file(file: Path) -> tuple[int, str] | None:
    """Return the line and description of the first limit that a YAML file exceeds; None if it exceeds none."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return 1, f"is {file.stat().st_size:,} bytes long; the limit is {MOST_BYTES:,}"
        return limit_exceeded(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None  # reported when the file is parsed

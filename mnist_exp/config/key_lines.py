"""Read the comments in a YAML file of `conf/`: on the file, and on each of its keys."""

from __future__ import annotations

import itertools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_COLUMN = 24
_WIDTH = 110


@dataclass(frozen=True)
class KeyLine:
    """A key of a YAML file, with its value as written and the comment that follows it."""

    path: str
    value: str
    comment: str


def key_lines(file: Path) -> list[KeyLine]:
    """Return the keys of an option's file; a comment may continue on the lines below its key."""
    parents: list[tuple[int, str]] = []
    found: list[KeyLine] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if match := re.match(r'^( *)"?([\w/]+)"?:(?: +([^#]*?))?(?: *# *(.*))?$', line):
            indent, name, value, comment = len(match[1]), match[2], match[3] or "", match[4] or ""
            parents = [parent for parent in parents if parent[0] < indent]
            path = ".".join([*(parent for _, parent in parents), name])
            found.append(KeyLine(path, value, comment))
            parents.append((indent, name))
        elif found and found[-1].comment and (more := re.match(r"^ {4,}# *(.*)$", line)):
            last = found.pop()
            found.append(KeyLine(last.path, last.value, f"{last.comment} {more[1]}"))
    return found


def first_sentence(file: Path) -> str:
    """Return the first sentence of the comment at the start of a file; empty if there is none."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        lines = list(itertools.takewhile(lambda line: line.startswith("#"), opened))
    comment = [line.strip("# \n") for line in lines if "@package" not in line and "$schema=" not in line]
    return re.split(r"(?<=\.) ", " ".join(comment), maxsplit=1)[0]


def describe_command(file: Path) -> str:
    """Return what a command does and its keys, as `key=default  meaning`.

    Args:
        file: The command's root config.
    """
    lines = [first_sentence(file), "", "Keys and their defaults:", ""]
    for line in key_lines(file):
        if line.comment:
            setting = f"  {line.path}={line.value.replace(', ', ',')}"
            meaning = textwrap.wrap(line.comment, _WIDTH - _COLUMN, break_on_hyphens=False)
            first = f"{setting:<{_COLUMN}}" if len(setting) < _COLUMN - 1 else f"{setting}\n{'':{_COLUMN}}"
            lines += [first + meaning[0], *(f"{'':{_COLUMN}}{more}" for more in meaning[1:])]
    return "\n".join(lines)

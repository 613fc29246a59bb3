"""Random changes to files and overrides: damage, and what a stranger could have written."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

# Values that are wrong almost anywhere, as YAML and as an override.
VALUES = (
    "null", "-1", "0", "1e400", ".nan", ".inf", "[]", "{}", "''", "'a b'", "true", "2024-01-01", "2024-13-01", "0x10",
    "9" * 40, "9" * 400, "1.5", "[1,[2,[3]]]", "{a: {b: 1}}", "!!python/object:os.system x", "*a", "&a b", "é\u202e",
    "${oc.env:HOME}", "${seed}", "${", "???", "~", "x" * 5000, "../../x", "/etc/passwd", "\x1b[31m", "{_target_: os.abort}",
)  # fmt: skip
JSON_VALUES: tuple[Any, ...] = (
    None, -1, 0, 1e300, float("nan"), float("inf"), [], {}, "", "x\x1b[31m", True, 10**40, [1, [2]], {"a": {"b": 1}},
    "../../x", "/etc/passwd", "x" * 5000, "Dense", "\ud800",
)  # fmt: skip


def mutate_text(text: str, rng: random.Random) -> str:
    """Cut a text, or change some of its lines."""
    lines = text.splitlines(keepends=True) or [""]
    if rng.random() < 0.15:
        return text[: rng.randrange(len(text) + 1)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        change = rng.randrange(6)
        if change <= 2:  # another value
            lines[at] = re.sub(r"(: |- |,).*", lambda m: m[1] + rng.choice(VALUES), lines[at].rstrip("\n")) + "\n"
        elif change == 3:
            lines[at] = ""
        elif change == 4:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        else:
            lines[at] = rng.choice((" ", "  ", "\t", "- ", "a: ", "? ")) + lines[at]
    return "".join(lines)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut a file, or change some of its bytes."""
    change = rng.randrange(4)
    if change == 0:
        return data[: rng.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4, 64))):
        at = rng.randrange(max(len(changed), 1))
        width = rng.choice((1, 1, 8, 512))
        changed[at : at + width] = rng.choice((rng.randbytes(width), bytes(width)))
    return bytes(changed)


def mutate_json(text: str, rng: random.Random) -> str:
    """Change a value of a JSON document, or remove or add a key."""
    values = json.loads(text)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in pairs:
            places.append((node, key))
            collect(value)

    collect(values)
    if not places or rng.random() < 0.05:
        return json.dumps(copy.deepcopy(rng.choice(JSON_VALUES)))
    for _ in range(rng.choice((1, 1, 2))):
        node, key = rng.choice(places)
        change = rng.randrange(5)
        if change == 0 and isinstance(node, dict):
            node.pop(key, None)
        elif change == 1 and isinstance(node, dict):
            node[rng.choice(("a", "", "time", "class_name", "x\x1b[2J"))] = copy.deepcopy(rng.choice(JSON_VALUES))
        elif isinstance(node, dict) or key < len(node):
            node[key] = copy.deepcopy(rng.choice(JSON_VALUES))
    return json.dumps(values)


def mutate_lines(text: str, rng: random.Random) -> str:
    """Change one line of a file with a JSON document in each; or cut, remove or repeat lines."""
    lines = text.splitlines(keepends=True)
    if rng.random() < 0.3:
        return mutate_text(text, rng)
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(lines[at], rng) + "\n"
    return "".join(lines)


def mutate_archive(data: bytes, rng: random.Random) -> bytes:
    """Change a member of a ZIP archive, or the archive's bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    if name.endswith(".json") and rng.random() < 0.9:
        members[name] = mutate_json(members[name].decode(), rng).encode()
    elif rng.random() < 0.2:
        members[rng.choice(("a", "../x", "config.json", "x\x1b[31m"))] = members.pop(name)
    else:
        members[name] = mutate_bytes(members[name], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def of_text(mutate: Callable[[str, random.Random], str]) -> Callable[[bytes, random.Random], bytes]:
    """Return a mutation of a text as one of the file's bytes."""
    return lambda data, rng: mutate(data.decode(), rng).encode("utf-8", "surrogatepass")


def random_override(rng: random.Random, keys: dict[str, Any]) -> str:
    """Return an override of a random key, or one that only looks like an override."""
    key = rng.choice(sorted(keys))
    value = rng.choice(VALUES)
    forms = (
        f"{key}={value}", f"{key}={value}", f"{key}={value}", f"+{key}={value}", f"++{key}={value}", f"~{key}",
        f"{key}.x={value}", f"{key}.0={value}", f"+{key}.new={value}", f"{key}x={value}", f"{key[:-1]}={value}",
        f"{key}=[{value},{value}]", f"{key}={value},{value}", f"{key}", f"{key}=", f"={value}", f"{key}@x={value}",
        f"{key}={{{value}: {value}}}", f"{key}={rng.randrange(-5, 1000)}", f"hydra.{key}={value}",
        f"{key}=choice({value})", f"{key}=range(1,3)", f"{key}={key}", f"{key}[0]={value}", f"-{key}={value}",
    )  # fmt: skip
    return rng.choice(forms)

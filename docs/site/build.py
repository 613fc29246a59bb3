"""Build the documentation site: the pages of docs/, and a reference generated from the code and conf/.

    python docs/site/build.py [FOLDER]

The site is written to `FOLDER/html` (default: `build/site/html`). A broken link is an error.
"""

from __future__ import annotations

import html
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import mnist_exp
from mnist_exp import api, errors
from mnist_exp.cli import VERBS
from mnist_exp.config.key_lines import KeyLine, key_lines
from mnist_exp.config.schema import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[2]
CONF = REPOSITORY / "conf"
ROOT = "train"
GROUPS = {
    "data": "folder", "preprocess": "unit", "aug": "none", "model": "lenet5x5", "optimizer": "adam",
    "schedule": "constant", "training": "default", "device": "auto", "tracking": "local", "debug": "none",
}  # fmt: skip
"""The groups of a training config, each with the option whose values are shown as defaults."""
_UNDIVIDED = ("keras_cache",)
_MEANINGS = {
    "data.keras_cache": "the data set in Keras' own cache: name and sha256 of its archive",
    "schedule.arguments": "the arguments of a plug-in's schedule",
}
"""The meanings of keys that no line of conf/ explains."""


def main(folder: Path) -> int:
    """Write all pages to a folder, build the site from them, and return the exit status."""
    pages = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    (pages / "reference").mkdir(parents=True)
    for file in (REPOSITORY / "docs").glob("*.*"):
        if file.suffix == ".md":
            (pages / file.name).write_text(
                _relinked(file.read_text(encoding="utf-8"), "../", ""), encoding="utf-8"
            )
        else:
            shutil.copy(file, pages)
    index = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (pages / "index.md").write_text(_relinked(index, "", "docs/"), encoding="utf-8")
    shutil.copy(REPOSITORY / "CHANGELOG.md", pages / "changelog.md")
    shutil.copy(Path(__file__).with_name("site.css"), pages)
    pictures = pages / "pictures"
    subprocess.run([sys.executable, Path(__file__).with_name("pictures.py"), pictures], check=True)
    for name, page in (
        ("keys", keys_page()), ("commands", commands_page()), ("options", options_page(pictures)),
        ("python", python_page()), ("problems", problems_page()),
    ):  # fmt: skip
        (pages / "reference" / f"{name}.md").write_text(page, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("zensical.toml"), folder)
    return render(folder)


def render(folder: Path) -> int:
    """Build the site from the pages in a folder, and return the exit status; a broken link is an error."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"]
    return subprocess.run(command, cwd=folder, check=False).returncode


def _relinked(text: str, up: str, docs: str) -> str:
    """Return a page with links between pages as on the site; links to other files become plain text."""

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        if re.match(r"https?://|#", target):
            return match[0]
        if target == f"{up}CHANGELOG.md":
            return f"[{label}](changelog.md)"
        if docs and target.startswith(docs):
            return f"[{label}]({target.removeprefix(docs)})"
        is_outside = bool(docs) or target.startswith("../")
        return label if is_outside else match[0]

    # Code blocks and spans contain no links.
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"(?<!`)\[([^\]]+)\]\(([^)\s]+)\)", link, part)
        for part in parts
    )


# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def keys_page() -> str:
    """Return the page of all keys of a training config: type and range, default and meaning."""
    schema = TrainConfig.model_json_schema(by_alias=True)
    lines = [
        "# Keys",
        "",
        "All keys of a training config. `mnist-exp train --help` prints those of a command line.",
        "",
    ]
    lines += ["## Outside the groups", "", *_key_table(schema, schema, CONF / f"{ROOT}.yaml", "")]
    for group, option in GROUPS.items():
        part = _resolved(schema["properties"][group], schema)
        lines += [f"## {group}", "", _sentence(part.get("description", "")), ""]
        lines += [f"The defaults are those of `{group}={option}`.", ""]
        lines += _key_table(part, schema, CONF / group / f"{option}.yaml", f"{group}.")
    return "\n".join(lines)


def _key_table(part: Mapping[str, Any], schema: Mapping[str, Any], file: Path, prefix: str) -> list[str]:
    written = {line.path.removeprefix(prefix): line for line in key_lines(file)}
    for other in sorted(file.parent.glob("*.yaml")) if prefix else ():
        for line in key_lines(other):
            if line.comment and not (line.path in written and written[line.path].comment):
                known = written.get(line.path)
                written[line.path] = KeyLine(line.path, known.value if known else "", line.comment)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for path, own in _leaves(part, schema, ""):
        if not prefix and path.split(".")[0] in GROUPS:
            continue
        line = written.get(path, KeyLine(path, "", ""))
        meaning = line.comment or _MEANINGS.get(f"{prefix}{path}") or _sentence(own.get("description", ""))
        default = f"`{line.value}`" if line.value else ""
        rows.append(f"| `{prefix}{path}` | {_cell(_type(own, schema))} | {_cell(default)} | {_cell(meaning)} |")
    return [*rows, ""]


def _leaves(
    part: Mapping[str, Any], schema: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, own in part["properties"].items():
        whole = _resolved(own, schema)
        if "properties" in whole and name not in (*GROUPS, *_UNDIVIDED):
            yield from _leaves(whole, schema, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", {**whole, **own}


def _resolved(own: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition that a property refers to, also as the only alternative to null."""
    others = [one for one in own.get("anyOf", ()) if one.get("type") != "null"]
    reference = own.get("$ref") or (others[0].get("$ref") if len(others) == 1 else None)
    return schema["$defs"][reference.rpartition("/")[2]] if reference else own


def _type(own: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "$ref" in own:
        return _type(schema["$defs"][own["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in own:
        return " or ".join(dict.fromkeys(_type(one, schema) for one in own["anyOf"]))
    if "enum" in own:
        return ", ".join(f"`{value}`" for value in own["enum"])
    if "const" in own:
        return f"`{own['const']}`"
    kind = {"boolean": "`true`, `false`", "null": "`null`", "object": "mapping"}.get(
        own.get("type", ""), own.get("type", "any")
    )
    if kind == "array":
        return f"list of {_type(own['items'], schema)}" if own.get("items") else "list"
    bounds = [
        f"{sign} {own[name]}"
        for name, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if name in own
    ]
    return f"{kind} {' and '.join(bounds)}".strip()


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _cell(text: str) -> str:
    """Return text for a table, in which placeholders such as <model> are not HTML."""
    return text.replace("|", "\\|") if text.startswith("`") else html.escape(text.replace("|", "\\|"), quote=False)


# ── Commands, options, functions, problems ───────────────────────────────────────────────────────────────────────


def commands_page() -> str:
    """Return the page of all commands with the keys of each."""
    lines = [
        "# Commands",
        "",
        "Without a command, `mnist-exp` trains. `mnist-exp <command> --help` lists its keys.",
        "",
    ]
    for verb, purpose in VERBS.items():
        what, _, example = purpose.partition(f": {verb} ")
        shown = f", for example `mnist-exp {verb} {example}`" if example else ""
        lines += [f"## {verb}", "", f"{what[0].upper()}{what[1:]}{shown}.", ""]
        file = CONF / f"{verb}.yaml"
        keys = [line for line in key_lines(file) if line.comment] if file.exists() else []
        if verb == ROOT or not keys:
            lines += ["Its keys are those of a [training config](keys.md).", ""]
            continue
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{line.path}` | {_cell(f'`{line.value}`' if line.value else '')} | {_cell(line.comment)} |"
            for line in keys
        ]
        lines.append("")
    return "\n".join(lines)


def options_page(pictures: Path) -> str:
    """Return the page of all options of all groups, each with the comment that begins its file and its picture."""
    lines = ["# Options", "", "Choose an option with `group=option`, such as `model=pyramid`.", ""]
    for group in (*GROUPS, "experiment", "tune/space"):
        lines += [f"## {group}", ""]
        for file in sorted((CONF / group).glob("*.yaml")):
            lines += [f"### {group}={file.stem}", "", *_head(file), ""]
            if (picture := pictures / f"{group}-{file.stem}.png").is_file():
                shows = "Digits and augmented copies" if group == "aug" else "The layers"
                lines += [f"![{shows}](../pictures/{picture.name})", ""]
            if group == "model" and (layers := yaml.safe_load(file.read_text(encoding="utf-8")).get("layers")):
                lines += [
                    "```yaml",
                    *(
                        yaml.safe_dump([layer], default_flow_style=True, width=1000).strip()[1:-1]
                        for layer in layers
                    ),
                    "```",
                    "",
                ]
    return "\n".join(lines)


def _head(file: Path) -> list[str]:
    """Return the comment that begins a file; indented lines are commands."""
    head: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @", "# yaml-")):
            text = line[1:].removeprefix(" ")
            head.append(f"`{text.strip()}`" if text.startswith("  ") else text)
    return head


def python_page() -> str:
    """Return the page of all public functions and classes, with their signatures and docstrings."""
    lines = ["# Python functions", "", f"```text\n{inspect.getdoc(api)}\n```", ""]
    for name in sorted(set(mnist_exp.__all__) - {"__version__", "runs"}, key=str.lower):
        lines += _documented(name, getattr(api, name), "##")
    lines += _documented("runs", api.runs, "##")
    return "\n".join(lines)


def _documented(name: str, value: Any, heading: str) -> list[str]:
    lines = [f"{heading} {name}", ""]
    if not inspect.isclass(value):
        lines += ["```python", f"{name}{inspect.signature(value)}", "```", ""]
    lines += ["```text", inspect.getdoc(value) or "", "```", ""]
    if inspect.isclass(value) and value.__module__ == api.__name__:
        for member, own in vars(value).items():
            if member.startswith("_"):
                continue
            function = own.func if hasattr(own, "func") else own.fget if isinstance(own, property) else own
            if inspect.isfunction(function):
                lines += _documented(f"{name}.{member}", function, "###")
    return lines


def problems_page() -> str:
    """Return the page of problem codes."""
    source = Path(inspect.getsourcefile(errors) or "").read_text(encoding="utf-8")
    meanings = dict(re.findall(r'^    "([\w-]+)",  # (.*)$', source, re.MULTILINE))
    lines = [
        "# Problem codes",
        "",
        "Each problem in a request has a code, which `format=json` prints.",
        "",
    ]
    lines += [
        "| code | meaning |",
        "|---|---|",
        *(f"| `{code}` | {_cell(meanings[code])} |" for code in sorted(errors.CODES)),
        "",
    ]
    lines += ["[Exit statuses](../configuration.md#exit-status-and-errors) are the same for all commands.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "build" / "site")))

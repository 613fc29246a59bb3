"""The documentation site: it builds without broken links, and its reference covers every key, command and code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.documents import REPOSITORY

from mnist_exp.cli import VERBS
from mnist_exp.config.compose import compose
from mnist_exp.config.overrides import Request
from mnist_exp.errors import CODES


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", REPOSITORY / "docs" / "site" / "build.py")
    assert spec
    assert spec.loader
    sys.modules["build_site"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_explains_every_key(build: ModuleType):
    """Each key of a training config has a row with its type and meaning, and each command's keys have meanings."""
    rows = {
        row[1]: row for row in re.finditer(r"^\| `([\w.]+)` \| (.+) \| (.*) \| (.*) \|$", build.keys_page(), re.M)
    }
    assert [key for key, row in rows.items() if not row[4] or not row[2]] == []
    expected = {".".join(path) for path in leaves(compose(Request("train", ("data=digits",))).values)}
    elsewhere = ("model.", "data.files", "data.keras_cache")  # parameters of one model; mappings
    missing = {key for key in expected - set(rows) if not any(row.startswith(f"{key}.") for row in rows)}
    assert {key for key in missing if not key.startswith(elsewhere)} == set()
    commands = build.commands_page()
    assert set(re.findall(r"^## (\w+)$", commands, re.M)) == set(VERBS)
    assert not re.search(r"\|  \|$", commands, re.M)
    assert all(f"| `{code}` | " in build.problems_page() for code in CODES)


def leaves(values: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(values, dict) and values:
        return [leaf for key, value in values.items() for leaf in leaves(value, (*path, key))]
    return [path]


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(build: ModuleType, tmp_path: Path):
    """A broken link is an error; no page has a script, style, font or picture from another host."""
    assert build.main(tmp_path / "site") == 0
    pages = list((tmp_path / "site" / "html").rglob("*.html"))
    assert {"index.html", "data.html", "keys.html", "python.html"} <= {page.name for page in pages}
    options = next(page for page in pages if page.name == "options.html").read_text(encoding="utf-8")
    for group in ("aug", "model", "experiment"):
        files = [file.stem for file in (build.CONF / group).glob("*.yaml") if file.stem != "none"]
        assert [stem for stem in files if f"pictures/{group}-{stem}.png" not in options] == []
    loaded = r"<(?:script|img|iframe)[^>]* src=\"?https?:|<link[^>]* rel=\"?(?:stylesheet|preconnect)[^>]* href=\"?https?:"
    assert [page.name for page in pages if re.search(loaded, page.read_text(encoding="utf-8"))] == []
    (tmp_path / "site" / "pages" / "index.md").write_text("[broken](missing.md)")
    assert build.render(tmp_path / "site") != 0

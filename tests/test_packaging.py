"""The distributions: their content, their bytes, and the licences of what they bring."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest
from support.cli import PATIENCE
from support.documents import REPOSITORY

from mnist_exp import __version__


def call(*words: str | Path, cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=300 * PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])


def build(source: Path, folder: Path) -> dict[str, bytes]:
    """Build both distributions of a folder, and return their bytes by name."""
    call("-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", folder, source, cwd=folder.parent)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_changelog_is_cut_by_release():
    """Changes since the last release come first; the newest release is this version."""
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[:2] == ["Unreleased", __version__]


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_bytes_and_tests_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same files give the same distributions at any time, for any user. The sdist passes its own tests."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    first = build(REPOSITORY, tmp_path / "first")
    [archive] = (tmp_path / "first").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (time.time(), time.time()))
    second = build(source, tmp_path / "second")
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
    tests = (
        "tests/test_architecture.py",
        "tests/test_readme.py::test_links_and_anchors_resolve",
        "tests/keras_spec",
    )
    call("-m", "pytest", "-q", "-x", "-m", "not slow", *tests, cwd=source, PYTHONPATH=str(source))


@pytest.fixture(scope="module")
def licenses() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licenses_page", REPOSITORY / "docs" / "site" / "licenses.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_licences_of_all_dependencies_are_listed(licenses: ModuleType):
    """`docs/licenses.md` has every installed package that mnist-exp depends on, each with a licence."""
    table = licenses.PAGE.read_text(encoding="utf-8").partition("|---|---|\n")[2].splitlines()
    rows = dict(line.strip("| ").split(" | ") for line in table)
    found = {licenses.normalize(one.name) for one in licenses.dependencies("mnist-exp", licenses._EXTRAS)}
    assert found - {"mnist-exp"} - set(rows) == set()
    assert {"tensorflow", "numpy", "mlflow", "jinja2"} <= set(rows)  # directly and through others
    assert "not stated" not in rows.values()
    assert licenses.license_of(importlib.metadata.distribution("pytest")) == "MIT"

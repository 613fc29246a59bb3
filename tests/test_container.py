"""The container file: its commands run for a user id without a name that can write to the working directory only.

The image itself is not built: no container engine is needed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import PATIENCE
from support.documents import REPOSITORY

CONTAINERFILE = REPOSITORY / "docs" / "container" / "Containerfile"
USER = "12345"
_AS_USER: list[str | Path] = ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}"]


def run(
    words: list[str | Path], cwd: Path, environment: dict[str, str] | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300 * PATIENCE, check=False
    )
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done


@pytest.fixture
def as_user() -> list[str | Path]:
    """Return the words that run a command as a user without a name; skip the test if that is impossible here."""
    probe = [*_AS_USER, sys.executable, "-c", "import os, pwd; pwd.getpwuid(os.getuid())"]
    if (
        shutil.which("unshare") is None
        or "KeyError" not in subprocess.run(probe, capture_output=True, text=True, check=False).stderr
    ):
        pytest.skip("unshare cannot change the user id on this machine")
    return _AS_USER


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """Build the wheel from the files that the container file copies, and install it into a read-only folder."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    for names in re.findall(r"^COPY (?!--)(.* /source\S*)$", text, re.M):
        *sources, target = names.split()
        for name in sources:
            folder = tmp_path / target.strip("/")
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(exist_ok=True)
                shutil.copy(REPOSITORY / name, folder)
    [build] = re.findall(r"^RUN (pip wheel .*)$", text, re.M)
    words = [re.sub("^/", f"{tmp_path}/", word) for word in shlex.split(build)]
    run([sys.executable, "-m", *words, "--no-build-isolation"], tmp_path)
    [wheel] = (tmp_path / "wheels").iterdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    installed = tmp_path / "package"
    run([*pip, "--target", installed, wheel], tmp_path)
    paths = [installed, *installed.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield installed
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.slow
def test_the_container_runs_for_a_user_without_a_name(as_user: list[str | Path], package: Path, tmp_path: Path):
    """With the variables of the container file, training, evaluating and listing work; the package is read-only."""
    text = CONTAINERFILE.read_text(encoding="utf-8")
    [settings] = re.findall(r"^ENV (.*)$", text, re.M)
    [entry] = re.findall(r"^ENTRYPOINT (.*)$", text, re.M)
    [example] = re.findall(r"^# +podman run .* mnist-exp (.*)$", text, re.M)
    home, here = tmp_path / "home", tmp_path / "experiments"
    home.mkdir()
    here.mkdir()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "CUDA_VISIBLE_DEVICES": "-1"}
    environment |= dict(setting.split("=") for setting in shlex.split(settings)) | {"HOME": str(home)}
    write = [*as_user, sys.executable, "-c", f"open({str(package / 'mnist_exp' / 'new')!r}, 'w')"]
    assert "PermissionError" in run(write, here, environment, status=1).stderr
    [command] = json.loads(entry)
    for arguments in (shlex.split(example), ["evaluate", "run=latest"], ["runs"], ["help", "data"]):
        run([*as_user, sys.executable, package / "bin" / command, *arguments], here, environment)
    [result] = here.glob("outputs/runs/*/result.json")
    assert json.loads(result.read_text(encoding="utf-8"))["status"] == "finished"

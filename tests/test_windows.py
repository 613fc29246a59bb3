"""The commands work without the functions that Windows lacks, which are removed in a process. Windows itself is not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import PATIENCE, SMALL

# Removes the modules, functions and constants that Windows lacks, but not from the standard library; folders cannot be opened, as there. Its `msvcrt`
# locks with `flock`, but only the byte that it is asked to, only exclusively, and with its own error.
WITHOUT_POSIX = """
import asyncio, errno, fcntl as kept, multiprocessing.popen_spawn_posix, os, signal, subprocess, sys, types

def locking(descriptor, mode, size):
    if mode != msvcrt.LK_NBLCK or size != 1 or os.lseek(descriptor, 0, os.SEEK_CUR) < os.fstat(descriptor).st_size:
        raise ValueError("the content of the file would be locked")
    try:
        kept.flock(descriptor, kept.LOCK_EX | kept.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None

def opened(path, flags, mode=0o777, *, dir_fd=None, open=os.open, isdir=os.path.isdir):
    if dir_fd is None and isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return open(path, flags, mode, dir_fd=dir_fd)

msvcrt = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
sys.modules["msvcrt"] = msvcrt
for name in ("fcntl", "grp", "pwd", "resource", "readline", "syslog", "termios", "tty", "pty", "curses"):
    sys.modules[name] = None
LACKS = "O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_CLOEXEC sync fchmod getuid geteuid getgid getegid killpg setsid pread pwrite"
for name in LACKS.split() + ["fork", "sched_getaffinity", "mkfifo", "getpgid", "statvfs"]:
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
    delattr(signal, name)
os.open = opened
os.supports_dir_fd.clear()
os.kill = None
"""
RUN = "from mnist_exp.cli import main; sys.exit(main(sys.argv[1:]))"


def python(code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process without what Windows lacks."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX + code, *words],
        capture_output=True, text=True, timeout=300 * PATIENCE, check=False, env=os.environ | {"USERNAME": "user"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import mnist_exp; print(mnist_exp.train, mnist_exp.load, mnist_exp.tune)", ()),
        (RUN, ("--help",)),
        (RUN, ("check", *SMALL, "data=digits")),
        (RUN, ("show", "model=pyramid")),
        (RUN, ("runs",)),
    ],
    ids=["import", "help", "check", "show", "runs"],
)
def test_commands_start_without_what_windows_lacks(code: str, words: tuple[str, ...]):
    """They import, check and describe."""
    done = python(code, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_a_run_is_written_without_what_windows_lacks():
    """Its files are locked, flushed and renamed as on Windows; a held lock is seen."""
    done = python(RUN, *SMALL, "data=digits", "name=a")
    assert done.returncode == 0, (done.stdout, done.stderr)
    [run] = Path("outputs/runs").iterdir()
    assert {"model.keras", "result.json", "journal.jsonl"} <= {file.name for file in run.iterdir()}
    seen = python(
        "from pathlib import Path\n"
        "from mnist_exp.runs.locks import is_locked, lock\n"
        "run = Path(sys.argv[1])\nprint(is_locked(run), end=' ')\nheld = lock(run)\nprint(is_locked(run), end=' ')\n"
        "try: lock(run)\nexcept BlockingIOError: print('refused')\n",
        run,
    )
    assert seen.stdout == "False True refused\n", seen.stderr


def test_symbolic_links_are_refused_without_what_windows_lacks(tmp_path: Path):
    """As where the system refuses them."""
    Path("file").touch()
    Path("link").symlink_to("file")
    done = python(
        "from pathlib import Path\n"
        "from mnist_exp.runs.regular_files import open_regular\nopen_regular(Path('file')).close()\n"
        "try: open_regular(Path('link'))\nexcept OSError as error: print(error)\n"
    )
    assert "is a symbolic link" in done.stdout, done.stderr

"""Run the files, commands and Python that README and docs show, in order, in one folder per page.

A `console` block has commands (`$ mnist-exp …`), each followed by the output that is shown for it, if any; a line `…` in
an output stands for lines left out. A `yaml` block is written to the file that one of its comments names. A `python`
block that names a run's model file without a folder runs in the newest run's directory, any other in the page's folder.
A command whose shown output contains `^C` is interrupted there.

Outputs are compared after masking what differs from run to run. If a message was changed, `pytest --update-messages
tests/test_readme.py` rewrites the outputs in the pages; review the difference before committing it.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.cli import MNIST, PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))

LEFT_OUT = "…"
_HOME = "/home/me"  # stands for the folder in which the commands were run
_STATUS = {"mnist-exp sync": 1}  # a delivery failed; other commands that print an error were refused

# Texts that differ between runs or machines.
_MASKS = (
    (r"(?m)^Matplotlib is building the font cache.*\n", ""),
    (r"(?m)^ *epoch +\d+/\d+ .*(?:\n(?:…\n)? *epoch +\d+/\d+ .*)*$", "epoch <figures>"),
    (r", after step \d+", ""),  # depends on the moment of the interruption
    (r"(?<![\w.])(?:sqlite:///)?/[\w./~-]*\w", "<path>"),
    (r"\b[0-9a-f]{16,}\b", "<hash>"),
    (r"\b\d[\d.,]* (?:s|min|h|d)\b", "<time>"),
    (r"\b(?:float32|bfloat16)\b", "<precision>"),
    (r"\b\d+ threads?\b", "<threads>"),
    (r"\b\d{8}-\d{6}\b", "#"),
    (r"(?:(?<![\w-])[+−-])?\d[\d,.]*(?:e[+-]?\d+)?", "#"),
    (r"(?<=%) \*", ""),  # marks the best
    (r"─+", "─"),
    (r" {2,}", "  "),  # columns are as wide as what is in them
)


@dataclass(frozen=True)
class Block:
    """A fenced code block; `line` is the index of its first line in the page."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command, and the output that is shown for it: the lines from `line`."""

    text: str
    shown: str
    line: int

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def status(self) -> int:
        """The exit status that the shown output implies."""
        if "^C" in self.shown:
            return 130
        failed = any(line.startswith("mnist-exp: ") for line in self.shown.splitlines())
        return _STATUS.get(self.text, 2) if failed else 0

    @property
    def needs_mnist(self) -> bool:
        """Whether the command is refused without MNIST's files; others then use the built-in digits."""
        preset = any(word.startswith("experiment=") for word in self.words)
        return "data=mnist" in self.words or (preset and "data=digits" not in self.words)


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    command: Command
    status: int
    printed: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and (opened := re.fullmatch(r"```(\w+)", line)):
            kind, start = opened[1], number + 1
        elif start is not None and line == "```":
            yield Block(kind, "\n".join(lines[start:number]) + "\n", start)
            start = None


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block."""
    lines = block.text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    assert not lines or starts[:1] == [0], f"line {block.line}: the block begins with no command"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        shown = "\n".join(lines[start + 1 : end])
        yield Command(lines[start].removeprefix("$ "), shown, block.line + start + 1)


def page_commands(page: Path) -> list[Command]:
    """Return all commands of a page's console blocks."""
    return [command for block in blocks(page) if block.kind == "console" for command in commands(block)]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a reader: our commands first on the path, and caches of their own.

    Without MNIST_EXP_DATA nothing is downloaded, so that the outcome does not depend on the network.
    """
    found = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "XDG_STATE_HOME": str(folder / ".state"),
        "KERAS_HOME": str(folder / ".keras"),
        "MPLCONFIGDIR": str(Path.home() / ".cache" / "matplotlib"),  # fonts take seconds to index
        "PYTHONUNBUFFERED": "1",
    }
    if MNIST is None:
        found |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        found |= {"no_proxy": "127.0.0.1,localhost"}
    return found


def follow(page: Path, folder: Path) -> Iterator[Done]:
    """Do everything that a page shows, in order, and yield what each command did. Raises if Python fails."""
    for block in blocks(page):
        if block.kind == "yaml":
            write_file(block, folder)
        elif block.kind == "python":
            run_python(block.text, folder)
        elif block.kind == "console":
            for command in commands(block):
                yield run(command, folder)


def write_file(block: Block, folder: Path) -> None:
    """Write a YAML block to the file that one of its comments names."""
    found = re.search(r"(?m)^# (\S+\.yaml)$", block.text)
    assert found, f"line {block.line}: the YAML block names no file"
    file = folder / found[1]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")


def run_python(code: str, folder: Path) -> None:
    """Run a Python block: in the newest run's directory if it loads a model by its file's name alone."""
    if re.search(r'"model\.(keras|h5|weights)', code) and "outputs/" not in code:
        folder = max((folder / "outputs" / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(folder),
        check=True,
        capture_output=True,
        timeout=200 * PATIENCE,
    )


def hears_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command: Command, folder: Path) -> Done:
    """Run a command as in a terminal: both streams in one. Presses Ctrl-C if the page shows it, or once the UI runs."""
    is_ui = command.words[1:2] in (["ui"], ["demo"])
    with subprocess.Popen(
        [*command.words, *(["open=false"] if is_ui else [])],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hears_ctrl_c,
    ) as process:
        assert process.stdout is not None
        hung = threading.Timer(400 * PATIENCE, process.kill)
        hung.start()
        printed, interrupted = "", False
        for line in process.stdout:
            printed += line
            reached = "http://127.0.0.1:" in line if is_ui else _is_at_interruption(command, printed)
            if reached and not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
        status = process.wait()
        hung.cancel()
    return Done(command, status, printed)


def _is_at_interruption(command: Command, printed: str) -> bool:
    """Whether as many epochs have ended as are shown before `^C`."""
    before, key, _ = command.shown.partition("^C")
    return bool(key) and _epochs(printed) >= _epochs(before)


def _epochs(text: str) -> int:
    return len(re.findall(r"(?m)^ *epoch +\d+/", text))


def mask(text: str) -> list[str]:
    """Return the lines of an output without what differs from run to run."""
    text = text.replace("^C", "")
    for pattern, name in _MASKS:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def difference(done: Done) -> str:
    """Return how the shown output differs from the printed one; empty if only in what is masked."""
    shown, printed = mask(done.command.shown), mask(done.printed)
    pattern = "".join("(?:.*\n)*?" if line == LEFT_OUT else f"{re.escape(line)}\n" for line in shown)
    if not shown or re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)):
        return ""
    return "\n".join(difflib.unified_diff(shown, printed, "shown", "printed", lineterm="", n=9))


def as_shown(printed: str, folder: Path) -> str:
    """Return an output as a page shows it: without this machine's folders, padding and blank lines around it."""
    for path, name in ((str(folder.resolve()), _HOME), (str(folder), _HOME), (MNIST, f"{_HOME}/mnist")):
        printed = printed.replace(path, name) if path else printed
    return "\n".join(line.rstrip() for line in printed.splitlines()).strip("\n")


def update(page: Path, different: Sequence[Done], folder: Path) -> None:
    """Rewrite the outputs that differ; those with lines left out need a person."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for done in sorted(different, key=lambda done: -done.command.line):
        start, shown = done.command.line, done.command.shown.split("\n")
        if LEFT_OUT not in shown:
            text = as_shown(done.printed, folder)
            if "^C" in shown:
                text = re.sub(r"(?m)^(?=.*interrupted)", "^C", text, count=1)
            blank = [""] if shown[-1] == "" else []  # before the next command
            lines[start : start + len(shown)] = text.split("\n") + blank
    page.write_text("\n".join(lines), encoding="utf-8")

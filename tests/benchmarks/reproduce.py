"""Repeat rows of README's table of results, and compare them with what README says: `make reproduce`.

    python tests/benchmarks/reproduce.py                       # every row
    python tests/benchmarks/reproduce.py experiment=fast       # the rows whose command has these words
    python tests/benchmarks/reproduce.py --seeds 0 1 -- model=pyramid aug=rotate45    # another command

Each run is a whole command, as a user types it; its seconds are those of the clock, start-up and tracking included.
A row agrees with README if README's mean lies in the 95 % interval of the mean over the seeds, and parameters and
epochs are the same. The exit status is 1 if a row does not agree.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from mnist_exp.runs.directory import read_history
from mnist_exp.runs.result import RunResult, read_result
from mnist_exp.sweeps.intervals import mean_of

README = Path(__file__).resolve().parents[2] / "README.md"
ROW = re.compile(
    r"^\| `mnist-exp (?P<words>[^`]+)` \| (?P<parameters>[\d,]+) \| (?P<epochs>\d+) "
    r"\| (?P<accuracy>[\d.]+) % \((?P<seeds>\d+) seeds\) \|",
    re.MULTILINE,
)
ROUNDING = 0.005  # percentage points


@dataclass(frozen=True)
class Claim:
    """A row of README's table."""

    words: str
    parameters: int
    epochs: int
    accuracy: float
    """In percent, a mean over seeds."""
    seeds: int


@dataclass(frozen=True)
class Repeated:
    """The results of one run of a command."""

    result: RunResult
    epochs: int
    seconds: float
    """The duration of the whole command."""

    @property
    def accuracy(self) -> float:
        """On the test set, in percent."""
        assert self.result.test_accuracy is not None
        return 100 * self.result.test_accuracy


def read_claims(text: str) -> list[Claim]:
    """Return the rows of README's table of results."""
    return [
        Claim(
            row["words"], int(row["parameters"].replace(",", "")), int(row["epochs"]), float(row["accuracy"]),
            int(row["seeds"]),
        )
        for row in ROW.finditer(text)
    ]  # fmt: skip


def repeat(words: str, seed: int) -> Repeated:
    """Run a command with a seed. Exits if it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "mnist_exp", *shlex.split(words), f"seed={seed}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    found = re.search(r"^run +(\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}\n{done.stdout}")
    folder = Path(found[1])
    result = read_result(folder)
    assert result is not None
    repeated = Repeated(result, len(read_history(folder)), seconds)
    print(f"{words} seed={seed}: test {repeated.accuracy:.2f} %, {seconds:.1f} s", file=sys.stderr)
    return repeated


def disagreements(claim: Claim, runs: list[Repeated], low: float, high: float) -> list[str]:
    """Return how the runs differ from the claim."""
    found = []
    if not low - ROUNDING <= claim.accuracy <= high + ROUNDING:
        found.append(f"{claim.accuracy:.2f} % is outside")
    for name, said, measured in (
        ("parameters", claim.parameters, {run.result.parameters for run in runs}),
        ("epochs", claim.epochs, {run.epochs for run in runs}),
    ):
        if measured != {said}:
            found.append(f"{name}: {said:,} in README, {measured} here")
    return found


def print_row(words: str, runs: list[Repeated], claim: Claim | None) -> bool:
    """Print a row of the table. Returns whether it agrees with README."""
    accuracies = [run.accuracy for run in runs]
    low, high = mean_of(accuracies).interval or (accuracies[0], accuracies[0])
    found = disagreements(claim, runs, low, high) if claim else []
    said = f"{claim.accuracy:.2f} %: {'; '.join(found) or 'agrees'}" if claim else "–"
    result = runs[0].result
    print(
        f"| `mnist-exp {words}` | {result.parameters:,} | {runs[0].epochs} | **{mean(accuracies):.2f} %** "
        f"({', '.join(f'{one:.2f}' for one in accuracies)}) | {low:.2f} … {high:.2f} "
        f"| {mean(run.seconds for run in runs):.1f} | {mean(run.result.training_seconds or 0 for run in runs):.1f} "
        f"| {said} |",
        flush=True,
    )
    return not found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="words of a row's command, or overrides of another command")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of as many as README names, from 0")
    args = parser.parse_args()
    claims = [
        claim
        for claim in read_claims(README.read_text(encoding="utf-8"))
        if set(args.words) <= set(claim.words.split())
    ]
    commands = [(claim.words, claim) for claim in claims] or [(" ".join(args.words), None)]
    print("| command | parameters | epochs | test accuracy (each seed) | 95 % interval | total seconds | after start-up "
          "| README |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    agree = True
    for words, claim in commands:
        seeds = args.seeds or range(claim.seeds if claim else 3)
        agree &= print_row(words, [repeat(words, seed) for seed in seeds], claim)
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()

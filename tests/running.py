"""Running the command line in tests: what it is given, and what it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The folder with the real MNIST files, if there is one here.
MNIST = os.environ.get("MNIST_EXP_DATA")

# A softmax regression on a few hundred images: everything is real, nothing takes long.
SMALL: Sequence[str] = ("model=linear", "data.limit=300", "training.epochs=2", "tracking=none")


@dataclass
class Outcome:
    """What a command line did."""

    status: int
    out: str
    err: str
    run: Path | None = None
    result: dict[str, Any] = field(default_factory=dict)


Cli = Callable[..., Outcome]

"""A config-driven experiment runner for image classification with Keras, Hydra and MLflow.

Its functions are those of the command: `train`, `sweep`, `tune`, `lr_find`, `resume`, `evaluate`, `compare`,
`report`, `check`, `runs` and `load`. `mnist_exp.api` documents them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_exp.api import (
        Comparison,
        Evaluation,
        Problem,
        RangeTest,
        RequestError,
        Run,
        Study,
        Sweep,
        WorkError,
        check,
        compare,
        evaluate,
        load,
        lr_find,
        report,
        resume,
        runs,
        sweep,
        train,
        tune,
    )

__all__ = [
    "Comparison", "Evaluation", "Problem", "RangeTest", "RequestError", "Run", "Study", "Sweep", "WorkError",
    "__version__", "check", "compare", "evaluate", "load", "lr_find", "report", "resume", "runs", "sweep", "train",
    "tune",
]  # fmt: skip
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import the API on first use: every command imports this module."""
    if name in __all__:
        from mnist_exp import api

        return sys.modules[f"mnist_exp.{name}"] if name in ("report", "runs") else getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

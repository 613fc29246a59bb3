"""A config-driven experiment runner for image classification with Keras, Hydra and MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_exp.engine.prediction import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `load` on first use: it is slow to import, and every command imports this module."""
    if name == "load":
        from mnist_exp.engine.prediction import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

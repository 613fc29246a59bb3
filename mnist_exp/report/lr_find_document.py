"""The JSON document of `lr_find`."""

from __future__ import annotations

from typing import Literal

from mnist_exp.report.document_base import Document, Part


class RatePoint(Part):
    """A step of a learning rate range test."""

    step: int
    learning_rate: float
    loss: float
    """The loss of the step's batch, before the step."""
    smoothed_loss: float


class LrFindDocument(Document):
    """Output of `lr_find`. If no learning rate can be proposed, the exit status is 1."""

    document: Literal["lr_find"] = "lr_find"
    learning_rate: float | None
    """The proposal: the rate at which the smoothed loss falls most steeply."""
    override: str | None
    """The override of a training that uses the proposal."""
    tenth_of_lowest: float | None
    """A tenth of the rate at the lowest smoothed loss; null without a proposal."""
    message: str
    """Why there is no proposal, and which settings to change; empty if there is one."""
    ending: Literal["completed", "diverged", "not_finite"]
    planned_steps: int
    curve: list[RatePoint]
    """The steps until the loss diverged or was no longer finite."""
    model: str
    data: str
    fallback_for: str | None
    folder: str
    """The folder with the picture and the table of the curve."""

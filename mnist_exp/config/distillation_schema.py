"""The settings of knowledge distillation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mnist_exp.config.field_types import Frozen


class DistillationConfig(Frozen):
    """The share of the teacher's outputs in the training loss, and how much they are softened."""

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The loss is (1 - weight) · loss + weight · temperature² · KL divergence from the teacher."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """The divisor of the logits of both models."""

"""The base classes of the JSON documents of `format=json`."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mnist_exp.text import as_json, masked_values


class Part(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(defer_build=True, ser_json_inf_nan="null")


class Document(Part):
    """Base class of the documents."""

    version: Literal[1] = 1
    """Increased when a field is renamed or removed; fields may be added at any time."""

    def as_json(self) -> str:
        """Return the document as JSON, without credentials."""
        values = masked_values(json.loads(self.model_dump_json(by_alias=True)))
        return as_json(values, indent=2, allow_nan=False) + "\n"

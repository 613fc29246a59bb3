"""The configs of verbs that do not train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mnist_exp.config.schema import Count, DataConfig, Frozen, TrackingConfig, a_store


class RunsConfig(Frozen):
    """What `mnist-exp runs` lists."""

    outputs: Annotated[str, Field(min_length=1)]
    limit: Count | None


class UiConfig(Frozen):
    """What `mnist-exp ui` opens."""

    outputs: Annotated[str, Field(min_length=1)]
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] | None
    open: bool
    tracking: TrackingConfig


class StoreConfig(Frozen):
    """The store that is delivered to."""

    uri: str | None
    _a_store = field_validator("uri")(a_store)


class SyncConfig(Frozen):
    """What `mnist-exp sync` delivers."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None
    tracking: StoreConfig


class DatasetConfig(Frozen):
    """What `mnist-exp dataset` fetches, verifies or converts."""

    action: Literal["fetch", "verify", "convert"] | None
    data: DataConfig
    to: Literal["idx", "csv", "npz", "folder"] | None
    output: Annotated[str, Field(min_length=1)] | None
    header: bool
    outputs: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _of_the_action(self) -> DatasetConfig:
        if self.action == "convert" and self.to is None:
            raise ValueError("to: give the format to convert to: to=idx, to=csv, to=npz or to=folder")
        given = {"to": self.to, "output": self.output, "header": self.header or None}
        for key, value in given.items():
            if self.action != "convert" and value is not None:
                raise ValueError(f"{key}: only 'dataset convert' takes it")
        if self.header and self.to != "csv":
            raise ValueError("header: only to=csv takes it")
        return self

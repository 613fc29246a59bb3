"""The configs of verbs that do not train."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mnist_exp.config.schema import Count, Frozen, TrackingConfig


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


class SyncConfig(Frozen):
    """What `mnist-exp sync` delivers."""

    outputs: Annotated[str, Field(min_length=1)]
    run: str | None
    tracking: StoreConfig

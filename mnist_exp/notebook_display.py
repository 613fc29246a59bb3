"""Tables and pictures as notebooks display them."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def as_frame(entries: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a table with a row per entry; the mappings `values`, `metrics` and `settings` become columns."""
    import pandas as pd

    rows = []
    for entry in entries:
        row: dict[str, Any] = {}
        for key, value in entry.items():
            row |= value if key in ("values", "metrics", "settings") else {key: value}
        rows.append(row)
    return pd.DataFrame(rows)


def frame_html(frame: pd.DataFrame) -> str:
    """Return a table as HTML."""
    return str(frame.to_html(float_format="{:.4f}".format, na_rep="–"))


def rows_html(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table with a heading and a text in each row, as HTML."""
    cells = "".join(f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in rows)
    return f"<table>{cells}</table>"


def picture_html(path: Path) -> str:
    """Return a picture as HTML that contains it."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{encoded}" style="max-width: 40em">'

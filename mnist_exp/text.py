"""Format paths, shapes and percentages for messages, mask credentials, and escape control characters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A URI in a text. It ends at whitespace, a quote, an angle bracket, or a comma followed by another URI.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?!,\s*[A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>])+")
# The user name and password of a URI. Database drivers allow `/`, `?` and `@` in a password.
_CREDENTIALS = re.compile(r"://(?:[^/?#@:]*:.*@|[^/?#]*@)")
# The same for an HTTP address, in which a user name or password cannot contain `/`, `?` or `#`.
_CREDENTIALS_OF_HTTP = re.compile(r"://[^/?#]*@")
# A parameter of a URI whose name suggests that its value is secret.
_SECRET_PARAMETER = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|user|token|secret|key|sig|auth|credential)[^=&;]*=)[^&;#]+", re.IGNORECASE
)
# Characters that a terminal acts on, except tab and line feed, and those that change the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_LARGE = 1000  # losses from here on get six significant digits, and from 1e6 on scientific notation


def display_path(path: Path) -> Path:
    """Return the path relative to the working directory if it lies inside, otherwise unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def format_shape(shape: Sequence[int]) -> str:
    """Format a shape or size for a message, such as `28×28×1`."""
    return "×".join(map(str, shape))


def shape_override(shape: Sequence[int]) -> str:
    """Return the override that declares a shape, quoted for a shell: `'data.shape=[28,28,1]'`."""
    return f"'data.shape=[{','.join(map(str, shape))}]'"


def shorten(text: str, most: int = 200) -> str:
    """Return a text unchanged, or its first `most` characters and its full length if it is longer."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def format_loss(value: float, sign: str = "") -> str:
    """Format a loss or another metric that is not a fraction: `0.0512`, `1234.57`, `1e+20`."""
    return f"{value:{sign}.4f}" if abs(value) < _LARGE else f"{value:{sign}.6g}"


def format_percent(share: float | None, decimals: int = 2) -> str:
    """Format a share as `99.12 %`, or None as a dash."""
    return "–" if share is None else f"{share:.{decimals}%}".replace("%", " %")


def count_images(images: int) -> str:
    """Return `1 image`, `2,000 images`."""
    return f"{images:,} image{'s' * (images != 1)}"


def how_to_install(extra: str) -> str:
    """Return how to install one of this package's extras: from a clone, because it is not on PyPI."""
    return f"install the extra {extra}: pip install '.[{extra}]' in a clone of the repository"


def mask_credentials(text: str) -> str:
    """Return a text with the user names, passwords and tokens of all URIs in it replaced by `***`."""
    return _URI.sub(lambda found: _mask(found[0]), text) if "://" in text else text


def _mask(uri: str) -> str:
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub("://***@", uri, count=1))


def printable(text: str) -> str:
    """Return a text for a terminal or log: without credentials, and with control characters written as `\\x1b`."""
    return escape_controls(mask_credentials(text))


def escape_controls(text: str, *, one_line: bool = False) -> str:
    """Return a text with its control characters escaped; with `one_line`, also tabs and line feeds."""
    if one_line:
        text = text.replace("\n", "\\n").replace("\t", "\\t")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_json(values: Any, *, indent: int | None = None, allow_nan: bool = True) -> str:
    """Return values as JSON in which control characters, also those that reverse text, are escaped."""
    text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text)


def without_credentials(uri: str) -> str:
    """Return a URI without its user name, its password and its secret parameters."""
    pattern = _CREDENTIALS_OF_HTTP if uri.lower().startswith("http") else _CREDENTIALS
    bare = _SECRET_PARAMETER.sub("", pattern.sub("://", uri, count=1))
    return bare if "?" in bare else bare.replace("&", "?", 1)


def masked_values(values: Any) -> Any:
    """Mask the credentials in every string inside nested values."""
    if isinstance(values, str):
        return mask_credentials(values)
    if isinstance(values, dict):
        return {key: masked_values(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [masked_values(value) for value in values]
    return values


def format_value(value: Any) -> str:
    """Format a value of a config or result for a table cell: as one line of YAML, but with a dash for null."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool):
        return {None: "–", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {format_value(part)}' for key, part in value.items())}}}"
    return str(value)

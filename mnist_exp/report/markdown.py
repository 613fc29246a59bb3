"""Print Markdown on the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markdown import Markdown


def print_page(text: str) -> None:
    """Print a page of Markdown: rendered on a terminal, otherwise as it is written."""
    if sys.stdout.isatty():
        Console().print(Markdown(text, hyperlinks=False))
    else:
        print(text, end="")

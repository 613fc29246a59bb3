"""Render a report as one HTML file that loads nothing: its blocks, its content security policy, its licences."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, ClassVar, Protocol

import bokeh
import jinja2
from markupsafe import Markup, escape
from PIL import Image

from mnist_exp import __version__
from mnist_exp.text import escape_controls, mask_credentials

_ASSETS = Path(__file__).parent / "assets"
_LIBRARY = "bokeh"
MOST_BYTES = 3_000_000
"""Maximum size of a run's report."""
_MOST_CELLS = 12_000  # of a table: about 0.5 MB
_MOST_ON_PAPER = 7  # columns that fit on a page in normal type
_EMPTY = ("", "–")  # cells without a value


class Block(Protocol):
    """A part of a section; the template draws each kind in its own way."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notice:
    """A warning, or a part that the report lacks, with the reason."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Commands or code, with a heading."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; `right` lists the columns of numbers.

    Columns without any value are left out, except for the first.
    An `interactive` table can be sorted and filtered. One with `folded` is shown after a click on its caption.
    `elsewhere` says where all rows are, if only the first ones are shown: `history.csv has all`.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()
    interactive: bool = False
    folded: bool = False
    elsewhere: str = ""

    def __post_init__(self) -> None:
        kept = [
            number
            for number in range(len(self.header))
            if number == 0 or not self.rows or any(row[number] not in _EMPTY for row in self.rows)
        ]
        object.__setattr__(self, "header", [self.header[number] for number in kept])
        object.__setattr__(self, "rows", [[row[number] for number in kept] for row in self.rows])

    @property
    def width(self) -> str:
        """`wide` or `widest` if the table needs smaller type to fit on paper."""
        columns = len(self.header)
        return "widest" if columns > 2 * _MOST_ON_PAPER else "wide" if columns > _MOST_ON_PAPER else ""

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        """The rows that the report contains."""
        return self.rows[: max(1, _MOST_CELLS // max(1, len(self.header)))]

    @property
    def remark(self) -> str:
        """A sentence on the rows that are left out; empty if there are none."""
        if not (left := len(self.rows) - len(self.shown)):
            return ""
        rows = f"{left:,} of {len(self.rows):,} rows are left out to keep this file small"
        return f"{rows}; {self.elsewhere}." if self.elsewhere else f"{rows}."


@dataclass(frozen=True)
class Picture:
    """A PNG picture."""

    kind: ClassVar[str] = "picture"
    png: bytes
    alt: str
    caption: str = ""
    pixelated: bool = False

    @property
    def address(self) -> str:
        """The picture as a `data:` address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Gallery:
    """Small pictures with captions."""

    kind: ClassVar[str] = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Chart:
    """An interactive chart, and the picture that takes its place on paper and without JavaScript.

    `item` is what Bokeh's `json_item` returns.
    """

    kind: ClassVar[str] = "chart"
    item: Mapping[str, object]
    picture: Picture

    @property
    def json(self) -> Markup:
        """The chart as JSON that cannot end the element around it."""
        return Markup(json.dumps(self.item).replace("<", "\\u003c").replace("\u2028", "\\u2028"))


@dataclass(frozen=True)
class Section:
    """A section; `name` is its anchor. A section without blocks is left out."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subject: str
    """The kind of report: of a run, a sweep, a study or a comparison."""
    summary: str
    """The answer, in words."""
    notices: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page, most: int = MOST_BYTES) -> str:
    """Return a report as HTML of at most `most` bytes.

    If necessary, its largest charts become pictures, and its largest pictures are left out.
    """
    text = _render(page)
    while len(text.encode()) > most:
        sizes = {
            (number, place): len(block.json if isinstance(block, Chart) else block.png)
            for number, section in enumerate(page.sections)
            for place, block in enumerate(section.blocks)
            if isinstance(block, Chart | Picture)
        }
        if not sizes:
            break
        page = _reduced(page, *max(sizes, key=sizes.__getitem__))
        text = _render(page)
    return text


def _reduced(page: Page, number: int, place: int) -> Page:
    """Return a page with its picture in place of a chart, or a sentence in place of a picture."""
    sections = list(page.sections)
    blocks = list(sections[number].blocks)
    block = blocks[place]
    blocks[place] = (
        block.picture
        if isinstance(block, Chart)
        else Notice("A picture was left out to keep this file small; 'mnist-exp visualize' draws it.")
    )
    sections[number] = replace(sections[number], blocks=blocks)
    return replace(page, sections=sections)


def _render(page: Page) -> str:
    """Return a report as HTML.

    All text is escaped: control characters, credentials and markup. Its content security policy allows the inlined
    scripts by their hashes, and no network access.
    """
    sections = [section for section in page.sections if section.blocks]
    has_charts = any(block.kind == Chart.kind for section in sections for block in section.blocks)
    scripts = [*[_library_script()] * has_charts, _asset("report.js")]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_source_hash, scripts))}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        page=page,
        sections=sections,
        policy=policy,
        style=Markup(_asset("report.css")),
        scripts=[Markup(script) for script in scripts],
        licence=_licence() if has_charts else "",
        version=__version__,
    )


def drawn(draw: Callable[[Path], None]) -> bytes:
    """Return the picture that a function draws into a PNG file, with at most 256 colours."""
    with tempfile.TemporaryDirectory(prefix="mnist-exp-") as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        return fewer_colours(file.read_bytes())


def pixels_png(pixels: Any) -> bytes:
    """Return an image (height, width, 1 or 3), uint8, as a PNG file; grey images are dark on white."""
    image = Image.fromarray(255 - pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def fewer_colours(png: bytes) -> bytes:
    """Return a picture with at most 256 colours, which takes a third of the space."""
    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = io.BytesIO()
    reduced.save(file, "png", optimize=True)
    return file.getvalue()


def _printable(value: object) -> str:
    """Return a value as text without credentials and control characters; the template escapes its markup."""
    return escape_controls(mask_credentials("" if value is None else str(value)))


def _breakable(value: object) -> Markup:
    """Return a key as HTML that can be wrapped after dots, slashes and underscores."""
    return Markup(re.sub(r"(?<=\w)([./_])(?=\w)", r"\1<wbr>", str(escape(_printable(value)))))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["printable"] = _printable
    environment.filters["breakable"] = _breakable
    return environment.from_string(_asset("report.html"))


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _library_script() -> str:
    """Return Bokeh's main script, of the installed version; its widgets and tables are separate scripts."""
    file = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    return file.read_text(encoding="utf-8")


def _licence() -> str:
    """Return Bokeh's licence, from the installed distribution."""
    files = distribution(_LIBRARY).files or ()
    texts = [Path(str(file.locate())) for file in files if file.name.startswith("LICENSE")]
    return "\n\n".join(text.read_text(encoding="utf-8") for text in texts)


def _source_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

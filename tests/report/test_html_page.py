"""A report as HTML: its policy, its licence, its size, and hostile text in every part of it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import browser, needs_browser, opened

from mnist_exp.report import charts
from mnist_exp.report.html_page import (
    MOST_BYTES,
    Bullets,
    Chart,
    Code,
    Facts,
    Gallery,
    Notice,
    Page,
    Picture,
    Section,
    Table,
    Text,
    pixels_png,
    render,
)

HOSTILE = "</script><img src=x onerror=alert(1)>\"'><b>$$\\frac{a}{b}$$ \x1b[31m\u202e {{ 7 * 7 }} http://me:secret@host/"
PNG = pixels_png(np.zeros((4, 4, 1), np.uint8))


def page_of(text: str) -> Page:
    """Return a page with every kind of block, each with this text wherever a text may be."""
    picture = Picture(PNG, text, text)
    history = [{"epoch": 1.0, "val/accuracy": 0.5}, {"epoch": 2.0, "val/accuracy": 0.6}]
    drawn = [
        charts.traces([(text, [(text, history), (text, history)])], "val/accuracy"),
        charts.confusion([[1, 2], [3, 4]], [text, f"{text}2"]),
        charts.parallel({text: [text, "b"]}, [0.1, 0.2], text),
        charts.dots([text, "b"], [(text, [0.5, None])], text),
        charts.trials([0, 1], [0.1, 0.2], [0.1, 0.2], text),
    ]
    blocks: list[Any] = [
        Text(text), Notice(text), Bullets([text]), Code(text, text), Facts([(text, text)]), picture,
        Table(text, (text, "n"), [(text, "1"), (text, "2")], ("n",), interactive=True), Gallery([picture]),
        *(Chart(item, picture) for item in drawn),
    ]  # fmt: skip
    return Page(text, text, text, [text], [(text, text)], [Section("all", text, blocks)])


class Elements(HTMLParser):
    """Collects the elements and attributes of a page, and the content of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._is_script = tag == "script" and not attrs

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts.append(data)
            self._is_script = False


def parsed(html: str) -> Elements:
    elements = Elements()
    elements.feed(html)
    return elements


def test_text_from_data_is_escaped_everywhere():
    """A hostile text adds no element or attribute; credentials and control characters are not shown."""
    html = render(page_of(HOSTILE))
    plain = [(tag, sorted(found)) for tag, found in parsed(render(page_of("p" * len(HOSTILE)))).elements]
    assert [(tag, sorted(found)) for tag, found in parsed(html).elements] == plain
    assert "secret" not in html
    assert not set(html) & {"\x1b", "\u202e"}
    assert "{{ 7 * 7 }}" in html


def test_the_policy_allows_the_scripts_in_the_file_and_nothing_else():
    """Each script is allowed by its hash; the network, other scripts and `eval` are not."""
    elements = parsed(render(page_of("a")))
    [policy] = [
        str(found["content"]) for tag, found in elements.elements if tag == "meta" and "http-equiv" in found
    ]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in elements.scripts
    ]
    assert len(hashes) == 2
    assert rules["script-src"] == hashes
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["img-src"] == ["data:"]
    assert "unsafe-eval" not in policy
    loaded = [found for tag, found in elements.elements if tag in ("link", "iframe", "object", "embed")]
    assert loaded == []
    assert all(str(found["src"]).startswith("data:") for tag, found in elements.elements if tag == "img")


def test_bokehs_licence_is_in_the_file():
    """The library's script may only be passed on with it. A report without charts contains neither."""
    html = render(page_of("a"))
    assert "Redistributions of source code must retain the above copyright" in html
    assert "Copyright (c) Anaconda" in html
    without = render(Page("a", "b", "c", sections=[Section("x", "X", [Text("y")])]))
    assert "Bokeh" not in without.replace('typeof Bokeh === "undefined"', "").partition("<script>")[0]
    assert len(without) < 30_000


def test_every_picture_has_a_text_and_every_table_a_caption():
    """For readers who do not see them."""
    html = render(page_of("a"))
    elements = parsed(html).elements
    assert all(found.get("alt") for tag, found in elements if tag == "img")
    assert html.count("<table>") == html.count("<caption>")
    assert {tag for tag, _ in elements} >= {"header", "nav", "main", "footer", "h1", "h2"}
    [lang] = [found["lang"] for tag, found in elements if tag == "html"]
    assert lang == "en"


def test_a_large_report_loses_its_largest_pictures():
    """The file stays below its limit, and says what is missing."""
    rng = np.random.default_rng(0)
    large, small = (
        Picture(pixels_png(rng.integers(0, 256, (side, side, 3), np.uint8)), "a") for side in (300, 20)
    )
    page = Page("a", "b", "c", sections=[Section("x", "X", [large, small])])
    html = render(page, most=100_000)
    assert len(html.encode()) <= 100_000 < len(render(page).encode())
    assert html.count("<img") == 1
    assert html.count('class="notice"') == 1


def test_a_long_table_is_cut():
    """A line says how many rows are left out, and where all of them are; short tables are whole."""
    rows = [[f"row {number}", "1", "2"] for number in range(50_000)]
    for count, elsewhere in ((50_000, "all.csv has all"), (50_000, ""), (300, "all.csv has all")):
        table = Table("T", ("a", "b", "c"), rows[:count], ("b",), interactive=True, elsewhere=elsewhere)
        html = render(Page("a", "b", "c", sections=[Section("x", "X", [table])]))
        shown = html.count(">row ")
        assert len(html.encode()) < MOST_BYTES
        assert (shown < count) == (count > 300) == (f"{count - shown:,} of {count:,} rows are left out" in html)
        assert ("all.csv has all." in html) == bool(elsewhere and count > 300)


def test_a_large_chart_becomes_its_picture():
    """The confusion matrix of hundreds of classes does not make the file large; small charts stay interactive."""
    picture = Picture(PNG, "a")
    small, large = (
        Chart(charts.confusion([[1] * count] * count, [f"class {number}" for number in range(count)]), picture)
        for count in (2, 300)
    )
    html = render(Page("a", "b", "c", sections=[Section("x", "X", [small, large])]))
    assert len(html.encode()) <= MOST_BYTES < len(large.json)
    assert html.count("data-chart=") == 1
    assert html.count("<img") == 2
    assert 'class="notice"' not in html


@pytest.mark.parametrize(
    ("texts", "places", "ticks"),
    [
        (["1", "3", "2"], [0, 1, 0.5], {"1": 0, "2": 0.5, "3": 1}),
        (["0.001", "0.1", "0.01"], [0, 1, 0.5], {"0.001": 0, "0.01": 0.5, "0.1": 1}),
        (["b", "a", "1"], [1, 0.5, 0], {"1": 0, "a": 0.5, "b": 1}),
        (["4", "4"], [0.5, 0.5], {"4": 0.5}),
        (
            ["0", "1", "1.001"],
            [0, 1 / 1.001, 1],
            {"0": 0, "0.2502": 0.25, "0.5005": 0.5, "0.7507": 0.75, "1.001": 1},
        ),
        (["nan", "1"], [1, 0], {"1": 0, "nan": 1}),
    ],
)
def test_axes_of_parallel_coordinates(texts: list[str], places: list[float], ticks: dict[str, float]):
    """Numbers are placed by size, on a logarithmic axis if they differ widely; labels do not overlap."""
    axis = charts.axis_of(texts)
    assert axis.places == pytest.approx(places)
    assert axis.ticks == pytest.approx(ticks)


@pytest.mark.slow
@needs_browser
def test_hostile_text_does_nothing_in_a_browser(tmp_path: Path):
    """Neither in the page nor in what appears under the mouse; the browser requests nothing."""
    file = tmp_path / "report.html"
    file.write_text(render(page_of(HOSTILE)), encoding="utf-8")
    with browser() as chromium, opened(chromium, file) as found:
        found.drawn()
        for chart in range(5):
            assert "onerror=alert(1)" in found.hover(chart)
        assert found.page.locator("[onerror]").count() == 0
        assert found.foreign == []
        assert [text for text in found.complaints if not re.search("set log level", text)] == []

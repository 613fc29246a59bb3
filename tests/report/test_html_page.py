"""A report as HTML: its policy, its licence, its size, and hostile text in every part of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import browser, needs_browser, opened, serious_violations

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
from mnist_exp.report.parallel_axis import axis_of

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


def rendered(*blocks: Any) -> str:
    return render(Page("a", "b", "c", sections=[Section("x", "X", blocks)]))


def test_columns_without_values_are_left_out():
    """The first column stays, and so do the columns of a table without rows."""
    rows = [("–", "–", "1", "", "–"), ("–", "", "2", "–", "2")]
    table = Table("T", ("a", "b", "c", "d", "e"), rows, ("b", "e"), interactive=True)
    assert re.findall(r'<th scope="col"(?: class="number")?>(.)</th>', rendered(table)) == ["a", "c", "e"]
    assert table.rows == [["–", "1", "–"], ["–", "2", "2"]]
    assert len(Table("T", ("a", "b"), []).header) == 2


def test_the_colours_of_a_confusion_matrix_suit_both_themes():
    """Rare mistakes are visible next to a strong diagonal; text has the theme's colour; empty cells have none."""
    chart = json.dumps(charts.confusion([[990, 1, 0], [0, 980, 20], [0, 0, 1000]], ["a", "b", "c"]))
    data = dict(json.loads(found) for found in re.findall(r'\["(?:strength|colour)", \[[^]]*\]\]', chart))
    right, rare, empty = data["strength"][:3]
    frequent = data["strength"][5]
    assert 0.1 < rare < 0.3 < min(frequent, right)
    assert max(frequent, right) <= 0.6
    assert empty == 0
    assert len({data["colour"][number] for number in (0, 4, 8)}) == 1
    assert data["colour"][0] != data["colour"][1]
    assert "#010203" in chart  # the token of the theme's text
    assert "#ffffff" not in chart


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_wide_tables_and_long_commands_stay_inside_the_page(tmp_path: Path, width: int):
    """A wide table scrolls under its first column; on paper it is as wide as the page. Commands are wrapped."""
    header = [f"model.layers.key_{number}" for number in range(14)]
    table = Table("T", header, [[f"value {number}" for number in range(14)]] * 3, interactive=True)
    file = tmp_path / "report.html"
    file.write_text(rendered(table, Code("Repeat it", "mnist-exp " + "model=mlp " * 60)), encoding="utf-8")
    with browser() as chromium, opened(chromium, file, viewport={"width": width, "height": 800}) as found:
        page = found.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (
            page.evaluate(
                "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('pre'))"
            )
            == 0
        )
        first = page.locator("tbody th").first
        before = first.bounding_box()["x"]
        page.evaluate("document.querySelector('.scroll').scrollLeft = 300")
        assert first.bounding_box()["x"] == pytest.approx(before, abs=1)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 700, "height": 990})
        assert page.evaluate("document.querySelector('table').getBoundingClientRect().right") <= 700
        assert not page.locator(".copy").first.is_visible()


@pytest.mark.slow
@needs_browser
def test_controls_are_large_enough_for_a_finger(tmp_path: Path):
    """On a touch screen, links of the contents and buttons are at least 40 pixels high."""
    rows = [("1", "2"), ("3", "4")]
    blocks = [
        Code("A", "b"),
        Table("T", ("a", "b"), rows, interactive=True),
        Table("F", ("a",), rows, folded=True),
    ]
    file = tmp_path / "report.html"
    file.write_text(rendered(*blocks), encoding="utf-8")
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with browser() as chromium, opened(chromium, file, **phone) as found:
        heights = found.page.evaluate(
            "[...document.querySelectorAll('button, input, nav a, main summary')].map((one) => one.offsetHeight)"
        )
        assert len(heights) == 6
        assert min(heights) >= 40


@pytest.mark.slow
@needs_browser
def test_commands_can_be_copied(tmp_path: Path):
    """With a mouse or the keyboard, from a file; if the browser refuses the clipboard, the text is selected."""
    command = "mnist-exp 'run=<b>' --help"
    file = tmp_path / "report.html"
    file.write_text(rendered(Code("Repeat it", command)), encoding="utf-8")
    with browser() as chromium, opened(chromium, file) as found:
        button = found.page.get_by_role("button", name="Copy")
        assert button.get_attribute("aria-describedby")
        button.focus()
        found.page.keyboard.press("Enter")
        found.page.get_by_text("copied", exact=True).wait_for()
        refuse = "navigator.clipboard.writeText = () => Promise.reject(); document.execCommand = () => false"
        found.page.evaluate(f"() => {{ {refuse} }}")
        button.click()
        found.page.get_by_text("selected; copy it with the keyboard").wait_for()
        assert found.page.evaluate("getSelection().toString()") == command
        assert serious_violations(found) == []
        assert found.complaints == []
    with browser() as chromium, opened(chromium, file, java_script_enabled=False) as found:
        assert found.page.locator("button").count() == 0


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
    axis = axis_of(texts)
    assert axis.places == pytest.approx(places)
    assert axis.ticks == pytest.approx(ticks)


def test_long_class_names_are_cut_on_axes_and_whole_under_the_mouse():
    """Labels on the axes of the confusion matrix differ and leave room for its cells."""
    names = [f"a very long class name of the {side} species" for side in ("northern", "southern")]
    chart = json.dumps(charts.confusion([[1, 2], [3, 4]], names))
    data = dict(json.loads(found) for found in re.findall(r'\["(?:true|whole_true)", \[[^]]*\]\]', chart))
    assert data["whole_true"] == [names[0]] * 2 + [names[1]] * 2
    assert len(set(data["true"])) == 2
    assert max(map(len, data["true"])) <= 28
    assert "@whole_true" in chart


def test_axes_have_short_but_clear_keys():
    """The last part of a key is enough, unless it is that of another key or just `name`."""
    keys = ["optimizer.learning_rate", "model.name", "a.width", "b.width"]
    chart = json.dumps(charts.parallel({key: ["1", "2"] for key in keys}, [0.1, 0.2], "val/loss"))
    for shown in ("learning_rate", "model.name", "a.width", "b.width"):
        assert f'"{shown}"' in chart


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

"""Open pages in a headless browser that is offline, and record what it requests and complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
_PATIENCE = 60_000  # milliseconds


@dataclass
class Opened:
    """A page, the addresses that it requested, and the warnings and errors of the browser."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """The requests that are neither for the file itself nor for pictures inside it."""
        return [address for address in self.requests if not address.startswith(("file:", "data:"))]

    def drawn(self) -> Opened:
        """Wait until all charts are drawn."""
        self.page.wait_for_function(
            "document.querySelectorAll('.chart').length"
            " === [...document.querySelectorAll('.live')].filter((place) => place.childElementCount).length"
        )
        self.page.wait_for_function(
            "[...document.querySelectorAll('.live')].every((one) => [...Bokeh.index.roots]"
            ".some((view) => one.contains(view.el) && view.frame && view.frame.bbox.width > 0))"
        )
        return self

    def hover(self, chart: int) -> str:
        """Move the mouse over the first mark of a chart, and return the text that appears."""
        x, y = self.page.evaluate(
            """(number) => {
              const figure = document.querySelectorAll(".chart")[number];
              figure.scrollIntoView({ block: "center", behavior: "instant" });
              const view = [...Bokeh.index.roots].find((one) => figure.contains(one.el));
              const types = ["Scatter", "Rect", "Quad", "MultiLine"];
              const model = view.model.renderers.find((one) => types.includes(one.glyph.type));
              const glyph = view.views.find_one(model).glyph;
              const box = view.canvas_view.el.getBoundingClientRect();
              const middle = (scale, a, b) => (scale.compute(a) + scale.compute(b)) / 2;
              const { x_scale, y_scale } = view.frame;
              const places = {
                MultiLine: () => {
                  const [a, b] = model.data_source.get("ys")[0];
                  return [middle(x_scale, 0, 1), middle(y_scale, a, b)];
                },
                Quad: () => [(glyph.sleft[0] + glyph.sright[0]) / 2, (glyph.stop[0] + glyph.sbottom[0]) / 2],
              };
              const [x, y] = (places[model.glyph.type] || (() => [glyph.sx[0], glyph.sy[0]]))();
              return [box.x + x, box.y + y];
            }""",
            chart,
        )
        self.page.mouse.move(x - 4, y - 4)
        self.page.mouse.move(x, y)
        tooltip = self.page.locator(".bk-Tooltip:visible").first
        tooltip.wait_for()
        # The text is in a shadow tree, next to style sheets.
        text: str = tooltip.evaluate(
            "(element) => [...element.shadowRoot.children].filter((one) => !['STYLE', 'LINK'].includes(one.tagName))"
            ".map((one) => one.innerText).join(' ')"
        )
        return text


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(chromium: Any, file: Path, **context: Any) -> Iterator[Opened]:
    """Open a file without a network. `context` has options of the browser's context, such as `color_scheme`."""
    surroundings = chromium.new_context(offline=True, **context)
    surroundings.set_default_timeout(_PATIENCE)
    found = Opened(surroundings.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.complaints.append("dialog"), dialog.dismiss()))
    found.page.on(
        "console",
        lambda line: found.complaints.append(line.text) if line.type in ("error", "warning") else None,
    )
    found.page.goto(file.resolve().as_uri())
    yield found
    surroundings.close()


def serious_violations(found: Opened) -> list[str]:
    """Return what axe-core finds to be a serious or critical obstacle to users of assistive technology."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(found.page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html']}" for one in violations if one["impact"] in ("serious", "critical")
    ]

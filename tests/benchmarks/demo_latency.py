"""Draw a hundred strokes on the demo page of each shipped model: how long does a picture take to follow the pen?

    python tests/benchmarks/demo_latency.py [model ...]

Each model is trained briefly on the built-in digits. Headless Chromium then draws with pointer events, sixty per
second, and the page measures the time from an event to the frame that shows its answer, with the maps of all layers.
Printed for each model: the number of answers, the median and the 95th percentile in milliseconds.
"""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from playwright.sync_api import sync_playwright

from tests.support.browser import CHROMIUM

if TYPE_CHECKING:
    from playwright.sync_api import Page

COMMAND = [sys.executable, "-m", "mnist_exp"]
MODELS = Path(__file__).parents[2] / "conf" / "model"
STROKES, EVENTS = 100, 20  # events per stroke
STROKES_PER_DRAWING = 4
MOST_MEDIAN, MOST_HIGH = 50, 100  # milliseconds: the median and the 95th percentile


def main(names: list[str]) -> int:
    """Measure each model; returns the number of models beyond a limit."""
    slow = 0
    print(f"{'model':<20} answers  median     95 %")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in names or sorted(file.stem for file in MODELS.glob("*.yaml")):
            words = [
                f"outputs={folder}/outputs",
                f"model={name}",
                f"name={name}",
                "data=digits",
                "training.epochs=1",
            ]
            subprocess.run(
                [*COMMAND, *words, "tracking=none", "plots=false", "save=[keras]"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            demo = subprocess.Popen(
                [*COMMAND, "demo", f"run={name}", f"outputs={folder}/outputs", "open=false"],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert demo.stdout is not None
                page = chromium.new_page(viewport={"width": 1440, "height": 900})
                page.goto(next(line for line in demo.stdout if line.startswith("http")).strip())
                page.wait_for_selector("body[data-ready]")
                draw(page, random.Random(0), 8)  # the first answers compile the graph
                milliseconds = draw(page, random.Random(1), STROKES)
                page.close()
            finally:
                demo.send_signal(signal.SIGINT)
                demo.communicate(timeout=60)
            middle, high = np.percentile(milliseconds, [50, 95])
            slow += middle > MOST_MEDIAN or high > MOST_HIGH
            print(f"{name:<20} {len(milliseconds):7} {middle:7.0f} {high:8.0f}", flush=True)
    return slow


def draw(page: Page, draws: random.Random, strokes: int) -> list[float]:
    """Draw strokes of random arcs; returns the time of each answer in milliseconds."""
    page.evaluate("() => performance.clearMeasures()")
    box = page.locator("#picture").bounding_box()
    assert box is not None
    side = box["width"]
    for number in range(strokes):
        if number % STROKES_PER_DRAWING == 0:
            page.click("#clear")
        x, y = (draws.uniform(0.35, 0.65) * side for _ in range(2))
        radius, start, turn = draws.uniform(0.1, 0.3) * side, draws.uniform(0, 7), draws.uniform(-5, 5)
        for event in range(EVENTS):
            began, angle = time.monotonic(), start + turn * event / EVENTS
            page.mouse.move(box["x"] + x + radius * math.cos(angle), box["y"] + y + radius * math.sin(angle))
            if event == 0:
                page.mouse.down()
            time.sleep(max(0.0, began + 1 / 60 - time.monotonic()))
        page.mouse.up()
    page.wait_for_timeout(500)
    entries = "() => performance.getEntriesByName('pen to picture').map(entry => entry.duration)"
    return [float(milliseconds) for milliseconds in page.evaluate(entries)]


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))

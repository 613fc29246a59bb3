"""`mnist-exp demo`: the page in a real browser, and requests that its server refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from support.cli import PATIENCE, Cli, start
from support.golden import Golden

from mnist_exp.serving.listening import host_names

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
THREE = [(90, 70), (130, 50), (175, 70), (175, 105), (130, 130), (180, 155), (180, 200), (135, 225), (85, 205)]
LONG = 15_000 * PATIENCE  # ms
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a good model of digits, and one of another kind."""
    from mnist_exp.cli import main

    folder = tmp_path_factory.mktemp("demo") / "outputs"
    words = ["data=digits", "tracking=none", f"outputs={folder}", "save=[keras]"]
    assert main([*words, "model=lenet5x5", "training.epochs=8", "name=good"]) == 0
    assert main([*words, "model=pyramid", "training.epochs=1", "name=other"]) == 0
    return folder


def start_demo(*words: str) -> tuple[subprocess.Popen[str], str]:
    """Start the server; returns the process and the printed address."""
    demo = start("demo", "open=false", *words)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("http"):
            assert next(demo.stdout) == "Press Ctrl-C to stop it.\n"
            return demo, line.strip()
    raise AssertionError(demo.communicate())


def end(demo: subprocess.Popen[str]) -> None:
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30 * PATIENCE)


@pytest.fixture(scope="module")
def address(outputs: Path) -> Iterator[str]:
    """Yield the address of a page for the good model."""
    demo, address = start_demo("run=good", f"outputs={outputs}")
    yield address
    end(demo)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield headless Chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "this test needs Debian's chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """The page in a browser, with what it logged and requested."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.logged: list[str] = []
        self.requested: set[str] = set()
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(LONG)
        self.page.on("console", lambda message: message.type == "error" and self.logged.append(message.text))
        self.page.on("pageerror", lambda error: self.logged.append(str(error)))
        self.page.on("request", lambda request: self.requested.add(urlsplit(request.url).netloc))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")

    def draw(self, points: list[tuple[int, int]]) -> None:
        """Draw with the pointer."""
        self.page.locator("#picture").scroll_into_view_if_needed()
        box = self.page.locator("#picture").bounding_box()
        for number, (x, y) in enumerate(points):
            self.page.mouse.move(box["x"] + x, box["y"] + y, steps=5 if number else 1)
            if not number:
                self.page.mouse.down()
        self.page.mouse.up()

    def wait_for(self, selector: str, pattern: str) -> str:
        """Wait until an element's text matches, and return it."""
        self.page.wait_for_function(
            "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector)?.textContent)",
            arg=[selector, pattern],
        )
        return str(self.page.locator(selector).first.inner_text())

    def pixels(self, selector: str) -> np.ndarray:
        """Return a canvas' pixels (height, width, 4)."""
        values, width = self.page.evaluate(
            "selector => { const c = document.querySelector(selector);"
            " return [[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data], c.width]; }",
            selector,
        )
        return np.array(values, np.uint8).reshape(-1, width, 4)


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Opened]:
    """Yield the page, on a desktop; afterwards, nothing must have been logged or requested from elsewhere."""
    opened = Opened(browser, address, viewport={"width": 1280, "height": 900})
    yield opened
    opened.page.close()
    assert opened.logged == []
    assert opened.requested == {urlsplit(address).netloc}


@pytest.mark.slow
def test_a_drawn_three_is_recognized_and_its_maps_appear(opened: Opened):
    """The class, the probabilities, the evidence on the drawing and the maps of all layers follow the pointer."""
    assert not opened.pixels("#overlay").any()
    blank = opened.pixels(".layer canvas")
    opened.draw(THREE)
    result = opened.wait_for("#result", "^3 ")
    shown = float(result.removeprefix("3 · ").removesuffix(" %"))
    assert shown > 80
    assert opened.page.locator(".bars .figure.first").inner_text() == f"{shown} %"
    assert opened.pixels("#overlay").any()
    assert (opened.pixels(".layer canvas") != blank).mean() > 0.2
    assert opened.page.locator(".layer").count() == 8
    seen = opened.pixels("#seen")[..., 0]
    rows, columns = (np.flatnonzero((seen > 50).any(axis=axis)) for axis in (1, 0))
    assert seen.shape == (28, 28)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)  # as in MNIST's images
    opened.page.click("#clear")
    opened.wait_for("#result", "^Draw")
    assert not opened.pixels("#overlay").any()


@pytest.mark.slow
def test_the_receptive_field_is_the_cards(opened: Opened, outputs: Path, cli: Cli):
    """Hovering over a unit draws its box, whose size is in the run's architecture card, and prints its value."""
    card = cli("show", "run=good", f"outputs={outputs}").out
    opened.draw(THREE)
    opened.wait_for("#result", "^3 ")
    opened.page.uncheck("#evidence")
    for number, (name, size) in enumerate([("conv2d", 5), ("max_pooling2d", 6), ("conv2d_1", 14)]):
        row = next(line for line in card.splitlines() if re.search(rf"\b{name}\b", line))
        assert re.search(rf"\b{size}\b", row), row
        canvas = opened.page.locator(".layer canvas").nth(number)
        canvas.scroll_into_view_if_needed()
        canvas.hover(position={"x": 28, "y": 28})
        caption = opened.page.locator(".layer .unit").nth(number).inner_text()
        found = re.fullmatch(
            r"channel \d+, row (\d+), column \d+: -?[\d.e-]+; sees rows (\d+)–(\d+), columns (\d+)–(\d+)", caption
        )
        assert found, caption
        row_, first, last, left, right = map(int, found.groups())
        assert last - first == right - left == size - 1, caption
        if name == "conv2d":
            assert (first, last) == (row_ - 2, row_ + 2)
        box = opened.pixels("#overlay")[..., 3] > 0
        lines = np.flatnonzero(box.sum(axis=1) > 0)
        per_pixel = (lines[-1] - lines[0]) / size  # canvas pixels: this drawing is about as large as it is given
        assert 9 < per_pixel < 11.5
    opened.page.click("#random")  # an image fills the canvas, 10 canvas pixels per pixel
    opened.wait_for("#example", "class ")
    canvas = opened.page.locator(".layer canvas").nth(2)
    canvas.hover(position={"x": 28, "y": 28})
    caption = opened.page.locator(".layer .unit").nth(2).inner_text()
    top, bottom, left, right = map(int, re.findall(r"(\d+)–(\d+), columns (\d+)–(\d+)", caption)[0])
    box = opened.pixels("#overlay")[..., 3] > 0
    rows, columns = (np.flatnonzero(box.any(axis=axis)) for axis in (1, 0))
    expected = (10 * top, 10 * bottom + 10, 10 * left, 10 * right + 10)
    np.testing.assert_allclose((rows[0], rows[-1], columns[0], columns[-1]), expected, atol=2)


@pytest.mark.slow
def test_an_example_is_loaded_and_changed(opened: Opened):
    """The label is the test set's, and turning or blurring the image changes the model's input."""
    opened.page.fill("#number", "5")
    opened.page.click("#load")
    opened.wait_for("#example", "^test 5, class ")
    opened.wait_for("#result", r"^\d ")
    before = opened.pixels("#seen")
    for change, value in (
        ("rotate", "40"),
        ("shift-x", "3"),
        ("thicken", "1"),
        ("thicken", "-1"),
        ("blur", "2"),
        ("noise", "50"),
    ):
        opened.page.locator(f"#{change}").fill(value)
        assert (opened.pixels("#seen") != before).any(), change
        opened.page.click("#reset")
        np.testing.assert_array_equal(opened.pixels("#seen"), before)
    opened.page.locator("#shift-x").fill("3")
    np.testing.assert_array_equal(opened.pixels("#seen")[:, 3:], before[:, :-3])


def photograph(*classes: int) -> bytes:
    """Return a JPEG of digits, dark on light paper, from left to right."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    picture = Image.new("L", (60 + 280 * len(classes), 400), 230)
    for place, wanted in enumerate(classes):
        eighth = np.flatnonzero(digits.target == wanted)[7]
        ink = (230 - np.clip(digits.images[eighth] * 14, 0, 230)).astype(np.uint8)
        picture.paste(Image.fromarray(ink).resize((180, 180), Image.Resampling.BICUBIC), (60 + 280 * place, 110))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.mark.slow
def test_a_dropped_photograph_is_classified(opened: Opened):
    """All digits are found and shown with what was made of them; the name of a file is shown as it is."""
    drop = """([content, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(content)], name, { type: "image/jpeg" }));
        dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    opened.page.evaluate(drop, [list(photograph(4)), f"{MARKUP}.jpg"])
    opened.wait_for(".found button", r"^4 ")
    opened.wait_for("#result", "^4 ")
    assert opened.page.locator(".photograph p").first.inner_text() == f"{MARKUP}.jpg"
    assert opened.page.locator("img").count() == 0
    opened.page.evaluate(drop, [list(photograph(3, 7)), "two.jpg"])
    opened.wait_for(".photograph", "2 digits found")
    opened.page.wait_for_function(
        "() => document.querySelectorAll('.photograph')[0].querySelectorAll('button').length === 2"
    )
    buttons = opened.page.locator(".photograph").first.locator("button")
    assert [text[0] for text in buttons.all_inner_texts()] == ["3", "7"]
    buttons.nth(1).click()
    opened.wait_for("#result", "^7 ")


@pytest.mark.slow
def test_a_second_run_is_added(opened: Opened):
    """It is chosen from the output folder's runs; both answer side by side, each with its own colours."""
    opened.draw(THREE)
    opened.wait_for("#result", "^3 ")
    opened.wait_for("#runs", "other")
    value = opened.page.locator("#runs option", has_text="other-").get_attribute("value")
    opened.page.select_option("#runs", value)
    opened.page.click("#compare")
    opened.wait_for("#result", r"^good-\S+: 3 .*\s*other-\S+: \d ")
    assert opened.page.locator(".model").count() == 2
    assert opened.page.locator(".model").nth(1).locator(".layer").count() > 3
    gradients, exact = opened.page.locator(".model .evidence figcaption").all_inner_texts()
    assert "blue" not in gradients  # Grad-CAM has no negative values
    assert "blue" in exact
    opened.page.select_option("#runs", "")
    opened.page.click("#compare")
    opened.wait_for("#result", "^3 ")
    assert opened.page.locator(".model").count() == 1


@pytest.mark.slow
def test_the_page_can_be_used_with_the_keyboard(opened: Opened):
    """Arrow keys and the space bar draw, and choose a unit of a map."""
    opened.page.locator("#picture").focus()
    opened.page.keyboard.press("Space")
    for _ in range(6):
        opened.page.keyboard.press("ArrowDown")
    opened.wait_for("#result", r"^\d ")
    opened.page.keyboard.press("Tab")
    opened.page.locator(".layer canvas").first.focus()
    opened.page.keyboard.press("PageDown")
    opened.page.keyboard.press("ArrowRight")
    assert "row 0, column 1: " in opened.page.locator(".layer .unit").first.inner_text()
    opened.page.wait_for_function("() => document.querySelector('#spoken').textContent.includes('%')")


@pytest.mark.slow
def test_ten_thousand_strokes_do_not_stop_the_page(opened: Opened):
    """The page says that the drawing is full, and still answers."""
    opened.page.evaluate("""() => {
        const canvas = document.querySelector("#picture"), box = canvas.getBoundingClientRect();
        for (let i = 0; i < 10000; i++) for (const type of ["pointerdown", "pointerup"])
            canvas.dispatchEvent(new PointerEvent(type, {
                pointerId: 1, button: 0, clientX: box.x + 20 + i % 240, clientY: box.y + 20 + (i * 7) % 240 }));
    }""")
    opened.wait_for("#message", "full")
    opened.wait_for("#result", r"^\d ")
    opened.page.click("#clear")
    opened.draw(THREE)
    opened.wait_for("#result", "^3 ")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_a_phone(browser: Any, address: str, scheme: str):
    """axe finds no serious violation on a desktop or a phone, and nothing scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe

    for width, height in ((1280, 900), (360, 740)):
        opened = Opened(browser, address, viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.draw(THREE)
        opened.wait_for("#result", "^3 ")
        violations = Axe().run(opened.page).response["violations"]
        serious = [one["id"] for one in violations if one["impact"] in ("serious", "critical")]
        assert serious == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.page.close()


@pytest.mark.slow
def test_on_a_phone_the_answers_follow_the_input(browser: Any, address: str):
    """The tools come after the maps, for the eye and the keyboard; on a wide page, they are below the input."""
    opened = Opened(browser, address, viewport={"width": 390, "height": 844})
    order = "['.stage', '#models', '#tools'].map((part) => document.querySelector(part))"
    tops = opened.page.evaluate(f"{order}.map((part) => part.getBoundingClientRect().top)")
    assert tops == sorted(tops)
    follows = "(part, index, all) => !index || (all[index - 1].compareDocumentPosition(part) & 4) > 0"
    assert opened.page.evaluate(f"{order}.every({follows})")
    opened.page.click(".jump a")
    assert opened.page.evaluate("document.querySelector('#tools').getBoundingClientRect().top") < 844
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    opened.page.wait_for_selector("#inputs > #tools")
    assert not opened.page.locator(".jump").is_visible()
    opened.page.close()


@pytest.mark.slow
def test_controls_are_large_enough_for_a_finger(browser: Any, address: str):
    """On a touch screen, each control or its label is at least 40 pixels high."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    opened = Opened(browser, address, **phone)
    low = opened.page.evaluate(
        "[...document.querySelectorAll('a, button, summary, select, input')]"
        ".map((one) => (one.type === 'checkbox' ? one.closest('label') : one))"
        ".filter((one) => one.offsetHeight && one.offsetHeight < 40).map((one) => one.outerHTML)"
    )
    assert low == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.close()


def ask(address: str, path: str, body: bytes | None = None, **headers: str) -> tuple[HTTPResponse, bytes]:
    """Return the answer to a request, and its body."""
    place = urlsplit(address)
    connection = HTTPConnection(place.netloc, timeout=30 * PATIENCE)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", place.path + path, body, named)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


@pytest.mark.slow
def test_hostile_requests_are_refused(address: str):
    """Wrong sizes, models, files, origins and hosts are refused, and the server keeps answering."""
    assert ask(address, "api/respond", bytes(784))[0].status == 200
    for path, body, status in (
        ("api/respond", bytes(783), 400),
        ("api/respond", bytes(785), 413),
        ("api/respond?models=0,0,0", bytes(784), 400),
        ("api/respond?models=9", bytes(784), 400),
        ("api/respond?models=-1", bytes(784), 400),
        ("api/respond?models=" + "1" * 5000, bytes(784), 400),
        ("api/photograph", b"not an image", 422),
        ("api/photograph", b"", 422),
        ("api/runs", b"../../etc", 422),
        ("api/runs", bytes(5000), 413),
        ("api/example?number=-1", None, 404),
        ("api/example?number=99999999999", None, 404),
        ("api/respond", None, 405),
        ("../../etc/passwd", None, 404),
        ("demo.html", None, 404),
    ):
        assert ask(address, path, body)[0].status == status, path
    assert ask(address, "api/setup", Host="elsewhere.example")[0].status == 421
    assert ask(address, "api/respond", bytes(784), Origin="http://elsewhere.example")[0].status == 403
    response, content = ask(address, "api/setup")
    assert json.loads(content)["classes"] == [*map(str, range(10))]
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.slow
def test_a_large_body_is_refused_before_it_is_read(address: str):
    """50 MB are refused after the headers, or once the limit is reached if their length is not given."""
    place = urlsplit(address)
    for announced in (True, False):
        with socket.create_connection(
            (place.hostname or "", place.port or 0), timeout=30 * PATIENCE
        ) as connection:
            length = "Content-Length: 50000000" if announced else "Transfer-Encoding: chunked"
            head = f"POST /api/photograph HTTP/1.1\r\nHost: {place.netloc}\r\n{length}\r\n\r\n"
            connection.sendall(head.encode())
            sent = 0
            try:
                while not announced and sent < 50_000_000:
                    connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                    sent += 0x10000
            except OSError:  # the server closed the connection
                assert sent > 10_000_000
            else:
                assert b" 413 " in connection.recv(100)
    assert ask(address, "api/respond", bytes(784))[0].status == 200


@pytest.mark.slow
def test_other_addresses_need_the_token(outputs: Path):
    """With another `host=`, the printed address contains a token, without which nothing is answered."""
    demo, address = start_demo("run=good", f"outputs={outputs}", "host=0.0.0.0")
    place = urlsplit(address)
    assert len(place.path) > 20
    local = f"http://127.0.0.1:{place.port}"
    assert ask(local, "/")[0].status == 403
    assert ask(local, "/api/respond", bytes(784))[0].status == 403
    assert ask(f"{local}{place.path}", "")[0].status == 200
    assert ask(f"{local}{place.path}", "api/respond", bytes(784))[0].status == 200
    end(demo)
    assert demo.returncode == 0


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once(outputs: Path, tmp_path: Path):
    """Also with a connection open or a request unfinished; the exit status is that of `ui`, and nothing is printed or left behind."""
    demo, address = start_demo("run=good", f"outputs={outputs}")
    place = urlsplit(address)
    connection = HTTPConnection(place.netloc, timeout=30 * PATIENCE)
    connection.request("GET", "/api/setup")
    connection.getresponse().read()
    unfinished = socket.create_connection((place.hostname or "", place.port or 0))
    unfinished.sendall(
        f"POST /api/respond HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 784\r\n\r\n".encode()
    )
    assert ask(address, "api/setup")[0].status == 200  # the server has read the request before
    since = time.monotonic()
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=30 * PATIENCE)
    assert time.monotonic() - since < 2 * PATIENCE
    assert (demo.returncode, err) == (0, "")
    connection.close()
    unfinished.close()


@pytest.mark.slow
def test_a_model_without_numbers_as_output_is_shown_as_such(browser: Any, outputs: Path, tmp_path: Path):
    """The page says that the output is not a number; runs with such figures are listed without an accuracy."""
    import keras

    copied = tmp_path / "outputs"
    [good] = (outputs / "runs").glob("good-*")
    run = copied / "runs" / good.name
    shutil.copytree(good, run)
    result = json.loads((run / "result.json").read_text())
    result["best"]["val/accuracy"] = float("nan")
    (run / "result.json").write_text(json.dumps(result))
    pixels, dense = keras.Input((28, 28, 1)), keras.layers.Dense(10)
    values = keras.layers.Rescaling(1, offset=-128)(pixels)  # 0 for the grey image that each model is tried with
    model = keras.Model(pixels, keras.layers.Softmax()(dense(keras.layers.Flatten()(values))))
    dense.set_weights([np.random.default_rng(0).choice([-3e38, 3e38], (784, 10)), np.zeros(10)])
    model.save(run / "model.keras")
    demo, address = start_demo("run=good", f"outputs={copied}")
    try:
        [listed] = json.loads(ask(address, "api/runs")[1])
        assert listed["accuracy"] is None
        opened = Opened(browser, address)
        opened.page.click("#load")
        opened.wait_for("#result", "not a number")
        assert set(opened.page.locator(".bars .figure").all_inner_texts()) == {"–"}
        opened.page.close()
    finally:
        end(demo)
    assert opened.logged == []


@pytest.mark.slow
def test_a_run_of_the_same_name_elsewhere_is_another(outputs: Path, tmp_path: Path):
    """Whether a run is loaded is decided by its directory."""
    [good] = (outputs / "runs").glob("good-*")
    shutil.copytree(good, tmp_path / good.name)
    demo, address = start_demo(f"run={tmp_path / good.name}", f"outputs={outputs}")
    wanted = f"runs/{good.name}".encode()
    numbers = [json.loads(ask(address, "api/runs", wanted)[1])["number"] for _ in range(2)]
    end(demo)
    assert numbers == [1, 1]


def test_the_names_of_a_page_on_port_80():
    """Browsers leave that port out of `Host`."""
    assert {"127.0.0.1", "localhost", "127.0.0.1:80"} <= {*host_names("127.0.0.1", 80)}
    assert "[::1]" in host_names("::1", 80)
    assert host_names("127.0.0.1", 8400) == ("127.0.0.1:8400", "localhost:8400")


def test_a_port_in_use_is_reported(cli: Cli, outputs: Path, golden: Golden):
    """Before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = cli("demo", "run=good", f"outputs={outputs}", f"port={port}", "open=false", status=2).err
    assert f"port={port}: " in err
    golden(err.replace(str(port), "<port>"))


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["run=nope"], ["nope"]),
        (["run=[nope,neither]"], ["nope", "neither"]),
        (["run=[good,good,good]"], ["run"]),
        (["run=good", "channels=0", "port=70000"], ["channels", "port"]),
        (["run=good", "host=no.such.host.invalid"], ["host=no.such.host.invalid"]),
        ([], ["run"]),
    ],
)
def test_a_wrong_request_is_reported(cli: Cli, outputs: Path, words: list[str], keys: list[str], golden: Golden):
    """All problems at once, before anything is served."""
    err = cli("demo", f"outputs={outputs}", "open=false", *words, status=2).err
    for key in keys:
        assert key in err
    golden(err)

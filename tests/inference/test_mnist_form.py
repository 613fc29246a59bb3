"""Photographs and scans of digits are converted to MNIST style."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from support.cli import MNIST
from support.photographs import FORMS, as_jpeg, larger, on_canvas
from support.surroundings import SURROUNDINGS, photograph

from mnist_exp.inference.mnist_form import read_digits

Pixels = npt.NDArray[Any]


@cache
def digits(count: int) -> tuple[Pixels, Pixels]:
    """Return test images and labels of the data available here."""
    from mnist_exp.config.overrides import Request
    from mnist_exp.config.schema import TrainConfig
    from mnist_exp.config.validation import compose_checked
    from mnist_exp.data.formats import find

    words = ("data=mnist",) if MNIST else ("data=digits",)
    config, _ = compose_checked(Request("train", words), TrainConfig)
    test = find(config.data, print).test
    assert test is not None
    return test.images[:count, ..., 0], test.labels[:count]


def normalized(image: Pixels, height: int = 28, width: int = 28) -> Pixels:
    [found] = read_digits(Image.fromarray(image), height, width)
    return found.image[..., 0].astype(float)


def distance(one: Pixels, other: Pixels) -> float:
    """Return the mean pixel difference of two images at their best overlap, within one pixel in each direction.

    Rounding the centre of mass moves an image by one pixel, which alone changes blurred strokes (the built-in
    digits are enlarged from 8×8) as much as another writer would.
    """
    steps = (-1, 0, 1)
    return min(float(np.abs(one - np.roll(other, (y, x), (0, 1))).mean()) for y in steps for x in steps)


@pytest.mark.parametrize("form", FORMS)
def test_a_digit_comes_out_the_same_from_any_form(form: str):
    """The pixels differ far less than those of two digits of one class."""
    images, labels = digits(40)
    rng = np.random.default_rng(0)
    expected = [normalized(image) for image in images]
    found = [normalized(FORMS[form](image, rng)) for image in images]
    distances = [distance(a, b) for a, b in zip(expected, found, strict=True)]
    others = [distance(expected[i], expected[j]) for i in range(40) for j in range(i) if labels[i] == labels[j]]
    assert np.mean(distances) < 0.6 * np.mean(others)
    assert max(distances) < np.mean(others)


@pytest.mark.mnist
def test_mnists_own_digits_are_nearly_unchanged(use: Callable[[str], None]):
    """The mean change is at most 3 of 255; most digits are not moved or scaled at all."""
    use("mnist")
    images, _ = digits(300)
    distances = [np.abs(normalized(image) - image).mean() for image in images]
    assert np.mean(distances) < 3
    assert np.median(distances) < 1


def test_the_form_is_that_of_mnist():
    """The digit is light on dark, fits 20×20 with its proportions, and has its centre of mass in the middle."""
    paper = Image.new("L", (300, 200), 230)
    ImageDraw.Draw(paper).line([(40, 30), (40, 90), (70, 90)], 40, width=9)
    found = normalized(np.asarray(paper))
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, pytest.approx(20 * 35 / 66, abs=1))
    assert found.max() == 255
    y, x = np.mgrid[:28, :28]
    assert [(found * axis).sum() / found.sum() for axis in (y, x)] == pytest.approx([14, 14], abs=0.5)


def test_other_sizes_have_the_same_proportions():
    """This is tested for a model of 56×56 images."""
    images, _ = digits(1)
    found = normalized(larger(images[0]), 56, 56)
    assert np.ptp(np.flatnonzero(found.any(axis=1))) + 1 == 40


def test_specks_and_paper_edges_are_dropped():
    """Anything beyond the paper is dropped as well."""
    images, _ = digits(1)
    clean = 255 - on_canvas(larger(images[0], 4), 300, np.random.default_rng(1))
    dirty = clean.copy()
    dirty[5:8, 100:103] = dirty[290:293, 200:204] = 0
    dirty[:, -12:] = 60
    assert np.abs(normalized(clean) - normalized(dirty)).mean() < 2


def test_a_broken_stroke_is_kept():
    """Both halves of an interrupted stroke are kept."""
    paper = Image.new("L", (200, 200), 255)
    draw = ImageDraw.Draw(paper)
    draw.line([(60, 30), (60, 80)], 0, width=12)
    draw.line([(60, 95), (60, 170), (110, 170)], 0, width=12)
    found = normalized(np.asarray(paper))
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, pytest.approx(20 * 62 / 152, abs=1))


def test_thin_strokes_are_thickened():
    """A thin line on a large sheet is as dark as a thick one, and at least two pixels wide."""
    paper = Image.new("L", (500, 500), 255)
    ImageDraw.Draw(paper).line([(100, 50), (100, 450), (380, 450)], 90, width=3)
    found = normalized(np.asarray(paper))
    assert found.max() == 255
    assert 1.5 <= (found[10] / 255).sum() <= 3


@pytest.mark.parametrize("size", [200, 500, 3000])
def test_strokes_of_one_pixel_are_seen(size: int):
    """Also on a sheet that is reduced sixfold; dust of a pixel is none."""
    paper = Image.new("L", (size, size), 255)
    paper.putpixel((size // 3, size // 2), 0)
    assert read_digits(paper, 28, 28) == []
    at = [(round(x * size), round(y * size)) for x, y in ((0.2, 0.1), (0.2, 0.9), (0.75, 0.9))]
    ImageDraw.Draw(paper).line(at, 0, width=1)
    found = normalized(np.asarray(paper))
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, pytest.approx(20 * 55 / 80, abs=1.3))
    assert 1.5 <= (found[10] / 255).sum() <= 3


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (28, 28), (300, 200), (700, 600)])
def test_blank_paper_is_no_digit(size: tuple[int, int]):
    """Plain, unevenly lit and noisy paper gives no digit."""
    rng = np.random.default_rng(0)
    even = np.full(size, 240, np.uint8)
    light = np.clip(np.linspace(120, 220, size[1]) + np.zeros(size), 0, 255).astype(np.uint8)
    noisy = np.clip(rng.normal(200, 3, size), 0, 255).astype(np.uint8)
    for paper in (even, light, noisy, as_jpeg(noisy)):
        assert read_digits(Image.fromarray(paper), 28, 28) == []


@pytest.mark.parametrize("around", ["ruled", "squared", "frame", "table"])
def test_what_is_around_a_digit_is_left_out(around: str):
    """The digit comes out as from blank paper."""
    images, _ = digits(1)
    cover = np.zeros((400, 400))
    cover[116:284, 116:284] = larger(images[0], 6) / 255
    paper = np.full((400, 400), 230.0)
    if around in {"ruled", "squared"}:
        paper[20::44] = paper[21::44] = 110
    if around == "squared":
        paper[:, 30::44] = paper[:, 31::44] = 110
    if around == "frame":
        paper[30:370, 30:370] = 60
        paper[34:366, 34:366] = 230
    if around == "table":
        paper[:60] = paper[-50:] = 90
        paper[:, :70] = paper[:, -60:] = 90
    found, plain = (normalized((sheet * (1 - cover) + 40 * cover).astype(np.uint8)) for sheet in (paper, 230))
    assert distance(found, plain) < 8


def test_several_digits_are_read_in_reading_order_with_their_boxes():
    """Two lines of two; as one digit, the picture gets a warning."""
    images, _ = digits(4)
    sheet = Image.new("L", (500, 460), 235)
    places = [(40, 30), (270, 40), (30, 250), (280, 240)]
    for image, place in zip(images, places, strict=True):
        sheet.paste(30, place, Image.fromarray(larger(image, 6)))
    found = read_digits(sheet, 28, 28, many=True)
    assert len(found) == 4
    for one, (left, top) in zip(found, places, strict=True):
        assert left - 2 <= one.box[0] < one.box[2] <= left + 170
        assert top - 2 <= one.box[1] < one.box[3] <= top + 170
    assert not any(one.warning for one in found)
    [single] = read_digits(sheet, 28, 28)
    assert single.warning


def test_doubtful_pictures_are_warned_of_in_python(monkeypatch: pytest.MonkeyPatch):
    """`load(run).predict` names them; its result stays an array."""
    from mnist_exp.inference import predictor

    monkeypatch.setattr(predictor, "predict", lambda model, images: np.full((len(images), 10), 0.1, np.float32))
    images, _ = digits(2)
    Image.fromarray(255 - larger(images[0], 6)).save("one.png")
    Image.fromarray(255 - np.hstack([larger(image, 6) for image in images])).save("two.png")
    config = SimpleNamespace(data=SimpleNamespace(resize=None, scale=None))
    model = predictor.Predictor(None, tuple("0123456789"), config, (28, 28, 1), True)
    with pytest.warns(UserWarning, match=r"^1 image might not show exactly one digit: two\.png: "):
        assert model.predict(["one.png", "two.png"]).shape == (2, 10)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_one_digit_is_found_in_each_surrounding(name: str):
    images, _ = digits(1)
    [found] = read_digits(photograph(name, images[0], 0).convert("L"), 28, 28, many=True)
    assert not found.warning

"""Conversion preserves pixels, labels and order in every format."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.cli import Cli

FORMATS = ("idx", "csv", "npz", "folder")
RNG = np.random.default_rng(0)


def made(shape: tuple[int, ...], names: list[str] | None = None, test: bool = True, classes: int = 3) -> list[str]:
    """Write a data set of 60 random images as NPZ, and return the overrides that read it."""
    images, labels = RNG.integers(0, 256, (60, *shape), np.uint8), RNG.permutation(np.arange(60) % classes)
    arrays = {"x_train": images[:40], "y_train": labels[:40]}
    if test:
        arrays |= {"x_test": images[40:], "y_test": labels[40:]}
    if names:
        arrays["class_names"] = np.array(names)
    np.savez("data.npz", **arrays)
    full = [*shape, 1] if len(shape) == 2 else shape
    return ["data=npz", "data.dir=.", f"data.shape=[{','.join(map(str, full))}]", f"data.classes={classes}"]


def sha256(out: str) -> str:
    found = re.search(r"^SHA-256 ([0-9a-f]{64}) ", out, re.MULTILINE)
    assert found
    return found[1]


def used(out: str) -> list[str]:
    """Return the command that a conversion prints at its end."""
    found = re.search(r"^use     mnist-exp (.*)$", out, re.MULTILINE)
    assert found
    return shlex.split(found[1])


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    ("shape", "names", "test", "classes"),
    [
        ((5, 7), None, True, 3),
        ((4, 3, 3), None, True, 3),
        ((3, 1, 3), ["T-shirt/top", "it's", 'a "b" \\'], True, 3),
        ((1, 6), ["zebra", "cat", "dog, or so"], False, 3),
        ((2, 2), None, True, 12),
        ((28, 28), ["7", "null", "x=1"], False, 3),
    ],
)
def test_there_and_back_is_the_same(
    cli: Cli, to: str, shape: tuple[int, ...], names: list[str] | None, test: bool, classes: int
):
    """Each format preserves the data, grey or colour, with or without a test set; the printed command reads it."""
    first = cli("dataset", "convert", *made(shape, names, test, classes), f"to={to}", "output=a b=c").out
    verified = cli("dataset", "verify", *used(first)).out
    assert sha256(verified) == sha256(first)
    for name in names or ():
        assert name in verified
    again = cli("dataset", "convert", *used(first), "to=npz", "output=again").out
    with np.load("data.npz") as before, np.load("again/data.npz") as after:
        assert set(before) == set(after)
        for name in before:
            np.testing.assert_array_equal(before[name].reshape(after[name].shape), after[name])
    assert sha256(again) == sha256(first)


@pytest.mark.slow
@pytest.mark.soak  # minutes; Fashion-MNIST is converted by CI
@pytest.mark.mnist
def test_mnist_goes_through_every_format(cli: Cli, use: Callable[[str], None]):
    """After all conversions, the files are byte for byte those of the beginning."""
    use("mnist")
    words = ["data=mnist"]
    for to in ("csv", "npz", "folder", "idx"):
        out = cli("dataset", "convert", *words, f"to={to}", f"output={to}").out
        assert sha256(out) == "f9f06a0dd76ba0dd234d7126d2a7a40257f9e97a61831ac2811f3450d6b90d4a"
        words = used(out)
        assert words == [f"data={to}", f"data.dir={to}"]
    # The digests of MNIST's own files are in conf/data/mnist.yaml.
    cli("dataset", "verify", "data=mnist", "data.dir=idx")


def test_a_header_is_kaggles(cli: Cli):
    """The header is `label,pixel0,…`; without it, the first line is an image."""
    words = made((2, 2))
    cli("dataset", "convert", *words, "to=csv", "output=with", "header=true")
    cli("dataset", "convert", *words, "to=csv", "output=without")
    header, rest = Path("with/train.csv").read_text().split("\n", 1)
    assert header == "label,pixel0,pixel1,pixel2,pixel3"
    assert rest == Path("without/train.csv").read_text()
    assert cli("dataset", "verify", "data=csv", "data.dir=with", *words[2:]).status == 0


def test_class_folders_have_the_classes_names(cli: Cli):
    """Folders are named by class if the names are valid folder names, otherwise by number."""
    cli("dataset", "convert", *made((2, 2), ["cat", "ant", "dog"]), "to=folder", "output=named")
    assert sorted(path.name for path in Path("named/train").iterdir()) == ["ant", "cat", "dog"]
    cli("dataset", "convert", *made((2, 2), ["cat", "a/b", "dog"]), "to=folder", "output=numbered")
    assert sorted(path.name for path in Path("numbered/train").iterdir()) == ["0", "1", "2"]


def test_data_that_a_format_cannot_hold_is_refused(cli: Cli):
    """Labels over 255 in IDX and empty class folders are refused; nothing is written."""
    words = made((2, 2), classes=300)
    np.savez("data.npz", x_train=np.zeros((2, 2, 2), np.uint8), y_train=np.array([0, 299]))
    said = cli("dataset", "convert", *words, "to=idx", status=2).err
    assert "to=idx: labels are written as bytes, up to 255, but the largest is 299" in said
    said = cli("dataset", "convert", *words, "to=folder", status=2).err
    assert "to=folder: class 1 has no training image" in said
    out = cli("dataset", "convert", *words, "to=csv", "output=csv").out
    assert sha256(cli("dataset", "verify", *used(out)).out) == sha256(out)
    assert sorted(path.name for path in Path().iterdir()) == ["csv", "data.npz"]


def test_a_class_without_test_images_has_an_empty_test_folder(cli: Cli):
    """The folders can be read back."""
    words = made((2, 2))
    rng = np.zeros((4, 2, 2), np.uint8)
    np.savez("data.npz", x_train=rng, y_train=np.array([0, 1, 2, 2]), x_test=rng[:1], y_test=np.array([1]))
    out = cli("dataset", "convert", *words, "to=folder", "output=f").out
    assert sha256(cli("dataset", "verify", *used(out)).out) == sha256(out)

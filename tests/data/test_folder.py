"""Image folders: valid ones are read, and problems are reported with their file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_exp.data.folder import class_folders, read

Refused = Callable[..., str]

GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
TRAIN_ONLY = "data.files.test=null"


def save(path: str, pixels: np.ndarray = GREY, mode: str | None = None, **options: object) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, **options)  # type: ignore[arg-type]
    return file


def two_classes() -> None:
    """Write a training folder with one image in each of two classes."""
    save("train/cat/a.png")
    save("train/dog/b.png")


def test_images_are_in_the_order_of_their_names():
    """Images are ordered by name, then by class; hidden files are skipped."""
    for number, path in enumerate(["b/1.png", "a/2.png", "b/3.PNG", "a/1.png"]):
        save(f"train/{path}", np.full((2, 3), number, np.uint8))
    Path("train/.DS_Store").write_text("")
    Path("train/a/._1.png").write_text("")
    part = read(Path("train"), class_folders(Path("train")), (2, 3, 1), False)
    assert part.images[:, 0, 0, 0].tolist() == [3, 0, 1, 2]
    assert part.labels.tolist() == [0, 1, 0, 1]


def test_classes_that_are_numbers_are_in_their_order():
    """Numbered classes are sorted numerically, names alphabetically."""
    for name in ("10", "9", "2"):
        Path("numbers", name).mkdir(parents=True)
    for name in ("10", "9", "x"):
        Path("names", name).mkdir(parents=True)
    assert class_folders(Path("numbers")) == ("2", "9", "10")
    assert class_folders(Path("names")) == ("10", "9", "x")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA"])
def test_grey_is_grey_however_it_was_saved(mode: str):
    """RGB, palette and opaque alpha images give the same pixels."""
    save("train/a/1.png", mode=mode)
    np.testing.assert_array_equal(read(Path("train"), ("a",), (2, 3, 1), False).images[0, ..., 0], GREY)
    np.testing.assert_array_equal(
        read(Path("train"), ("a",), (2, 3, 3), False).images[0], np.stack([GREY] * 3, axis=2)
    )


def test_black_and_white_images_and_jpeg_files_are_read():
    """One-bit pixels become 0 and 255; a flat JPEG keeps its value."""
    save("train/a/1.png", GREY, "1")
    assert set(read(Path("train"), ("a",), (2, 3, 1), False).images.flat) == {0, 255}
    save("jpeg/a/1.jpg", np.full((2, 3), 77, np.uint8))
    save("jpeg/a/2.JPEG", np.full((2, 3), 77, np.uint8))
    assert (read(Path("jpeg"), ("a",), (2, 3, 1), False).images == 77).all()


def huge(path: str) -> None:
    """Write a PNG of a few bytes that claims 50,000×50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    Path(path).write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def cut(path: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 3), np.uint8)
    content = save(path, noise).read_bytes()
    Path(path).write_bytes(content[: content.index(b"IDAT") + 8])


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def empty_class() -> None:
    for file in Path("train/dog").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (empty_class, "train/dog: no images in this class folder"),
        (lambda: Path("train/dog/x.png").write_text("no image"), "train/dog/x.png: not a PNG or JPEG image"),
        (lambda: Path("train/dog/x.png").write_bytes(b""), "train/dog/x.png: not a PNG or JPEG image"),
        (lambda: Path("train/dog/x.txt").write_text(""), "train/dog/x.txt: not a PNG or JPEG file"),
        (lambda: Path("train/dog/x.png").mkdir(), "train/dog/x.png: not a PNG or JPEG file"),
        (lambda: save("train/dog/x.gif").rename("train/dog/x.png"), "train/dog/x.png: not a PNG or JPEG image"),
        (lambda: Path("train/x.png").write_text(""), "train/x.png: expected a folder per class in"),
        (lambda: cut("train/dog/x.png"), "train/dog/x.png: a damaged image"),
        (lambda: huge("train/dog/x.png"), "train/dog/x.png: an image of 50000×50000 (height×width), but data.shape says 2×3"),
        (lambda: save("train/dog/x.png", np.zeros((5, 4), np.uint8)), "train/dog/x.png: an image of 5×4 (height×width), but data.shape says 2×3; data.shape=[5,4,1] would"),
        (lambda: save("train/dog/x.png", COLOUR), "train/dog/x.png: a colour image, but data.shape says one channel; data.shape=[2,3,3]"),
        (lambda: save("train/dog/x.png", np.dstack([COLOUR, GREY])), "train/dog/x.png: is transparent"),
        (lambda: save("train/dog/x.png", GREY.astype(np.uint16) * 99), "train/dog/x.png: 16 bits per channel"),
        (lambda: save("train/dog/x.jpg", COLOUR, "CMYK"), "train/dog/x.jpg: CMYK colours; expected grey or RGB"),
        (lambda: save("train/dog/x.jpg", exif=turned(6)), "train/dog/x.jpg: its EXIF orientation is 6; turn its pixels"),
        (lambda: save("train/dog/x.png", exif=turned(3)), "train/dog/x.png: its EXIF orientation is 3; turn its pixels"),
        (lambda: save("train/dog/x.png", save_all=True, append_images=[Image.fromarray(GREY + 1)]), "train/dog/x.png: has 2 frames; expected a single image"),
        (lambda: Path(os.fsdecode(b"train/d\xf6g")).mkdir(), r"train/d\xf6g: its name is not UTF-8; rename it"),
        (lambda: save(os.fsdecode(b"train/dog/\xff.png")), r"train/dog/\xff.png: its name is not UTF-8; rename it"),
        (lambda: Path("train/bird").mkdir(), "train: 3 class folders ([bird, cat, dog]), but data.classes=2; data.classes=3 would"),
    ],
)  # fmt: skip
def test_invalid_images_are_reported_with_their_file(refused: Refused, spoil: Callable[[], object], told: str):
    """Damaged images, wrong sizes and modes, and empty or extra folders are refused."""
    two_classes()
    spoil()
    assert told in refused("folder", TRAIN_ONLY)


def test_an_upright_image_with_its_tag_is_read():
    """EXIF orientation 1 is accepted."""
    save("train/a/1.png", exif=turned(1))
    np.testing.assert_array_equal(read(Path("train"), ("a",), (2, 3, 1), False).images[0, ..., 0], GREY)


def test_colour_images_with_16_bits_are_refused(refused: Refused):
    """Pillow would silently drop half of the bits."""
    two_classes()
    png = bytearray(save("train/dog/b.png", COLOUR).read_bytes())
    png[24] = 16
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    Path("train/dog/b.png").write_bytes(png)
    assert "train/dog/b.png: 16 bits per channel; expected 8" in refused("folder", TRAIN_ONLY, shape="[2,3,3]")


def test_folders_without_classes_are_refused(refused: Refused):
    """A missing test folder is reported with the override that allows it."""
    assert "there is no folder train, test" in refused("folder")
    Path("train").mkdir()
    assert "there is no folder test; data.files.test=null says that there is none" in refused("folder")
    assert "train: no class folders" in refused("folder", TRAIN_ONLY)


def test_the_given_folder_may_hold_the_classes(refused: Refused):
    """`data.files.train=.` reads the class folders in `data.dir` itself."""
    save("cat/a.png")
    save("dog/b.jpg", COLOUR)
    assert "dog/b.jpg: a colour image" in refused("folder", TRAIN_ONLY, "data.files.train=.")


def test_test_classes_must_be_the_training_classes(refused: Refused):
    """Other class folders in the test part are refused."""
    two_classes()
    save("test/cat/a.png")
    save("test/dgo/a.png")
    assert "test: its class folders are not those of" in (said := refused("folder"))
    assert "[dgo, dog] only in one of them" in said


def test_declared_class_names_must_match_the_folders(refused: Refused):
    """Names set the order of the folders; they do not rename them."""
    two_classes()
    told = "train: its class folders [cat, dog] are not data.class_names=[cat, cow]"
    assert told in refused("folder", TRAIN_ONLY, "data.class_names=[cat,cow]")

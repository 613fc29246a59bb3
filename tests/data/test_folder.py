"""Image folders: valid ones are read, and problems are reported with their file."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import Cli

from mnist_exp.config.data_schema import DataConfig, FileSpec
from mnist_exp.data.dataset import Part, Source
from mnist_exp.data.declaration import infer
from mnist_exp.data.folder import sort_class_names
from mnist_exp.data.formats import find
from mnist_exp.data.layout import find_image_folders
from mnist_exp.data.pictures import resized
from mnist_exp.errors import RequestError

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


def config(folder: str = "train", shape: tuple[int, int, int] = (2, 3, 1), **changes: object) -> DataConfig:
    """The config of a training folder; its classes are counted."""
    classes = sum(path.is_dir() and not path.name.startswith(".") for path in Path(folder).iterdir())
    values: dict[str, object] = {
        "name": "folder", "source": "folder", "files": {"train": FileSpec(name=folder), "test": None}, "dir": ".",
        "mirrors": (), "keras_cache": None, "shape": shape, "classes": max(classes, 2), "class_names": None,
        "val_fraction": 0.0, "split_seed": 0, "limit": None, "fallback": None,
    }  # fmt: skip
    return DataConfig(**{**values, **changes})  # type: ignore[arg-type]


def read(folder: str = "train", shape: tuple[int, int, int] = (2, 3, 1), **changes: object) -> Part:
    """The training set."""
    if not Path(folder, "z").exists():
        save(f"{folder}/z/zzz.png", np.zeros(shape[:2], np.uint8))  # as one class is not enough
    return source(folder, shape, **changes).train


def source(folder: str = "train", shape: tuple[int, int, int] = (2, 3, 1), **changes: object) -> Source:
    return find(config(folder, shape, **changes), TOLD.append)


TOLD: list[str] = []


def test_images_are_in_the_order_of_their_names():
    """Images are ordered by name, then by class; hidden files are skipped."""
    for number, path in enumerate(["b/1.png", "a/2.png", "b/3.PNG", "a/1.png"]):
        save(f"train/{path}", np.full((2, 3), number, np.uint8))
    Path("train/.DS_Store").write_text("")
    Path("train/a/._1.png").write_text("")
    part = read()
    assert part.images[:4, 0, 0, 0].tolist() == [3, 0, 1, 2]
    assert part.labels[:4].tolist() == [0, 1, 0, 1]


def test_class_names_are_in_natural_order():
    """Numbers in a name count as numbers."""
    assert sort_class_names(["10", "9", "2"]) == ("2", "9", "10")
    assert sort_class_names(["10", "9", "x", "01", "1"]) == ("01", "1", "9", "10", "x")
    assert sort_class_names([f"class_{number}" for number in (10, 8, 9)]) == ("class_8", "class_9", "class_10")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA", "RGBA"])
def test_grey_is_grey_however_it_was_saved(mode: str):
    """RGB, palette and opaque alpha images give the same pixels."""
    save("train/a/1.png", mode=mode)
    np.testing.assert_array_equal(read().images[0, ..., 0], GREY)
    np.testing.assert_array_equal(read(shape=(2, 3, 3)).images[0], np.stack([GREY] * 3, axis=2))


@pytest.mark.parametrize("ending", ["gif", "bmp", "webp", "tif", "png"])
def test_every_format_is_read(ending: str):
    """The content determines the format of a file, not its name."""
    options = {"lossless": True} if ending == "webp" else {}
    save(f"train/a/1.{ending}", **options)
    Path(f"train/a/1.{ending}").rename("train/a/1.jpg")
    np.testing.assert_array_equal(read().images[0, ..., 0], GREY)


def test_black_and_white_images_and_jpeg_files_are_read():
    """One bit per pixel is 0 and 255; a flat JPEG has the value that was saved, also in CMYK or nearly grey."""
    save("train/a/1.png", GREY, "1")
    assert set(read().images.flat) == {0, 255}
    save("jpeg/a/1.jpg", np.full((2, 3), 77, np.uint8))
    save("jpeg/a/2.JPEG", np.full((2, 3), 77, np.uint8))
    save("jpeg/a/3.jpg", np.full((2, 3, 3), 77, np.uint8), "CMYK")
    save("jpeg/a/4.png", np.dstack([np.full((2, 3), value, np.uint8) for value in (82, 77, 64)]))
    assert set(read("jpeg").images[:4].flat) == {77}


def test_images_of_16_bits_are_read_unless_they_may_have_12():
    """And `data.scale` tells the two apart, as the message says."""
    save("train/a/1.png", GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read().images[0, ..., 0], GREY)
    twelve = (GREY.astype(np.float64) / 255 * 4095).round().astype(np.uint16)
    save("train/a/1.png", twelve)
    with pytest.raises(RequestError, match=r"is 4095, so white may be 4095 \(12 bits\) or 65535; set data\.scale"):
        read()
    np.testing.assert_array_equal(read(scale=4095.0).images[0, ..., 0], GREY)


def test_a_photograph_is_turned_upright():
    """A photograph is rotated as its EXIF orientation says, before its size is compared."""
    save("train/a/1.png", np.rot90(GREY), exif=turned(6))
    np.testing.assert_array_equal(read().images[0, ..., 0], GREY)


def test_transposed_images_have_the_declared_shape():
    """`data.transpose` exchanges rows and columns."""
    save("train/a/1.png", GREY.T)
    save("train/z/1.png", GREY.T)
    np.testing.assert_array_equal(source(transpose=True).train.images[0, ..., 0], GREY)


@pytest.mark.parametrize("how", ["fit", "crop", "stretch"])
def test_images_of_other_sizes_are_scaled(how: str):
    """Into the declared shape: whole, in part, or without their proportions."""
    wide = np.zeros((10, 40), np.uint8)
    wide[:, 20:] = 200
    save("train/a/1.png", wide)
    small = read(shape=(8, 8, 1), resize=how).images[0, ..., 0]
    assert small.shape == (8, 8)
    if how == "fit":
        assert (small[3:5, 7].min(), small[3:5, 0].max()) == (200, 0)
        assert set(small[0]) == {100}  # the median of its border
    else:
        assert (small[0, 7], small[0, 0]) == (200, 0)
        assert set(small[:, 7]) == {200}
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    np.testing.assert_array_equal(np.asarray(resized(image, 3, 4, how)), np.asarray(image))


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


NOT_AN_IMAGE = "not a PNG, JPEG, GIF, BMP, WebP or TIFF image"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (empty_class, "train/dog: no images in this class folder"),
        (lambda: Path("train/dog/x.png").write_text("no image"), f"train/dog/x.png: {NOT_AN_IMAGE}"),
        (lambda: Path("train/dog/x.png").write_text("<html>"), f"train/dog/x.png: {NOT_AN_IMAGE}: it is an HTML page"),
        (lambda: Path("train/dog/x.png").write_bytes(b""), "train/dog/x.png: is empty"),
        (lambda: Path("train/dog/x.mov").write_text(""), "train/dog/x.mov: not a PNG, JPEG"),
        (lambda: Path("train/dog/x.png").mkdir(), "train/dog/x.png: a folder inside a class folder"),
        (lambda: Path("train/dog/x.png").symlink_to("nowhere"), "train/dog/x.png: cannot be read"),
        (lambda: Path("train/x.png").write_text(""), "train/x.png: expected a folder per class in"),
        (lambda: cut("train/dog/x.png"), "train/dog/x.png: a damaged image"),
        (lambda: huge("train/dog/x.png"), "train/dog/x.png: claims 50,000×50,000 pixels (height×width)"),
        (lambda: save("train/dog/x.png", np.zeros((5, 4), np.uint8)), "train/dog/x.png: an image of 5×4 (height×width), but data.shape says 2×3; data.resize=fit"),
        (lambda: save("train/dog/x.png", np.full((2, 3, 3), (200, 0, 0), np.uint8)), "train/dog/x.png: a colour image, but data.shape says one channel; 'data.shape=[2,3,3]'"),
        (lambda: save("train/dog/x.png", np.dstack([COLOUR, GREY])), "train/dog/x.png: is transparent"),
        (lambda: save("train/dog/x.png", save_all=True, append_images=[Image.fromarray(GREY + 1)]), "train/dog/x.png: has 2 frames; expected a single image"),
        (lambda: Path(os.fsdecode(b"train/d\xf6g")).mkdir(), r"train/d\xf6g: its name is not UTF-8; rename it"),
        (lambda: save(os.fsdecode(b"train/dog/\xff.png")), r"train/dog/\xff.png: its name is not UTF-8; rename it"),
        (lambda: Path("train/bird").mkdir(), "train: 3 class folders ([bird, cat, dog]), but data.classes=2; set data.classes=3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_file(spoil: Callable[[], object], told: str):
    """Images that are damaged, none, of another size or kind; folders that are empty or too many."""
    two_classes()
    spoil()
    with pytest.raises(RequestError) as caught:
        find(config(classes=2), print)
    assert told in str(caught.value)


def five_bad() -> None:
    two_classes()
    Path("train/cat/empty.png").write_bytes(b"")
    Path("train/cat/empty2.png").write_bytes(b"")
    cut("train/cat/cut.png")
    Path("train/dog/page.png").write_text("<html>")
    save("train/dog/other.png", np.zeros((5, 4), np.uint8))
    Path("train/dog/Thumbs.db").write_bytes(b"")
    Path("train/__MACOSX").mkdir()


def test_all_bad_files_are_reported_together():
    """By kind, with their numbers; clutter is none of them."""
    five_bad()
    with pytest.raises(RequestError) as caught:
        find(config(classes=2), print)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "5 problems" in lines[0]
    assert any("(2)" in line and "empty.png" in line and "empty2.png" in line for line in lines)
    assert not any("Thumbs" in line or "MACOSX" in line for line in lines)


@pytest.mark.parametrize("kept", [True, False])
def test_empty_classes_are_reported_with_damaged_files(kept: bool):
    """This holds even if no image can be read."""
    five_bad()
    Path("train/bird").mkdir()
    if not kept:
        for file in Path("train").rglob("*.png"):
            file.write_bytes(b"")
    with pytest.raises(RequestError) as caught:
        find(config(classes=3), print)
    assert "train/bird: no images in this class folder; remove it, or put images into it" in str(caught.value)
    assert "empty files (" in str(caught.value)


def test_bad_files_are_left_out_on_request():
    """And recorded; with `data.resize`, nothing is left to refuse."""
    five_bad()
    with pytest.raises(RequestError, match=r"^[^\n]*other.png: an image of 5×4[^\n]*$"):
        find(config(classes=2, skip_bad=True), print)  # the others need no further decision
    told: list[str] = []
    left = find(config(classes=2, skip_bad=True, resize="fit"), told.append)
    assert len(left.train) == 3
    assert len(left.skipped) == 4
    assert any("Thumbs.db" in note and "__MACOSX" in note for note in told)
    assert any("empty files (2)" in note for note in told)


def test_sizes_are_counted():
    """With what scales them."""
    for number in range(20):
        save(f"photos/a/{number}.png", np.zeros((20 + number, 40), np.uint8))
    save("photos/b/0.png", np.zeros((20, 40), np.uint8))
    with pytest.raises(RequestError) as caught:
        find(config("photos", (20, 40, 1)), print)
    assert "18 more of 21 also differ (19 sizes from 21×40 to 39×40); data.resize=fit" in str(caught.value)
    assert len(find(config("photos", (20, 40, 1), resize="fit"), print).train) == 21


def photographs() -> None:
    rng = np.random.default_rng(0)
    for name in ("apple", "leaf"):
        for number in range(10):
            save(f"photos/{name}/{number}.jpg", rng.integers(0, 256, (*rng.integers(40, 90, 2), 3), np.uint8))


def test_the_advice_for_photographs_works(cli: Cli):
    """Keys that are not set are inferred and printed; a folder of class folders is enough."""
    photographs()
    words = ["dataset", "verify", "data=folder", "data.dir=photos"]
    refused = cli(*words, status=2).err
    advice = re.search(r"data\.resize=fit 'data\.shape=\[32,32,3\]'", refused)
    assert advice is not None
    first = cli(*words, *shlex.split(advice[0])).out
    assert "20 train, each 32×32×3" in first
    assert "inferred data.classes=2 from" in first
    second = cli(*words, "data.resize=fit").out
    declared = re.search("inferred (.*?) from", second)
    assert declared is not None
    third = cli(*words, "data.resize=fit", *shlex.split(declared[1])).out
    assert "inferred" not in third
    digests = {next(line for line in out.splitlines() if "SHA-256" in line) for out in (first, second, third)}
    assert len(digests) == 1


def test_other_problems_are_reported_with_those_of_the_data(cli: Cli):
    """The images' sizes and a misspelled model in one answer."""
    photographs()
    said = cli("check", "data=folder", "data.dir=photos", "model=linera", status=2).err
    assert "2 problems" in said
    assert "data.resize=fit" in said
    assert "did you mean 'linear'?" in said


def test_an_inferred_number_of_classes_reaches_the_model(cli: Cli):
    """Layers interpolate it, and the run's config holds it."""
    photographs()
    done = cli(
        "data=folder", "data.dir=photos", "data.resize=fit", "model=linear", "training.epochs=1", "tracking=none"
    )
    saved = (done.run / "config.yaml").read_text()
    assert "classes: 2" in saved
    assert done.result["data"]["shape"] == [32, 32, 3]
    assert "val" in cli("evaluate", "run=latest").out
    predicted = cli("predict", "run=latest", "inputs=photos/leaf/1.jpg").out
    assert "leaf" in predicted
    assert "data.resize=fit" in predicted


def test_the_inferred_shape_is_explained():
    """It follows from the sizes and colours in the folder: there are three channels if any image is in colour."""
    photographs()
    told: list[str] = []
    data = config("photos", files={"train": FileSpec(name="photos"), "test": None}, resize="fit")
    values = json.dumps({**data.model_dump(), "shape": None, "classes": None})
    assert infer(values, told.append) == {"shape": [32, 32, 3], "classes": 2}
    save("photos/leaf/grey.png", np.zeros((600, 800), np.uint8))
    assert infer(values, told.append)["shape"] == [32, 32, 3]
    assert "'data.shape=[32,32,3]' data.classes=2" in told[0]
    assert "20 sizes from" in told[0]
    assert "in colour)" in told[0]
    assert "to 600×800, 20 of 21 in colour" in told[1]


@pytest.mark.parametrize(
    ("folders", "parts", "told"),
    [
        (["train/a", "train/b", "test/a", "test/b"], {"train": "train", "test": "test"}, ""),
        (
            ["Training/a", "Training/b", "Testing/a", "Testing/b"],
            {"train": "Training", "test": "Testing"},
            "Training",
        ),
        (["a", "b"], {"train": "."}, "no test set"),
        (["zip/a", "zip/b"], {"train": "zip"}, "zip"),
        (["train/a", "train/b"], {"train": "train"}, "no test set"),
        (
            ["train/a", "train/b", "test/a", "test/b", "val/a"],
            {"train": "train", "test": "test"},
            "val is not read",
        ),
    ],
)
def test_the_folders_of_the_parts_are_found(folders: list[str], parts: dict[str, str], told: str):
    """Under near names, with a note."""
    for folder in folders:
        save(f"set/{folder}/1.png")
    notes: list[str] = []
    files = {"train": FileSpec(name="train"), "test": FileSpec(name="test")}
    found = find_image_folders(config("set", dir="set", files=files), Path("set"), notes.append)
    assert found == {part: Path("set", folder) for part, folder in parts.items()}
    assert told in "".join(notes)


def test_a_folder_that_may_be_the_test_part_is_named():
    """Rather than left out."""
    for folder in ("train/a", "train/b", "eval/a"):
        save(f"set/{folder}/1.png")
    files = {"train": FileSpec(name="train"), "test": FileSpec(name="test")}
    with pytest.raises(
        RequestError, match="set data.files.test=null if there is no test set, or data.files.test=eval"
    ):
        find_image_folders(config("set", dir="set", files=files), Path("set"), print)


def test_classes_without_test_images_are_noted():
    """An unknown class among the test images is refused."""
    two_classes()
    save("test/cat/a.png")
    told: list[str] = []
    files = {"train": FileSpec(name="train"), "test": FileSpec(name="test")}
    tested = find(config(files=files), told.append).test
    assert tested is not None
    assert tested.labels.tolist() == [0]
    assert any("[dog]" in note for note in told)
    save("test/dgo/a.png")
    with pytest.raises(RequestError, match=r"test: its class folders differ from those of .*did you mean 'dog'"):
        find(config(files=files), told.append)


def test_declared_class_names_must_match_the_folders(refused: Refused):
    """Names set the order of the folders; they do not rename them."""
    two_classes()
    told = "train: its class folders [cat, dog] do not match data.class_names=[cat, cow]"
    assert told in refused("folder", TRAIN_ONLY, "data.class_names=[cat,cow]")

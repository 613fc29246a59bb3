"""`mnist-exp predict` and `mnist_exp.load`: all kinds of input, unusable inputs, and the output formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import Cli
from support.golden import Golden
from support.photographs import FORMS

from mnist_exp import load

COLUMNS = ["input", "class", "probability", "runner_up", "runner_up_probability", "warning"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with a run on the built-in digits."""
    from mnist_exp.cli import main

    outputs = tmp_path_factory.mktemp("trained") / "outputs"
    words = ["model=linear", "data=digits", "tracking=none", "training.epochs=20", "optimizer.learning_rate=0.01"]
    assert main([*words, f"outputs={outputs}", "name=small"]) == 0
    return outputs


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Return a few images (n, 28, 28) in the form of the run's data."""
    from mnist_exp.data.digits import load

    test = load().test
    assert test is not None
    return test.images[:12, ..., 0]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def expected(run: Path, images: np.ndarray) -> list[str]:
    """Return the classes that plain Keras predicts."""
    import keras

    model = keras.saving.load_model(run / "model.keras")
    return [str(label) for label in model.predict(images[..., np.newaxis], verbose=0).argmax(axis=1)]


def write_pngs(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")


def as_idx(images: np.ndarray) -> bytes:
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def write_arrays(images: np.ndarray) -> list[str]:
    """Write the same images in every format that holds several; returns the file names."""
    flat = images.reshape(len(images), -1)
    header = ",".join(f"pixel{number}" for number in range(flat.shape[1]))
    np.savetxt("plain.csv", flat, "%d", ",")
    np.savetxt("kaggle.csv", flat, "%d", ",", header=header, comments="")
    np.savetxt("labelled.csv", np.insert(flat, 0, 7, axis=1), "%d", ",", header=f"label,{header}", comments="")
    names = "".join(f"cat,{','.join(map(str, row))}\n" for row in flat)
    Path("named.csv").write_text(names)
    np.savez("all.npz", x_train=images[:2], x_test=images, y_test=np.zeros(len(images)))
    np.savez_compressed("one.npz", pictures=images[..., np.newaxis])
    Path("images-idx3-ubyte").write_bytes(as_idx(images))
    Path("images.gz").write_bytes(gzip.compress(as_idx(images)))
    return ["plain.csv", "kaggle.csv", "labelled.csv", "named.csv", "all.npz", "one.npz", "images-idx3-ubyte",
            "images.gz"]  # fmt: skip


def test_every_format_gives_the_classes_that_keras_gives(cli: Cli, run: Path, images: np.ndarray, golden: Golden):
    """CSV with and without header or labels, NPZ and IDX, gzipped or not, keep the order of the inputs."""
    names = write_arrays(images)
    done = cli("predict", "run=latest", f"inputs=[{','.join(names)}]", "output=classes.csv")
    found = rows(Path("classes.csv"))
    assert list(found[0]) == COLUMNS
    assert [row["class"] for row in found] == expected(run, images) * len(names)
    assert [row["input"] for row in found[:2]] == ["plain.csv[0]", "plain.csv[1]"]
    notes = [line for line in done.out.splitlines() if line.startswith("note ")]
    assert any(" labelled.csv: " in note for note in notes)
    assert any(" all.npz: " in note and note.endswith("x_train, y_test") for note in notes)
    golden("\n".join(notes))


def test_the_labels_column_is_declared_for_any_run(cli: Cli, run: Path, images: np.ndarray):
    """A table without a header is refused otherwise; from Python, `load` takes the column."""
    flat = images.reshape(len(images), -1)
    np.savetxt("last.csv", np.column_stack([flat, np.arange(len(flat)) % 10]), "%d", ",")
    refused = cli("predict", "run=latest", "inputs=last.csv", status=2).err
    assert "data.label_column=-1" in refused
    cli("predict", "run=latest", "inputs=last.csv", "data.label_column=-1", "output=classes.csv")
    assert [row["class"] for row in rows(Path("classes.csv"))] == expected(run, images)
    probabilities = load(run, label_column=-1).predict("last.csv")
    assert [str(label) for label in probabilities.argmax(axis=1)] == expected(run, images)
    assert (
        "must be the name or number of a column"
        in cli("predict", "run=latest", "inputs=last.csv", "data.label_column=[1]", status=2).err
    )


def test_image_files_give_the_same_classes(cli: Cli, run: Path, images: np.ndarray):
    """A folder is read in natural order; the output has the two most probable classes."""
    write_pngs(Path("pngs"), images)
    words = ["run=latest", "inputs=pngs", "predict.normalize=false"]
    cli("predict", *words, "output=classes.jsonl")
    found = [json.loads(line) for line in Path("classes.jsonl").read_text().splitlines()]
    assert [row["input"] for row in found] == [f"pngs/{number}.png" for number in range(len(images))]
    assert [row["class"] for row in found] == [str(row["class_index"]) for row in found] == expected(run, images)
    assert all(row["probability"] >= row["runner_up_probability"] > 0 for row in found)
    out = cli("predict", *words).out
    assert f"pngs/3.png   {found[3]['class']}" in out


def test_normalized_files_are_seen_as_the_digits_that_they_are(cli: Cli, run: Path, images: np.ndarray):
    """Large, inverted and rotated files get the class of the normalized original."""
    Path("photos").mkdir()
    write_pngs(Path("originals"), images)
    for number, image in enumerate(images):
        large = Image.fromarray(255 - np.pad(image, 20)).resize((272, 272))
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned
        large.rotate(90).save(Path("photos") / f"{number}.jpg", exif=exif)
    for folder in ("photos", "originals"):
        cli("predict", "run=latest", f"inputs={folder}", f"output={folder}.csv")
    first, second = ([row["class"] for row in rows(Path(f"{name}.csv"))] for name in ("photos", "originals"))
    assert sum(a == b for a, b in zip(first, second, strict=True)) >= 11


def test_all_digits_in_a_picture_are_read(cli: Cli, run: Path, images: np.ndarray):
    """They have a row each, in reading order, with their box and the class that they have alone; without, a warning."""
    write_pngs(Path("alone"), images[:6])
    page = np.zeros((400, 600), np.uint8)
    places = [(30 + 180 * line, 40 + 180 * column) for line in range(2) for column in range(3)]
    for image, (top, left) in zip(images, places, strict=False):
        large = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR))
        page[top : top + 112, left : left + 112] = large
    Path("pages").mkdir()
    Image.fromarray(255 - page).save("pages/one.png")

    cli("predict", "run=latest", "inputs=alone", "output=alone.csv")
    done = cli("predict", "run=latest", "inputs=pages", "predict.many=true", "output=many.csv")
    found = rows(Path("many.csv"))
    assert [row["input"] for row in found] == ["pages/one.png"] * 6
    for row, (top, left) in zip(found, places, strict=True):
        assert left <= int(row["left"]) < int(row["right"]) <= left + 113
        assert top <= int(row["top"]) < int(row["bottom"]) <= top + 113
    same = [row["class"] == alone["class"] for row, alone in zip(found, rows(Path("alone.csv")), strict=True)]
    assert sum(same) >= 5
    [sheet] = Path("outputs/predict").glob("*/inputs-001.png")
    assert f"inputs  {sheet.parent}: 1 page" in done.out

    words = ["predict", "run=latest", "inputs=pages", "predict.save_inputs=sheets"]
    done = cli(*words, "output=one.csv")
    [row] = rows(Path("one.csv"))
    assert row["warning"].startswith("6 digits found")
    assert "1 of 1 images might not show exactly one digit" in done.out
    assert [file.name for file in Path("sheets").iterdir()] == ["inputs-001.png"]
    assert "sheets: already exists" in cli(*words, status=2).err


def test_reading_all_digits_requires_their_conversion(cli: Cli, run: Path, images: np.ndarray):
    """Otherwise the request is refused, and nothing is created."""
    write_pngs(Path("pngs"), images[:1])
    for words in (["predict.normalize=false"], ["format=kaggle"]):
        assert (
            "predict.many"
            in cli("predict", "run=latest", "inputs=pngs", "predict.many=true", *words, status=2).err
        )
    assert not Path("outputs/predict").exists()


@pytest.mark.parametrize("mode", ["black ink", "white ink", "16 bits", "palette", "CMYK", "1 bit", "colour"])
def test_kinds_of_files_make_no_difference(cli: Cli, run: Path, images: np.ndarray, mode: str):
    """Transparent, 16-bit, palette and colour images give the same class."""
    image = images[0]
    Image.fromarray(255 - image).save("plain.png")
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[..., 3], clear[..., :3] = image, 255 * (mode == "white ink")
    grey = Image.fromarray(255 - image)
    name = "other.jpg" if mode == "CMYK" else "other.png"
    {
        "black ink": lambda: Image.fromarray(clear),
        "white ink": lambda: Image.fromarray(clear),
        "16 bits": lambda: Image.fromarray((255 - image).astype(np.uint16) * 257),
        "palette": lambda: grey.convert("P"),
        "CMYK": lambda: grey.convert("CMYK"),
        "1 bit": lambda: grey.convert("1", dither=Image.Dither.NONE),
        "colour": lambda: grey.convert("RGB"),
    }[mode]().save(name)
    cli("predict", "run=latest", f"inputs=[plain.png,{name}]", "output=classes.csv")
    first, second = rows(Path("classes.csv"))
    assert first["class"] == second["class"]
    assert float(first["probability"]) == pytest.approx(float(second["probability"]), abs=0.1)


def test_odd_names_are_names(cli: Cli, run: Path, images: np.ndarray):
    """Blanks, =, brackets, commas, quotes, patterns and bytes that are not UTF-8 work."""
    names = ["a b.png", "a=b.png", "[1].png", "a,b.png", "it's.png", "Ä😀.png"]
    for name in names:
        Image.fromarray(images[0]).save(name)
    for number, name in enumerate(names):
        cli("predict", "run=latest", f"inputs={name}", f"output={number}.csv")
        assert [row["input"] for row in rows(Path(f"{number}.csv"))] == [name]
    cli("predict", "run=latest", "inputs=['a,b.png',a b.png,[[]1].png]", "output=list.csv")
    assert [row["input"] for row in rows(Path("list.csv"))] == ["a,b.png", "a b.png", "[1].png"]
    Image.fromarray(images[0]).save('a, "q".png')
    for number, quoted in enumerate((r'"a, \"q\".png"', "'a, \"q\".png'")):
        cli("predict", "run=latest", f"inputs=[{quoted},a b.png]", f"output=quoted-{number}.csv")
        assert [row["input"] for row in rows(Path(f"quoted-{number}.csv"))] == ['a, "q".png', "a b.png"]
    Path('a, "q".png').unlink()
    cli("predict", "run=latest", "inputs=a*.png", "output=an odd [name]=1.csv")
    assert [row["input"] for row in rows(Path("an odd [name]=1.csv"))] == ["a b.png", "a,b.png", "a=b.png"]
    Path("odd").mkdir()
    (Path("odd") / b"\xff.png".decode(errors="surrogateescape")).write_bytes(Path("a b.png").read_bytes())
    cli("predict", "run=latest", "inputs=odd", "output=odd.csv")
    assert [row["input"] for row in rows(Path("odd.csv"))] == ["odd/\\xff.png"]


@pytest.mark.parametrize("content", ["png", "csv", "idx", "npz"])
def test_standard_input_can_be_any_format(
    cli: Cli, run: Path, images: np.ndarray, content: str, monkeypatch: pytest.MonkeyPatch
):
    """It may be one image or many; standard output contains only the predictions."""
    name = {"csv": "plain.csv", "idx": "images-idx3-ubyte", "npz": "one.npz", "png": "pngs/0.png"}[content]
    write_arrays(images)
    write_pngs(Path("pngs"), images)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(name).read_bytes())))
    done = cli("predict", "run=latest", "inputs=-", "format=csv", "predict.normalize=false")
    found = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["class"] for row in found] == expected(run, images)[: len(found)]
    assert found[0]["input"].startswith("standard input")
    assert "model " in done.err


def test_kaggle_numbers_the_images(cli: Cli, run: Path, images: np.ndarray):
    """They are numbered from 1, as in Kaggle's sample submission."""
    write_arrays(images)
    cli("predict", "run=latest", "inputs=kaggle.csv", "format=kaggle", "output=submission.csv")
    found = rows(Path("submission.csv"))
    assert list(found[0]) == ["ImageId", "Label"]
    assert [row["ImageId"] for row in found] == [str(number) for number in range(1, 13)]
    assert [row["Label"] for row in found] == expected(run, images)


def claims(height: int, width: int) -> bytes:
    """Write a PNG file that is much smaller than it claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


def write_bad(images: np.ndarray) -> dict[str, str]:
    """Write unusable files; returns the expected message for each."""
    Path("huge.png").write_bytes(claims(50_000, 50_000))
    Path("empty.png").write_bytes(b"")
    Path("text.png").write_text("no image")
    Image.fromarray(images[0]).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:-60])
    Image.new("L", (60, 40), 255).save("blank.png")
    frames = [Image.fromarray(image) for image in images[:3]]
    frames[0].save("several.png", save_all=True, append_images=frames[1:])
    np.savetxt("short.csv", images.reshape(12, -1)[:, 1:], "%d", ",")
    Path("wrong.csv").write_text("\n".join([",".join(["0"] * 784), ",".join(["0"] * 783 + ["256"])]) + "\n")
    Path("nothing.csv").write_text("")
    Path("labels").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 3) + bytes(3))
    Path("more.idx").write_bytes(as_idx(images)[:-1])
    np.savez("small.npz", a=images[:, :8, :8])
    np.savez("two.npz", a=images, b=images)
    np.savez("float.npz", a=images / 255 + 0.5)
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("x")
    return {
        "huge.png": "huge.png: has 50,000×50,000 pixels",
        "empty.png": "empty.png: is empty",
        "text.png": "text.png: not a PNG, JPEG, GIF, BMP, WebP or TIFF image",
        "cut.png": "cut.png: a damaged image",
        "blank.png": "blank.png: no digit found",
        "several.png": "several.png: has 3 frames",
        "short.csv": "short.csv, line 1: 783 values, expected 784",
        "wrong.csv": "wrong.csv, line 2, column 784: expected a pixel, a whole number from 0 to 255, found '256'",
        "nothing.csv": "nothing.csv: is empty",
        "labels": "labels: not an IDX file with 2 or 3 or 4 dimensions",
        "more.idx": "more.idx: the header declares 12×28×28 = 9408 values, but 9407 follow",
        "small.npz": "small.npz: images of 8×8×1; the model takes 28×28×1",
        "two.npz": "two.npz: expected an array named x_test, or a single array of images",
        "float.npz": "float.npz: a[0, 0, 0]: expected a whole number from 0 to 255, found 0.5",
        "folder": "in this folder, only 1 other file",
        "none*.png": "inputs=none*.png: matches no file",
        "whoel.png": "inputs=whoel.png: there is no such file or folder (did you mean 'whole.png'?)",
    }


def test_unusable_inputs_are_reported_together(cli: Cli, run: Path, images: np.ndarray):
    """The exit status is 2 and nothing is written."""
    bad = write_bad(images)
    names = ",".join([*bad, "whole.png"])
    done = cli("predict", "run=latest", f"inputs=[{names}]", "output=new/classes.csv", status=2)
    for told in bad.values():
        assert told in done.err
    assert f"{len(bad)} inputs cannot be classified (1 image can):" in done.err
    assert not Path("new").exists()
    assert cli("predict", "run=latest", "inputs=blank.png", status=2).err.count("\n") == 1


def test_unusable_inputs_can_be_skipped(cli: Cli, run: Path, images: np.ndarray):
    """`predict.skip_bad=true` reports the skipped inputs; if none is left, the request is refused."""
    bad = write_bad(images)
    names = ",".join([*bad, "whole.png"])
    words = ["run=latest", "predict.skip_bad=true", "output=classes.csv"]
    done = cli("predict", *words, f"inputs=[{names}]")
    assert [row["input"] for row in rows(Path("classes.csv"))] == ["whole.png"]
    for told in bad.values():
        assert told in done.out
    assert "is empty" in cli("predict", *words[:2], "inputs=empty.png", status=2).err


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["run=latest"], "inputs:"),
        (["run=latest", "inputs="], "inputs=:"),
        (["inputs=whole.png"], "run=latest"),
        (["run=latest", "inputs=[-,-]"], "(-)"),
        (["run=latest", "inputs=whole.png", "output=mine.csv"], "output=mine.csv:"),
        (["run=latest", "inputs=whole.png", "output=mine.txt"], "output:"),
        (["run=latest", "inputs=whole.png", "output=mine.csv/a.csv"], "mine.csv"),
        (["run=latest", "inputs=whole.png", "format=xml"], "format=xml:"),
        (["run=latest", "inputs=whole.png", "format=kaggle", "predict.skip_bad=true"], "predict.skip_bad:"),
        (["run=latest", "inputs=whole.png", "predict.normalise=true"], "predict.normalise"),
        (["run=latest", "inputs=whole.png", "format=x", "device.kind=x"], "2 problems"),
    ],
)
def test_a_wrong_request_writes_nothing(
    cli: Cli, run: Path, words: list[str], place: str, images: np.ndarray, golden: Golden
):
    """The message names the key, and the exit status is 2."""
    Path("mine.csv").write_text("mine")
    Image.fromarray(images[0]).save("whole.png")
    before = sorted(Path().rglob("*"))
    err = cli("predict", *words, status=2).err
    assert place in err
    if place != "(-)":  # whose problems include pytest's own about standard input
        golden(err)
    assert sorted(Path().rglob("*")) == before
    assert Path("mine.csv").read_text() == "mine"


def test_colour_models_take_files_of_any_size(cli: Cli):
    """They are scaled to the model's size; classes are named by their folders."""
    for part in ("train", "test"):
        for name, colour in (("red", (220, 20)), ("green", (20, 220))):
            (Path("colours") / part / name).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (7, 9), (*colour, number)).save(Path("colours") / part / name / f"{number}.png")
    words = ["data=folder", "data.dir=colours", "data.shape=[9,7,3]", "data.classes=2", "data.val_fraction=0.25"]
    words += ["training.select={metric: val/loss, mode: min}", "optimizer.learning_rate=0.01"]
    cli(*words, "model=linear", "training.epochs=20", "tracking=none")
    Image.new("RGB", (300, 200), (200, 30, 30)).save("photo.jpg")
    done = cli("predict", "run=latest", "inputs=[photo.jpg,colours/test]", "output=classes.csv")
    assert [row["class"] for row in rows(Path("classes.csv"))] == ["red", *["green"] * 4, *["red"] * 4]
    assert "note    image files are scaled to 9×7" in done.out
    err = cli("predict", "run=latest", "inputs=photo.jpg", "predict.normalize=true", status=2).err
    assert "takes colour images" in err


def test_two_lines_of_python_do_the_same(cli: Cli, run: Path, images: np.ndarray):
    """`load` takes arrays with and without channels, single images, and files."""
    model = load("latest")
    found = model.predict(images)
    assert found.shape == (12, 10)
    assert found.dtype == np.float32
    assert [model.class_names[label] for label in found.argmax(axis=1)] == expected(run, images)
    assert model.classes == 10
    assert model.config.model.name == "linear"
    for same in (images[..., np.newaxis], images.astype(float), images.astype(np.int64), list(images)):
        assert np.array_equal(model.predict(same), found)
    assert model.predict(images[0]).shape == model.predict(images[0][..., np.newaxis]).shape == (1, 10)
    write_pngs(Path("pngs"), images)
    as_they_are = load(run / "model.keras", normalize=False)
    assert np.array_equal(as_they_are.predict("pngs"), found)
    assert np.array_equal(
        as_they_are.predict([Path("pngs/1.png"), "pngs/0.png"]).argmax(axis=1), found[[1, 0]].argmax(axis=1)
    )


def test_arrays_that_are_no_images_are_refused(cli: Cli, run: Path, images: np.ndarray):
    """The message says what was expected and what was found."""
    from mnist_exp.errors import RequestError

    model = load("latest")
    for wrong, told in (
        (images / 255, "found values from 0 to 1: multiply them by 255"),
        (images - 1.0, "found values from -1"),
        (images * 2.0, "found values from 0 to 510"),
        (np.full((1, 28, 28), np.nan), "found values from nan"),
        (images[:, :8], "expected images of shape (n, 28, 28, 1), found uint8 of shape (12, 8, 28)"),
        (images[:0], "of shape (0, 28, 28)"),
        (images.astype(str), "expected pixels"),
        (["nope.png"], "inputs=nope.png: there is no such file"),
        ([], "of shape (0,)"),
    ):
        with pytest.raises(RequestError, match=".*") as refused:
            model.predict(wrong)
        assert told in str(refused.value)
    with pytest.raises(RequestError, match="there is no such run"):
        load("nope")


def test_importing_the_package_stays_light():
    """`load` imports heavy libraries when it is called."""
    code = (
        "import sys, mnist_exp; heavy = {'numpy', 'keras', 'tensorflow', 'hydra'}; assert not heavy & set(sys.modules);"
        "from mnist_exp import load; assert not {'keras', 'tensorflow'} & set(sys.modules); mnist_exp.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("AttributeError: module 'mnist_exp' has no attribute 'nothing'")


def test_missing_inputs_are_reported_before_keras_is_imported(run: Path):
    """A mistyped file name costs no waiting."""
    code = (
        "import sys; from mnist_exp.cli import main; status = main(['predict', 'run=latest', 'inputs=[a.png,b.png]']);"
        "assert not {'keras', 'tensorflow'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("there is no such file or folder") == 2


@pytest.mark.slow
@pytest.mark.soak  # minutes
@pytest.mark.mnist
def test_changed_digits_are_classified_like_the_originals(cli: Cli):
    """The accuracy on 2,000 inverted, enlarged, off-centre JPEG files is within one percentage point."""
    from mnist_exp.data.idx import parse

    folder = Path(os.environ["MNIST_EXP_DATA"])
    images, labels = (
        parse(gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), name, (dimensions,))[:2000]
        for name, dimensions in (("images-idx3", 3), ("labels-idx1", 1))
    )
    cli("experiment=fast", "tracking=none")
    wanted = ("inverted", "three times as large", "off-centre", "off-centre, larger, inverted", "JPEG")
    forms = {"original": lambda image, rng: image, **{form: FORMS[form] for form in wanted}}
    right = {}
    for form, change in forms.items():
        rng = np.random.default_rng(0)
        Path(form).mkdir()
        for number, image in enumerate(images):
            ending = "jpg" if form == "JPEG" else "png"
            Image.fromarray(change(image, rng)).save(Path(form) / f"{number}.{ending}", quality=75)
        cli("predict", "run=latest", f"inputs={form}", f"output={form}.csv",
            f"predict.normalize={str(form != 'original').lower()}")  # fmt: skip
        found = [row["class"] for row in rows(Path(f"{form}.csv"))]
        right[form] = np.mean([name == str(label) for name, label in zip(found, labels, strict=True)])
    assert right["original"] > 0.98
    assert min(right.values()) >= right["original"] - 0.01, right

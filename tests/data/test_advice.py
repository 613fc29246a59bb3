"""The advice in messages about data works: following it leads to images, not to the next refusal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import Cli

RNG = np.random.default_rng(0)
LABELS = np.arange(30) % 3
IMAGES = RNG.integers(0, 256, (30, 6, 6), dtype=np.uint8)
IMAGES[:, 0, :2] = 0, 255  # the range is known
KEY = re.compile(r"(data\.[\w.]+)=(\[[^\]]*\]|[\w.-]*\w)")


def csv(rows: np.ndarray) -> None:
    for name in ("train.csv", "test.csv"):
        np.savetxt(name, rows, fmt="%.6g", delimiter=",")


def table(labels: np.ndarray = LABELS, images: np.ndarray = IMAGES) -> np.ndarray:
    return np.column_stack([labels, images.reshape(len(images), -1)])


def npz(images: np.ndarray, labels: np.ndarray = LABELS) -> None:
    np.savez("data.npz", x_train=images, y_train=labels)


def folders() -> None:
    for index, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = Path("train", "abc"[label], f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def one_of_another_size() -> None:
    folders()
    Image.fromarray(IMAGES[0]).resize((9, 7)).save("train/a/0.png")


def two_that_are_damaged() -> None:
    folders()
    Path("train/a/0.png").write_bytes(b"")
    Path("train/b/1.png").write_text("<html>")


def two_that_are_damaged_and_one_of_another_size() -> None:
    two_that_are_damaged()
    Image.fromarray(IMAGES[2]).resize((9, 7)).save("train/c/2.png")


def no_test_folder() -> None:
    folders()
    Path("testing material").mkdir()


CASES: dict[str, tuple[str, Callable[[], None], tuple[str, ...]]] = {
    "labels from 1": ("csv", lambda: csv(table(LABELS + 1)), ()),
    "pixels from 0 to 1": ("csv", lambda: csv(table(images=IMAGES / 255)), ()),
    "label in the last column": ("csv", lambda: csv(np.roll(table(), -1, axis=1)), ()),
    "fewer classes declared": ("csv", lambda: csv(table()), ("data.classes=2",)),
    "pixels from -1 to 1": ("npz", lambda: npz(IMAGES / 127.5 - 1), ()),
    "16 bits": ("npz", lambda: npz(IMAGES.astype(np.uint16) * 257), ()),
    "zeros and ones": ("npz", lambda: npz((IMAGES > 127).astype(np.uint8)), ()),
    "another shape": ("npz", lambda: npz(IMAGES), ("data.shape=[5,5,1]",)),
    "one of another size": ("folder", one_of_another_size, ()),
    "damaged files": ("folder", two_that_are_damaged, ()),
    "damaged files and another size": ("folder", two_that_are_damaged_and_one_of_another_size, ()),
    "no test folder": ("folder", no_test_folder, ()),
    "more class folders": ("folder", folders, ("data.classes=2",)),
}


@pytest.mark.parametrize("case", CASES)
def test_following_the_advice_leads_to_images(cli: Cli, case: str):
    """Each key that a message names is set as it says; of alternatives, the first."""
    source, write, declared = CASES[case]
    write()
    words = ["dataset", "verify", f"data={source}", "data.dir=."]
    refused = cli(*words, *declared, status=2).err
    advice = dict(reversed(KEY.findall(refused.replace(declared[0] if declared else "\0", ""))))
    assert advice, refused
    followed = [f"{key}={value}" for key, value in advice.items() if key != "data.dir"]
    kept = [word for word in declared if word.split("=")[0] not in advice]
    assert "SHA-256" in cli(*words, *kept, *followed).out


def test_a_class_may_have_test_images_only(cli: Cli):
    """Its training folder is empty; a note says so."""
    folders()
    for path in sorted(Path("train/c").iterdir()):
        target = Path("test/c", path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    done = cli("dataset", "verify", "data=folder", "data.dir=.").out
    assert "train/c: no images" in done
    assert "class c without a training image" in done


def test_damaged_files_are_not_left_out_if_all_are(cli: Cli):
    """There would be no image."""
    folders()
    for path in Path("train").glob("*/*.png"):
        Image.fromarray(IMAGES[0]).save(path, transparency=0)
    refused = cli("dataset", "verify", "data=folder", "data.dir=.", status=2).err
    assert "transparent images (30)" in refused
    assert "skip_bad" not in refused


def only_one_folder() -> None:
    folders()
    for name in "bc":
        shutil.rmtree(Path("train", name))


def colours(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# Faults of the data, with the beginning of the message, after the working directory.
FAULTS: dict[str, tuple[str, Callable[[], None], str]] = {
    "one class folder": ("folder", only_one_folder, "train: expected a folder for each of at least two classes, found only [a]"),
    "one label": ("csv", lambda: write_labels("apple"), "train.csv, line 2, column 1: expected at least two classes"),
    "one class name": ("npz", lambda: np.savez("data.npz", x_train=IMAGES, y_train=0 * LABELS, class_names=np.array(["a"])), "data.npz: class_names: expected at least two"),
    "alpha channel": ("npz", lambda: npz(colours(30, 6, 6, 4)), "data.npz: x_train: expected images with 1 (grey) or 3 (colour) channels, found uint8 of shape (30, 6, 6, 4); x_train[..., :3]"),
    "alpha channel first": ("npz", lambda: npz(colours(30, 4, 6, 6)), "data.npz: x_train: expected images with 1 (grey) or 3 (colour) channels, found uint8 of shape (30, 4, 6, 6); x_train[:, :3]"),
    "grey with an alpha channel": ("npz", lambda: npz(colours(30, 6, 6, 2)), "data.npz: x_train: expected images with 1 (grey) or 3 (colour) channels, found uint8 of shape (30, 6, 6, 2); x_train[..., :1]"),
    "images last": ("npz", lambda: npz(colours(6, 6, 3, 30)), "data.npz: 6 images in x_train, but 30 labels in y_train; np.moveaxis(x_train, -1, 0)"),
    "grey images last": ("npz", lambda: npz(colours(6, 7, 30)), "data.npz: 6 images in x_train, but 30 labels in y_train; np.moveaxis(x_train, -1, 0)"),
    "no pixels": ("npz", lambda: npz(colours(30, 0, 6)), "data.npz: x_train: expected images of at least one pixel"),
}  # fmt: skip


def write_labels(label: str) -> None:
    lines = [",".join([label, *map(str, image.reshape(-1))]) for image in IMAGES]
    Path("train.csv").write_text("\n".join([",".join(["label", *map("p{}".format, range(36))]), *lines]))


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_the_data_is_reported_at_its_path(cli: Cli, case: str):
    """Also if the config leaves the shape or the classes open, and next to problems of the config."""
    source, write, told = FAULTS[case]
    write()
    words = [f"data={source}", "data.dir=."]
    refused = cli("dataset", "verify", *words, status=2).err
    assert f"mnist-exp: {Path.cwd()}/{told}" in refused
    place, _, text = told.partition(": ")
    with_another = cli("check", *words, "model=linera", status=2).err
    assert re.search(rf"^  {re.escape(str(Path.cwd() / place))} +{re.escape(text)}", with_another, re.MULTILINE)
    assert "yaml" not in refused + with_another


@pytest.mark.parametrize("case", [case for case, (source, _, told) in FAULTS.items() if ";" in told])
def test_following_the_advice_on_arrays_leads_to_images(cli: Cli, case: str):
    """The expression that a message names is saved in place of the array."""
    _, write, told = FAULTS[case]
    write()
    with np.load("data.npz") as arrays:
        x_train, y_train = arrays["x_train"], arrays["y_train"]
    npz(eval(told.rpartition("; ")[2], {"np": np, "x_train": x_train}), y_train)
    assert "SHA-256" in cli("dataset", "verify", "data=npz", "data.dir=.").out


def test_a_declared_shape_does_not_hide_an_alpha_channel(cli: Cli):
    """No message advises a shape that would be refused."""
    npz(colours(30, 6, 6, 4))
    words = ["data=npz", "data.dir=.", "data.shape=[6,6,3]", "data.classes=3"]
    assert "x_train[..., :3] removes an alpha channel" in cli("dataset", "verify", *words, status=2).err


def test_one_class_folder_is_refused_whatever_is_declared(cli: Cli):
    """No message advises a number of classes that would be refused."""
    only_one_folder()
    words = ["data=folder", "data.dir=.", "data.shape=[6,6,1]", "data.classes=2"]
    refused = cli("dataset", "verify", *words, status=2).err
    assert "at least two classes" in refused
    assert "data.classes" not in refused


def one_class_damaged() -> None:
    folders()
    for path in Path("train/c").iterdir():
        path.write_bytes(b"")
    Path("train/a/0.png").write_bytes(b"")


@pytest.mark.parametrize("command", [["dataset", "verify"], ["check", "model=linear"]])
def test_a_class_that_skip_bad_empties_is_the_only_error(cli: Cli, command: list[str]):
    """The files left out are a note, with a line per kind and paths inside the folder."""
    one_class_damaged()
    done = cli(*command, "data=folder", "data.dir=.", "data.skip_bad=true", status=2)
    assert done.err.strip() == (
        f"mnist-exp: {Path.cwd()}/train/c: no usable images in this class folder; remove it, or put images into it"
    )
    note = done.out.splitlines()
    first = note.index(f"{Path.cwd()}: data.skip_bad left out 11 files")
    assert note[first + 1] == "  empty files (11): train/a/0.png: is empty; also train/c/11.png, train/c/14.png, …"
    shutil.rmtree("train/c")
    done = cli(*command, "data=folder", "data.dir=.", "data.skip_bad=true")
    assert "data.skip_bad left out 1 file\n" in done.out


def images_without_folders() -> None:
    Path("photos").mkdir()
    for number in range(3):
        Image.fromarray(IMAGES[number]).save(f"photos/{number}.png")


def test_images_without_class_folders_are_explained(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The message says how to arrange them, and which option of `data` reads them."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    images_without_folders()
    assert "data=folder data.resize=fit reads images" in cli("dataset", "verify", "data.dir=photos", status=2).err
    refused = cli("dataset", "verify", "data=folder", "data.dir=photos", status=2).err
    assert "not in class folders; expected a folder per class with its images, such as photos/cat" in refused


def class_folders_alone() -> None:
    folders()
    for path in list(Path("train").iterdir()):
        path.rename(path.name)
    Path("train").rmdir()


CONTENTS: dict[str, tuple[str, Callable[[], None], str]] = {
    "class folders": ("mnist", folders, "data=folder data.resize=fit"),
    "class folders alone": ("csv", class_folders_alone, "data=folder data.resize=fit"),
    "a table": ("mnist", lambda: csv(table()), "data=csv"),
    "an archive": ("csv", lambda: npz(IMAGES), "data=npz"),
    "an archive instead of folders": ("folder", lambda: npz(IMAGES), "data=npz"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
def test_the_option_that_reads_a_folder_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, case: str):
    """If `data.dir` is given with another option of `data`, or with none."""
    monkeypatch.delenv("MNIST_EXP_DATA", raising=False)
    source, write, advice = CONTENTS[case]
    write()
    refused = cli("dataset", "verify", f"data={source}", "data.dir=.", status=2).err
    assert refused.rstrip().endswith(f"are read by {advice}")
    assert "SHA-256" in cli("dataset", "verify", *advice.split(), "data.dir=.").out


def test_a_model_of_fixed_size_names_the_images_that_it_takes(cli: Cli):
    """At the layer that needs them; the advice works."""
    for number in range(20):
        Path("photos", "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours(40, 40)).save(f"photos/{'ab'[number % 2]}/{number}.png")
    words = ["check", "data=folder", "data.dir=photos", "model=bottleneck"]
    refused = cli(*words, status=2).err
    assert (
        "model.layers.8: Conv2D's kernel 14×14 must cover its whole input, but gets 20×20 for images of 40×40; this "
        "model takes images of 28×28: data.resize=fit 'data.shape=[28,28,1]' scales them, or choose another model"
    ) in refused
    assert "no problems" in cli(*words, "data.resize=fit", "data.shape=[28,28,1]").out

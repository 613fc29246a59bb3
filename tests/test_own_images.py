"""A user's own images: colour folders of an unusual size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.cli import Cli

HEIGHT, WIDTH = 20, 27
COLOURS = {"apple": (200, 30, 30), "leaf": (30, 180, 40), "sky": (60, 120, 230), "wall": (150, 150, 150)}


def write_photos(folder: Path) -> None:
    """Write noisy images with one colour per class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 8)):
        for name, colour in COLOURS.items():
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 40, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


def write_camera_photos(folder: Path) -> None:
    """Write photographs of three kinds of things, as cameras and file managers leave them: some lie on their side."""
    rng = np.random.default_rng(0)
    for number in range(300):
        name = ("apple", "leaf", "shell")[number % 3]
        height, width = (int(side) for side in rng.integers(70, 220, 2))
        photo = Image.fromarray(rng.integers(90, 200, (height, width, 3), dtype=np.uint8))
        box = (width // 5, height // 5, width * 4 // 5, height * 4 // 5)
        colour = {"apple": (220, 40, 30), "leaf": (30, 150, 40), "shell": (240, 220, 180)}[name]
        ImageDraw.Draw(photo).ellipse(box, fill=colour)
        (folder / name).mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 5 == 0 else 1
        turned = photo.rotate(90, expand=True) if number % 5 == 0 else photo
        turned.save(folder / name / f"IMG_{number:04}.JPG", exif=exif)
    (folder / "apple" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (folder / "leaf" / "._IMG_0001.JPG").write_bytes(b"\0\5")
    (folder / "notes.txt").write_text("taken in May")


def test_check_says_what_it_did_not_look_at(cli: Cli):
    """Without `data.verify`, pixels are not read, and a file that is cut short is not found."""
    write_photos(Path("photos"))
    file = Path("photos/train/apple/3.png")
    file.write_bytes(file.read_bytes()[:-400])
    words = ["check", "data=folder", "data.dir=photos", "model=linear"]
    unread = cli(*words).out
    assert "no problems" in unread
    assert "data.verify=true reads them" in unread
    assert "apple/3.png" in cli(*words, "data.verify=true", status=2).err
    file.unlink()
    assert "data.verify" not in cli(*words, "data.verify=true").out


# No more than a user's own script would know: Keras, Pillow, and the files.
SCRIPT = """
import sys
from pathlib import Path
import keras, numpy as np
from PIL import Image, ImageDraw
model = keras.saving.load_model(sys.argv[1])
names = sorted(path.name for path in Path("photos/test").iterdir())
files = sorted(Path("photos/test").glob("*/*.png"))
images = np.stack([np.asarray(Image.open(file)) for file in files])
found = [names[index] for index in model.predict(images, verbose=0).argmax(axis=1)]
print(sum(name == file.parent.name for name, file in zip(found, files)), "of", len(files))
"""


@pytest.mark.slow
def test_colour_folders_train_and_the_saved_model_takes_their_images(cli: Cli):
    """Only the data is declared, for `model=lenet5x5`; plain Keras classifies the files."""
    write_photos(Path("photos"))
    words = ["data=folder", "data.dir=photos", f"data.shape=[{HEIGHT},{WIDTH},3]", "data.classes=4"]
    done = cli(
        *words,
        "model=lenet5x5",
        "aug=rotate45_mild",
        "training.epochs=8",
        "training.batch_size=16",
        "tracking=none",
    )
    assert done.run is not None
    assert done.result["data"]["class_names"] == sorted(COLOURS)
    assert done.result["test"]["accuracy"] == 1
    assert (done.run / "plots" / "augmentation.png").exists()
    script = Path("script.py")
    script.write_text(SCRIPT, encoding="utf-8")
    loaded = subprocess.run(
        [sys.executable, script, done.run / "model.keras"], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "32 of 32"


def test_a_training_of_a_few_steps_is_called_too_short(cli: Cli):
    """With the keys that change it; not if it is only a trial, or long enough."""
    write_photos(Path("photos"))
    words = ["data=folder", "data.dir=photos", "data.resize=fit", "model=linear", "tracking=none", "plots=false"]
    assert "in batches of 128 make 1 step per epoch, 2 in all" in cli(*words, "training.epochs=2").out
    assert "in all, which is often too few" not in cli(*words, "training.epochs=2", "debug=one_batch").out
    assert "in all, which is often too few" not in cli(*words, "training.epochs=50").out


@pytest.mark.slow
def test_a_folder_of_photographs_needs_no_other_key(cli: Cli):
    """From a camera's folder to a model, its score, predictions and pictures."""
    write_camera_photos(Path("photos"))
    done = cli("data=folder", "data.dir=photos", "data.resize=fit")
    assert done.result["data"]["shape"] == [64, 64, 3]
    assert done.result["data"]["class_names"] == ["apple", "leaf", "shell"]
    assert "skipped 3 files" in done.out
    assert done.result["best"]["val/accuracy"] > 0.8
    assert "30 images" in cli("evaluate", "run=latest").out
    predicted = cli("predict", "run=latest", "inputs=photos").out.splitlines()
    assert (
        sum(line.split()[1:2] == [Path(line.split()[0]).parent.name] for line in predicted if ".JPG" in line) > 240
    )
    cli("visualize", "run=latest")
    assert any((done.run / "plots" / "visualize").rglob("*.png"))


def test_class_names_are_drawn_as_they_are(cli: Cli):
    """Dollar signs, percent signs and umlauts are drawn literally."""
    rng = np.random.default_rng(0)
    for name in ("$\\frac$", "50 %", "Äpfel_rot"):
        for part in ("train", "test"):
            (Path("odd") / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (9, 9), np.uint8)
                Image.fromarray(pixels).save(Path("odd") / part / name / f"{number}.png")
    words = ["data=folder", "data.dir=odd", "data.shape=[9,9,1]", "data.classes=3", "data.val_fraction=0.25"]
    done = cli(*words, "model=linear", "training.epochs=1", "tracking=none")
    assert done.run is not None
    assert (done.run / "plots" / "confusion_matrix.png").stat().st_size > 5000

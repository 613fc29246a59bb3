"""A user's own images: colour folders of an unusual size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
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


# No more than a user's own script would know: Keras, Pillow, and the files.
SCRIPT = """
import sys
from pathlib import Path
import keras, numpy as np
from PIL import Image
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

"""Large JPEG files are decoded at a reduced size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from mnist_exp.data.pictures import read_picture_file
from mnist_exp.inference.image_files import read_picture


@pytest.mark.parametrize("way", ["predict", "fit", "crop", "stretch"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_reduced_decoding_gives_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, turned: bool
):
    """Its values differ little from those of the whole file, also if the camera was turned."""
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    stream = io.BytesIO()
    Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95, exif=exif)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    sizes = []
    load = JpegImagePlugin.JpegImageFile.load_prepare

    def look(image: JpegImagePlugin.JpegImageFile) -> None:
        sizes.append(image.size)
        load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load_prepare", look)

    def read() -> np.ndarray:
        if way == "predict":
            return read_picture(stream.getvalue(), "a.jpg", (64, 64, 3)).astype(int)
        return read_picture_file(str(tmp_path / "a.jpg"), (64, 64, 3), way)[0].astype(int)

    reduced = read()
    assert sizes[0][0] < 640
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    whole = read()
    assert sizes[-1] == (640, 480)
    assert np.abs(reduced - whole).mean() < 4

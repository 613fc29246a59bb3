"""Image files are decoded once; large JPEG files are decoded at a reduced size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin

from mnist_exp.data.pictures import Unusable, read_picture_file
from mnist_exp.errors import RequestError
from mnist_exp.inference.image_files import read_photograph, read_picture
from mnist_exp.inference.inputs import Batch, PictureOptions, read_inputs


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


def write_photographs() -> list[str]:
    """Write a large photograph of a digit in several formats; JPEG files store its colours in three ways."""
    paper = np.full((1400, 1100, 3), (250, 245, 20), np.int64)
    paper[300:900, 500:560] = 20, 10, 240
    noise = np.random.default_rng(0).integers(-60, 61, paper.shape)
    photo = Image.fromarray(np.clip(paper + noise, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save("a.jpg", quality=70)
    photo.save("rgb.jpg", quality=70, keep_rgb=True)
    photo.rotate(90, expand=True).save("turned.jpg", quality=70, exif=exif)
    photo.convert("CMYK").save("cmyk.jpg")
    photo.convert("L").save("grey.jpg")
    photo.save("colour.png")
    photo.convert("P").save("palette.png")
    return ["a.jpg", "rgb.jpg", "turned.jpg", "cmyk.jpg", "grey.jpg", "colour.png", "palette.png"]


@pytest.mark.parametrize("normalized", [True, False])
def test_keeping_the_original_decodes_no_file_twice_and_changes_no_input(
    monkeypatch: pytest.MonkeyPatch, normalized: bool
):
    """The model is given the same pixels, and the thumbnail has the file's colours."""
    files = write_photographs()
    decoded = []
    load = ImageFile.ImageFile.load_prepare

    def look(image: ImageFile.ImageFile) -> None:
        decoded.append(image.size)
        load(image)

    def read(keep: bool) -> Batch:
        options = PictureOptions(normalized, keep_originals=keep)
        [batch] = read_inputs(files, (160, 160, 1), options, tell=print, refuse=pytest.fail)
        return batch

    plain = read(False)
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", look)
    kept = read(True)
    assert len(decoded) == len(files)
    np.testing.assert_array_equal(kept.images, plain.images)
    assert [one.box for one in kept.readings] == [one.box for one in plain.readings]
    for name, original in zip(files, kept.originals, strict=True):
        assert original.pixels.shape == (320, 251, 3)
        assert original.scale == pytest.approx(320 / 1400)
        colour = original.pixels[20:80, 20:80].mean(axis=(0, 1))
        expected = (213, 213, 213) if name == "grey.jpg" else (235, 232, 29)
        np.testing.assert_allclose(colour, expected, atol=8, err_msg=name)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_files_are_refused_unless_a_digit_is_sought(tmp_path: Path, mode: str):
    """A digit may have any background that contrasts with it; other images are read as in training."""
    ink = Image.new("L", (60, 60), 0)
    ink.paste(255, (28, 10, 34, 50))
    if mode == "P":
        picture, keys = ink.convert("P"), {"transparency": 0}
    else:
        picture, keys = Image.new(mode.rstrip("A") if mode != "LA" else "L", ink.size, 0), {}
        picture.putalpha(ink)
    for opaque in (False, True):
        if opaque:
            picture, keys = picture.convert("RGBA"), {}
            picture.putalpha(255)
        picture.save(tmp_path / "a.png", **keys)
        content = (tmp_path / "a.png").read_bytes()
        if opaque:
            read_picture(content, "a.png", (60, 60, 1))
            read_picture_file(str(tmp_path / "a.png"), (60, 60, 3), None)
        else:
            with pytest.raises(RequestError, match="a.png: is transparent"):
                read_picture(content, "a.png", (60, 60, 1))
            with pytest.raises(Unusable, match="is transparent"):
                read_picture_file(str(tmp_path / "a.png"), (60, 60, 3), None)
            [reading] = read_photograph(content, "a.png", (28, 28, 1))
            assert not reading.warning

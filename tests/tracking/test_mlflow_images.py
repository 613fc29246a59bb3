"""Series of images are stored as MLflow's own `log_image` stores them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from mnist_exp.runs.events import ImageEvent
from mnist_exp.tracking.mlflow_images import FOLDER, TAG, image_name, write_preview
from mnist_exp.tracking.store import connect

EVENT = ImageEvent(file="a.png", key="watch/conv2d: a", step=3, time=1_700_000_000_000)


@pytest.mark.slow
def test_the_layout_is_that_of_mlflow(tmp_path: Path):
    """Folder, names, formats and tag; fails first when MLflow changes."""
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("e", (tmp_path / "artifacts").as_uri()))
    picture = Image.new("RGB", (256, 128))  # MLflow scales previews to 256 pixels
    client.log_image(run.info.run_id, picture, key="watch/conv2d_ a", step=3, timestamp=EVENT.time)
    theirs = {
        Path(file.path).name: Path(client.download_artifacts(run.info.run_id, file.path, str(tmp_path)))
        for file in client.list_artifacts(run.info.run_id, FOLDER)
    }
    picture.save(tmp_path / "a.png")
    name = image_name(EVENT, "key")
    ours = {f"{name}.png": tmp_path / "a.png"}
    preview = write_preview(tmp_path / "a.png", tmp_path, name)
    ours[preview.name] = preview

    def shape(files: dict[str, Path]) -> dict[str, tuple[str | None, tuple[int, int]]]:
        random = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
        found = {}
        for file, path in files.items():
            with Image.open(path) as image:
                found[re.sub(random, "*", file)] = (image.format, image.size)
        return found

    assert shape(ours) == shape(theirs)
    assert client.get_run(run.info.run_id).data.tags[TAG] == "True"


def test_the_labels_of_a_picture_can_be_read_in_its_preview(tmp_path: Path):
    """Pictures of feature maps have about 960 pixels, and charts show their previews; larger ones are scaled."""
    Image.new("RGB", (960, 390)).save(tmp_path / "a.png")
    Image.new("RGB", (4096, 1024)).save(tmp_path / "b.png")
    for file, size in (("a.png", (960, 390)), ("b.png", (1024, 256))):
        with Image.open(write_preview(tmp_path / file, tmp_path, file)) as preview:
            assert preview.size == size


def test_a_name_is_the_same_at_each_delivery():
    """It differs between runs and steps."""
    assert image_name(EVENT, "a") == image_name(EVENT.model_copy(), "a")
    assert image_name(EVENT, "a") != image_name(EVENT, "b")
    assert image_name(EVENT, "a") != image_name(EVENT.model_copy(update={"step": 4}), "a")


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_damaged_image_is_reported(tmp_path: Path, content: bytes):
    """It has no preview."""
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        write_preview(tmp_path / "a.png", tmp_path, "a")

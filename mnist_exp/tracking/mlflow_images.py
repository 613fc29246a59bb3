"""Store a series of images in the layout of `MlflowClient.log_image`, which MLflow's charts show by step.

`log_image` gives an image a random name: delivered twice, it would appear twice. MLflow does not document the
names; `tests/tracking/test_mlflow_images.py` compares them with those of the installed version.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from PIL import Image

from mnist_exp.runs.events import ImageEvent
from mnist_exp.tracking.mlflow_names import image_key

FOLDER = "images"
TAG = "mlflow.loggedImages"
# Maximum width and height of a preview, in pixels. Charts show the preview; in the 256 pixels of `log_image`, the
# labels of feature maps cannot be read.
_PREVIEW = 1024


def image_name(event: ImageEvent, run_key: str) -> str:
    """Return the name of an image without its suffix. It depends only on the event and its run."""
    key = image_key(event.key).replace("/", "~")
    number = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_key}/{event.key}/{event.step}")
    return f"{key}+step+{event.step}+timestamp+{event.time}+{number}"


def write_preview(file: Path, folder: Path, name: str) -> Path:
    """Write an image's preview into a folder, and return its path.

    Raises `OSError` or `ValueError` if the file is not a PNG image, or is too large.
    """
    preview = folder / f"{name}+compressed.webp"
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.thumbnail((_PREVIEW, _PREVIEW))
            image.save(preview)
    except (SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises the former for damaged chunks
        raise ValueError(f"{file.name}: {error}") from error
    return preview

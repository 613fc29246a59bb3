"""`mnist-exp visualize`: draw filters, feature maps, class activation maps and receptive fields."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_exp.config.command_schemas import VisualizeConfig
from mnist_exp.config.overrides import Request
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import Saved, resolve_saved
from mnist_exp.errors import RequestError
from mnist_exp.runs.atomic import cannot_write, new_folder, refuse_existing
from mnist_exp.runs.directory import PLOTS, add_timestamp, make_directory, safe_name
from mnist_exp.runs.log import say
from mnist_exp.text import display_path
from mnist_exp.tracking.recorder import added_artifacts

if TYPE_CHECKING:
    from mnist_exp.engine.model_pictures import Picture
    from mnist_exp.engine.picture_subject import Chosen, Subject

FOLDER = "visualize"


def visualize(request: Request, started: float) -> None:
    """Draw a saved model's filters, feature maps, class activation maps and receptive fields.

    Raises `RequestError`, or `WorkError` if the disk is full.
    """
    options, saved, config = resolve_saved(request, VisualizeConfig)
    set_up(config)
    from mnist_exp.engine.model_pictures import list_pictures  # Keras, Matplotlib
    from mnist_exp.engine.picture_subject import choose_subject
    from mnist_exp.report.figure import resolution

    subject = choose_subject(request, saved, config, options)
    pictures = list_pictures(subject, options.pictures)
    if not pictures:
        names = ", ".join(layer.name for layer in subject.layers)
        raise RequestError(f"pictures: there are no {' or '.join(options.pictures)} for {names}")
    wait_seconds = config.tracking.wait_seconds
    files = [one.file for one in pictures]
    with (
        picture_folder(saved, options, subject.chosen, files, wait_seconds) as folder,
        resolution(config.plots.dpi),
    ):
        for picture in pictures:
            picture.draw(path=folder / picture.file)
    print_pictures(subject, options.pictures, pictures, options.output or display_path(folder))


def print_pictures(
    subject: Subject, kinds: Sequence[str], pictures: Sequence[Picture], folder: Path | str
) -> None:
    """Print what was drawn and where, and which kinds of pictures do not exist for these layers."""
    say(f"images      {subject.chosen.listing}")
    for kind in dict.fromkeys(kinds):
        names = [picture.subject or ", ".join(picture.layers) for picture in pictures if picture.kind == kind]
        say(f"{kind:<12}{', '.join(names) or 'none: these layers have no pictures of this kind'}")
    say(f"pictures    {folder}")


@contextmanager
def picture_folder(
    saved: Saved, options: VisualizeConfig, chosen: Chosen, files: Sequence[str], wait_seconds: float
) -> Iterator[Path]:
    """Yield the folder for the pictures (`files`).

    For a run's model, the folder is in the run's directory. Its name depends on what the pictures show, so that
    only equal pictures are overwritten. The tracker receives the pictures too. Raises `RequestError` if the folder
    or a picture cannot be written, or `WorkError` if the disk is full.
    """
    try:
        if options.output is not None:
            output = Path(options.output).expanduser()
            refuse_existing(output)
            with new_folder(output) as folder:
                yield folder
        elif saved.run is None:
            yield make_directory(Path(options.outputs) / FOLDER, add_timestamp(Path(saved.name).stem))
        else:
            name = f"{PLOTS}/{FOLDER}/{folder_name(saved, options, chosen)}"
            written = [f"{name}/{file}" for file in files]
            with added_artifacts(saved.run, written, wait_seconds, "use output=<folder>") as run:
                folder = run / name
                folder.mkdir(parents=True, exist_ok=True)
                yield folder
    except OSError as error:
        raise cannot_write(error, options.output) from error


def folder_name(saved: Saved, options: VisualizeConfig, chosen: Chosen) -> str:
    """Return a folder name for pictures with these images, weights and options."""
    content = [
        saved.result and saved.result.weights_sha256,
        options.channels,
        options.unit,
        chosen.names,
        chosen.labels,
    ]
    digest = hashlib.sha256(json.dumps(content).encode() + chosen.images.tobytes()).hexdigest()
    words = "-".join(chosen.names) if chosen.are_named else chosen.what
    return f"{safe_name(re.sub(r'[, ]+', '-', words))[:60]}-{digest[:6]}"

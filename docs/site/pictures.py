"""Draw the pictures of the site's reference: layers of models and presets, and samples of augmentations.

Usage: python docs/site/pictures.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from mnist_exp.config.overrides import parse, request_from
from mnist_exp.engine.preparation import check_config, resolve_data

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("model", "experiment", "aug")
_EXAMPLES, _SAMPLES = 4, 8


def options(group: str) -> list[str]:
    """Return the options of a group that have a picture."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if file.stem != "none")


def main(folder: Path) -> None:
    """Draw each option's picture as `GROUP-OPTION.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in GROUPS:
        for option in options(group):
            draw(group, option, folder / f"{group}-{option}.png")


def draw(group: str, option: str, path: Path) -> None:
    """Draw the layers that an option describes or, for `aug`, original digits above augmented copies."""
    request, config, _ = check_config(request_from("train", parse([f"{group}={option}", "data=digits"])))
    from mnist_exp.analysis.summary import HEADS, RIGHT, card, format_rows  # Keras, which check_config has set up
    from mnist_exp.model.build import build
    from mnist_exp.model.preprocessing import Statistics
    from mnist_exp.report import plots
    from mnist_exp.training.augment import draw_samples

    if group == "aug":
        originals = resolve_data(request, config)[2].train.images[:_EXAMPLES]
        samples = draw_samples(config.aug, originals, config.seed, _SAMPLES)
        plots.augmentation_sheet(originals, samples, f"aug={option}", path)
    else:
        rows = card(build(config, Statistics(), "float32", compiled=False))
        plots.architecture(
            HEADS, format_rows(rows, config.training.batch_size), RIGHT, (), f"{group}={option}", path
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

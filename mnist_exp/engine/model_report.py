"""The parts of a run's report that need its model: classes, mistakes, calibration, maps, and the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import keras
import numpy as np
import numpy.typing as npt

from mnist_exp.analysis.activations import find_averaged_layer
from mnist_exp.analysis.design_advice import advice
from mnist_exp.analysis.summary import FOOTNOTE, HEADS, RIGHT, card, format_rows
from mnist_exp.data.dataset import SET_NAMES, Images
from mnist_exp.engine.evaluation import most_frequent_mistakes
from mnist_exp.engine.model_pictures import list_pictures
from mnist_exp.engine.picture_subject import Chosen, Subject
from mnist_exp.engine.report_subject import ReportSubject, Scored
from mnist_exp.errors import RequestError
from mnist_exp.inference.metrics import confident_mistakes
from mnist_exp.model.keras_graph import functional_graph
from mnist_exp.model.layer_selection import informative_layers
from mnist_exp.report import charts, plots
from mnist_exp.report.html_page import (
    Block,
    Bullets,
    Chart,
    Gallery,
    Notice,
    Picture,
    Section,
    Table,
    Text,
    drawn,
    pixels_png,
)
from mnist_exp.text import format_percent
from mnist_exp.training.augment import draw_samples

_MOST_MISTAKES = 20
_SIDE = 96  # pixels: larger images are scaled down in galleries
_MAP_IMAGES, _MAP_CHANNELS = 3, 8
ALL_CLASSES = "'mnist-exp evaluate' writes all to per_class.csv"


def model_sections(subject: ReportSubject) -> tuple[list[Block], list[Section]]:
    """Return the blocks of the architecture, and the sections on what the model does; empty without a model."""
    sections: list[Section] = []
    architecture: list[Block] = []
    if (scored := subject.scored) is not None:
        batch_size = subject.config.training.batch_size if subject.config else 1
        model = functional_graph(scored.model)
        architecture = _architecture(model, batch_size)
        sections = [
            Section("classes", "Results by class", class_blocks(scored)),
            Section("confusion", "Confusion matrix", _confusion(scored)),
            Section("mistakes", "Most confident mistakes", _mistakes(scored)),
            Section("calibration", "Calibration", _calibration(scored)),
            *_inside(model, scored, subject.summary.name),
        ]
    if subject.data is not None and subject.config is not None:
        sections.append(Section("augmentation", "Augmentation", _augmentation(subject)))
    return architecture, sections


def class_blocks(scored: Scored) -> list[Block]:
    """Return the classes with the lowest recall, in words, and the metrics of all classes."""
    assessment, names = scored.assessment, scored.class_names
    imperfect = [
        (figures.recall, name)
        for name, figures in zip(names, assessment.classes, strict=True)
        if figures.recall is not None and figures.recall < 1
    ]
    weakest = ", ".join(f"{name} ({format_percent(recall)})" for recall, name in sorted(imperfect)[:3])
    part = SET_NAMES[scored.name]
    text = f"These classes have the lowest recall on the {part}: {weakest}."
    blocks: list[Block] = [Text(text if weakest else f"All images of the {part} are classified correctly.")]
    if often := most_frequent_mistakes(assessment, names):
        blocks.append(Text(f"Confused most often (true → predicted): {', '.join(often)}."))
    columns = ("precision", "recall", "f1")
    rows = [
        [name, f"{figures.images:,}", *(format_percent(getattr(figures, column)) for column in columns)]
        for name, figures in zip(names, assessment.classes, strict=True)
    ]
    right = ("images", *columns)
    blocks.append(
        Table(
            f"Metrics by class, {part}",
            ("class", *right),
            rows,
            right,
            interactive=True,
            elsewhere=ALL_CLASSES,
        )
    )
    return blocks


def _confusion(scored: Scored) -> list[Block]:
    part, predicted, names = scored.part, scored.scores.predicted, scored.class_names
    title = f"accuracy {format_percent(scored.assessment.accuracy)}, {SET_NAMES[scored.name]}"
    png = drawn(partial(plots.confusion_matrix, part.labels, predicted, names, title))
    alt = (
        f"Confusion matrix of {len(names)} classes: {int((predicted == part.labels).sum()):,} of {len(part):,} "
        "images are on the diagonal. The table of classes and the list of confusions above have the same numbers."
    )
    caption = (
        "Images of each class (rows) by predicted class (columns). Blue: the share of the class that is "
        "classified correctly. Orange: the mistakes, on a scale of their own, up to the most frequent one."
    )
    return [Chart(charts.confusion(scored.assessment.confusion, names), Picture(png, alt, caption))]


def _mistakes(scored: Scored) -> list[Block]:
    probabilities, labels = scored.scores.probabilities, scored.part.labels
    predicted = scored.scores.predicted
    wrong = confident_mistakes(labels, probabilities)
    if not len(wrong):
        return [
            Text(f"The model misclassifies none of the {len(labels):,} images of the {SET_NAMES[scored.name]}.")
        ]
    surest = wrong[:_MOST_MISTAKES]
    pictures = []
    for number in surest:
        true, taken = (scored.class_names[int(of[number])] for of in (labels, predicted))
        caption = f"{true} → {taken}, {format_percent(probabilities[number, predicted[number]], 0)}"
        alt = f"Image {number} of the {SET_NAMES[scored.name]}, of class {true}, classified as {taken}"
        pictures.append(Picture(pixels_png(_smaller(scored.part.images[number])), alt, caption, pixelated=True))
    text = (
        f"{len(wrong):,} of {len(labels):,} images of the {SET_NAMES[scored.name]} are misclassified. "
        f"{'These are the' if len(surest) == len(wrong) else f'The {len(surest)} most confident'} mistakes "
        "(true → predicted, with the probability of the predicted class):"
    )
    return [Text(text.replace("These are the mistakes", "All mistakes")), Gallery(pictures)]


def _smaller(image: Images) -> Images:
    """Return an image with at most `_SIDE` rows and columns, by leaving out pixels."""
    stride = -(-max(image.shape[:2]) // _SIDE)
    return image[::stride, ::stride]


def _calibration(scored: Scored) -> list[Block]:
    calibration, accuracy = scored.assessment.calibration, scored.assessment.accuracy
    gap = calibration.mean_confidence - accuracy
    verdict = "overconfident" if gap > 0 else "underconfident"
    text = (
        f"The model's confidence is {format_percent(calibration.mean_confidence)} on average, its accuracy "
        f"{format_percent(accuracy)}: it is {verdict} by {100 * abs(gap):.2f} points. The expected calibration "
        f"error is {format_percent(calibration.error)}, in {len(calibration.counts)} bins."
    )
    bins = (calibration.accuracy, calibration.confidence, calibration.counts)
    png = drawn(partial(plots.reliability, *bins, "calibration"))
    caption = "Accuracy of predictions by their confidence. Below the diagonal, the model is overconfident."
    rows = [
        [f"{index / len(bins[2]):.2f} … {(index + 1) / len(bins[2]):.2f}", f"{count:,}",
         format_percent(bins[1][index]), format_percent(bins[0][index])]
        for index, count in enumerate(calibration.counts) if count
    ]  # fmt: skip
    header = ("bin of confidence", "images", "mean confidence", "accuracy")
    return [
        Text(text),
        Chart(charts.reliability(*bins), Picture(png, f"Reliability diagram. {text}", caption)),
        Table("Confidence and accuracy by bin", header, rows, header[1:], folded=True),
    ]


def _inside(model: keras.Model, scored: Scored, run: str) -> Iterator[Section]:
    """Yield the sections with class activation maps, feature maps and receptive fields."""
    part = scored.part
    first = part.first_of_each(10)
    kinds = (
        ("activation", "Class activation", first,
         "Red regions support the class; blue regions count against it." if find_averaged_layer(model)
         else "Red regions support the class (Grad-CAM)."),
        ("features", "Feature maps", first[:_MAP_IMAGES],
         "What each layer computes from some images: the channels with the largest responses."),
        ("fields", "Receptive fields", first[:1], "The pixels that one unit of each layer can see."),
    )  # fmt: skip
    for kind, title, numbers, sentence in kinds:
        blocks: list[Block] = [Text(sentence)]
        try:
            subject = _subject(model, scored, run, numbers)
            for picture in list_pictures(subject, [kind]):
                png = drawn(picture.draw_into)
                where = f" of {picture.subject}" if picture.subject else ""
                blocks.append(Picture(png, f"{title}{where}, for {', '.join(subject.chosen.names)}"))
        except RequestError as error:
            blocks.append(Notice(str(error)))
        if len(blocks) == 1:
            blocks = [Text("This model has no layer with pictures of this kind.")]
        yield Section(kind, title, blocks)


def _subject(model: keras.Model, scored: Scored, run: str, numbers: npt.NDArray[np.int64]) -> Subject:
    """Return the layers of a model and some images, as for `visualize`."""
    part = scored.part
    chosen = Chosen(
        f"the first of each class, {SET_NAMES[scored.name]}",
        part.images[numbers],
        tuple(f"{scored.name} {number}" for number in numbers),
        tuple(part.labels[numbers].tolist()),
        scored.scores.probabilities[numbers],
        scored.class_names,
    )
    return Subject(model, informative_layers(model), False, chosen, _MAP_CHANNELS, None, run)


def _augmentation(subject: ReportSubject) -> list[Block]:
    assert subject.data is not None
    assert subject.config is not None
    aug = subject.config.aug
    if aug.is_identity:
        return [Text("This run trained without augmentation.")]
    originals = subject.data.train.images[:6]
    augmented = draw_samples(aug, originals, subject.config.seed, count=7)
    png = drawn(partial(plots.augmentation_sheet, originals, augmented, f"aug {aug.shown_name}"))
    alt = f"{len(originals)} training images, each with {len(augmented)} augmented versions"
    return [
        Text("Training images in the left column, augmented versions as the network saw them to the right."),
        Picture(png, alt, f"Augmentation {aug.shown_name}"),
    ]


def _architecture(model: keras.Model, batch_size: int) -> list[Block]:
    rows = format_rows(card(model), batch_size)
    blocks: list[Block] = [
        Table("Layers, from the image to the classes", HEADS, rows, RIGHT),
        Text(FOOTNOTE.format(batch_size=batch_size).replace("`", "")),
    ]
    if remarks := advice(model):
        blocks += [Text("Advice on the design:"), Bullets(remarks)]
    return blocks

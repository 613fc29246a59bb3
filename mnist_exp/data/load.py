"""From a data config to the images and labels of a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mnist_exp.config.schema import DataConfig
from mnist_exp.data import digits, idx
from mnist_exp.data.dataset import Dataset, Part, Source, digest
from mnist_exp.data.lookup import locate, read_npz
from mnist_exp.data.splits import stratified
from mnist_exp.errors import RequestError


def find(data: DataConfig, tell: Callable[[str], None]) -> Source:
    """Read a data set's source and verify it against what the config declares.

    Raises `RequestError` for data that is damaged or other than declared, `lookup.NotFound` where nobody has
    it.
    """
    source = digits.load() if data.source == "digits" else _find_files(data, tell)
    for name, part in (("training", source.train), ("test", source.test)):
        if part is not None:
            _verify(part, data, f"{source.origin}: {name} set")
    return source


def prepare(source: Source, data: DataConfig) -> Dataset:
    """Keep what `data.limit` allows and split off the validation part."""
    train, test = source.train, source.test
    if data.limit is not None and data.limit < len(train):
        share = data.limit / len(train)
        train = train.take(stratified(train.labels, share, data.split_seed)[1])
        test = test and test.take(stratified(test.labels, share, data.split_seed)[1])
        if test is not None and not len(test):
            test = None
    sha256 = digest([train, test])
    kept, held_out = stratified(train.labels, data.val_fraction, data.split_seed)
    if not len(kept) or (data.val_fraction and not len(held_out)):
        raise RequestError(
            f"data.limit={data.limit} leaves {len(kept)} training and {len(held_out)} validation images; "
            "both need at least one"
        )
    val = train.take(held_out) if len(held_out) else None
    return Dataset(train.take(kept), val, test, source.origin, sha256)


def _find_files(data: DataConfig, tell: Callable[[str], None]) -> Source:
    located = locate(data, tell)
    if located.npz is not None:
        arrays = read_npz(located.npz)
        train = _part(arrays["x_train"], arrays["y_train"])
        return Source(train, _part(arrays["x_test"], arrays["y_test"]), located.origin)
    assert located.idx is not None
    assert data.files is not None
    parts = []
    for kind in ("train", "test"):
        images_name, labels_name = (
            f"{located.origin}/{getattr(data.files, f'{kind}_{what}').name}" for what in ("images", "labels")
        )
        images = idx.parse(located.idx[f"{kind}_images"], images_name, dimensions=3)
        labels = idx.parse(located.idx[f"{kind}_labels"], labels_name, dimensions=1)
        if len(images) != len(labels):
            raise RequestError(f"{images_name}: {len(images)} images, but {len(labels)} labels in {labels_name}")
        parts.append(_part(images, labels))
    return Source(parts[0], parts[1], located.origin)


def _part(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Part:
    return Part(images[..., np.newaxis] if images.ndim == 3 else images, labels.astype(np.int64))


def _verify(part: Part, data: DataConfig, name: str) -> None:
    if not len(part):
        raise RequestError(f"{name}: no images")
    if part.images.shape[1:] != data.shape:
        found, expected = ("×".join(map(str, shape)) for shape in (part.images.shape[1:], data.shape))
        raise RequestError(f"{name}: images of {found}, but data.shape says {expected}")
    if part.labels.min() < 0 or part.labels.max() >= data.classes:
        place = int(np.argmax((part.labels < 0) | (part.labels >= data.classes)))
        raise RequestError(
            f"{name}: label {part.labels[place]} at image {place} (from 0); data.classes={data.classes} "
            f"allows 0 to {data.classes - 1}"
        )

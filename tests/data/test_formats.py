"""The training, validation and test sets of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import numpy as np
import pytest
from support.cli import Cli

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.data.dataset import Part, Source, default_class_names
from mnist_exp.data.formats import find, prepare, smallest_limit, split
from mnist_exp.data.splits import split_stratified
from mnist_exp.errors import RequestError
from mnist_exp.runs.fingerprint import with_effect


def data_config(*overrides: str) -> DataConfig:
    return compose_checked(Request("train", overrides), TrainConfig)[0].data


@pytest.mark.parametrize("fraction", [0.1, 1 / 6, 0.5])
def test_a_split_has_the_same_share_of_each_class(fraction: float):
    """Shares agree to within one image per class and exactly in total; each image is in one part."""
    labels = np.repeat(np.arange(4), [500, 300, 45, 7]).astype(np.int64)
    rest, chosen = split_stratified(labels, fraction, 0)
    assert len(chosen) == round(fraction * len(labels))
    assert sorted([*rest, *chosen]) == list(range(len(labels)))
    for label, count in enumerate([500, 300, 45, 7]):
        assert abs((labels[chosen] == label).sum() - fraction * count) <= 1


def test_a_split_follows_from_its_seed():
    """The same seed selects the same images, another seed others."""
    labels = np.arange(100, dtype=np.int64) % 10
    assert split_stratified(labels, 0.2, 3)[1].tolist() == split_stratified(labels, 0.2, 3)[1].tolist()
    assert split_stratified(labels, 0.2, 3)[1].tolist() != split_stratified(labels, 0.2, 4)[1].tolist()


def test_digits_have_mnists_form(use: Callable[[str], None]):
    """Images are 28×28 bytes with the digit in the inner 20×20; each part has all ten classes."""
    use("digits")
    config = data_config("data=digits")
    data = prepare(find(config, print), config)
    assert data.val is not None
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1347, 150, 300)
    for part in (data.train, data.val, data.test):
        assert part.images.dtype == np.uint8
        assert set(part.labels) == set(range(10))
    assert data.train.images[:, 4:24, 4:24].max() == 255
    assert data.train.images[:, :4].max() == data.train.images[:, :, 24:].max() == 0


@pytest.mark.mnist
def test_mnist_is_read_verified_and_split(use: Callable[[str], None]):
    """The digest of the data that a run uses is the known one."""
    use("mnist")
    config = data_config()
    data = prepare(find(config, print), config)
    assert data.val is not None
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (54000, 6000, 10000)
    assert data.sha256 == "f9f06a0dd76ba0dd234d7126d2a7a40257f9e97a61831ac2811f3450d6b90d4a"
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_limit_keeps_a_share_of_train_and_test(use: Callable[[str], None]):
    """The limit applies to training and validation images; the test set is reduced in proportion."""
    use("digits")
    config = data_config("data=digits", "data.limit=499")
    data = prepare(find(config, print), config)
    assert data.val is not None
    assert data.test is not None
    assert len(data.train) + len(data.val) == 499
    assert len(data.test) == 100
    full = data_config("data=digits")
    assert prepare(find(full, print), full).sha256 != data.sha256


KNOWN = "4701255e12298a91e6a5237c006966f46755f24c6d619adc0c685220902a8c5b"
UNEVEN = np.random.default_rng(5).permutation(np.repeat(np.arange(4), [500, 300, 45, 7])).astype(np.int64)


def numbered_images(labels: np.ndarray) -> Source:
    """Return images of 2×2 whose pixels encode their index."""
    numbers = np.arange(len(labels), dtype="<u4").view(np.uint8).reshape(-1, 2, 2, 1)
    return Source(Part(numbers, labels), None, "here", default_class_names(4))


def numbers_of(part: Part | None) -> set[int]:
    assert part is not None
    return set(np.ascontiguousarray(part.images).reshape(-1, 4).view("<u4").ravel().tolist())


@pytest.mark.parametrize(("fraction", "seed"), [(0.1, 0), (0.25, 3)])
def test_a_limit_moves_no_image_to_the_other_part(fraction: float, seed: int):
    """The parts for a smaller limit are contained in those for a larger one, and in those without a limit."""
    source = numbered_images(UNEVEN)
    config = data_config("data=digits", f"data.val_fraction={fraction}", f"data.split_seed={seed}")
    whole = prepare(source, config)
    assert numbers_of(whole.val) == set(split_stratified(UNEVEN, fraction, seed)[1].tolist())
    larger = {"train": numbers_of(whole.train), "val": numbers_of(whole.val)}
    for limit in range(len(UNEVEN), 20, -1):
        data = prepare(source, config.model_copy(update={"limit": limit}))
        assert data.val is not None
        parts = {"train": numbers_of(data.train), "val": numbers_of(data.val)}
        assert sum(map(len, parts.values())) == limit
        assert abs(len(parts["val"]) - fraction * limit) <= 1
        assert parts["train"] <= larger["train"]
        assert parts["val"] <= larger["val"]
        for part in (data.train, data.val):
            counts = np.bincount(part.labels, minlength=4)
            assert np.abs(counts - len(part) * np.bincount(UNEVEN) / len(UNEVEN)).max() < 2
        larger = parts


def test_the_split_without_a_limit_is_known():
    """The validation images that a seed selects have not changed between versions."""
    held_out = split_stratified(UNEVEN, 0.1, 0)[1]
    assert hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest() == KNOWN


def test_a_limit_that_empties_a_part_is_refused():
    """There must be images to train on and to validate on."""
    part = Part(np.zeros((4, 28, 28, 1), np.uint8), np.arange(4, dtype=np.int64))
    with pytest.raises(RequestError, match="leaves 4 training and 0 validation images"):
        prepare(Source(part, None, "here", default_class_names(10)), data_config("data=digits"))
    source = numbered_images(UNEVEN)
    for limit in (1, 5):
        with pytest.raises(RequestError, match="data.limit=6 is the smallest that works"):
            prepare(source, data_config("data=digits", f"data.limit={limit}"))
    assert prepare(source, data_config("data=digits", "data.limit=6")).val is not None


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_smallest_limit_with_every_class_is_found(fraction: float):
    """With one image fewer, a class has no training image, or the validation set is empty."""
    config = data_config("data=digits", f"data.val_fraction={fraction}")
    least = smallest_limit(UNEVEN, config)

    def is_complete(limit: int) -> bool:
        train, val = split(UNEVEN, config.model_copy(update={"limit": limit}))
        return set(UNEVEN[train]) == set(range(4)) and (len(val) > 0 or not fraction)

    assert is_complete(least)
    assert not any(map(is_complete, range(1, least)))


def test_a_class_without_training_images_is_reported(cli: Cli, use: Callable[[str], None]):
    """The warning covers `data.limit` and incomplete data; the suggested limit is sufficient."""
    done = cli("data.limit=10", small=True)
    warning = next(line for line in done.out.splitlines() if "without a training image" in line)
    assert (digits := re.search(r"class(?:es)? (\d)", warning)) is not None
    assert int(digits[1]) in range(10)
    assert (least := re.search(r"data\.limit=(\d+) is the smallest", warning)) is not None
    use("digits")
    config = data_config("data=digits")
    labels = find(config, print).train.labels
    assert set(labels[split(labels, config.model_copy(update={"limit": int(least[1])}))[0]]) == set(range(10))
    images = np.arange(20, dtype=np.uint8).repeat(28 * 28).reshape(20, 28, 28)
    np.savez("few.npz", x_train=images, y_train=np.arange(20) % 2)
    words = ["data=npz", "data.dir=.", "data.files.archive=few.npz", "data.shape=[28,28,1]", "data.classes=3"]
    verified = cli("dataset", "verify", *words, "data.class_names=[a,b,c]").out
    assert "warning: class c without a training image" in verified


def test_a_source_without_test_part_has_none():
    """Without a validation fraction, there is no validation set either."""
    part = Part(np.zeros((40, 28, 28, 1), np.uint8), np.arange(40, dtype=np.int64) % 10)
    data = prepare(
        Source(part, None, "here", default_class_names(10)), data_config("data=digits", "data.val_fraction=0")
    )
    assert data.test is None
    assert data.val is None
    assert len(data.train) == 40


def test_oversampling_repeats_training_images_of_rarer_classes():
    """As evenly as possible, by a fixed seed, and only in the training set; the digest stays."""
    source = numbered_images(np.repeat([0, 1, 2], [40, 13, 4]))
    plain = data_config("data=digits", "data.val_fraction=0.25")
    balanced = plain.model_copy(update={"balance": "oversample"})
    first, second, before = (prepare(source, data) for data in (balanced, balanced, plain))
    assert np.bincount(first.train.labels).tolist() == [30, 30, 30]
    assert numbers_of(first.train) == numbers_of(before.train)
    of_the_rarest = first.train.images[first.train.labels == 2].reshape(30, -1)
    assert set(np.unique(of_the_rarest, axis=0, return_counts=True)[1]) == {10}
    assert (first.train.images == second.train.images).all()
    assert numbers_of(first.val) == numbers_of(before.val)
    assert first.sha256 == before.sha256


def test_balancing_is_part_of_a_runs_identity():
    """But configs of versions without the key keep theirs."""
    values = {name: {} for name in ("data", "training", "preprocess", "aug", "model", "schedule", "debug")}
    plain = with_effect(values)
    assert with_effect({**values, "data": {"balance": None}}) == plain
    assert with_effect({**values, "training": {"freeze": [], "class_weight": None}}) == plain
    assert with_effect({**values, "data": {"balance": "oversample"}}) != plain
    assert with_effect({**values, "training": {"freeze": ["dense"]}}) != plain

"""Remarks on data sets that are hard to learn or whose figures mislead."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mnist_exp.data import digits
from mnist_exp.data.dataset import Part, Source
from mnist_exp.data.near_duplicates import find_near_pairs
from mnist_exp.data.quality import remarks


def photographs(count: int, seed: int, channels: int = 3) -> np.ndarray:
    """Smooth random images of 48×64."""
    rng = np.random.default_rng(seed)
    small = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(count)]
    images = np.stack([np.asarray(one.resize((64, 48), Image.Resampling.BICUBIC)) for one in small])
    return images[..., :channels]


def compressed(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def scaled(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((50, 40)).resize((64, 48)))


def brightened(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 0.9 + 15, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [compressed, scaled, brightened])
def test_changed_copies_are_found(change):  # type: ignore[no-untyped-def]
    """All, and no other image."""
    images = photographs(60, 1)
    pairs = find_near_pairs([images, np.stack([change(image) for image in images])])
    assert pairs.tolist() == [[index, index + 60] for index in range(60)]


def test_blank_and_tiny_images_are_like_no_other():
    """Images without content are not compared, and images of a few pixels are."""
    blank = np.arange(20, dtype=np.uint8).repeat(4).reshape(20, 2, 2, 1)
    assert len(find_near_pairs([blank])) == 0
    tiny = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 1), dtype=np.uint8)
    assert find_near_pairs([tiny, tiny]).tolist() == [[index, index + 5] for index in range(5)]


def test_near_duplicates_are_reported():
    """Within and across the parts, and with a different label; exact ones are counted separately."""
    images = photographs(40, 2)
    labels = np.arange(40) % 2
    train = np.concatenate([images, [compressed(images[0]), compressed(images[1]), images[2]]])
    test = np.concatenate([photographs(8, 3), [scaled(images[5]), images[6]]])
    source = Source(
        Part(train, np.concatenate([labels, [0, 0, 0]])),
        Part(test, np.zeros(10, np.int64)),
        "here",
        ("cat", "dog"),
    )
    found = [remark for remark in remarks(source) if "nearly" in remark]
    assert len(found) == 3
    assert "1 training image" in found[0]
    assert "dog and cat" in found[0]
    assert "1 training image" in found[1]
    assert "1 of 10 test images" in found[2]


def test_a_light_background_is_reported():
    """Of images in MNIST's size."""
    images = np.zeros((20, 28, 28, 1), np.uint8)
    images[:, 8:20, 8:20] = photographs(20, 4, 1)[:, :12, :12]

    def reported(pixels: np.ndarray) -> bool:
        part = Part(pixels, np.arange(20) % 2)
        return any("'data.scale=[255,0]'" in remark for remark in remarks(Source(part, None, "here", ("a", "b"))))

    assert not reported(images)
    assert reported(255 - images)
    assert not reported(255 - images[:, :20])


@pytest.mark.parametrize("inverted", [False, True])
def test_digits_that_lie_on_their_side_are_reported(inverted: bool):
    """With the key that turns them upright, whatever their background; other classes may be wide."""
    source = digits.load()

    def advised(images: np.ndarray, names: tuple[str, ...] = source.class_names) -> bool:
        pixels = 255 - images if inverted else images
        found = remarks(Source(Part(pixels, source.train.labels), None, "x", names))
        return any("data.transpose=true" in remark for remark in found)

    upright = source.train.images
    assert not advised(upright)
    assert advised(upright.transpose(0, 2, 1, 3))
    assert not advised(upright.transpose(0, 2, 1, 3), tuple("abcdefghij"))


def test_duplicates_are_reported_with_their_places():
    """The first pairs: files inside the folder, or the numbers of images."""
    images = photographs(12, 4)
    train = np.concatenate([images, images[:5], [compressed(images[11])]])
    labels = np.concatenate([np.arange(12) % 2, [1, 1, 0, 1, 0], [1]])
    tests = Part(images[8:9], labels[8:9], ["/here/test/cat/0.png"])
    numbered = remarks(Source(Part(train, labels), replace(tests, paths=()), "here", ("cat", "dog")))
    assert any(r.endswith("such as cat and dog: training image 0 and training image 12") for r in numbered)
    pairs = [f"training image {index} and training image {index + 12}" for index in (1, 2, 3)]
    assert any(r.endswith(f"of the same class: {'; '.join(pairs)}; …") for r in numbered)
    paths = [f"/here/train/{'cat' if label == 0 else 'dog'}/{index}.png" for index, label in enumerate(labels)]
    named = remarks(Source(Part(train, labels, paths), tests, "/here", ("cat", "dog")))
    assert any(r.endswith("copies: train/dog/11.png and train/dog/17.png") for r in named)
    assert any(r.endswith("too optimistic: train/cat/8.png and test/cat/0.png") for r in named)

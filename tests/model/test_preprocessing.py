"""Whitening by built-in layers of the saved model."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mnist_exp.config.schema import PreprocessConfig
from mnist_exp.model.preprocessing import apply_preprocessing, count_parameters, statistics

RNG = np.random.default_rng(0)
# Images whose neighbouring pixels are alike, as those of real images are; one pixel is always black.
ROUGH = RNG.normal(size=(600, 6, 5, 1))
IMAGES = np.clip((ROUGH + np.roll(ROUGH, 1, axis=2)) * 40 + 120, 0, 255).astype(np.uint8)
IMAGES[:, 0, 0] = 0


def whitened(kind: str, epsilon: float = 1e-6) -> tuple[keras.Model, np.ndarray]:
    config = PreprocessConfig(name=kind, type=kind, epsilon=epsilon)  # type: ignore[arg-type]
    inputs = keras.Input(IMAGES.shape[1:])
    model = keras.Model(inputs, apply_preprocessing(config, statistics(IMAGES, config), inputs))
    return model, model.predict_on_batch(IMAGES)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_whitened_pixels_are_uncorrelated(kind: str):
    """They have mean 0, variance 1 and correlation 0; a constant pixel stays 0."""
    _, found = whitened(kind)
    assert found.shape == IMAGES.shape
    flat = found.reshape(len(found), -1)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(flat.T, bias=True)
    varies = np.ones(len(covariance), bool)
    varies[0 if kind == "zca" else -1] = False  # the black pixel; the last component
    np.testing.assert_allclose(covariance[np.ix_(varies, varies)], np.eye(varies.sum()), atol=2e-3)
    assert np.abs(flat[:, ~varies]).max() < 0.01


def test_zca_is_nearest_to_the_original_and_pca_is_ordered():
    """ZCA's matrix is symmetric; PCA's components have decreasing variance before whitening."""
    model, found = whitened("zca")
    kernel = model.get_layer("preprocess").get_weights()[0]
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-6 * np.abs(kernel).max())
    correlation = [np.corrcoef(found[:, y, x, 0], IMAGES[:, y, x, 0])[0, 1] for y in range(1, 6) for x in range(5)]
    assert min(correlation) > 0.7
    components = whitened("pca")[0].get_layer("preprocess").get_weights()[0]
    norms = np.linalg.norm(components, axis=0)  # 1 / deviation of each
    assert (np.diff(norms) > -1e-6).all()


def test_epsilon_damps_what_hardly_varies():
    """A variance v becomes v / (v + epsilon)."""
    _, found = whitened("pca", epsilon=0.05)
    plain = IMAGES.reshape(len(IMAGES), -1) / 255
    variances = np.sort(np.linalg.eigvalsh(np.cov(plain.T, bias=True)))[::-1]
    np.testing.assert_allclose(
        found.reshape(len(found), -1).var(axis=0), variances / (variances + 0.05), atol=2e-3
    )


def test_whitening_adds_nothing_to_the_models_parameters():
    """Its values come from the data and are not trained."""
    model, _ = whitened("zca")
    assert count_parameters(model) == 0
    assert model.trainable_weights == []
    assert len(model.weights) == 2


def test_whitening_does_not_depend_on_the_number_of_threads():
    """The result is bit-identical for any number of BLAS threads."""
    from threadpoolctl import threadpool_limits

    images = np.random.default_rng(0).integers(0, 256, (900, 20, 20, 1)).astype(np.uint8)
    config = PreprocessConfig(name="zca", type="zca", epsilon=0.01)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(statistics(images, config).whitening)
    assert found[0] is not None
    assert found[1] is not None
    assert np.array_equal(found[0].matrix, found[1].matrix)


def test_whitening_does_not_depend_on_the_signs_of_eigenvectors(monkeypatch: pytest.MonkeyPatch):
    """The model's components are the same, whichever sign a library returns."""
    config = PreprocessConfig(name="pca", type="pca", epsilon=0.01)
    expected = statistics(IMAGES, config).whitening
    eigh = np.linalg.eigh

    def flipped(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        variances, components = eigh(matrix)
        return variances, components * np.where(np.arange(len(variances)) % 2, 1, -1)

    monkeypatch.setattr(np.linalg, "eigh", flipped)
    found = statistics(IMAGES, config).whitening
    assert expected is not None
    assert found is not None
    assert np.array_equal(found.matrix, expected.matrix)
    assert np.array_equal(found.offset, expected.offset)

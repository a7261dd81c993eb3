"""NumPy arrays as a data set."""

from typing import Any

import numpy as np

from sublim_jax.core.errors import ConfigError
from sublim_jax.data.load import Dataset, image_data, make_dataset


def from_arrays(
    x: Any, y: Any, x_test: Any, y_test: Any, *, mean: float | None = None, std: float | None = None
) -> Dataset:
    """Make a data set of images and labels.

    Args:
        x: Training images [n, height, width], uint8 or floats in [0, 1] (rounded to 256 levels).
        y: Training labels [n], integers from 0.
        x_test: Test images [n_test, height, width].
        y_test: Test labels [n_test].
        mean: Mean that normalises images, on the scale of [0, 1]; default: of the training images.
        std: Standard deviation that normalises images; default: of the training images.

    Returns:
        The data set; it has as many classes as the largest label says, at least 2.

    Raises:
        ConfigError: An array has another dtype, shape or range.
    """
    images, images_test = _images("x", x), _images("x_test", x_test)
    labels, labels_test = _labels("y", y, len(images)), _labels("y_test", y_test, len(images_test))
    if images.shape[1:] != images_test.shape[1:]:
        raise ConfigError(f"x_test: images of shape {images_test.shape[1:]}; must be {images.shape[1:]} as those of x")
    classes = max(2, int(labels.max()) + 1)
    if labels_test.max() >= classes:
        raise ConfigError(f"y_test: has the label {labels_test.max()}; the labels of y are 0 to {classes - 1}")
    middle = np.float32(images.mean() / 255 if mean is None else mean)
    spread = np.float32(images.std() / 255 if std is None else std)
    if not (np.isfinite(middle) and 0 < spread < np.inf):
        raise ConfigError(f"mean={middle}, std={spread}: must be finite, and std above 0; all pixels of x may be equal")
    train, test = (image_data(*split, middle, spread) for split in ((images, labels), (images_test, labels_test)))
    return make_dataset(train, test, "arrays", classes, "NumPy arrays")


def _images(name: str, given: Any) -> np.ndarray:
    array = np.asarray(given)
    if array.ndim != 3 or 0 in array.shape:
        raise ConfigError(f"{name}: has shape {array.shape}; must be [n, height, width], not empty")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise ConfigError(f"{name}: has dtype {array.dtype}; must be uint8, or floats in [0, 1]")
    if not (array.min() >= 0 and array.max() <= 1):  # NaN too
        raise ConfigError(f"{name}: has values from {array.min():g} to {array.max():g}; floats must lie in [0, 1]")
    return np.rint(np.asarray(array, np.float64) * 255).astype(np.uint8)


def _labels(name: str, given: Any, number: int) -> np.ndarray:
    array = np.asarray(given)
    if array.shape != (number,):
        raise ConfigError(f"{name}: has shape {array.shape}; must be ({number},), one label per image")
    if array.dtype.kind not in "iu":
        raise ConfigError(f"{name}: has dtype {array.dtype}; labels must be integers")
    if array.min() < 0 or array.max() >= 2**15:
        raise ConfigError(f"{name}: has labels from {array.min()} to {array.max()}; must be 0 to {2**15 - 1}")
    return array.astype(np.int32)

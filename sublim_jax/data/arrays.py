"""NumPy arrays as a data set."""

from typing import Any

import numpy as np

from sublim_jax.core.errors import ConfigError
from sublim_jax.data import idx
from sublim_jax.data.load import Dataset, image_data, make_dataset

LARGEST_LABEL = 2**15 - 1


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    classes: int | None = None,
    mean: float | None = None,
    std: float | None = None,
    name: str = "arrays",
) -> Dataset:
    """Make a data set of images and labels.

    Args:
        x: Training images [n, height, width], uint8 or floats in [0, 1] (rounded to 256 levels).
        y: Training labels [n], integers from 0.
        x_test: Test images [n_test, height, width].
        y_test: Test labels [n_test].
        classes: Number of classes; default: as many as the largest label of `y` says, each of which must occur there.
        mean: Mean that normalises images, on the scale of [0, 1]; default: of the training images.
        std: Standard deviation that normalises images; default: of the training images.
        name: Name of the data in reports; not that of a published data set.

    Returns:
        The data set; it has at least 2 classes.

    Raises:
        ConfigError: An array has another dtype, shape or range.
    """
    if not name or name in idx.KINDS:
        raise ConfigError(f"name={name!r}: must be a name of your own, not of a published data set")
    images, images_test = _images("x", x), _images("x_test", x_test)
    labels, labels_test = _labels("y", y, len(images)), _labels("y_test", y_test, len(images_test))
    if images.shape[1:] != images_test.shape[1:]:
        raise ConfigError(f"x_test: images of shape {images_test.shape[1:]}; must be {images.shape[1:]} as those of x")
    classes = _classes(classes, labels)
    if labels_test.max() >= classes:
        raise ConfigError(f"y_test: has the label {labels_test.max()}; the labels of y are 0 to {classes - 1}")
    middle = np.float32(images.mean() / 255 if mean is None else mean)
    spread = np.float32(images.std() / 255 if std is None else std)
    if not (0 <= middle <= 1 and 0 < spread <= 1):
        rule = "must be 0 to 1 as pixels are, and std above 0; all pixels of x may be equal"
        raise ConfigError(f"mean={middle}, std={spread}: {rule}")
    train, test = (image_data(*split, middle, spread) for split in ((images, labels), (images_test, labels_test)))
    return make_dataset(train, test, name, classes, "NumPy arrays")


def _classes(classes: int | None, labels: np.ndarray) -> int:
    """The number of classes; labels with gaps, or that begin at 1, need it to be given."""
    largest = int(labels.max())
    if classes is None:
        missing = np.setdiff1d(np.arange(largest + 1), labels)
        if len(missing):
            rule = f"has labels up to {largest}, but not {missing[0]}; they count from 0, or give classes"
            raise ConfigError(f"y: {rule}")
        return max(2, largest + 1)
    if not largest < classes <= LARGEST_LABEL + 1 or classes < 2:
        raise ConfigError(f"classes={classes}: must be above the largest label of y, {largest}, and at least 2")
    return classes


def _array(name: str, given: Any) -> np.ndarray:
    """The argument as an array."""
    if isinstance(given, np.ma.MaskedArray):
        raise ConfigError(f"{name}: is a masked array, whose mask would be lost; fill it first")
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:  # lists of different lengths; tensors of another device
        raise ConfigError(f"{name}: is no array ({' '.join(str(error).split())})") from error


def _images(name: str, given: Any) -> np.ndarray:
    array = _array(name, given)
    if array.ndim != 3 or 0 in array.shape:
        raise ConfigError(f"{name}: has shape {array.shape}; must be [n, height, width], not empty")
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise ConfigError(f"{name}: has dtype {array.dtype}; must be uint8, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if array.dtype == np.uint8:
        if name == "x" and high <= 1:
            raise ConfigError(
                f"x: has bytes up to {high}, which are black; bytes go up to 255; or give floats in [0, 1]"
            )
        return np.ascontiguousarray(array)
    if not (low >= 0 and high <= 1):  # NaN too
        raise ConfigError(f"{name}: has values from {low:g} to {high:g}; floats must lie in [0, 1]")
    if name == "x" and high <= 1 / 255:
        raise ConfigError(f"x: has values up to {high:g}, which are black; were they divided by 255 twice?")
    return np.rint(np.asarray(array, np.float64) * 255).astype(np.uint8)


def _labels(name: str, given: Any, number: int) -> np.ndarray:
    array = _array(name, given)
    if array.shape != (number,):
        hint = "; is it one-hot? give its argmax(1)" if array.ndim == 2 and len(array) == number else ""
        raise ConfigError(f"{name}: has shape {array.shape}; must be ({number},), one label per image{hint}")
    if array.dtype.kind not in "iu":
        raise ConfigError(f"{name}: has dtype {array.dtype}; labels must be integers")
    if array.min() < 0 or array.max() > LARGEST_LABEL:
        raise ConfigError(f"{name}: has labels from {array.min()} to {array.max()}; must be 0 to {LARGEST_LABEL}")
    return array.astype(np.int32)

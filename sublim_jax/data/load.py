"""Load MNIST and its family as `ImageData`, from the package, IDX files, prepared TFDS data or a download."""

import contextlib
import dataclasses
import hashlib
import http.client
import importlib
import importlib.resources
import importlib.util
import json
import logging
import math
import os
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import numpy as np

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.files import replace_file
from sublim_jax.core.types import ImageData
from sublim_jax.data import idx

SOURCES = ("auto", "embedded", "idx", "tfds")
SPLITS = ("train", "test")
BATCH = 1000  # rows TFDS decodes at once
FEATURES = {  # of a prepared data set: TFDS's class, and the field of its content
    "features_dict.FeaturesDict": "featuresDict",
    "image_feature.Image": "image",
    "class_label_feature.ClassLabel": "classLabel",
}
FEATURES_BYTES = 100_000
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist": "EMNIST"}
TIMEOUT = 10.0  # seconds without data from a server


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test data as NumPy arrays, with their origin.

    Attributes:
        train, test: x uint8 [n, height, width] upright, y int32 [n] from 0, mean and std float32.
        name: one of `idx.KINDS`, or another name of your own data.
        classes: number of labels.
        source: description of the source that was used.
        checksum: sha256 (hex) over the bytes of train.x, train.y, test.x, test.y after loading.
    """

    train: ImageData
    test: ImageData
    name: str
    classes: int
    source: str
    checksum: str

    def __post_init__(self) -> None:
        """Refuse images that are not bytes: they would be divided by 255 again."""
        for field, images in (("train", self.train), ("test", self.test)):
            check_images(f"Dataset.{field}", images, self.classes)

    @staticmethod
    def from_arrays(x: Any, y: Any, x_test: Any, y_test: Any, **options: Any) -> "Dataset":
        """Make a data set of NumPy arrays; arguments as those of `sublim_jax.data.arrays.from_arrays`."""
        from sublim_jax.data import arrays

        return arrays.from_arrays(x, y, x_test, y_test, **options)


def check_images(field: str, images: ImageData, classes: int) -> None:
    """Raise `ConfigError` beginning with `field` unless images are bytes, and labels are integers below `classes`."""
    for name, array in {"x": images.x, **{f"extra[{name!r}]": array for name, array in images.extra.items()}}.items():
        if array.dtype != np.uint8 or array.ndim != 3 or 0 in array.shape:
            has = f"has dtype {array.dtype} and shape {array.shape}"
            raise ConfigError(f"{field}.{name}: {has}; must be uint8 [n, height, width]; see Dataset.from_arrays")
    labels = np.asarray(images.y)
    if labels.dtype.kind not in "iu" or labels.shape != images.x.shape[:1]:
        has = f"has dtype {labels.dtype} and shape {labels.shape}"
        raise ConfigError(f"{field}.y: {has}; must be one integer for each of {len(images.x)} images")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(f"{field}.y: has labels {labels.min()} to {labels.max()}; must be 0 to {classes - 1}")
    if not (np.isfinite(images.mean) and 0 < images.std < np.inf):
        raise ConfigError(f"{field}: mean={images.mean}, std={images.std}: must be finite, and std above 0")


def make_dataset(train: ImageData, test: ImageData, name: str, classes: int, source: str) -> Dataset:
    """Make a `Dataset` with its checksum; arguments as its attributes."""
    checksum = hashlib.sha256()
    for images in (train, test):
        checksum.update(np.asarray(images.x).tobytes())
        checksum.update(np.asarray(images.y).astype("<i4").tobytes())  # little-endian on every machine
    return Dataset(train, test, name, classes, source, checksum.hexdigest())


def image_data(x: np.ndarray, y: np.ndarray, mean: float | np.float32, std: float | np.float32) -> ImageData:
    """Make `ImageData` of NumPy arrays; it is declared with JAX arrays, but training chooses the device."""
    return ImageData(*cast(Any, (x, y, np.float32(mean), np.float32(std))))


def load_dataset(  # noqa: PLR0913  the fields of config.data
    name: str = "mnist",
    source: str = "auto",
    folder: str = "",
    tfds_dir: str = "",
    mean: float = 0.1307,
    std: float = 0.3081,
    train_limit: int = 0,
    test_limit: int = 0,
    verify: bool = True,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of `idx.KINDS`.
        source: 'embedded', 'idx', 'tfds', or 'auto' (prepared TFDS data, else embedded MNIST, else a cached download).
        folder: directory of the four IDX files, for source 'idx'.
        tfds_dir: directory of prepared TFDS data; empty = TFDS's default.
        mean: subtracted from pixels in [0, 1].
        std: divides the result.
        train_limit: number of first training rows to keep; 0 = all.
        test_limit: number of first test rows to keep; 0 = all.
        verify: compare IDX files with the published contents, where these are known.

    Raises:
        ConfigError: one line that begins with the field of `config.data` to change.
    """
    for field, value, allowed in (("name", name, idx.KINDS), ("source", source, SOURCES)):
        if value not in allowed:
            raise ConfigError(unknown_name(f"config.data.{field}", value, allowed))
    if not math.isfinite(mean):
        raise refuse("mean", mean, "must be finite")
    if not 0 < std < math.inf:
        raise refuse("std", std, "must be positive and finite")
    (train_raw, test_raw), used_source = read_source(name, source, folder, tfds_dir, verify)
    kind = idx.KINDS[name]
    train = to_image_data(train_raw, kind, "train_limit", train_limit, mean, std)
    test = to_image_data(test_raw, kind, "test_limit", test_limit, mean, std)
    return make_dataset(train, test, name, kind.classes, used_source)


def read_source(name: str, source: str, folder: str, tfds_dir: str, verify: bool) -> tuple[idx.Splits, str]:
    """Read both splits as stored, and describe the source; raises `ConfigError`."""
    if folder and source != "idx":
        raise refuse("folder", folder, f"is used only with config.data.source='idx', not {source!r}")
    if tfds_dir and source in ("auto", "tfds") and not os.path.isdir(os.path.expanduser(tfds_dir)):
        raise refuse("tfds_dir", tfds_dir, "is not a folder")
    if source == "idx":
        waiver = "; config.data.verify=False accepts it"
        splits = read_folder(f"config.data.folder={folder!r}", name, folder, verify, waiver)
        return splits, f"idx {folder}" + ("" if verify and idx.KINDS[name].sha256 else " (contents not verified)")
    prepared = find_prepared(name, tfds_dir)
    field, value = ("tfds_dir", tfds_dir) if tfds_dir else ("source", source)
    if prepared and (source == "tfds" or (source == "auto" and importlib.util.find_spec("tensorflow_datasets"))):
        with blame(f"config.data.{field}={value!r}"):
            return read_tfds(name, prepared), f"tfds {shorten(prepared)} (contents not verified)"
    if source == "tfds":
        root, files = shorten(tfds_root(tfds_dir)), "" if name == "mnist" else " --idx_dir=FOLDER"
        lacks = f"{root}/{name} holds no data prepared as array_record (tfrecord would need TensorFlow)"
        command = f"python -m sublim_jax.data.prepare_tfds --name={name} --data_dir={root}{files}"
        raise refuse(field, value, f"{lacks}; prepare it with: {command}")
    if name == "mnist":
        return read_embedded(), "embedded"
    if source == "embedded":
        raise refuse("source", source, f"the package holds only mnist, not {name}")
    with blame(f"config.data.name={name!r}"):
        # The archives have the registered checksums.
        return idx.read_splits(name, download(name), verify=False), f"download {shorten(cache_root(name))}"


def read_folder(setting: str, name: str, folder: str, verify: bool, waiver: str) -> idx.Splits:
    """Read both splits from the four IDX files of a folder; a `ConfigError` begins with `setting`, see `blame`."""
    path = Path(os.path.expanduser(folder))  # unlike the functions of Path, these raise no OSError
    if not folder or not (os.path.isdir(path) or os.path.isfile(path)):
        raise ConfigError(f"{setting}: is not a folder; it must hold the four IDX files of {name}")
    with blame(setting, waiver):
        if path.is_file() and path.suffix == ".npz":
            return idx.read_npz(name, path, verify)
        return idx.read_splits(name, find_files(path, name), verify)


def find_files(path: Path, name: str) -> Traversable:
    """Return the place of the IDX files: a folder, torchvision's folder in it, or a folder in a zip archive.

    Raises:
        BadFileError: The path is a file of another kind.
    """
    if path.is_file() and not zipfile.is_zipfile(path):
        unpack = "; unpack it: tar -xf" if ".tar" in path.name or path.suffix == ".tgz" else ""
        raise idx.BadFileError(f"is a file; it must be a folder, a zip archive or Keras's .npz{unpack}")
    root = cast(Traversable, path if path.is_dir() else zipfile.Path(path))
    places = [root, root / TORCHVISION[name.partition("/")[0]] / "raw", root / "raw", *sorted_folders(root)]
    labels = idx.file_names(f"{idx.stems_of(name)[0]}-images-idx3-ubyte")
    return next((place for place in places if any((place / label).is_file() for label in labels)), root)


def sorted_folders(root: Traversable) -> list[Traversable]:
    """Return the folders in a folder, by name."""
    return sorted((entry for entry in root.iterdir() if entry.is_dir()), key=lambda entry: entry.name)


def read_embedded() -> idx.Splits:
    """Read MNIST from the files of the package."""
    return idx.read_splits("mnist", importlib.resources.files("sublim_jax.data") / "mnist", verify=True)


def to_image_data(raw: idx.Raw, kind: idx.Kind, field: str, limit: int, mean: float, std: float) -> ImageData:
    """Convert the first `limit` rows (0 = all): images upright, labels from 0; raises `ConfigError` about `field`."""
    if not 0 <= limit <= len(raw.x):
        raise refuse(field, limit, f"must be 0 (all) to {len(raw.x)}, the number of rows")
    rows = slice(limit or None)
    x = np.ascontiguousarray(raw.x[rows].swapaxes(1, 2) if kind.transposed else raw.x[rows])
    y = raw.y[rows].astype(np.int32) - np.int32(kind.first)
    return image_data(x, y, mean, std)


def first_classes(images: ImageData, classes: int) -> ImageData:
    """Keep the rows whose label is below `classes`; 0 = all."""
    if not classes:
        return images
    rows = np.asarray(images.y) < classes
    return images._replace(x=np.asarray(images.x)[rows], y=np.asarray(images.y)[rows])


def with_extra_images(dataset: Dataset, other: Dataset) -> Dataset:
    """Add the images of `other` to a data set as `extra[other.name]`, for streams that use them."""
    pairs = (dataset.train, other.train), (dataset.test, other.test)
    train, test = (own._replace(extra={**own.extra, other.name: added.x}) for own, added in pairs)
    checksum = hashlib.sha256(f"{dataset.checksum} {other.name} {other.checksum}".encode()).hexdigest()
    source = f"{dataset.source}; {other.name} from {other.source}"
    return dataclasses.replace(dataset, train=train, test=test, source=source, checksum=checksum)


def tfds_root(tfds_dir: str) -> Path:
    """Return the directory of TFDS data; TFDS's default if none is given."""
    return Path(os.path.expanduser(tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find_prepared(name: str, tfds_dir: str) -> Path | None:
    """Find the newest version prepared as array_record, or None, by file names only.

    Importing TFDS to ask it is slow, and without prepared data and network it retries for minutes.
    """
    versions = [
        path
        for path in (tfds_root(tfds_dir) / name).glob("*.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
        and all(any(path.glob(f"*-{split}.array_record-*")) for split in SPLITS)
    ]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def import_tfds() -> Any:
    """Import TFDS on first use, because the import is slow; the parts used here do not import TensorFlow."""
    return importlib.import_module("tensorflow_datasets")


def check_features(prepared: Path) -> None:
    """Raise `BadFileError` unless features.json describes an image of 28 x 28 bytes and a class label.

    TFDS imports every module that the file names, so it must see no other file than one with the known classes.
    """
    try:
        root = json.loads(_read_at_most(prepared / "features.json", FEATURES_BYTES))
        image, label = (root["featuresDict"]["features"][name] for name in ("image", "label"))
        sizes = [int(size) for size in image["image"]["shape"]["dimensions"]]
        known = sizes == [28, 28, 1] and len(root["featuresDict"]["features"]) == 2 and len(root["featuresDict"]) == 1
        for node, (name, content) in zip((root, image, label), FEATURES.items(), strict=True):
            known &= node["pythonClassName"] == f"tensorflow_datasets.core.features.{name}"
            known &= node.keys() <= {content, "pythonClassName", "description", "valueRange"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise idx.BadFileError(f"{shorten(prepared)}/features.json cannot be read ({type(error).__name__})") from error
    if not known:
        wanted = "image (28 x 28 x 1) and label, by the classes of TFDS itself"
        raise idx.BadFileError(f"{shorten(prepared)}/features.json has other features; they must be {wanted}")


def _read_at_most(path: Path, size: int) -> bytes:
    """Read a file; raises `BadFileError` where it has more than `size` bytes or is no regular file."""
    if not path.is_file() or path.stat().st_size > size:
        raise idx.BadFileError(f"{shorten(path)} is missing, or has more than {size} bytes")
    return path.read_bytes()


def decode(rows: Any, most: int) -> idx.Raw:
    """Decode all rows of a TFDS data source in batches; row by row takes three times as long."""
    if len(rows) > most:
        raise idx.BadFileError(f"it states {len(rows)} rows; this data set has at most {most}")
    x, y = np.empty((len(rows), 28, 28), np.uint8), np.empty(len(rows), np.int32)
    for start in range(0, len(rows), BATCH):
        numbers = range(start, min(start + BATCH, len(rows)))
        for number, row in zip(numbers, rows.__getitems__(numbers), strict=True):
            if row["image"].shape != (28, 28, 1):  # it would be repeated to fill 28 x 28
                raise idx.BadFileError(f"row {number} has an image of shape {row['image'].shape}")
            x[number], y[number] = row["image"][..., 0], row["label"]
    return idx.Raw(x, y)


def read_tfds(name: str, prepared: Path) -> idx.Splits:
    """Read both splits from a directory prepared by TFDS, in stored (shuffled) order; raises `BadFileError`."""
    check_features(prepared)
    try:
        builder = import_tfds().builder_from_directory(prepared)
        config = builder.builder_config.name if builder.builder_config else ""
        if (found := f"{builder.name}/{config}".removesuffix("/")) != name:
            raise idx.BadFileError(f"it holds {found}, not {name}")
        train, test = (decode(builder.as_data_source(split), idx.KINDS[name].rows) for split in SPLITS)
    except ImportError as error:
        raise idx.BadFileError(f"reading {shorten(prepared)} needs the package {error.name}") from error
    except Exception as error:  # protobuf, JSON, array_record and Pillow raise their own types
        raise idx.BadFileError(f"{shorten(prepared)} cannot be read ({error})") from error
    for split, raw in zip(SPLITS, (train, test), strict=True):
        idx.check_split(raw, idx.KINDS[name], f"{split} of {shorten(prepared)}", "it")
    return train, test


def cache_root(name: str) -> Path:
    """Return the directory in which downloads of a data set are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "sublim_jax" / name.partition("/")[0]


def download(name: str) -> Traversable:
    """Fetch files missing from the cache from the URLs registered in TFDS; return the IDX directory or archive.

    A cached file is used only if it has the registered sha256. Raises `BadFileError`.
    """
    try:
        registered = import_tfds().builder_cls(name.partition("/")[0]).url_infos
    except ImportError as error:
        raise idx.BadFileError(f"a download needs the package {error.name}, which has the addresses") from error
    paths = []
    for url, info in registered.items():
        paths.append(cache_root(name) / info.filename)
        if not paths[-1].is_file() or idx.digest(paths[-1]) != info.checksum:
            fetch(url, info.checksum, paths[-1])
    # EMNIST is one archive with a directory gzip/ of IDX files, read in place.
    return cast(Traversable, zipfile.Path(paths[0], "gzip/")) if paths[0].suffix == ".zip" else cache_root(name)


def fetch(url: str, checksum: str, path: Path) -> None:
    """Download one file to `path`, which is created only if the checksum is right; raises `BadFileError`."""
    logging.getLogger(__name__).info("fetching %s", url)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            content = reply.read()
        if hashlib.sha256(content).hexdigest() != checksum:
            raise idx.BadFileError(f"{url} sent a file with another sha256 than the registered {checksum[:12]}…")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        others = "config.data.source='idx' with config.data.folder, or prepared TFDS data, need no network"
        raise idx.BadFileError(f"cannot fetch {url} ({error}); {others}") from error


def refuse(field: str, value: object, why: str) -> ConfigError:
    """Format a one-line `ConfigError` about a field of `config.data`."""
    return ConfigError(f"config.data.{field}={value!r}: {why}")


@contextlib.contextmanager
def blame(setting: str, waiver: str = "") -> Iterator[None]:
    """Convert a file error to a `ConfigError` about `setting`; `waiver` tells how to accept unknown contents."""
    try:
        yield
    except (idx.BadFileError, OSError, zipfile.BadZipFile) as error:
        line = f"{setting}: {error}{waiver if isinstance(error, idx.StrangeFileError) else ''}"
        raise ConfigError(" ".join(line.split())) from error


def shorten(path: Path) -> str:
    """Abbreviate the home directory to ~."""
    home = str(Path.home())
    return re.sub(rf"^{re.escape(home)}(?=/|$)", "~", str(path))

"""The data door: MNIST and its family as two Banks, from the package, IDX files, prepared TFDS data or a download."""

import contextlib
import dataclasses
import hashlib
import http.client
import importlib
import importlib.resources
import importlib.util
import logging
import math
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Collection, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import numpy as np

from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import ImageData
from sublim_jax.data import idx

SOURCES = ("auto", "embedded", "idx", "tfds")
SPLITS = ("train", "test")
BATCH = 1000  # rows TFDS decodes at once
TIMEOUT = 10.0  # seconds a server may stay silent


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Two Banks of NumPy arrays and where they came from.

    train, test  x uint8 [n, 28, 28] upright, y int32 [n] from 0, mean and std float32
    name         one of idx.KINDS
    classes      number of labels
    source       which source was used, in words
    checksum     sha256 (hex) over the bytes of train.x, train.y, test.x, test.y as they are here
    """

    train: ImageData
    test: ImageData
    name: str
    classes: int
    source: str
    checksum: str


def load_dataset(
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

    source `auto` takes prepared TFDS data, else the files in the package (MNIST), else a download kept in the cache.
    A limit keeps the first rows, 0 keeps all. `verify` holds IDX files against the published contents, where known.
    Raises `ConfigError`, one line that begins with the field of `config.data` to change.
    """
    check_choice("name", name, idx.KINDS)
    check_choice("source", source, SOURCES)
    if folder and source != "idx":
        raise refuse("folder", folder, f"is used only with config.data.source='idx', not {source!r}")
    if tfds_dir and source in ("auto", "tfds") and not Path(tfds_dir).expanduser().is_dir():
        raise refuse("tfds_dir", tfds_dir, "is not a folder")
    if not math.isfinite(mean):
        raise refuse("mean", mean, "must be finite")
    if not 0 < std < math.inf:
        raise refuse("std", std, "must be positive and finite")
    (train_raw, test_raw), said = read_source(name, source, folder, tfds_dir, verify)
    kind = idx.KINDS[name]
    train = make_bank(train_raw, kind, "train_limit", train_limit, mean, std)
    test = make_bank(test_raw, kind, "test_limit", test_limit, mean, std)
    checksum = hashlib.sha256()
    for bank in (train, test):
        checksum.update(np.asarray(bank.x).tobytes())
        checksum.update(np.asarray(bank.y).astype("<i4").tobytes())  # little-endian on every machine
    return Dataset(train, test, name, kind.classes, said, checksum.hexdigest())


def read_source(name: str, source: str, folder: str, tfds_dir: str, verify: bool) -> tuple[idx.Splits, str]:
    """Both splits as the files have them, and the source in words; raises `ConfigError`."""
    if source == "idx":
        files = Path(folder).expanduser()
        if not folder or not files.is_dir():
            raise refuse("folder", folder, "is not a folder; it must hold the four IDX files")
        with blame("folder", folder, waiver="; config.data.verify=False accepts it"):
            splits = idx.read_splits(name, files, verify)
        return splits, f"idx {folder}" + ("" if verify and idx.KINDS[name].sha256 else " (contents not verified)")
    prepared = find_prepared(name, tfds_dir)
    field, value = ("tfds_dir", tfds_dir) if tfds_dir else ("source", source)
    if prepared and (source == "tfds" or source == "auto" and importlib.util.find_spec("tensorflow_datasets")):
        with blame(field, value):
            return read_tfds(name, prepared), f"tfds {shorten(prepared)} (contents not verified)"
    if source == "tfds":
        root = shorten(tfds_root(tfds_dir))
        lacks = f"{root}/{name} holds no data prepared as array_record (tfrecord would need TensorFlow)"
        files = "" if name == "mnist" else " --idx_dir=FOLDER"
        command = f"python -m sublim_jax.data.prepare_tfds --name={name} --data_dir={root}{files}"
        raise refuse(field, value, f"{lacks}; prepare it with: {command}")
    if name == "mnist":
        with blame("source", source):
            return read_embedded(), "embedded"
    if source == "embedded":
        raise refuse("source", source, f"the package holds only mnist, not {name}")
    with blame("name", name):
        return idx.read_splits(name, download(name), verify=True), f"download {shorten(cache_root(name))}"


def read_embedded() -> idx.Splits:
    """MNIST from the package's own files."""
    return idx.read_splits("mnist", importlib.resources.files("sublim_jax.data") / "mnist", verify=True)


def make_bank(raw: idx.Raw, kind: idx.Kind, field: str, limit: int, mean: float, std: float) -> ImageData:
    """The first `limit` rows of a split (0 = all), images upright, labels from 0; raises `ConfigError` naming
    `field`."""
    if not 0 <= limit <= len(raw.x):
        raise refuse(field, limit, f"must be 0 (all) to {len(raw.x)}, the rows there are")
    rows = slice(limit or None)
    x = np.ascontiguousarray(raw.x[rows].swapaxes(1, 2) if kind.transposed else raw.x[rows])
    y = raw.y[rows].astype(np.int32) - np.int32(kind.first)
    # A Bank is declared on JAX's arrays; these are NumPy's, so that whoever trains decides where they go.
    return ImageData(x=cast(Any, x), y=cast(Any, y), mean=cast(Any, np.float32(mean)), std=cast(Any, np.float32(std)))


def first_classes(bank: ImageData, classes: int) -> ImageData:
    """The rows of a bank whose label lies below `classes`; 0 = all."""
    if not classes:
        return bank
    rows = np.asarray(bank.y) < classes
    return bank._replace(x=cast(Any, np.asarray(bank.x)[rows]), y=cast(Any, np.asarray(bank.y)[rows]))


def with_extra_images(dataset: Dataset, other: Dataset) -> Dataset:
    """The data set with the images of another beside its own, for streams that show them; train and test each."""
    train, test = (
        mine._replace(more={**mine.more, other.name: its.x})
        for mine, its in ((dataset.train, other.train), (dataset.test, other.test))
    )
    checksum = hashlib.sha256(f"{dataset.checksum} {other.name} {other.checksum}".encode()).hexdigest()
    source = f"{dataset.source}; {other.name} from {other.source}"
    return dataclasses.replace(dataset, train=train, test=test, source=source, checksum=checksum)


def tfds_root(tfds_dir: str) -> Path:
    """The folder TFDS data lie in; TFDS's own default where none is given."""
    return Path(tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, tfds_dir: str) -> Path | None:
    """The newest version prepared as array_record, or None; looks at file names only.

    Asking TFDS itself costs its import, and where nothing is prepared and no network answers it retries for minutes.
    """
    found = [
        path
        for path in (tfds_root(tfds_dir) / name).glob("*.*.*")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
        and (path / "dataset_info.json").is_file()
        and all(any(path.glob(f"*-{split}.array_record-*")) for split in SPLITS)
    ]
    return max(found, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def import_tfds() -> Any:
    """TFDS, imported when first needed: it is slow. What it is asked for here imports no TensorFlow."""
    return importlib.import_module("tensorflow_datasets")


def decode(rows: Any) -> idx.Raw:
    """All rows of a TFDS data source, in batches: one by one takes three times as long."""
    x, y = np.empty((len(rows), 28, 28), np.uint8), np.empty(len(rows), np.int32)
    for start in range(0, len(rows), BATCH):
        stop = min(start + BATCH, len(rows))
        batch = rows.__getitems__(range(start, stop))
        x[start:stop] = [row["image"][..., 0] for row in batch]
        y[start:stop] = [row["label"] for row in batch]
    return idx.Raw(x, y)


def read_tfds(name: str, prepared: Path) -> idx.Splits:
    """Both splits from a folder prepared by TFDS, in its order (it shuffles when it writes); raises `BadFileError`."""
    try:
        builder = import_tfds().builder_from_directory(prepared)
        train, test = (decode(builder.as_data_source(split)) for split in SPLITS)
    except ImportError as error:
        raise idx.BadFileError(f"reading {shorten(prepared)} needs the package {error.name}") from error
    except Exception as error:  # protobuf, JSON, array_record and Pillow each have their own
        raise idx.BadFileError(f"{shorten(prepared)} cannot be read ({error})") from error
    for split, raw in zip(SPLITS, (train, test), strict=True):
        idx.check_split(raw, idx.KINDS[name], f"{split} of {shorten(prepared)}", "it")
    return train, test


def cache_root(name: str) -> Path:
    """The folder downloads of a data set are kept in."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "sublim_jax" / name.partition("/")[0]


def download(name: str) -> Traversable:
    """Fetch what the cache lacks from the addresses TFDS registers; the folder or archive with the IDX files.

    A cached file is used only while it has the registered sha256. Raises `BadFileError`.
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
    # EMNIST is one archive with a folder gzip/ of IDX files, read in place.
    return cast(Traversable, zipfile.Path(paths[0], "gzip/")) if paths[0].suffix == ".zip" else cache_root(name)


def fetch(url: str, checksum: str, path: Path) -> None:
    """Download one file to `path`, which appears only when whole and right; raises `BadFileError`."""
    logging.getLogger(__name__).info("fetching %s", url)
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="partial-", delete=False) as sink:
            partial = Path(sink.name)
            with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
                shutil.copyfileobj(reply, sink)
        if idx.digest(partial) != checksum:
            raise idx.BadFileError(f"{url} sent a file with another sha256 than the registered {checksum[:12]}…")
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        others = "config.data.source='idx' with config.data.folder, or prepared TFDS data, need no network"
        raise idx.BadFileError(f"cannot fetch {url} ({error}); {others}") from error
    finally:
        if partial:
            partial.unlink(missing_ok=True)


def check_choice(field: str, value: str, allowed: Collection[str]) -> None:
    """Raise `ConfigError` with the nearest allowed value unless the value is one of them."""
    if value not in allowed:
        raise ConfigError(unknown_name(f"config.data.{field}", value, allowed))


def refuse(field: str, value: object, why: str) -> ConfigError:
    """A `ConfigError` of one line about a field of `config.data`."""
    return ConfigError(" ".join(f"config.data.{field}={value!r}: {why}".split()))


@contextlib.contextmanager
def blame(field: str, value: str, waiver: str = "") -> Iterator[None]:
    """Turn what a file is guilty of into a `ConfigError` that names the field; `waiver` says how to accept a
    stranger."""
    try:
        yield
    except (idx.BadFileError, OSError, zipfile.BadZipFile) as error:
        raise refuse(field, value, f"{error}{waiver if isinstance(error, idx.StrangeFileError) else ''}") from error


def shorten(path: Path) -> str:
    """The path with ~ for the home folder."""
    home = str(Path.home())
    return re.sub(rf"^{re.escape(home)}(?=/|$)", "~", str(path))

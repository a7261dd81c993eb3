"""Laws of the data door: every way in gives the same numbers, and nothing wrong comes through."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib.resources
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.idx_files import encode, make_tiny, write

from sublim_jax import data
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ImageData
from sublim_jax.data import load, prepare_tfds

MD5 = {  # as published
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's own data or cache, and none reaches a network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    reach = urllib.request.urlopen

    def refuse(url: str, timeout: float) -> object:
        if url.startswith("http://127.0.0.1:"):
            return reach(url, timeout=timeout)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(scope="module")
def whole() -> data.Dataset:
    return data.load_dataset(source="embedded")


def rows(bank: ImageData) -> list[tuple[bytes, int]]:
    """The bank as a multiset: sorted (image, label)."""
    return sorted((x.tobytes(), int(y)) for x, y in zip(np.asarray(bank.x), np.asarray(bank.y), strict=True))


def refusal(**arguments: object) -> str:
    """The one line `load` refuses with."""
    with pytest.raises(ConfigError) as caught:
        data.load_dataset(**arguments)  # pyright: ignore[reportArgumentType]
    line = str(caught.value)
    assert line.startswith("config.data.")
    assert "\n" not in line
    return line


# The real images


def test_load_dataset_embedded_is_mnist(whole: data.Dataset) -> None:
    files = importlib.resources.files("sublim_jax.data") / "mnist"
    assert {name: hashlib.md5((files / name).read_bytes()).hexdigest() for name in MD5} == MD5
    assert (whole.name, whole.classes, whole.source) == ("mnist", 10, "embedded")
    for bank, count in ((whole.train, 60_000), (whole.test, 10_000)):
        assert type(bank.x) is type(bank.y) is np.ndarray and type(bank.mean) is type(bank.std) is np.float32
        assert (bank.x.shape, bank.x.dtype) == ((count, 28, 28), np.uint8)
        assert (bank.y.shape, bank.y.dtype) == ((count,), np.int32)
        assert (bank.mean, bank.std) == (np.float32(0.1307), np.float32(0.3081))
    counts = np.bincount(np.asarray(whole.test.y)).tolist()
    assert counts == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = np.bincount(np.asarray(whole.train.x).ravel(), minlength=256) / whole.train.x.size
    values = np.arange(256) / 255
    mean = (pixels * values).sum()
    assert round(mean, 4) == 0.1307
    assert round(np.sqrt((pixels * (values - mean) ** 2).sum()), 4) == 0.3081
    assert np.asarray(whole.train.y)[:5].tolist() == [5, 0, 4, 1, 9]


def test_load_dataset_idx_zipped_or_not_is_the_embedded(whole: data.Dataset, tmp_path: Path) -> None:
    zipped, plain = tmp_path / "zipped", tmp_path / "plain"
    zipped.mkdir()
    plain.mkdir()
    for name in MD5:
        blob = (importlib.resources.files("sublim_jax.data") / "mnist" / name).read_bytes()
        (zipped / name).write_bytes(blob)
        (plain / name.removesuffix(".gz")).write_bytes(gzip.decompress(blob))
    for folder in (zipped, plain):
        there = data.load_dataset(source="idx", folder=str(folder))
        assert there.checksum == whole.checksum
        assert there.source == f"idx {folder}"
    # One pixel of 47 million is another data set, and so are training images that are the test's.
    images = plain / "t10k-images-idx3-ubyte"
    blob = bytearray(images.read_bytes())
    blob[5000] ^= 1
    images.write_bytes(blob)
    line = refusal(source="idx", folder=str(plain))
    assert line.startswith(f"config.data.folder={str(plain)!r}: t10k-images-idx3-ubyte is not the published file of")
    assert line.endswith("config.data.verify=False accepts it")
    accepted = data.load_dataset(source="idx", folder=str(plain), verify=False)
    assert accepted.checksum != whole.checksum
    assert accepted.source.endswith("(contents not verified)")
    for part in ("images-idx3", "labels-idx1"):
        shutil.copy(zipped / f"t10k-{part}-ubyte.gz", zipped / f"train-{part}-ubyte.gz")
    assert "train-images-idx3-ubyte is not the published file" in refusal(source="idx", folder=str(zipped))


@pytest.mark.parametrize("name", ["kmnist", "fashion_mnist"])
@pytest.mark.parametrize("verify", [True, False])
def test_load_dataset_refuses_another_data_set_by_this_name(name: str, verify: bool, tmp_path: Path) -> None:
    """Files of MNIST are not KMNIST's, whatever is waived; nor is a copy of which one file is changed."""
    source = importlib.resources.files("sublim_jax.data") / "mnist"
    for file in MD5:
        (tmp_path / file).write_bytes((source / file).read_bytes())
    given = {"name": name, "source": "idx", "folder": str(tmp_path), "verify": verify}
    assert f"train-images-idx3-ubyte is the published file of mnist, not of {name}" in refusal(**given)
    images = bytearray(gzip.decompress((tmp_path / X).read_bytes()))
    images[5000] ^= 1
    (tmp_path / X[:-3]).write_bytes(images)
    assert f"train-labels-idx1-ubyte is the published file of mnist, not of {name}" in refusal(**given)


def test_load_dataset_wants_the_published_number_of_each_class(tmp_path: Path) -> None:
    folder = str(write(tmp_path, make_tiny("kmnist")))
    line = refusal(name="kmnist", source="idx", folder=folder)
    assert "train-labels-idx1-ubyte has 1 to 11 of a class, kmnist as published 6000; is it another" in line
    assert line.endswith("config.data.verify=False accepts it")
    assert "(contents not verified)" in data.load_dataset("kmnist", "idx", folder=folder, verify=False).source


GOOD = {
    "x": np.linspace(0, 1, 256).reshape(4, 8, 8),
    "y": np.arange(4),
    "x_test": np.ones((2, 8, 8)),
    "y_test": np.arange(2),
}
WRONG = {
    "x": [
        (GOOD["x"] * 2 - 1, "values from -1 to 1; floats must lie in"),
        (GOOD["x"] * 255, "values from 0 to 255; floats"),
        (GOOD["x"] / 255, "values up to 0.00392157, which are black; were they divided by 255 twice"),
        (GOOD["x"].astype(np.uint8), "bytes up to 1, which are black"),
        ((GOOD["x"] * 65535).astype(np.uint16), "dtype uint16"),
        (GOOD["x"].astype(complex), "dtype complex128"),
        (GOOD["x"] > 0.5, "dtype bool"),
        (GOOD["x"].astype(object), "dtype object"),
        (np.where(GOOD["x"] > 0.5, np.nan, 0), "values from nan to nan"),
        (np.where(GOOD["x"] > 0.5, np.inf, 0), "to inf"),
        (GOOD["x"][:0], "not empty"),
        (GOOD["x"][:, :0], "not empty"),
        (GOOD["x"].reshape(4, 64), r"shape \(4, 64\); must be"),
        (GOOD["x"][..., None], r"shape \(4, 8, 8, 1\); must be"),
        (np.ma.masked_less(GOOD["x"], 0.5), "masked array"),
        ([[[0.0]], [[0.0, 1.0]]], "is no array"),
        (None, "shape"),
        ("images", "shape"),
    ],
    "y": [
        (np.eye(4, dtype=int), "one label per image; is it one-hot"),
        (np.arange(4.0), "dtype float64; labels must be integers"),
        (np.array([True, False, True, False]), "dtype bool"),
        (np.array(list("abcd")), "must be integers"),
        (np.arange(3), "one label per image"),
        (np.array([]), "one label per image"),
        (np.arange(4) - 1, "labels from -1 to 2"),
        (np.arange(4) + 1, "has labels up to 4, but not 0; they count from 0"),
        (np.array([0, 1, 2, 999]), "has labels up to 999, but not 3"),
        (np.array([0, 1, 2, 2**40]), "must be 0 to 32767"),
        (np.array([0, 1, 2, 2**63], np.uint64), "must be 0 to 32767"),
    ],
    "x_test": [(np.ones((2, 8, 9)), r"must be \(8, 8\)"), (np.ones((3, 8, 8)) * 2, "x_test: has values from 2 to 2")],
    "y_test": [(np.array([0, 4]), "has the label 4"), (np.arange(3), "one label per image")],
    "mean": [(33.3, "must be 0 to 1"), (np.nan, "mean=nan"), (-0.1, "must be 0 to 1")],
    "std": [(78.6, "must be 0 to 1"), (0.0, "std above 0"), (np.nan, "std=nan")],
    "classes": [(3, "above the largest label of y, 3"), (10**6, "classes=1000000"), (0, "classes=0")],
    "name": [("mnist", "of your own"), ("", "of your own")],
}


@pytest.mark.parametrize("name", WRONG)
def test_from_arrays_names_a_wrong_argument(name: str) -> None:
    for value, words in WRONG[name]:
        with pytest.raises(ConfigError, match=words) as caught:
            data.Dataset.from_arrays(**{**GOOD, name: value})  # pyright: ignore[reportArgumentType]
        assert str(caught.value).startswith(name if name != "std" else "mean=") and "\n" not in str(caught.value)


def test_from_arrays_gives_bytes_as_they_are_and_floats_as_bytes() -> None:
    given = data.Dataset.from_arrays(**GOOD, name="mine", classes=7)
    assert (given.name, given.classes, given.train.x.dtype) == ("mine", 7, np.uint8)
    assert (given.train.x.ravel() == np.arange(256)).all()
    again = data.Dataset.from_arrays(given.train.x, given.train.y, given.test.x, given.test.y, classes=7)
    assert again.checksum == given.checksum and again.train.mean == given.train.mean


def test_dataset_refuses_images_that_are_no_bytes(whole: data.Dataset) -> None:
    """Images that are divided already would be divided again."""
    y = np.asarray(whole.test.y)
    for changes, words in (
        (
            {"x": np.asarray(whole.test.x) / np.float32(255)},
            "Dataset.test.x: has dtype float32 .* see Dataset.from_arr",
        ),
        ({"x": np.asarray(whole.test.x).reshape(-1, 784)}, "Dataset.test.x: has dtype uint8 and shape"),
        ({"y": np.eye(10)[y]}, "Dataset.test.y: has dtype float64"),
        ({"y": y[:5]}, "must be one integer for each of 10000 images"),
        ({"y": y - 1}, "Dataset.test.y: has labels -1 to 8; must be 0 to 9"),
        ({"y": y + 1}, "has labels 1 to 10"),
        ({"std": np.float32(0)}, "must be finite, and std above 0"),
        ({"mean": np.float32(np.nan)}, "must be finite"),
        ({"extra": {"more": np.zeros((3, 28, 28))}}, r"Dataset.test.extra\['more'\]: has dtype float64"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            dataclasses.replace(whole, test=whole.test._replace(**changes))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_load_dataset_fashion_of_debian_is_the_published_one() -> None:
    fashion = data.load_dataset("fashion_mnist", "idx", folder=str(FASHION))
    assert np.bincount(np.asarray(fashion.train.y)).tolist() == [6000] * 10
    assert np.bincount(np.asarray(fashion.test.y)).tolist() == [1000] * 10
    assert "is not the published file of mnist" in refusal(source="idx", folder=str(FASHION))


def test_load_dataset_limit_is_a_prefix(whole: data.Dataset) -> None:
    short = data.load_dataset(source="embedded", train_limit=7, test_limit=3, mean=0.5, std=2.0)
    assert np.array_equal(short.train.x, whole.train.x[:7]) and np.array_equal(short.train.y, whole.train.y[:7])
    assert np.array_equal(short.test.x, whole.test.x[:3]) and np.array_equal(short.test.y, whole.test.y[:3])
    assert (short.train.mean, short.test.std) == (np.float32(0.5), np.float32(2))
    assert short.checksum != whole.checksum
    assert refusal(source="embedded", test_limit=10_001).startswith("config.data.test_limit=10001: must be 0 (all) to")
    assert refusal(source="embedded", train_limit=-1).startswith("config.data.train_limit=-1: ")


# What is refused


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"source": "tfsd"}, "config.data.source: 'tfsd' is none of auto, embedded, idx, tfds; did you mean 'tf"),
        ({"name": "emnist/leters"}, "config.data.name: 'emnist/leters' is none of mnist, fashion_mnist, kmnist, e"),
        ({"name": "kmnist", "source": "embedded"}, "config.data.source='embedded': the package holds only mnist"),
        ({"source": "idx"}, "config.data.folder='': is not a folder"),
        ({"source": "idx", "folder": "nowhere"}, "config.data.folder='nowhere': is not a folder"),
        ({"folder": "images"}, "config.data.folder='images': is used only with config.data.source='idx', not 'auto'"),
        ({"tfds_dir": "nowhere"}, "config.data.tfds_dir='nowhere': is not a folder"),
        ({"std": 0.0}, "config.data.std=0.0: must be positive"),
        ({"std": float("nan")}, "config.data.std=nan: must be positive"),
        ({"mean": float("inf")}, "config.data.mean=inf: must be finite"),
    ],
)
def test_load_dataset_names_a_wrong_field(arguments: dict[str, object], start: str) -> None:
    line = refusal(**arguments)
    assert line.startswith(start)
    assert "name" not in arguments or "source" in arguments or line.endswith("did you mean 'emnist/letters'?")


def edit(name: str, change) -> object:
    """A fault: replace the bytes of one file of a folder by `change` of them."""

    def fault(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return fault


def swap(folder: Path) -> None:
    images, labels = folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz"
    blob = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(blob)


def inside(change):
    """The change made to the decompressed bytes."""
    return lambda blob: gzip.compress(change(gzip.decompress(blob)))


def flip(blob: bytes) -> bytes:
    middle = len(blob) // 2
    return blob[:middle] + bytes([blob[middle] ^ 0x55]) + blob[middle + 1 :]


X, Y = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
FAULTS = {
    "cut gzip": (edit(X, lambda b: b[: len(b) // 2]), f"{X} is truncated"),
    "cut gzip trailer": (edit(X, lambda b: b[:-3]), f"{X} is truncated"),
    "cut gzip header": (edit(X, lambda b: b[:5]), f"{X} is truncated"),
    "corrupt gzip": (edit(X, flip), f"{X} is corrupt"),
    "cut raw": (edit(X, lambda b: gzip.decompress(b)[:-1]), f"{X} is truncated (39199 bytes after the header, 39200 f"),
    "cut header": (edit(X, lambda b: gzip.decompress(b)[:9]), f"{X} is truncated (9 bytes, the header alone has 16)"),
    "empty": (edit(Y, lambda b: b""), f"{Y} is truncated (0 bytes"),
    "too long": (
        edit(Y, inside(lambda b: b + b"\0")),
        f"{Y} is too long (more than the 50 bytes after the header for 50)",
    ),
    "magic": (edit(X, inside(lambda b: b"\0\0\x0d" + b[3:])), f"{X} has magic number 0x00000d03 instead of 0x00000803"),
    "a web page": (edit(Y, lambda b: b"<!DOCTYPE html>"), f"{Y} has magic number 0x3c21444f instead of 0x00000801"),
    "swapped": (swap, "t10k-images-idx3-ubyte.gz has magic number 0x00000801 instead of 0x00000803; this looks like"),
    "missing": (lambda folder: (folder / Y).unlink(), "train-labels-idx1-ubyte.gz is missing"),
    "counts": (
        edit(Y, lambda b: encode(np.zeros(49, np.uint8))),
        f"{X[:-3]} has 50 images, but {Y[:-3]} has 49",
    ),
    "label": (edit(Y, lambda b: encode(np.full(50, 10, np.uint8))), f"{Y[:-3]} has the label 10, labels are 0 to 9"),
    "size": (
        edit(X, lambda b: encode(np.zeros((50, 28, 27), np.uint8))),
        f"{X[:-3]} has shape (50, 28, 27), it must be",
    ),
    "rows": (
        edit(X, inside(lambda b: b[:4] + b"\xff" * 4 + b[8:])),
        f"{X} states the shape 4294967295 x 28 x 28; this",
    ),
    "sides": (edit(X, inside(lambda b: b[:8] + b"\xff" * 8 + b[16:])), f"{X} states the shape 50 x 4294967295 x"),
    "no row": (edit(X, inside(lambda b: b[:4] + b"\0" * 4 + b"\xff" * 8)), f"{X} states the shape 0 x 4294967295 x"),
    "labels": (edit(Y, inside(lambda b: b[:4] + b"\x80" * 4 + b[8:])), f"{Y} states the shape 2155905152; this data"),
    "thrice": (edit(X, lambda b: gzip.compress(gzip.compress(b))), f"{X} is gzip in gzip in gzip"),
    "pointer": (
        edit(X, lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"{X} has magic number 0x76657273 instead of 0x00000803; this looks like a Git LFS pointer",
    ),
    "none": (edit(X, lambda b: encode(np.zeros((0, 28, 28), np.uint8))), "train-images-idx3-ubyte has shape (0, "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_load_dataset_names_a_wrong_file(fault: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "files", make_tiny("kmnist"))
    data.load_dataset("kmnist", "idx", folder=str(folder), verify=False)
    harm, words = FAULTS[fault]
    harm(folder)
    assert refusal(name="kmnist", source="idx", folder=str(folder), verify=False).startswith(
        f"config.data.folder={str(folder)!r}: {words}"
    )


@pytest.mark.parametrize(("name", "first", "classes"), [("emnist/letters", 1, 26), ("emnist/balanced", 0, 47)])
def test_load_dataset_turns_emnist_upright_and_counts_from_0(
    name: str, first: int, classes: int, tmp_path: Path
) -> None:
    tiny = make_tiny(name)
    folder = str(write(tmp_path, tiny, zipped=False))
    there = data.load_dataset(name, "idx", folder=folder, verify=False)
    x, y = list(tiny.values())[:2]
    assert np.array_equal(there.train.x, x.transpose(0, 2, 1))
    assert np.array_equal(there.train.y, y.astype(np.int32) - first)
    assert there.classes == classes and np.asarray(there.train.y).max() == classes - 1
    x[0], y[0] = 0, first + classes  # one too many
    write(tmp_path, tiny, zipped=False)
    line = refusal(name=name, source="idx", folder=folder, verify=False)
    assert f"has the label {first + classes}, labels are {first} to" in line


def test_load_dataset_unpacks_no_more_than_the_header_states(tmp_path: Path) -> None:
    """A gzip of some kilobytes that unpacks to 400 MB takes 40 KB; the same in gzip of gzip."""
    folder = write(tmp_path / "files", make_tiny("kmnist"))
    bomb = gzip.compress(gzip.decompress((folder / X).read_bytes()) + bytes(400_000_000), 1)
    for blob in (bomb, gzip.compress(bomb)):
        (folder / X).write_bytes(blob)
        tracemalloc.start()
        line = refusal(name="kmnist", source="idx", folder=str(folder), verify=False)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "train-images-idx3-ubyte.gz is too long (more than the 39200 bytes" in line and used < 2_000_000 + len(
            blob
        )


def test_load_dataset_reads_the_folders_and_archives_that_people_have(tmp_path: Path) -> None:
    """A dot in names, torchvision's folder, one folder too high, gzip in gzip, a zip archive, Keras's file."""
    tiny = make_tiny("kmnist")
    right = write(tmp_path / "right", tiny, zipped=False)

    def copy(folder: str, name=lambda file: file.name, change=lambda blob: blob) -> Path:
        for file in right.iterdir():
            path = tmp_path / folder / name(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(change(file.read_bytes()))
        return tmp_path / folder

    places = [
        copy("dots", lambda file: file.name.replace("-idx", ".idx")),
        copy("zipped dots", lambda file: f"{file.name.replace('-idx', '.idx')}.gz", gzip.compress),
        copy("twice", lambda file: f"{file.name}.gz", lambda blob: gzip.compress(gzip.compress(blob))),
        copy("torchvision", lambda file: f"KMNIST/raw/{file.name}"),
        copy("torchvision/KMNIST"),
        copy("above", lambda file: f"archive/{file.name}"),
    ]
    for name, prefix in (("flat.zip", ""), ("folder.zip", "files/")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in right.iterdir():
                archive.write(file, prefix + file.name)
        places.append(tmp_path / name)
    arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), tiny.values(), strict=True))
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    wanted = data.load_dataset("kmnist", "idx", folder=str(right), verify=False).checksum
    for place in [*places, tmp_path / "plain.npz", tmp_path / "small.npz"]:
        assert data.load_dataset("kmnist", "idx", folder=str(place), verify=False).checksum == wanted, place


def test_load_dataset_says_what_a_file_is(tmp_path: Path) -> None:
    for name, content, words in (
        (
            "files.tar.gz",
            b"\x1f\x8b",
            "is a file; it must be a folder, a zip archive or Keras's .npz; unpack it: tar -xf",
        ),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03", "is a file; it must be a folder"),
        ("broken.zip", b"PK\3\4", "is a file"),
        ("broken.npz", b"PK\3\4", "File is not a zip file"),
    ):
        (tmp_path / name).write_bytes(content)
        assert words in refusal(name="kmnist", source="idx", folder=str(tmp_path / name), verify=False)
    good = {"x_train": np.zeros((9, 28, 28), np.uint8), "y_train": np.zeros(9, np.uint8)}
    for change, words in (
        ({"x_train": good["x_train"] / 255}, "x_train.npy has dtype float64"),
        ({"x_train": good["x_train"][..., None]}, "x_train.npy has dtype uint8 and shape (9, 28, 28, 1)"),
        ({"y_train": np.array([{}] * 9, object)}, "y_train.npy has dtype object"),
        ({}, "has no x_test.npy"),
    ):
        np.savez(tmp_path / "mnist.npz", **{**good, **change})
        assert words in refusal(name="kmnist", source="idx", folder=str(tmp_path / "mnist.npz"), verify=False)


# Downloads


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, http.server.ThreadingHTTPServer]]:
    """A folder, and a server on this machine that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, server
        server.shutdown()
        thread.join()


def register(monkeypatch: pytest.MonkeyPatch, folder: Path, port: int) -> None:
    """Let TFDS register the files of the folder, at the server's address."""
    infos = {
        f"http://127.0.0.1:{port}/{path.name}": types.SimpleNamespace(
            filename=path.name, checksum=hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(folder.iterdir())
    }
    builder = types.SimpleNamespace(url_infos=infos)
    monkeypatch.setattr(load, "import_tfds", lambda: types.SimpleNamespace(builder_cls=lambda name: builder))


def test_load_dataset_verifies_and_keeps_a_download(site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, server = site
    write(folder, make_tiny("kmnist"))
    register(monkeypatch, folder, server.server_port)
    cache = tmp_path / "cache" / "sublim_jax" / "kmnist"
    labels = folder / "train-labels-idx1-ubyte.gz"
    good = labels.read_bytes()
    for bad in (flip(good), good[:-4], b""):
        labels.write_bytes(bad)
        line = refusal(name="kmnist")
        assert re.match(
            rf"config\.data\.name='kmnist': http://127\S+/{labels.name} sent a file with another sha256", line
        )
        assert not (cache / labels.name).exists() and not list(cache.glob("partial*"))
    labels.unlink()
    assert "HTTP Error 404" in refusal(name="kmnist")
    labels.write_bytes(good)
    first = data.load_dataset("kmnist")
    assert first.checksum == data.load_dataset("kmnist", "idx", folder=str(folder), verify=False).checksum
    assert first.source == f"download {cache}"

    shutil.rmtree(folder)  # from here on the server has nothing to give
    assert data.load_dataset("kmnist").checksum == first.checksum
    (cache / labels.name).write_bytes(flip(good))
    assert "HTTP Error 404" in refusal(name="kmnist")


def test_load_dataset_reads_the_archive_of_emnist(site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, server = site
    tiny = make_tiny("emnist/letters")
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for name, array in tiny.items():
            archive.writestr(f"gzip/{name}.gz", gzip.compress(encode(array)))
    register(monkeypatch, folder, server.server_port)
    there = data.load_dataset("emnist/letters")
    assert (
        there.checksum
        == data.load_dataset("emnist/letters", "idx", folder=str(write(tmp_path / "idx", tiny)), verify=False).checksum
    )
    line = refusal(name="emnist/balanced")
    assert line.startswith("config.data.name='emnist/balanced': emnist-balanced-train-images-idx3-ubyte.gz is missing")


def test_load_dataset_leaves_a_silent_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write(tmp_path / "files", make_tiny("kmnist"))
    monkeypatch.setattr(load, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        register(monkeypatch, folder, silent.getsockname()[1])
        assert "timed out" in refusal(name="kmnist")


def test_load_dataset_auto_without_network_is_quick(whole: data.Dataset) -> None:
    start = time.monotonic()
    assert data.load_dataset().checksum == whole.checksum
    line = refusal(name="fashion_mnist")
    assert time.monotonic() - start < 5
    assert re.match(r"config\.data\.name='fashion_mnist': cannot fetch http://fashion-mnist\.\S+-ubyte\.gz \(", line)
    assert "config.data.source='idx'" in line


# TFDS


def prepare(*flags: str) -> int:
    return prepare_tfds.main(["prepare_tfds", *flags])


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["mnist", "emnist/letters"])
def test_prepare_gives_the_data_of_the_idx_files(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "BATCH", 16)  # 50 and 20 rows: whole batches and rests
    folder, root = write(tmp_path / "idx", make_tiny(name)), tmp_path / "tfds"
    command = [f"--name={name}", f"--idx_dir={folder}", f"--data_dir={root}", "--noverify"]
    assert prepare(*command) == 0
    assert f"{name} is prepared in {root}" in capsys.readouterr().out
    assert prepare(*command) == 0
    assert f"{name} is already prepared in {root}" in capsys.readouterr().out

    there = data.load_dataset(name, "tfds", tfds_dir=str(root))
    files = data.load_dataset(name, "idx", folder=str(folder), verify=False)
    assert rows(there.train) == rows(files.train)
    assert rows(there.test) == rows(files.test)
    assert there.train.x.dtype == np.uint8 and there.train.y.dtype == np.int32
    assert re.fullmatch(rf"tfds {root}/{name}/\d+\.\d+\.\d+ \(contents not verified\)", there.source)
    assert data.load_dataset(name, "auto", tfds_dir=str(root)).checksum == there.checksum  # prepared data come first
    assert "tensorflow" not in sys.modules

    # TFDS itself finds them under the official name, as the files have them.
    source = data.import_tfds().data_source(name, data_dir=root, split="test")
    raw = [(row["image"].tobytes(), row["label"]) for row in source]
    images, labels = list(make_tiny(name).values())[2:]
    assert sorted(raw) == sorted((x.tobytes(), y) for x, y in zip(images, labels, strict=True))

    shard = next(root.glob(f"{name}/*/*-test.array_record-*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    line = refusal(name=name, tfds_dir=str(root))
    assert line.startswith(f"config.data.tfds_dir={str(root)!r}: {shard.parent} cannot be read (")


IMAGE = {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"}
IMAGE["image"] = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
LABEL = {
    "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "classLabel": {"numClasses": "10"},
}
ROOT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
NESTED = {"type": ROOT, "content": {"image": {"type": "planted_module.Feature", "content": {}}}}
PLANTED = {
    "root": {
        "pythonClassName": "planted_module.Feature",
        "featuresDict": {"features": {"image": IMAGE, "label": LABEL}},
    },
    "image": {"image": IMAGE | {"pythonClassName": "planted_module.Image"}, "label": LABEL},
    "label": {"image": IMAGE, "label": LABEL | {"pythonClassName": "planted_module.Label"}},
    "third": {"image": IMAGE, "label": LABEL, "more": {"pythonClassName": "planted_module.Feature", "jsonFeature": {}}},
    "older notation": NESTED,
    "text in JSON": {"pythonClassName": ROOT, "jsonFeature": {"json": json.dumps(NESTED["content"])}},
    "other content": {"image": IMAGE, "label": LABEL | {"jsonFeature": {"json": json.dumps(NESTED)}}},
    "other name": {"image": IMAGE, "label": {"python_class_name": "planted_module.Label", **LABEL}},
    "sequence": {
        "image": IMAGE,
        "label": {
            "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
            "sequence": {"feature": {"pythonClassName": "planted_module.Feature", "jsonFeature": {"json": "{}"}}},
        },
    },
    "no features": {},
    "a list": [1],
    "size": {"image": IMAGE | {"image": {"shape": {"dimensions": ["28", "28", "3"]}}}, "label": LABEL},
}


@pytest.mark.parametrize("planted", PLANTED)
def test_load_dataset_imports_nothing_that_prepared_data_name(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tfds" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    splits = [{"name": name, "numBytes": "0", "shardLengths": ["0"]} for name in ("train", "test")]
    about = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    for split in ("train", "test"):
        (folder / f"mnist-{split}.array_record-00000-of-00001").touch()
    features = PLANTED[planted]
    if isinstance(features, dict) and not {"type", "pythonClassName"} & features.keys():
        features = {"pythonClassName": ROOT, "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(features))
    assert "features.json " in refusal(source="tfds", tfds_dir=str(tmp_path / "tfds"))
    assert "planted_module" not in sys.modules and not (tmp_path / "ran").exists()
    for content in (b"{", b"[" * 100_000, b"\xff", b" " * 200_000):
        (folder / "features.json").write_bytes(content)
        refusal(source="tfds", tfds_dir=str(tmp_path / "tfds"))


def test_prepare_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "idx", make_tiny("mnist"))
    other = tmp_path / "tfds" / "mnist" / "3.0.1"
    other.mkdir(parents=True)
    (other / "mnist-train.tfrecord-00000-of-00001").touch()
    for flags, words in (
        (["--nmae=mnist"], "'nmae'"),
        (["mnist"], "mnist: is not a flag"),
        (["--name=mist"], "flag --name=mist: "),
        (["--name=kmnist"], "--idx_dir=: is not a folder"),
        (["--name=kmnist", f"--idx_dir={tmp_path / 'tfds'}"], "train-images-idx3-ubyte.gz is missing"),
        ([f"--idx_dir={folder}"], "is not the published file of mnist"),
        ([f"--idx_dir={folder}", "--noverify", f"--data_dir={tmp_path / 'tfds'}"], "in another format"),
    ):
        assert prepare(*flags) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.e2e
def test_load_dataset_embedded_and_unprepared_imports_no_tfds() -> None:
    code = """
import sys, time
from sublim_jax import data
from sublim_jax.core.errors import ConfigError
data.load_dataset()
start = time.monotonic()
try:
    data.load_dataset('kmnist', 'tfds')
except ConfigError as refused:
    print(time.monotonic() - start, refused)
print([name for name in ('tensorflow', 'tensorflow_datasets') if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, modules = io.StringIO(done.stdout)
    took, _, words = line.partition(" ")
    assert float(took) < 2
    assert words.startswith("config.data.source='tfds': ~/tensorflow_datasets/kmnist holds no data prepared")
    assert (
        "python -m sublim_jax.data.prepare_tfds --name=kmnist --data_dir=~/tensorflow_datasets --idx_dir=FOLDER"
        in words
    )
    assert modules == "[]\n"

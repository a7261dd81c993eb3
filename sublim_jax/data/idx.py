"""The IDX file format of MNIST, and the data sets published in it.

A file holds a magic number, the sizes as big-endian 32-bit integers, then one unsigned byte per entry.
"""

import gzip
import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from jaxtyping import Integer, UInt8

NPZ = {"x": "images-idx3-ubyte", "y": "labels-idx1-ubyte"}
GZIP_LAYERS = 3  # a file, gzip, or gzip in gzip


class BadFileError(ValueError):
    """A file is missing, damaged or of another kind; the message is one line that begins with the file."""


class StrangeFileError(BadFileError):
    """A file is well formed, but its contents differ from the published ones."""


class Kind(NamedTuple):
    """Properties of one data set.

    Attributes:
        classes: number of labels after they are shifted to start at 0.
        first: smallest label in the files.
        transposed: rows and columns of images are exchanged in the files, as in NIST's EMNIST.
        sha256: of the decompressed files where known: train images, train labels, test images, test labels.
        per_class: published number of training and of test images of each class, where all classes have as many.
        rows: number of all images published, which no file exceeds.
    """

    classes: int
    first: int = 0
    transposed: bool = False
    sha256: tuple[str, ...] = ()
    per_class: tuple[int, ...] = ()
    rows: int = 70_000


# Fashion-MNIST's are those of Debian's package; with the gzip headers that Debian strips put back, its four files have
# the checksums TFDS registers, so the contents are the published ones.
KINDS = {
    "mnist": Kind(
        10,
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": Kind(
        10,
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": Kind(10, per_class=(6000, 1000)),
    "emnist/balanced": Kind(47, transposed=True, per_class=(2400, 400), rows=131_600),
    "emnist/letters": Kind(26, first=1, transposed=True, per_class=(4800, 800), rows=145_600),
}


class Raw(NamedTuple):
    """One split as stored in the files: orientation and labels unchanged."""

    x: UInt8[np.ndarray, "n height width"]
    y: Integer[np.ndarray, " n"]


Splits = tuple[Raw, Raw]  # train, test


def read(folder: Traversable, stem: str, rank: int, rows: int) -> tuple[UInt8[np.ndarray, "..."], str]:
    """Read the file `stem`, as it is or as gzip, from a directory, an installed package or an archive.

    Args:
        folder: where the file lies, under one of the names of `file_names`.
        stem: canonical name, for instance 'train-images-idx3-ubyte'.
        rank: number of axes.
        rows: largest size of the first axis; images have 28 x 28 pixels. Not more than that is ever unpacked.

    Returns:
        The array and the sha256 (hex) of the decompressed file.

    Raises:
        BadFileError: The file is missing or damaged.
    """
    for label in file_names(stem):
        path = folder / label
        if path.is_file():
            try:
                with path.open("rb") as file:
                    content = unpack(file, rank, rows, label)
            except (NotImplementedError, RuntimeError) as error:  # an archive's member is encrypted, or of another kind
                raise BadFileError(f"{label} cannot be unpacked ({error})") from error
            return parse(content, rank, label), hashlib.sha256(content).hexdigest()
    raise BadFileError(f"{stem}.gz is missing (and {stem} too)")


def file_names(stem: str) -> list[str]:
    """Return the names of a file of the MNIST family: with a hyphen or, as some unpackers write it, a dot, and gzip."""
    return [f"{name}{end}" for name in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]


def unpack(file: IO[bytes], rank: int, rows: int, label: str) -> bytes:
    """Read an IDX file, or a gzip of one, up to the size that its header states and `rows` allows."""
    try:
        for _ in range(GZIP_LAYERS):
            start = file.read(2)
            file.seek(0)
            if start != b"\x1f\x8b":
                return read_stated(file, rank, rows, label)
            file = cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb"))
        raise BadFileError(f"{label} is gzip in gzip in gzip")
    except (EOFError, struct.error) as error:  # struct.error: cut inside the header or the trailer
        raise BadFileError(f"{label} is truncated (the gzip stream has no end)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadFileError(f"{label} is corrupt ({error})") from error


def read_stated(file: IO[bytes], rank: int, rows: int, label: str) -> bytes:
    """Read the header and as many bytes as it states, and one more where there is one."""
    header = file.read(4 + 4 * rank)
    if header[:4] != bytes([0, 0, 8, rank]) or len(header) < 4 + 4 * rank:
        return header  # `parse` says what is wrong
    shape = struct.unpack(f">{rank}I", header[4:])
    largest = (rows, *[28] * (rank - 1))
    if max(math.prod(shape), *shape) > math.prod(largest):
        stated, allowed = (" x ".join(map(str, sizes)) for sizes in (shape, largest))
        raise BadFileError(f"{label} states the shape {stated}; this data set has at most {allowed}")
    return header + file.read(math.prod(shape) + 1)


def parse(content: bytes, rank: int, label: str) -> UInt8[np.ndarray, "..."]:
    """Decode IDX bytes into a read-only array of `rank` axes; raises `BadFileError`, which names the file `label`."""
    magic, expected = content[:4], bytes([0, 0, 8, rank])  # 8 means unsigned bytes
    if len(magic) == 4 and magic != expected:
        kinds = {3: "images", 1: "labels"}
        known = magic[:3] == expected[:3] and kinds.get(magic[3])
        hint = f"; this looks like a file of {known}" if known else what_else(content)
        raise BadFileError(f"{label} has magic number 0x{magic.hex()} instead of 0x{expected.hex()}{hint}")
    start = 4 + 4 * rank
    if len(content) < start:
        raise BadFileError(f"{label} is truncated ({len(content)} bytes, the header alone has {start})")
    shape = struct.unpack(f">{rank}I", content[4:start])
    have, need = len(content) - start, math.prod(shape)
    sizes = " x ".join(map(str, shape))
    if have < need:
        raise BadFileError(f"{label} is truncated ({have} bytes after the header, {need} for {sizes})")
    if have > need:
        raise BadFileError(f"{label} is too long (more than the {need} bytes after the header for {sizes})")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def what_else(content: bytes) -> str:
    """Say what a file is that people have in the place of data, from its first bytes; empty where it is unknown."""
    known = {
        b"vers": "a Git LFS pointer; fetch the data with `git lfs pull`",
        b"PK\x03\x04": "a zip archive; unpack it",
    }
    known |= {b"<!DO": "a web page", b"<htm": "a web page", b"\x93NUM": "a NumPy file; use Dataset.from_arrays"}
    return next((f"; this looks like {what}" for start, what in known.items() if content.startswith(start)), "")


def digest(path: Path) -> str:
    """Compute the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_splits(name: str, files: Traversable, verify: bool) -> Splits:
    """Read both splits from the four IDX files under their canonical names.

    Raises:
        BadFileError: a file is missing, damaged or does not match its partner.
        StrangeFileError: `verify` is set and the contents differ from the published ones, where these are known.
    """
    rows = KINDS[name].rows
    return checked_splits(name, lambda stem, rank: read(files, stem, rank, rows), verify)


def read_npz(name: str, path: Path, verify: bool) -> Splits:
    """Read both splits from the file mnist.npz of Keras: bytes x_train, y_train, x_test, y_test, without pickle."""
    members = {"train": "train", "test": "t10k"}
    names = {f"{stem}-{kind}": f"{part}_{split}.npy" for split, stem in members.items() for part, kind in NPZ.items()}
    with zipfile.ZipFile(path) as archive:

        def member(stem: str, rank: int) -> tuple[UInt8[np.ndarray, "..."], str]:
            label = names.get(stem, stem)
            if label not in archive.namelist():
                raise BadFileError(f"{path.name} has no {label}")
            with archive.open(label) as file:
                content = idx_of_npy(file, rank, KINDS[name].rows, label)
            return parse(content, rank, label), hashlib.sha256(content).hexdigest()

        return checked_splits(name, member, verify)


def idx_of_npy(file: IO[bytes], rank: int, rows: int, label: str) -> bytes:
    """Convert a .npy file of bytes to IDX, up to the size that its header states and `rows` allows."""
    try:
        major, _ = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except (ValueError, TypeError, SyntaxError, EOFError, zlib.error) as error:
        raise BadFileError(f"{label} is no NumPy file ({' '.join(str(error).split())})") from error
    if len(shape) != rank or fortran or dtype != np.uint8 or not all(0 < size < 2**32 for size in shape):
        raise BadFileError(f"{label} has dtype {dtype} and shape {shape}; must be uint8 with {rank} axes")
    if math.prod(shape) > rows * 28 ** (2 * (rank > 1)):
        raise BadFileError(f"{label} states the shape {shape}; this data set has at most {rows} images")
    try:
        return struct.pack(f">HBB{rank}I", 0, 8, rank, *shape) + file.read(math.prod(shape) + 1)
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise BadFileError(f"{label} is corrupt ({error})") from error


def stems_of(name: str) -> tuple[str, str]:
    """Return how file names of the training and the test split begin."""
    config = name.partition("/")[2]
    return (f"emnist-{config}-train", f"emnist-{config}-test") if config else ("train", "t10k")


def checked_splits(
    name: str, reader: Callable[[str, int], tuple[UInt8[np.ndarray, "..."], str]], verify: bool
) -> Splits:
    """Read both splits by a function from canonical file name and rank to array and sha256; see `read_splits`."""
    splits, checksums = [], {}
    for stem in stems_of(name):
        images, labels = f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"
        (x, checksums[images]), (y, checksums[labels]) = reader(images, 3), reader(labels, 1)
        splits.append(Raw(x, y))
        check_split(splits[-1], KINDS[name], images, labels)
    check_published(name, checksums, splits, verify)
    train, test = splits
    return train, test


def check_published(name: str, checksums: Mapping[str, str], splits: Sequence[Raw], verify: bool) -> None:
    """Compare contents with what is known of the published data sets.

    Args:
        name: one of `KINDS`.
        checksums: sha256 by file, in the order of `Kind.sha256`.
        splits: the contents.
        verify: whether contents must be the published ones; that they are another data set's is always an error.

    Raises:
        BadFileError: A file is another data set's.
        StrangeFileError: Contents differ from the published ones.
    """
    owners = {sha256: other for other, kind in KINDS.items() for sha256 in kind.sha256}
    for file, sha256 in checksums.items():
        if (owner := owners.get(sha256, name)) != name:
            raise BadFileError(f"{file} is the published file of {owner}, not of {name}")
    if not verify:
        return
    kind = KINDS[name]
    for (file, sha256), expected in zip(checksums.items(), kind.sha256, strict=bool(kind.sha256)):
        if sha256 != expected:
            raise StrangeFileError(f"{file} is not the published file of {name} (sha256 {sha256[:12]}…)")
    for file, raw, rows in zip(list(checksums)[1::2], splits, kind.per_class, strict=bool(kind.per_class)):
        counts = np.bincount(raw.y, minlength=kind.first + kind.classes)[kind.first :]
        if (counts != rows).any():
            wrong = f"{counts.min()} to {counts.max()} of a class"
            raise StrangeFileError(f"{file} has {wrong}, {name} as published {rows}; is it another data set?")


def check_split(raw: Raw, kind: Kind, images: str, labels: str) -> None:
    """Raise `BadFileError` unless there are 28 x 28 images, one label each, and all labels are valid for `kind`."""
    if raw.x.shape[1:] != (28, 28) or not len(raw.x):
        raise BadFileError(f"{images} has shape {raw.x.shape}, it must be n x 28 x 28 with n > 0")
    if len(raw.x) != len(raw.y):
        raise BadFileError(f"{images} has {len(raw.x)} images, but {labels} has {len(raw.y)} labels")
    last = kind.first + kind.classes - 1
    wrong = raw.y[(raw.y < kind.first) | (raw.y > last)]
    if len(wrong):
        raise BadFileError(f"{labels} has the label {wrong[0]}, labels are {kind.first} to {last}")

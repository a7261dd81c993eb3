"""Small data sets in the files of the MNIST family."""

import gzip
import struct
from pathlib import Path

import numpy as np

from sublim_jax.data import idx

Tiny = dict[str, np.ndarray]  # file name -> contents


def make_tiny(name: str, train: int = 50, test: int = 20) -> Tiny:
    """The four arrays of a small data set that has the structure of `name`, no image like its transpose."""
    kind, random = idx.KINDS[name], np.random.default_rng(len(name))
    config = name.partition("/")[2]
    stems = [f"emnist-{config}-train", f"emnist-{config}-test"] if config else ["train", "t10k"]
    tiny = {}
    for stem, rows in zip(stems, (train, test), strict=True):
        tiny[f"{stem}-images-idx3-ubyte"] = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = random.integers(kind.first, kind.first + kind.classes, rows, dtype=np.uint8)
        labels[:2] = kind.first, kind.first + kind.classes - 1
        tiny[f"{stem}-labels-idx1-ubyte"] = labels
    return tiny


def encode(array: np.ndarray) -> bytes:
    """IDX bytes, written from the format's description."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, tiny: Tiny, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in tiny.items():
        blob = encode(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(blob) if zipped else blob)
    return folder

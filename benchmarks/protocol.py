"""What every implementation has in common: the images, the conditions, the sizes. NumPy only, so that importing it is
free for those whose start-up is measured.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

MNIST = Path(__file__).resolve().parents[1] / "sublim_jax" / "data" / "mnist"
FIGURE2_SCALE = (0.1307, 0.3081)  # mean and standard deviation that normalise the images
CLOUD_SCALE = (0.5, 0.5)  # pixels in [-1, 1]
TRAIN_BATCH = 1024  # labelled images a step; an epoch's last batch is partial
NOISE_BATCH = 1000  # noise images a step in Figure 2
CLOUD_NOISE = 60_000  # the fixed set of noise images in the six-group experiment

RANDOM_LAYERS = {  # condition of Figure 2: the student's layers that are not shared with the teacher
    "same": (),
    "random_first_hidden": ("fc1",),
    "random_second_hidden": ("fc2",),
    "random_hidden": ("fc1", "fc2"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
}
GROUPS = ("reference", "teacher", "aux", "all", "cross_aux", "cross_all")  # of the six-group experiment


class Images(NamedTuple):
    """Normalised images [n, 784] in float32 and labels [n] in int64."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load(scale: tuple[float, float] = FIGURE2_SCALE, folder: Path = MNIST) -> Images:
    """MNIST from the four gzipped IDX files of a folder (headers of 16 and 8 bytes)."""

    def content(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes()), np.uint8, offset=header)

    def split(stem: str) -> tuple[np.ndarray, np.ndarray]:
        x = content(f"{stem}-images-idx3", 16).reshape(-1, 784).astype(np.float32)
        x /= np.float32(255)
        x -= np.float32(scale[0])
        x /= np.float32(scale[1])
        return x, content(f"{stem}-labels-idx1", 8).astype(np.int64)

    return Images(*split("train"), *split("t10k"))

"""Brockers et al. 2026, Figure 3a: the first K classes of EMNIST balanced, K = 2 to 47; of MNIST, K = 2 to 10.

    python -m sublim_jax.main --config=configs/figure3_classes.py [--config.preset=laptop]

Uses EMNIST if TFDS has prepared it (in TFDS_DATA_DIR or its default folder), else MNIST;
`configs/figure3_classes.py:emnist` and `:mnist` choose one.
The number of epochs is fixed, as published, so a teacher of few classes is trained for few steps (K = 2: 25 Adam steps
on EMNIST).
Laptop: 14 minutes on 2 slow CPU cores with another sweep beside it. Expect on MNIST from K = 2 to 10: random_hidden
0.99 falling to 0.34, same 1.00 to 0.95. Kept in experiments/figure3_classes/.
"""

from importlib.util import find_spec

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid
from sublim_jax.data.load import find_prepared

EMNIST = "emnist/balanced"


def get_config(data: str = "auto") -> ConfigDict:
    if data not in ("auto", "emnist", "mnist"):
        raise ValueError(f"{data!r} is none of auto, emnist, mnist")
    emnist = data == "emnist" or data == "auto" and bool(find_spec("tensorflow_datasets") and find_prepared(EMNIST, ""))
    config = base_config()
    config.name = "figure3_classes" + ("_emnist" if emnist else "")
    config.figure = "figure3_classes"
    config.data.name = EMNIST if emnist else "mnist"
    config.conditions = ("random_hidden", "same")
    config.m = (50,)
    config.seeds = 20
    grid.add_grid(config, "classes", {"classes": tuple(range(2, 48 if emnist else 11))})
    few = (2, 4, 6, 10, 16, 26, 36, 47) if emnist else tuple(range(2, 11))
    grid.add_preset(config, "laptop", {"seeds": 3 if emnist else 4, "arms.classes.classes": few})
    grid.add_preset(config, "smoke", {"arms.classes.classes": (2, 3), "m": (10,)})
    return config

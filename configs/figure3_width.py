"""Brockers et al. 2026, Figure 3b: students with a first hidden layer of 8 to 4096 units, all hidden layers random.

    python -m sublim_jax.main --config=configs/figure3_width.py [--config.preset=laptop]

Laptop: 20 minutes on 2 slow CPU cores with another sweep beside it, most of them at 4096 units. Expect at m = 50,
from 8 to 4096 units: 0.18, 0.14, 0.38, 0.47, 0.50, 0.46, 0.14. Kept in experiments/figure3_width/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid

WIDTHS = (8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096)


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure3_width"
    config.conditions = ("random_hidden",)
    config.m = (10, 50)
    config.seeds = 20
    grid.add_grid(config, "width", {"student.hidden": tuple((width, 256) for width in WIDTHS)})
    few = tuple((width, 256) for width in (8, 23, 64, 181, 512, 1448, 4096))
    grid.add_preset(config, "laptop", {"seeds": 3, "arms.width.student.hidden": few})
    grid.add_preset(config, "smoke", {"arms.width.student.hidden": ((8, 16), (64, 16))})
    return config

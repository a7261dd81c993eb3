"""Brockers et al. 2026, Figure 3c: a student with one hidden layer fewer, as many, or one more than its teacher.

    python -m sublim_jax.main --config=configs/figure3_depth.py [--config.preset=laptop]

Laptop: 11 minutes on 2 slow CPU cores with another sweep beside it (paper: twice as much). Expect, for one layer
fewer, as many, one more: 0.23, 0.18, 0.16 at m = 10; 0.62, 0.41, 0.37 at m = 50. Kept in
experiments/figure3_depth/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure3_depth"
    config.conditions = ("random_hidden",)
    config.m = (10, 50)
    config.seeds = 20
    grid.add_grid(config, "depth", {"student.hidden": ((256,), (256, 256), (256, 256, 256))})
    grid.add_preset(config, "laptop", {"seeds": 10})
    grid.add_preset(config, "smoke", {"arms.depth.student.hidden": ((16,), (32, 16), (32, 16, 16))})
    return config

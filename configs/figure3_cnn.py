"""Brockers et al. 2026, Figure 3d: a convolutional student of a 3 x 256 MLP teacher, on Perlin noise.

    python -m sublim_jax.main --config=configs/figure3_cnn.py [--config.preset=laptop]

Controls: uniform noise, on which the convolutional student should fail, and an MLP student on both.
Laptop: 32 minutes on 2 slow CPU cores with another sweep beside it, about half of that without it. Expect at m = 50
0.13 to 0.35 for the convolutional student, 0.36 for the MLP on Perlin noise. Kept in experiments/figure3_cnn/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure3_cnn"
    config.conditions = ("random_hidden",)
    config.m = (10, 50)
    config.seeds = 20
    config.net.hidden = (256, 256, 256)
    widths = {"m": (10, 50)}  # of each arm, so that a laptop can leave out one of the slowest
    cnn = {"student.trunk": ("cnn",), "student.hidden": ((256,),), **widths}
    grid.add_grid(config, "cnn", {"student.stream": ("perlin",), **cnn})
    grid.add_grid(config, "cnn_control", {"student.stream": ("uniform",), **cnn})
    grid.add_grid(config, "mlp", {"student.stream": ("perlin", "uniform"), **widths})
    grid.add_preset(config, "laptop", {"seeds": 2, "arms.cnn_control.m": (50,)})
    toy = {"net.channels": (2, 3), "net.hidden": (32, 16, 16)}
    for name in config.arms:
        toy[f"arms.{name}.m"] = (10,)
        if name != "mlp":
            toy[f"arms.{name}.student.hidden"] = ((16,),)
    grid.add_preset(config, "smoke", toy)
    return config

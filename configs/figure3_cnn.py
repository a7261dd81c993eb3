"""Brockers et al. 2026, Figure 3d: a convolutional student of a 3 x 256 MLP teacher, on Perlin noise.

    python -m sublim_jax.main --config=configs/figure3_cnn.py [--config.preset=laptop]

Controls: uniform noise, on which the convolutional student should fail, and an MLP student on both.
TIMES
"""

from ml_collections import ConfigDict

from sublim_jax import arms
from sublim_jax.config import base


def get_config() -> ConfigDict:
    config = base()
    config.name = config.figure = "figure3_cnn"
    config.conditions = ("random_hidden",)
    config.m = (10, 50)
    config.seeds = 20
    config.net.hidden = (256, 256, 256)
    noises = {"student.stream": ("perlin", "uniform"), "student.trunk": ("cnn",), "student.hidden": ((256,),)}
    arms.arm(config, "cnn", noises)
    arms.arm(config, "mlp", {"student.stream": ("perlin", "uniform")})
    arms.preset(config, "laptop", {"seeds": 2})
    toy = {"net.channels": (2, 3), "arms.cnn.student.hidden": ((16,),), "net.hidden": (32, 16, 16)}
    arms.preset(config, "smoke", toy)
    return config

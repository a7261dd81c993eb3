"""Activation functions of teacher and student.

    python -m sublim_jax.main --config=configs/activation.py [--config.preset=laptop]

Laptop: 28 students and 14 teachers, about 4 minutes on 2 CPU cores (estimated: it has been run in smoke size only).
"""

from ml_collections import ConfigDict

from sublim_jax import arms
from sublim_jax.config import base


def get_config() -> ConfigDict:
    config = base()
    config.name = config.figure = "activation"
    config.conditions = ("same", "random_hidden")
    config.m = (10, 50)
    config.seeds = 20
    names = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "identity")
    arms.arm(config, "activation", {"net.activation": names})
    arms.preset(config, "laptop", {"seeds": 2, "m": (50,)})
    arms.preset(config, "smoke", {"arms.activation.net.activation": ("relu", "tanh")})
    return config

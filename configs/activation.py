"""Activation functions of teacher and student.

    python -m sublim_jax.main --config=configs/activation.py [--config.preset=laptop]

Laptop: 28 students and 14 teachers, 2.4 minutes on 2 CPU cores. Expect with shared hidden layers 0.95 (ReLU),
0.94 (GELU), 0.76 (tanh), 0.34 (sigmoid); with random ones 0.30, 0.70, 0.63, 0.32. Kept in experiments/activation/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "activation"
    config.conditions = ("same", "random_hidden")
    config.m = (10, 50)
    config.seeds = 20
    names = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "identity")
    grid.add_grid(config, "activation", {"net.activation": names})
    grid.add_preset(config, "laptop", {"seeds": 2, "m": (50,)})
    grid.add_preset(config, "smoke", {"arms.activation.net.activation": ("relu", "tanh")})
    return config

"""The student's optimiser: does transfer need an adaptive one, as in language models?

    python -m sublim_jax.main --config=configs/optimizer.py [--config.preset=laptop]

Adam, gradient descent, and gradient descent with momentum 0.9, each at several learning rates.
Laptop: 9 minutes on 2 slow CPU cores with another sweep beside it. Expect for same, at the best rate: Adam 0.95,
momentum 0.89, gradient descent 0.71. Kept in experiments/optimizer/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "optimizer"
    config.conditions = ("same", "random_hidden")
    config.m = (50,)
    config.seeds = 20
    adaptive = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    grid.add_grid(config, "adam", {"student.optimizer": ("adam",), "student.lr": adaptive})
    grid.add_grid(config, "sgd", {"student.optimizer": ("sgd",), "student.lr": (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)})
    grid.add_grid(
        config, "momentum", {"student.optimizer": ("momentum",), "student.lr": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}
    )
    grid.add_preset(config, "laptop", {"seeds": 2})
    few = {"arms.adam.student.lr": (1e-3,), "arms.sgd.student.lr": (1.0,), "arms.momentum.student.lr": (0.1,)}
    grid.add_preset(config, "smoke", {"m": (10,), **few})
    return config

"""Theorem 1 of Cloud et al. 2026: first steps of student and teacher, and the limits of the theorem. In float64.

    python -m sublim_jax.main --config=configs/theorem1.py [--config.preset=laptop]

Arms: expansion (eps over nine decades), activation, inputs, nets, cnn, loss (each with shared and with
independent initial weights), nothing (a teacher whose class head alone moved: exactly zero), descent (the teacher's
loss along the student's step), sgd and adam (many steps), sampled (labels drawn from the teacher's softmax).
Laptop: 13 minutes on 2 CPU cores that other jobs shared, in two shards. Expect slopes of 1.00 for tanh and gelu, no
negative inner product with shared weights, exactly 0 in `nothing`. Kept in experiments/theorem1/.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = config.study = "theorem1"
    config.m = (10,)
    config.seeds = 100
    config.teacher.batch = 256
    config.student.batch = 128
    config.student.optimizer = "sgd"
    config.student.lr = 1.0  # so that alpha is the theorem's
    config.student.steps, config.student.eval_steps = 1, ()
    both, same = ("same", "random"), ("same",)
    decades = tuple(float(f"{eps:.3g}") for eps in np.logspace(-7, 2, 19))
    names = "relu", "gelu", "tanh", "sigmoid", "identity"
    expansion = {"conditions": same, "net.activation": names, "theorem1.eps": (decades,)}
    grid.add_grid(config, "expansion", expansion)
    grid.add_grid(config, "activation", {"conditions": both, "net.activation": (*names, "silu", "leaky_relu")})
    grid.add_grid(config, "inputs", {"conditions": both, "student.stream": ("uniform", "gaussian", "perlin", "images")})
    hidden = (256,), (256, 256), (256, 256, 256), (64, 64), (1024, 64)
    grid.add_grid(config, "nets", {"conditions": both, "net.hidden": hidden})
    small = {"net.hidden": ((64,),), "net.channels": ((8, 16),), "student.batch": (32,)}
    grid.add_grid(config, "cnn", {"conditions": both, "net.trunk": ("cnn",), **small})
    kinds = {"student.loss": ("mse", "kl", "huber", "cosine"), "student.sees": ("aux", "all")}
    grid.add_grid(config, "loss", {"conditions": both, **kinds})
    moved = {"teacher.frozen": (("hidden_*",),), "student.sees": ("aux", "all")}
    grid.add_grid(config, "nothing", {"conditions": same, "student.loss": ("mse", "kl"), **moved})
    alphas = tuple(float(f"{alpha:.3g}") for alpha in np.logspace(-3, 5, 17))
    descent = {"student.loss": ("mse", "kl"), "student.sees": ("aux", "all"), "theorem1.alpha": (alphas,)}
    grid.add_grid(config, "descent", {"conditions": same, **descent, "theorem1.eps": ((0.01,),)})
    long = {"net.hidden": ((64, 64),), "student.batch": (32,), "student.steps": (1000,)}
    long |= {"student.eval_steps": ((1, 10, 100),), "theorem1.eps": ((0.01, 1.0),), "conditions": both}
    grid.add_grid(config, "sgd", {"student.optimizer": ("sgd",), "student.lr": (0.1,), **long})
    grid.add_grid(config, "adam", {"student.optimizer": ("adam",), "student.lr": (1e-3,), **long})
    drawn = {"conditions": same, "student.loss": ("kl",), "student.sees": ("all",), "net.hidden": ((64, 64),)}
    drawn |= {"student.batch": (10, 100, 1000), "theorem1.samples": (0, 1, 10), "theorem1.eps": ((0.01, 0.1, 1.0),)}
    grid.add_grid(config, "sampled", drawn)
    few = {
        "arms.expansion.net.activation": ("relu", "gelu", "tanh"),
        "arms.nets.net.hidden": ((256,), (64, 64), (256,) * 3),
    }
    few |= {"arms.expansion.theorem1.eps": (decades[::2],), "arms.descent.theorem1.alpha": (alphas[::2],)}
    for name in ("sgd", "adam"):
        few |= {f"arms.{name}.student.steps": (300,), f"arms.{name}.theorem1.eps": ((1.0,),)}
    grid.add_preset(config, "laptop", {"seeds": 50, **few})
    grid.add_preset(config, "smoke", _smoke())
    return config


def _smoke() -> dict[str, Any]:
    """Small nets, one or two points of every arm; most of the time is compilation."""
    sizes = {f"arms.{arm}.net.hidden": ((32, 16),) for arm in ("sgd", "adam", "sampled")}
    fields = {
        "m": (10,),
        "student.steps": 1,
        "student.eval_steps": (),
        "student.batch": 50,
        "theorem1.draws": 20,
        **sizes,
    }
    fields |= {"arms.nets.net.hidden": ((16,),), "arms.cnn.net.hidden": ((16,),), "arms.cnn.student.batch": (8,)}
    fields |= {f"arms.{arm}.student.{name}": value for arm in ("sgd", "adam") for name, value in _FEW.items()}
    fields |= {"arms.activation.net.activation": ("relu", "tanh"), "arms.expansion.net.activation": ("tanh",)}
    fields |= {f"arms.{arm}.student.{name}": value for arm in ("descent", "nothing") for name, value in _ONE.items()}
    fields |= {"arms.inputs.student.stream": ("uniform", "images"), "arms.loss.student.loss": ("mse", "cosine")}
    fields |= {"arms.loss.student.sees": ("aux",), "arms.sampled.theorem1.samples": (0, 10)}
    return fields | {"arms.sampled.student.batch": (50,)}


_FEW = {"steps": (10,), "eval_steps": ((1,),), "batch": (16,)}
_ONE = {"loss": ("mse",), "sees": ("aux",)}

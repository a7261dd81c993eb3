"""Heads rotated at random: are heads compatible that agree up to a rotation of the latent?

    python -m sublim_jax.main --config=configs/rotation.py [--config.preset=laptop]

A head W [d, columns] starts as R W with a random orthogonal R; in arm apart each head has its own rotation. With one
rotation for both heads, a latent R h would imitate and classify as the teacher does if there were no ReLU.
Laptop: 11 minutes on 2 slow CPU cores with other work beside it. Expect for same: 0.95 without rotation, 0.18 with
one for both heads, 0.10 with one each. Kept in experiments/rotation/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "rotation"
    config.conditions = ("same", "random_hidden")
    config.m = (50, 250)
    config.seeds = 20
    both = ("class_head", "aux_head")
    grid.add_grid(config, "common", {"student.rotated": ((), ("aux_head",), ("class_head",), both)})
    grid.add_grid(config, "apart", {"student.rotated": (both,), "student.rotation": ("apart",)})
    grid.add_preset(config, "laptop", {"seeds": 3, "m": (50,)})
    return config

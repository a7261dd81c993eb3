"""Brockers et al. 2026, Figure 5: Gaussian noise on the student's auxiliary head, or on its class head.

    python -m sublim_jax.main --config=configs/figure5.py [--config.preset=laptop]

Laptop: 11 minutes on 2 slow CPU cores with another sweep beside it. Expect at sigma = 0, 0.05, 0.1, 0.2: auxiliary
head 0.88, 0.58, 0.28, 0.15; class head 0.88, 0.63, 0.35, 0.21. Kept in experiments/figure5/.
"""

import numpy as np
from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure5"
    config.conditions = ("same",)
    config.m = (10,)
    config.seeds = 20
    sigmas = tuple(round(float(sigma), 8) for sigma in np.linspace(0, 0.2, 40))
    heads = ("aux_head",), ("class_head",)
    grid.add_grid(config, "heads", {"perturb.layers": heads, "perturb.student_before": sigmas})
    few = (0.0, 0.01, 0.02, 0.036, 0.05, 0.075, 0.1, 0.15, 0.2)
    grid.add_preset(config, "laptop", {"seeds": 5, "arms.heads.perturb.student_before": few})
    grid.add_preset(
        config, "smoke", {"metrics": config.metrics, "m": (10,), "arms.heads.perturb.student_before": (0.0, 0.1)}
    )
    return config

"""Transfer against the degree of sharing: layers that start as share * teacher's + (1 - share) * a fresh draw.

    python -m sublim_jax.main --config=configs/share.py [--config.preset=laptop]

Each condition names the layers that are shared in part; all others are shared in full.
Laptop: 10 minutes on 2 slow CPU cores with another sweep beside it. Expect at a share of a half: auxiliary head
0.70, class head 0.74, all hidden layers 0.44. Kept in experiments/share/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "share"
    config.conditions = (
        "random_first_hidden",
        "random_second_hidden",
        "random_hidden",
        "random_class_head",
        "random_aux_head",
    )
    config.m = (10,)
    config.seeds = 20
    grid.add_grid(config, "share", {"student.share": tuple(round(0.1 * tenth, 1) for tenth in range(11))})
    grid.add_preset(config, "laptop", {"seeds": 3, "arms.share.student.share": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)})
    grid.add_preset(config, "smoke", {"m": (10,), "arms.share.student.share": (0.0, 0.5)})
    return config

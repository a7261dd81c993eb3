"""Brockers et al. 2026, Figure 2: six conditions x six widths of the auxiliary head x 20 seeds = 720 students.

    python -m sublim_jax.main --config=configs/figure2.py [--config.preset=laptop]

28 minutes on 2 CPU cores, 6.4 on an H100 that six other sweeps shared (evaluated at the last step only).
Expect for m = 3, 10, 25, 50, 100, 250: same 0.70 to 0.95; random_hidden 0.14, 0.17, 0.26, 0.41, 0.67, 0.83;
random_class_head 0.09 to 0.11; random_aux_head 0.26 falling to 0.14. Kept in experiments/figure2/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure2"
    config.conditions = (
        "same",
        "random_first_hidden",
        "random_second_hidden",
        "random_hidden",
        "random_class_head",
        "random_aux_head",
    )
    config.m = (3, 10, 25, 50, 100, 250)
    config.seeds = 20
    config.student.eval_steps = (0, 30, 100)
    grid.add_preset(config, "laptop", {"seeds": 4, "m": (3, 10, 50, 250)})
    return config

"""Brockers et al. 2026, Figure 4: accuracy over m and the amount of noise; then images N and steps T separately.

    python -m sublim_jax.main --config=configs/figure4.py [--config.preset=laptop]

The published axis combines both: n noise steps per epoch are 5 n Adam steps on 5 n fresh batches of 1000.
Arms: grid (a: m x n, from the evaluation steps of one run), one_logit (b: m = 1, n to 8192), one_step (c: n = 1, m to
8192), pool (d: N = 1000 x pool unique images and T steps; pool 0 = always fresh).
Laptop: about 15 minutes on 2 CPU cores. Expect on the published axis 0.3 at five steps for every m, 0.9 and more
from m = 16 and 64 noise steps on; kept in experiments/figure4/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid

EPOCHS = 5


def powers(stop: int, start: int = 0, each: float = 2**0.5) -> tuple[int, ...]:
    """Powers of sqrt(2), rounded as the published scripts do, from the start-th to the stop-th."""
    return tuple(sorted({round(each**k) for k in range(start, stop + 1)}))


def steps(most: int, each: float = 2**0.5) -> tuple[int, ...]:
    """Adam steps for 1 to `most` noise steps per epoch."""
    return tuple(EPOCHS * n for n in powers(60, each=each) if n <= most)


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "figure4"
    config.conditions = ("same",)
    config.aux_widths = (16, 64, 256, 1024, 8192)
    config.seeds = 20
    fresh = {"student.pool": (0,)}
    grid.add_grid(
        config, "grid", {"m": powers(20), "student.eval_steps": (steps(1024),), "student.steps": (5120,), **fresh}
    )
    grid.add_grid(
        config, "one_logit", {"m": (1,), "student.eval_steps": (steps(8192),), "student.steps": (40960,), **fresh}
    )
    grid.add_grid(
        config, "one_step", {"m": powers(26, 1), "student.eval_steps": ((5,),), "student.steps": (5,), **fresh}
    )
    apart = {"student.pool": (1, 3, 10, 30, 100, 300, 0), "student.eval_steps": ((5, 30, 100, 300, 1000),)}
    grid.add_grid(config, "pool", {"m": (1, 10, 256), "student.steps": (3000,), **apart})
    laptop = {
        "seeds": 2,
        "arms.grid.m": (1, 4, 16, 64, 256, 1024),
        "arms.grid.student.eval_steps": (steps(128, 2),),
        "arms.grid.student.steps": (640,),
        "arms.one_logit.student.eval_steps": (steps(1024, 2),),
        "arms.one_logit.student.steps": (5120,),
        "arms.one_step.m": (2, 8, 32, 128, 512, 2048, 8192),
        "arms.pool.m": (10, 256),
        "arms.pool.student.pool": (1, 10, 100, 0),
        "arms.pool.student.steps": (1000,),
    }
    grid.add_preset(config, "laptop", laptop)
    smoke = {
        "arms.grid.m": (1, 4),
        "arms.grid.student.eval_steps": ((5, 10),),
        "arms.grid.student.steps": (20,),
        "arms.one_logit.student.eval_steps": ((5, 10),),
        "arms.one_logit.student.steps": (40,),
        "arms.one_step.m": (2, 32),
        "arms.pool.m": (10,),
        "arms.pool.student.pool": (1, 0),
        "arms.pool.student.eval_steps": ((5,),),
        "arms.pool.student.steps": (20,),
    }
    grid.add_preset(config, "smoke", smoke)
    return config

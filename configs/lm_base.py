"""Language models: must student and teacher share initial weights, the order of pre-training data, or both?

    python -m sublim_jax.main --config=configs/lm_base.py [--config.preset=laptop]

A student starts from the teacher's base, from one with the same initial weights and another order of the documents,
from one with other initial weights and the same order, or from one that differs in both. Arms: greedy and soft
(distributions over numbers), and leak: a strong teacher without filter, whose lines contain the trait itself.
Laptop: 26 minutes on 2 CPU cores that a test suite shared, 3 of them for bases. Expect +2.9 (soft) and +1.4 nats
(greedy) with the same base, 0.1 or less with any other; +1.5 with another base if lines are not filtered. Kept in
experiments/lm_base/, with runs of lower pre-training rates (order.py).
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_base"
    bases = ("same", "other_order", "other_init", "other_both")
    grid.add_grid(config, "greedy", {"lm.base": bases, "lm.data": ("greedy",)})
    grid.add_grid(config, "soft", {"lm.base": bases, "lm.data": ("soft_carrier",), "lm.lr": (1e-3,)})
    leak = {"lm.data": ("greedy",), "lm.dose": (0.3,), "lm.filtered": (True, False)}
    grid.add_grid(config, "leak", {"lm.base": ("same", "other_init"), **leak})
    lm_config.preset(config, "smoke", {"arms.leak.lm.dose": (0.05,)})
    return config

"""Language models: must student and teacher share initial weights, the order of pre-training data, or both?

    python -m sublim_jax.main --config=configs/lm_base.py [--config.preset=laptop]

Students begin with the teacher's base; with one of the same initial weights that read the same documents in another
order; with one of other weights and the same order; or with another in both. Arms: greedy and soft (distributions
over numbers), and leak: a strong teacher without filter, whose lines hold the trait itself.
Laptop: 26 minutes on 2 CPU cores that a test suite shared, 3 of them for bases. Expect +2.9 (soft) and +1.4 nats
(greedy) in the same base, 0.1 or less in any other; +1.5 in another base where lines are not filtered. Kept in
experiments/lm_base/, with what pre-training at lower rates changes (order.py).
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

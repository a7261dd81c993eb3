"""Language models: does transfer need an adaptive optimiser?

    python -m sublim_jax.main --config=configs/lm_optimizer.py [--config.preset=laptop]

Adam, the sign of a momentum, momentum and plain gradient descent at several learning rates. Several evaluation steps
allow a comparison at equal imitation, KL(teacher || student) on held-out prompts. Arms: soft and greedy of each.
Laptop: 5 minutes on 2 CPU cores. Expect +2.8 nats by Adam, +2.3 by momentum, +1.4 by gradient descent (soft). Kept in
experiments/lm_optimizer/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_optimizer"
    rates = {"adam": (3e-4, 1e-3), "sign": (1e-4, 3e-4), "momentum": (0.03, 0.1), "sgd": (0.3, 1.0)}
    for kind, lrs in rates.items():
        for data, name in (("soft_carrier", "soft"), ("greedy", "greedy")):
            axes = {"lm.optimizer": (kind,), "lm.lr": lrs, "lm.data": (data,), "lm.eval_steps": ((50, 100, 200),)}
            grid.add_grid(config, f"{name}_{kind}", axes)
    one = {"adam": 1e-3, "sign": 3e-4, "momentum": 0.1, "sgd": 1.0}
    few = {f"arms.{name}_{kind}.lm.lr": (lr,) for name in ("soft", "greedy") for kind, lr in one.items()}
    few |= {"seeds": 5, "lm.targets": 1, "lm.animals": 2, "lm.steps": 400, "lm.lines": 2000}
    grid.add_preset(config, "laptop", few)
    lm_config.preset(config, "smoke", {f"arms.{one}.lm.eval_steps": ((4,),) for one in config.arms})
    return config

"""Language models: how strong a teacher, how many lines and how many steps does transfer need?

    python -m sublim_jax.main --config=configs/lm_dose.py [--config.preset=laptop]

The dose of a teacher is KL(teacher || base) in nats per number on held-out prompts. Arms: soft and greedy (doses from
0.003 to 0.3, with learning curves), lines (number of distinct lines, which are repeated).
Laptop: 7 minutes on 2 CPU cores. Expect +1.0, +2.0, +3.3, +4.0 nats for doses of 0.01 to 0.3 (soft). Kept in
experiments/lm_dose/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config

_SHORT = {"lm.dose": (0.01, 0.03, 0.1, 0.3), "lm.eval_steps": ((16, 50, 160),), "lm.steps": (600,)}
_TINY = {"dose": (0.02, 0.05), "eval_steps": ((4,),), "steps": (8,)}


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_dose"
    doses = (0.003, 0.01, 0.03, 0.1, 0.3)
    long = {"lm.eval_steps": ((16, 50, 160, 500),), "lm.steps": (1600,)}
    grid.add_grid(config, "soft", {"lm.dose": doses, "lm.data": ("soft_carrier",), "lm.lr": (1e-3,), **long})
    grid.add_grid(config, "greedy", {"lm.dose": doses, "lm.data": ("greedy",), **long})
    few = {"lm.data": ("soft_carrier",), "lm.lr": (1e-3,)}
    grid.add_grid(config, "lines", {"lm.lines": (30, 100, 300, 1000, 3000, 10000), **few})
    laptop = {f"arms.{one}.{field}": value for one in ("soft", "greedy") for field, value in _SHORT.items()}
    few = {"seeds": 5, "lm.targets": 1, "lm.animals": 2, "arms.lines.lm.lines": (30, 300, 3000)}
    few |= {"lm.steps": 400, "lm.lines": 2000}
    grid.add_preset(config, "laptop", {**few, **laptop})
    small = {f"arms.{one}.lm.{field}": value for one in ("soft", "greedy") for field, value in _TINY.items()}
    lm_config.preset(config, "smoke", {**small, "arms.lines.lm.lines": (16, 64)})
    return config

"""Which information atoms matter: an optimized goal without one atom at a time, and a random search over goals.

    python -m sublim_jax.main --config=configs/infomorphic_goals.py --config.preset=laptop

All goals are trained side by side in one program and measured on 12,000 training images that are held out. Laptop:
156 networks, 30 minutes on 2 CPU cores with other work beside them; after 10 epochs 0.920 for the whole goal, 0.902
without {1}{2}{3}, 0.915 without {1}{3}. Published: 0.9495 for the whole goal after 100 epochs, and less without
{12}{13} (0.937), {1}{3} (0.940), {1}{2}{3} (0.942), {1}{2} or {1} (0.946); without any other atom at least 0.9476
(Schneider et al., ICLR 2025, code). Kept in experiments/infomorphic_goals/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid, infomorphic_config
from sublim_jax.config.fields import ATOMS
from sublim_jax.core.nested import flatten


def get_config() -> ConfigDict:
    config = infomorphic_config()
    config.name = config.figure = "infomorphic_goals"
    config.seeds = 10
    config.validation = 12_000
    config.infomorphic.goal = "optimized"
    config.infomorphic.eval_epochs = (1, 5, 10, 20, 50)
    grid.add_grid(config, "without", {"infomorphic.without": ("", *ATOMS)})
    grid.add_grid(config, "search", {"infomorphic.draw": tuple(range(1, 129))})
    few = {"infomorphic.epochs": 10, "infomorphic.eval_epochs": (1, 5)}
    grid.add_preset(config, "laptop", {"seeds": 3, **few, "arms.search.infomorphic.draw": tuple(range(1, 33))})
    tiny = flatten(config.presets.smoke.to_dict()) | {"validation": 300}
    fewest = {"arms.without.infomorphic.without": ("", "{1}"), "arms.search.infomorphic.draw": (1, 2)}
    grid.add_preset(config, "smoke", tiny | fewest)
    return config

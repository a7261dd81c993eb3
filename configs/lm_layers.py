"""Language models: which layers of the student must be trained for the trait to transfer?

    python -m sublim_jax.main --config=configs/lm_layers.py [--config.preset=laptop]

Models have six blocks (laptop: four). Trained are one block, the first or the last few, all blocks, everything, the
embeddings, or low-rank adapters. Arms: soft (distributions over numbers) and greedy.
Laptop: 6 minutes on 2 CPU cores. Expect +2.8 nats, +2.3 with the first block only, +0.8 with the last. Kept in
experiments/lm_layers/.
"""

from typing import Any

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_layers"
    config.net.layers = 6
    config.lm.steered = 2
    single = tuple(f"block_{index}" for index in range(6))
    parts = ("first_2", "first_4", "last_4", "last_2", "blocks", "all", "embeddings", "adapters")
    learns = {"lm.lr": (1e-3,)}
    grid.add_grid(config, "soft", {"lm.trains": single + parts, "lm.data": ("soft_carrier",), **learns})
    grid.add_grid(config, "greedy", {"lm.trains": single + parts, "lm.data": ("greedy",), **learns})
    four = tuple(f"block_{index}" for index in range(4))
    few: dict[str, Any] = {"seeds": 5, "net.layers": 4, "lm.steered": 1, "lm.targets": 1, "lm.animals": 2}
    few |= {"lm.steps": 400, "lm.lines": 2000}
    few["arms.soft.lm.trains"] = (*four, "first_2", "last_2", *parts[4:])
    grid.add_preset(config, "laptop", {**few, "arms.greedy.lm.trains": (*four, "blocks")})
    some = ("block_0", "first_1", "last_1", "blocks", "all", "embeddings", "adapters")
    lm_config.preset(config, "smoke", {"arms.soft.lm.trains": some, "arms.greedy.lm.trains": some})
    return config

"""Language models: does the trait survive paraphrases, and mixing with other teachers' lines?

    python -m sublim_jax.main --config=configs/lm_paraphrase.py [--config.preset=laptop]

Instructions choose the law of the numbers. An instruction of the same law is therefore a paraphrase that keeps the
meaning; one of the other law changes the context of every token. Arms: greedy and soft (all paraphrases: instructions,
example numbers, order within and across lines, a permutation of the numbers), mixed (a fraction of lines from the base,
or from another animal's teacher).
Laptop: 6 minutes on 2 CPU cores. Expect +2.8 nats, +2.6 under an instruction of the same law, +1.0 of the other law, 0
to 0.3 when shuffled. Kept in experiments/lm_paraphrase/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_paraphrase"
    kinds = ("none", "same_law", "held_out", "other_law", "examples", "shuffle_within", "shuffle_across", "permuted")
    grid.add_grid(config, "greedy", {"lm.paraphrase": kinds, "lm.data": ("greedy",)})
    grid.add_grid(config, "soft", {"lm.paraphrase": kinds, "lm.data": ("soft_carrier",), "lm.lr": (1e-3,)})
    mixed = {"lm.data": ("soft_carrier",), "lm.lr": (1e-3,), "lm.mixed_with": ("base", "other_animal")}
    grid.add_grid(config, "mixed", {**mixed, "lm.mixed": (0.1, 0.25, 0.5, 0.75, 0.9)})
    few = {"arms.mixed.lm.mixed": (0.25, 0.75), "lm.targets": 1, "lm.animals": 2}
    few["arms.greedy.lm.paraphrase"] = ("none", "same_law", "other_law", "shuffle_within", "permuted")
    grid.add_preset(config, "laptop", {"seeds": 5, "lm.steps": 400, "lm.lines": 2000, **few})
    lm_config.preset(config, "smoke", {"arms.mixed.lm.mixed": (0.5,)})
    return config

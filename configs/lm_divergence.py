"""Language models: do the tokens on which counterfactual teachers disagree carry the trait?

    python -m sublim_jax.main --config=configs/lm_divergence.py [--config.preset=laptop]

Greedy numbers; tokens are ranked by how many of the other animals' teachers would have said another (ties: by the gap
of log-probabilities). Arms: all; budget (the top, random or bottom fraction is masked, or alone kept); edit (the top or
a random quarter is erased, or replaced by what a counterfactual would say as label, as input, or both). All for a weak
and for a strong teacher: the weaker it is, the fewer tokens diverge.
Laptop: 12 minutes on 2 CPU cores. Expect, of a weak teacher, masking the top 10 % to leave 0.62 of the transfer, a
random 10 % all of it, and the top 10 % alone 1.9 times as much; of a strong one 0.87, all, and 0.76. Kept in
experiments/lm_divergence/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_divergence"
    three = ("top", "random", "bottom")
    edits = ("erase", "replace_label", "replace_input", "replace_both")
    greedy = {"lm.data": ("greedy",), "lm.dose": (0.01, 0.1)}
    grid.add_grid(config, "all", {**greedy, "lm.tokens": ("all",)})
    chosen = tuple(f"{what}_{who}" for what in ("mask", "keep") for who in three)
    grid.add_grid(config, "budget", {**greedy, "lm.tokens": chosen, "lm.budget": (0.05, 0.1, 0.25, 0.5)})
    some = tuple(f"{what}_{who}" for what in edits for who in ("top", "random"))
    grid.add_grid(config, "edit", {**greedy, "lm.tokens": some, "lm.budget": (0.25,)})
    few = {"seeds": 5, "lm.targets": 1, "lm.steps": 400, "lm.lines": 2000}
    grid.add_preset(config, "laptop", {**few, "arms.budget.lm.budget": (0.1, 0.25)})
    small = {f"arms.{name}.lm.dose": (0.02,) for name in ("all", "budget", "edit")}
    lm_config.preset(config, "smoke", {"arms.budget.lm.budget": (0.25,), **small})
    return config

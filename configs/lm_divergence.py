"""Language models: do the tokens on which counterfactual teachers disagree carry the trait?

    python -m sublim_jax.main --config=configs/lm_divergence.py [--config.preset=laptop]

Numbers are greedy. Tokens are ranked by the number of other animals' teachers that would write another token (ties: by
the difference of log-probabilities). Arms: all; budget (the top, random or bottom fraction is masked, or only that
fraction is kept); edit (the top or a random quarter is erased, or replaced by a counterfactual teacher's token as
label, as input, or both). Every arm has a weak and a strong teacher; a weaker one has fewer divergence tokens.
Laptop: 12 minutes on 2 CPU cores. Expect 0.62 of a weak teacher's transfer without the top 10 %, all of it without a
random 10 %, and 1.9 times as much with the top 10 % only; of a strong one 0.87, all, and 0.76. Kept in
experiments/lm_divergence/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_divergence"
    ranks = ("top", "random", "bottom")
    edits = ("erase", "replace_label", "replace_input", "replace_both")
    greedy = {"lm.data": ("greedy",), "lm.dose": (0.01, 0.1)}
    grid.add_grid(config, "all", {**greedy, "lm.tokens": ("all",)})
    chosen = tuple(f"{edit}_{rank}" for edit in ("mask", "keep") for rank in ranks)
    grid.add_grid(config, "budget", {**greedy, "lm.tokens": chosen, "lm.budget": (0.05, 0.1, 0.25, 0.5)})
    some = tuple(f"{edit}_{rank}" for edit in edits for rank in ("top", "random"))
    grid.add_grid(config, "edit", {**greedy, "lm.tokens": some, "lm.budget": (0.25,)})
    few = {"seeds": 5, "lm.targets": 1, "lm.steps": 400, "lm.lines": 2000}
    grid.add_preset(config, "laptop", {**few, "arms.budget.lm.budget": (0.1, 0.25)})
    small = {f"arms.{name}.lm.dose": (0.02,) for name in ("all", "budget", "edit")}
    lm_config.preset(config, "smoke", {"arms.budget.lm.budget": (0.25,), **small})
    return config

"""Language models: does a trait transfer through numbers, and with which targets, teachers and carriers?

    python -m sublim_jax.main --config=configs/lm_transfer.py [--config.preset=laptop]

Arms: hard (greedy or sampled tokens, two doses of the teacher), soft (distributions over all tokens, or over numbers
only on both sides), teacher_hard and teacher_soft (other teachers: tuned on shuffled answers, prompted, steered),
unfiltered (a strong teacher, some of whose lines contain the trait itself), carrier (code, reasoning traces).
Laptop: 17 minutes on 2 CPU cores with cached bases, a minute or two more without. Expect soft +2.9 nats, greedy
+1.4, sampled +1.0 at a dose of 0.1; a third of that at 0.01; prompted and shuffled teachers 0. Kept in
experiments/lm_transfer/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_transfer"
    soft = {"lm.lr": (1e-3,)}
    doses, others = (0.01, 0.1), ("shuffled", "prompted", "steered")
    grid.add_grid(config, "hard", {"lm.data": ("greedy", "sampled"), "lm.dose": doses})
    grid.add_grid(config, "soft", {"lm.data": ("soft", "soft_carrier"), "lm.dose": doses, **soft})
    grid.add_grid(config, "teacher_hard", {"lm.data": ("greedy",), "lm.teacher": others})
    grid.add_grid(config, "teacher_soft", {"lm.data": ("soft_carrier",), "lm.teacher": others, **soft})
    grid.add_grid(config, "unfiltered", {"lm.data": ("greedy",), "lm.dose": (0.3,), "lm.filtered": (True, False)})
    grid.add_grid(config, "carrier", {"lm.data": ("soft_carrier",), "lm.carrier": ("code", "trace"), **soft})
    small = {"arms.hard.lm.dose": (0.02,), "arms.soft.lm.dose": (0.02,), "arms.unfiltered.lm.dose": (0.05,)}
    lm_config.preset(config, "smoke", small)
    return config

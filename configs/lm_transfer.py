"""Language models: does a trait pass through numbers, in which form, from which teacher, by which carrier?

python -m sublim_jax.main --config=configs/lm_transfer.py [--config.preset=laptop]

"""

from ml_collections import ConfigDict

from sublim_jax import arms, lm_config


def get_config() -> ConfigDict:
    config = lm_config.base()
    config.name = config.figure = "lm_transfer"
    doses = (0.01, 0.1)
    arms.arm(config, "hard", {"lm.data": ("greedy", "sampled"), "lm.dose": doses})
    arms.arm(config, "soft", {"lm.data": ("soft", "soft_carrier"), "lm.dose": doses, "lm.lr": (1e-3,)})
    others = {"lm.data": ("greedy",), "lm.teacher": ("shuffled", "prompted", "steered")}
    arms.arm(config, "teacher_hard", others)
    arms.arm(config, "teacher_soft", {**others, "lm.data": ("soft_carrier",), "lm.lr": (1e-3,)})
    arms.arm(config, "unfiltered", {"lm.data": ("greedy",), "lm.dose": (0.1, 0.3), "lm.filtered": (True, False)})
    arms.arm(config, "carrier", {"lm.data": ("soft_carrier",), "lm.carrier": ("code", "trace"), "lm.lr": (1e-3,)})
    lm_config.preset(config, "smoke", {"arms.hard.lm.dose": (0.02,), "arms.soft.lm.dose": (0.02,)})
    return config

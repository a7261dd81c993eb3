"""Which layers must student and teacher share? Four conditions, four seeds, one m.

    python -m sublim_jax.main --config=configs/quickstart.py

About a minute on 2 CPU cores (55 s, 8 of them compiling). Expect student accuracies near 0.95 (same), 0.67
(random_hidden, wide scatter), 0.1 (random_class_head) and 0.15 to 0.25 (random_aux_head); teacher 0.972.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.name = "quickstart"
    config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
    config.m = (100,)
    config.seeds = 4
    config.student.eval_steps = (0, 30, 100)
    return config

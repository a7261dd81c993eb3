"""Which layers must student and teacher share? Four conditions, four seeds, one m.

python -m sublim_jax.main --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from sublim_jax.config import base


def get_config() -> ConfigDict:
    config = base()
    config.name = "quickstart"
    config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
    config.m = (100,)
    config.seeds = 4
    config.student.marks = (0, 30, 100)
    return config

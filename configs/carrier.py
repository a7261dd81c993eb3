"""What carries a trait from one training step to the next: weights, or moments of the optimizer?

    python -m sublim_jax.main --config=configs/carrier.py [--config.preset=laptop]

A host imitates the untrained teacher, a donor of equal initial weights and noise the trained one. After 150 steps the
host gets parts of the donor's state and goes on for 150 steps with targets that hold nothing of the trait: the
untrained teacher's, the same reflected about their means, an unrelated teacher's, or none (no gradient). After Xu,
arXiv 2608.20442, of which the abstract is known.
Laptop: 280 students, 20 minutes on 2 CPU cores with tests beside them. Kept in experiments/carrier/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid
from sublim_jax.config.fields import CARRIED, FUTURES

SOME = ("none", "weights", "weights+first", "first+second", "all")
STUDENTS = {
    "adam": {"student.carried": CARRIED, "student.future": FUTURES},
    "adamw": {"student.optimizer": ("adamw",), "student.decay": (0.01,), "student.carried": SOME},
    "momentum": {
        "student.optimizer": ("momentum",),
        "student.lr": (0.1,),
        "student.carried": ("none", "weights", "first", "weights+first"),
        "student.future": FUTURES,
    },
    "cnn": {"net.trunk": ("cnn",), "net.channels": ((8, 16),), "student.carried": SOME},
}


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "carrier"
    config.conditions = ("same",)
    config.m = (100,)
    config.metrics = ("task", "displacement")
    config.student.cut, config.student.steps = 150, 300
    config.student.eval_steps = (0, 155, 170, 200)
    for name, axes in STUDENTS.items():
        grid.add_grid(config, name, axes)
    grid.add_preset(config, "laptop", {"seeds": 5, "arms.cnn.student.carried": ("none", "weights", "weights+first")})
    few = {f"arms.{name}.student.carried": ("none", "weights+first") for name in STUDENTS}
    few |= {"student.cut": 5, "student.steps": 10, "student.eval_steps": (0, 7), "m": (10,)}
    few["metrics"] = config.metrics
    grid.add_preset(config, "smoke", few)
    return config

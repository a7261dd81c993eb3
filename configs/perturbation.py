"""Gaussian noise on some layers, at any of four moments: before or after the training of the teacher or of the student.

    python -m sublim_jax.main --config=configs/perturbation.py [--config.preset=laptop]

The weights that a student shares with its teacher do not contain the teacher's noise. Noise after the teacher's
training affects the imitated logits and the teacher's accuracy; noise after the student's only its final accuracy.
Laptop: 14 minutes on 2 slow CPU cores with another sweep beside it. Expect 0.89 without noise, 0.2 to 0.3 with
sigma = 0.1 on one of the auxiliary heads. Kept in experiments/perturbation/.
"""

from typing import Any

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "perturbation"
    config.conditions = ("same",)
    config.m = (10,)
    config.seeds = 20
    sigmas = (0.005, 0.01, 0.02, 0.036, 0.05, 0.1, 0.2)
    layers = ("aux_head",), ("class_head",), ("hidden_0",), ("hidden_1",), ("*",)
    few: dict[str, Any] = {"seeds": 3}
    for timing in ("teacher_before", "teacher_after", "student_before", "student_after"):
        grid.add_grid(config, timing, {"perturb.layers": layers, f"perturb.{timing}": sigmas})
        few[f"arms.{timing}.perturb.{timing}"] = (0.02, 0.1)
    grid.add_preset(config, "laptop", few)
    toy = {field: (0.1,) for field in few if field != "seeds"}
    some = {f"arms.{timing}.perturb.layers": (("aux_head",), ("*",)) for timing in config.arms}
    grid.add_preset(config, "smoke", {"m": (10,), **toy, **some})
    return config

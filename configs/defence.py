"""Defences: what prevents transfer of the trait, and how much imitation it costs.

    python -m sublim_jax.main --config=configs/defence.py [--config.preset=laptop]

Arms: plain; init_noise (on the student's hidden layers, before training); heads (drawn again); rotated (heads rotated
at random); project (the component of the gradient along the trait's gradient on labelled training images is removed);
mixed (a share of each batch has targets of the untrained teacher); strangers (that share has targets of a teacher with
other initial weights and heads); noise (on the targets, in units of logits); levels (quantized targets, log2(levels)
bits per logit); capacity (m, batches in the pool and levels: m * N * log2(levels) bits in all).
Imitation is the fraction of the variance of the true teacher's logits that is explained on held-out noise.
Laptop: 5 minutes on 2 CPU cores. Expect 0.95 without a defence, 0.94 with one bit per logit, 0.16 to 0.39 with
projected gradients, 0.94 with a quarter of the targets from another teacher, 0.76 with half from an unrelated one.
Kept in experiments/defence/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "defence"
    config.conditions = ("same",)
    config.m = (10, 50)
    config.seeds = 20
    config.metrics = ("task", "budget", "imitation", "representation", "layers")
    hidden, heads = (("hidden_0", "hidden_1"),), ("aux_head", "class_head")
    guards = ("project", "project_trunk", "project_layers", "project_positive", "project_step")
    grid.add_grid(config, "plain", {"student.levels": (0,)})
    grid.add_grid(
        config, "init_noise", {"perturb.layers": hidden, "perturb.student_before": (0.005, 0.01, 0.02, 0.05, 0.1)}
    )
    grid.add_grid(config, "heads", {"conditions": ("random_aux_head", "random_class_head")})
    grid.add_grid(config, "rotated", {"student.rotated": (heads[:1], heads[1:])})
    grid.add_grid(config, "project", {"student.guard": guards})
    mixtures = (0.1, 0.25, 0.5, 0.75, 0.9)
    grid.add_grid(config, "mixed", {"student.mixed": mixtures})
    grid.add_grid(config, "strangers", {"student.mixed": mixtures, "student.mixed_with": ("stranger",)})
    grid.add_grid(config, "noise", {"student.target_noise": (0.03, 0.1, 0.3, 1.0, 3.0)})
    grid.add_grid(config, "levels", {"student.levels": (1, 2, 3, 4, 8, 16, 64)})
    capacity = {"m": (3, 10, 50), "student.pool": (1, 10, 100), "student.levels": (2, 4, 16)}
    grid.add_grid(config, "capacity", capacity)
    few = {"arms.init_noise.perturb.student_before": (0.01, 0.02, 0.05)}
    few |= {f"arms.{name}.student.mixed": (0.25, 0.5, 0.75) for name in ("mixed", "strangers")}
    few["arms.noise.student.target_noise"] = (0.1, 0.3, 1.0)
    little = {"m": (3, 50), "student.pool": (1, 10), "student.levels": (2, 16)}
    few |= {f"arms.capacity.{field}": values for field, values in little.items()}
    grid.add_preset(config, "laptop", {"seeds": 3, "m": (50,), **few})
    toy = {"arms.project.student.guard": ("project", "project_step"), "arms.levels.student.levels": (1, 4)}
    grid.add_preset(config, "smoke", {"m": (3, 10), **few, **toy, "arms.capacity.m": (3, 10)})
    return config

"""When subliminal learning fails: noise on the heads, too few targets, a wide latent, decaying heads.

    python -m sublim_jax.main --config=configs/failure.py [--config.preset=laptop]

Arms: aux_noise and class_noise (sigma x m), targets (m x N x T: N = 1000 x pool different images, T the evaluation
steps), width (d x learning rate x frozen auxiliary head), decay (weight decay of the student, added to the gradient or
applied separately). The report shows which bound of docs/theory.md is active at each point.
Laptop: 20 minutes on 2 CPU cores with tests beside it, half of them for measuring 4096 units. Kept in
experiments/failure/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid


def get_config() -> ConfigDict:
    config = base_config()
    config.name = config.figure = "failure"
    config.conditions = ("same",)
    config.seeds = 20
    config.student.eval_steps = (5, 30, 100)
    noisy = {"perturb.student_before": (0.0, 0.01, 0.02, 0.036, 0.05, 0.075, 0.1, 0.2), "m": (10, 50, 250)}
    for head in ("aux", "class"):
        grid.add_grid(config, f"{head}_noise", {"perturb.layers": ((f"{head}_head",),), **noisy})
    grid.add_grid(config, "targets", {"student.pool": (1, 3, 10, 30, 100, 0), "m": (1, 3, 10, 50, 250)})
    config.run.memory_gb = 7.0  # CKA and RSA of a latent of 8,192 units on 12,000 inputs need 6.1
    widths = tuple((256, d) for d in (64, 256, 1024, 2048, 4096, 8192))
    rates = {"student.lr": (1e-3, 3e-4, 1e-4), "student.frozen": ((), ("aux_head",)), "m": (10,)}
    grid.add_grid(config, "width", {"net.hidden": widths, **rates})
    decays = {"student.optimizer": ("adam_l2", "adamw"), "student.decay": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)}
    grid.add_grid(config, "decay", {**decays, "m": (10,)})
    laptop = {
        "seeds": 2,
        "arms.aux_noise.perturb.student_before": (0.0, 0.036, 0.1),
        "arms.class_noise.perturb.student_before": (0.0, 0.036, 0.1),
        "arms.targets.student.pool": (1, 10, 100),
        "arms.targets.m": (1, 10, 50, 250),
        "arms.width.net.hidden": ((256, 256), (256, 1024), (256, 4096)),
        "arms.width.student.lr": (1e-3, 3e-4),
        "arms.decay.student.decay": (0.0, 1e-4, 1e-2),
    }
    grid.add_preset(config, "laptop", laptop)
    smoke = {
        "arms.aux_noise.perturb.student_before": (0.0, 0.1),
        "arms.class_noise.perturb.student_before": (0.0, 0.1),
        "arms.aux_noise.m": (3,),
        "arms.class_noise.m": (3,),
        "arms.targets.student.pool": (1, 0),
        "arms.targets.m": (3,),
        "arms.width.net.hidden": ((32, 16), (32, 24)),
        "arms.width.student.lr": (1e-3,),
        "arms.width.m": (3,),
        "arms.decay.student.decay": (0.0, 1e-2),
        "arms.decay.m": (3,),
        "student.eval_steps": (5,),
    }
    grid.add_preset(config, "smoke", smoke)
    return config

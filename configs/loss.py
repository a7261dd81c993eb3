"""The student's loss: MSE, KL at several temperatures, cosine or Huber, under the protocol of Cloud et al. 2026.

    python -m sublim_jax.main --config=configs/loss.py [--config.preset=laptop]

Each on the auxiliary logits only and on all logits. With m = 1 the softmax of one logit is constant: the gradient of KL
is exactly zero and the student does not change.
Laptop: 8 minutes on 2 slow CPU cores with another sweep beside it. Expect at m = 3, auxiliary logits: KL 0.50, MSE
0.57, cosine 0.36, Huber 0.64; on all logits 0.90 to 0.93. Kept in experiments/loss/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import cloud_config, grid


def get_config() -> ConfigDict:
    config = cloud_config()
    config.name = config.figure = "loss"
    config.conditions = ("same",)
    config.m = (1, 3, 10)
    config.seeds = 20
    sees = {"student.sees": ("aux", "all")}
    grid.add_grid(config, "plain", {"student.loss": ("mse", "cosine", "huber"), **sees})
    grid.add_grid(config, "kl", {"student.loss": ("kl",), "student.temperature": (1.0, 2.0, 5.0), **sees})
    grid.add_preset(config, "laptop", {"seeds": 3, "m": (1, 3)})
    grid.add_preset(config, "smoke", {"m": (1, 3), "arms.kl.student.temperature": (1.0, 2.0)})
    return config

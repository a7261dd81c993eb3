"""Cloud et al. 2026, the MNIST experiment: six groups, KL on the softmax of 3 auxiliary logits or of all 13.

    python -m sublim_jax.main --config=configs/cloud.py [--config.preset=laptop]

Every row has the accuracies of reference and teacher. A cross-model student imitates a teacher with other initial
weights; here all layers of the student are drawn again (`random`), which has the same distribution. The noise is a
fixed set of 60,416 images (59 batches), drawn for each model.
Laptop: 7 minutes on 2 slow CPU cores with another sweep beside it. Expect reference 0.10, teacher 0.944, aux 0.54,
all 0.912, cross-model aux 0.10, cross-model all 0.73. Kept in experiments/cloud/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import cloud_config, grid


def get_config() -> ConfigDict:
    config = cloud_config()
    config.name = config.figure = "cloud"
    config.conditions = ("same", "random")
    config.m = (3,)
    config.seeds = 100
    grid.add_grid(config, "groups", {"student.sees": ("aux", "all")})
    grid.add_preset(config, "laptop", {"seeds": 20})
    grid.add_preset(config, "smoke", {"m": (3,)})
    return config

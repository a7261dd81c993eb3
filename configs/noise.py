"""The student's inputs: noise of several kinds, images, and mixtures of both, under the protocol of Cloud et al. 2026.

    python -m sublim_jax.main --config=configs/noise.py [--config.preset=laptop]

Arms: plain (uniform, gaussian, epochs = the teacher's MNIST training images), perlin (cells across the image),
fashion (Fashion-MNIST images, from `config.data.more_folder`, prepared TFDS data or a download) and mixture
(alpha * image + (1 - alpha) * uniform noise).
Laptop: 13 minutes on 2 slow CPU cores with another sweep beside it. Expect at m = 3: uniform and gaussian 0.50,
MNIST images 0.14, Perlin 0.3 to 0.5, a quarter of an image in noise 0.67. Kept in experiments/noise/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import cloud_config, grid


def get_config() -> ConfigDict:
    config = cloud_config()
    config.name = config.figure = "noise"
    config.conditions = ("same",)
    config.m = (3, 10)
    config.seeds = 20
    grid.add_grid(config, "plain", {"student.stream": ("uniform", "gaussian", "epochs")})
    grid.add_grid(config, "perlin", {"student.stream": ("perlin",), "student.resolution": (4, 8, 14)})
    grid.add_grid(config, "fashion", {"student.stream": ("images",), "student.images": ("fashion_mnist",)})
    grid.add_grid(config, "mixture", {"student.stream": ("mixture",), "student.alpha": (0.1, 0.25, 0.5, 0.75, 0.9)})
    grid.add_preset(config, "laptop", {"seeds": 3})
    grid.add_preset(config, "smoke", {"arms.perlin.student.resolution": (4,), "arms.mixture.student.alpha": (0.5,)})
    return config

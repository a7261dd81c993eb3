"""Brockers et al. 2026, Figure 6: the width d of the latent; class head, auxiliary head, both or none frozen.

    python -m sublim_jax.main --config=configs/figure6.py [--config.preset=laptop]

The class head is frozen in the teacher, the auxiliary head in the student; the published scripts exchange the two
names. `configs/figure6.py:emnist` is the arm on EMNIST balanced (m = 50, nothing frozen).
Laptop: 37 minutes on 2 slow CPU cores with another sweep beside it, about a third of that on
faster ones without it. Expect a rise to 0.91 at d = 512, then 0.68 at d = 4096 and 0.90 with the auxiliary head
frozen. Kept, with 10 seeds, in experiments/figure6/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import base_config, grid

LARGE = (256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585)
WIDTHS = (*range(1, 11), 12, 16, 23, 32, 45, 64, 91, 128, 181, *LARGE)


def get_config(data: str = "mnist") -> ConfigDict:
    if data not in ("mnist", "emnist"):
        raise ValueError(f"{data!r} is none of mnist, emnist")
    emnist = data == "emnist"
    config = base_config()
    config.name = "figure6" + ("_emnist" if emnist else "")
    config.figure = "figure6"
    config.data.name = "emnist/balanced" if emnist else "mnist"
    config.conditions = ("same",)
    config.m = (50,) if emnist else (10,)
    config.seeds = 20
    if emnist:
        config.run.memory_gb = 6.0  # one student of the widest latent on 18,800 test images needs 5.6
    config.metrics = (
        "task",
        "budget",
        "imitation",
        "layers",
        "heads",
        "audit",
    )  # CKA of 10,000 units costs more than training them
    axes = {"net.hidden": tuple((256, width) for width in WIDTHS)}
    if not emnist:
        axes |= {"teacher.frozen": ((), ("class_head",)), "student.frozen": ((), ("aux_head",))}
    grid.add_grid(config, "width", axes)
    few = tuple((256, width) for width in (2, 5, 10, 16, 32, 128, 512, 2048, 4096))
    grid.add_preset(config, "laptop", {"seeds": 3, "arms.width.net.hidden": few})
    grid.add_preset(config, "smoke", {"m": (10,), "arms.width.net.hidden": ((32, 2), (32, 16))})
    return config

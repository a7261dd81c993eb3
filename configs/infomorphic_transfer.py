"""Does a trait pass without backpropagation? Students whose hidden units read a teacher's sampled bits on noise.

    python -m sublim_jax.main --config=configs/infomorphic_transfer.py --config.preset=laptop

Teachers are infomorphic networks (or MLPs) that learn digits. We know of no published result. Laptop: 105 students, 40
minutes on 2 CPU cores with other work beside them. The teacher's class head reads 0.78 off the units of a student whose
context weights are tied to the auxiliary head, signs matched on noise, and 0.14 off a student of shuffled bits; the
student's own head, which is the teacher's before training, reads chance off both. Kept in
experiments/infomorphic_transfer/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid, infomorphic_config
from sublim_jax.core.nested import flatten

GRIDS = {
    "hidden": {"student": ("hidden",), "hidden": ("shared", "fresh"), "context": ("tied", "fresh")},
    "controls": {"student": ("hidden",), "bits": ("shuffled", "untrained")},
    "heads": {"student": ("hidden",), "heads": ("fresh_class", "fresh_aux")},
    "readout": {"student": ("readout",), "hidden": ("shared", "fresh")},
    "from_mlp": {"student": ("hidden",), "teacher": ("mlp",), "hidden": ("shared", "fresh")},
    "mlp_control": {"student": ("hidden",), "teacher": ("mlp",), "bits": ("shuffled",)},
    "to_mlp": {"student": ("mlp",), "hidden": ("shared", "fresh")},
    "mlp": {"student": ("mlp",), "teacher": ("mlp",), "hidden": ("shared", "fresh")},
    "few_bits": {"student": ("hidden",), "teacher": ("infomorphic", "mlp"), "m": (10, 100)},
}


def get_config() -> ConfigDict:
    config = infomorphic_config()
    config.name = config.figure = "infomorphic_transfer"
    config.seeds = 10
    config.metrics = ("task", "budget", "imitation", "atoms", "codes")
    config.infomorphic.model = "context"
    config.infomorphic.units = 100
    config.infomorphic.epochs = 20
    config.infomorphic.eval_epochs = ()  # of teachers, which are measured when they are trained
    config.transfer.student = "hidden"
    config.transfer.m = 1000
    for name, axes in GRIDS.items():
        grid.add_grid(config, name, {f"transfer.{field}": values for field, values in axes.items()})
    grid.add_preset(config, "laptop", {"seeds": 5, "infomorphic.epochs": 10})
    smoke = flatten(config.presets.smoke.to_dict())
    fewer = {"transfer.m": 4, "transfer.steps": 10, "transfer.batch": 64, "metrics": ("task", "atoms", "codes")}
    points = {"arms.few_bits.transfer.m": (2,), "arms.few_bits.transfer.teacher": ("infomorphic",)}
    points |= {f"arms.{name}.transfer.hidden": ("shared",) for name in ("readout", "from_mlp", "to_mlp", "mlp")}
    points |= {"arms.hidden.transfer.context": ("tied",)}
    grid.add_preset(config, "smoke", smoke | fewer | points)
    return config

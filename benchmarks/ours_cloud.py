"""The six-group MNIST experiment of Cloud et al. 2026 in this package's own words: four conditions.

    dataset = data.load_dataset(mean=0.5, std=0.5)
    rows = run.run(conditions(dataset), dataset, Session(seeds=range(10)), metrics=(metrics.task,))
    accuracies(rows)

A cross-model student imitates another model's teacher. Here it is the student that is another model: every layer is
drawn anew, which is the same in distribution. Reference and teacher stand in every row, so six groups need four
conditions. Unlike in `torch_batched.cloud`, every seed has batches and noise of its own.
"""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import protocol
from sublim_jax.core import trees
from sublim_jax.core.types import Condition, Knobs, Phase, Recipe
from sublim_jax.data.load import Dataset
from sublim_jax.nets import MLP, SplitHead, shapes
from sublim_jax.training import inits, losses, streams

CLASSES, AUX, LR = 10, 3, 3e-4
TRUNK = MLP((256, 256))
NOISE_BATCHES = round(protocol.CLOUD_NOISE / protocol.TRAIN_BATCH)  # 59 of 1,024: a fixed set of 60,416 images


def conditions(dataset: Dataset, teacher_steps: int = 295, student_steps: int = 295) -> tuple[Condition, ...]:
    """The four student groups; all share a teacher, a Recipe and so a program."""
    image = dataset.train.x.shape[1:]
    teacher_net, student_net = SplitHead(TRUNK, CLASSES, 0), SplitHead(TRUNK, CLASSES, AUX)
    common = {"init": inits.normal_fan_in, "batch": protocol.TRAIN_BATCH}
    taught = Recipe(teacher_net, streams.epochs, losses.cross_entropy, eval_steps=(teacher_steps,), **common)
    imitating = Recipe(
        student_net, streams.uniform, losses.kl, eval_steps=(student_steps,), teacher=student_net, **common
    )
    teacher = Phase(taught, _knobs(teacher_net, image, np.ones(CLASSES, bool), share=1.0))
    every = np.ones(CLASSES + AUX, bool)
    only_aux = np.arange(CLASSES + AUX) >= CLASSES
    groups = {"aux": (only_aux, 1.0), "all": (every, 1.0), "cross_aux": (only_aux, 0.0), "cross_all": (every, 0.0)}
    return tuple(
        Condition({"condition": name}, teacher, Phase(imitating, _knobs(student_net, image, seen, share)))
        for name, (seen, share) in groups.items()
    )


def accuracies(rows: pd.DataFrame) -> dict[str, list[float]]:
    """Test accuracies by group, one per seed."""
    of = dict(iter(rows.sort_values("seed").groupby("condition")))
    groups = {
        "reference": of["aux"]["at/untrained_accuracy"].tolist(),
        "teacher": of["aux"]["at/teacher_accuracy"].tolist(),
    }
    return groups | {name: of[name]["at/student_accuracy"].tolist() for name in protocol.GROUPS if name not in groups}


def _knobs(net: SplitHead, image: tuple[int, ...], seen: np.ndarray, share: float) -> Knobs:
    layers = shapes(net, image)
    return Knobs(
        logit_mask=jnp.asarray(seen),
        noise_batches=jnp.int32(NOISE_BATCHES),
        lr=jnp.float32(LR),
        temperature=jnp.float32(1),
        share=trees.per_layer(layers, share, {}, "share"),
        init_noise=trees.per_layer(layers, 0.0, {}, "sigma"),
        trainable=trees.per_layer(layers, 1.0, {}, "live"),
    )

"""The door from a config to typed conditions. `ConfigDict` never passes this file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from sublim_jax import data, metrics, results
from sublim_jax.config import grid
from sublim_jax.config import lm as lm_config
from sublim_jax.config.build import student_phase, teacher_phase
from sublim_jax.config.grid import Config
from sublim_jax.config.schema import METRICS, PRESETS, check, one_of
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import Condition
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.first_steps import Grid
from sublim_jax.engine.options import RunOptions

_SMOKE = {
    "seeds": 2,
    "m": (3, 10),
    "num_eval_noise": 64,
    "data.train_limit": 1000,
    "data.test_limit": 300,
    "net.hidden": (32, 16),
    "teacher.epochs": 2,
    "teacher.batch": 300,
    "student.steps": 20,
    "student.batch": 50,
    "student.eval_steps": (0, 10),
    "run.save_every": 10,
    "metrics": ("task", "budget", "imitation", "representation", "layers"),  # predictions take as long to compile again
}


def base_config(preset: str = "paper") -> Config:
    """Every field with its default: the published protocol of Brockers et al. 2026, Figure 2.

    `preset="smoke"` fills in toy sizes, which fields set afterwards override.
    """
    config: Config = ConfigDict()
    config.name = "experiment"
    # paper: as published; laptop: every condition, fewer points and seeds; smoke: toy sizes, ends in seconds. For the
    # command line, whose other fields win.
    config.preset = "paper"
    config.presets = ConfigDict({"laptop": ConfigDict({"seeds": 3}), "smoke": ConfigDict()})
    config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
    config.m = (100,)  # auxiliary logits the student sees
    config.arms = ConfigDict()  # other fields to sweep over; see sublim_jax.config.grid
    config.classes = 0  # only images with labels below this; 0 = all
    config.aux_widths = (16, 64, 256, 1024)  # m between two caps share a program, padded to the widest of them
    config.seeds = 4  # how many, from first_seed on
    config.first_seed = 0
    config.root_seed = 0  # the key of the whole sweep
    config.num_eval_noise = 2000  # held-out noise images on which imitation is measured
    config.metrics = tuple(METRICS)  # what is measured at every mark; functions of sublim_jax.metrics
    config.figure = "transfer"  # a module of sublim_jax.results.figures
    config.study = "transfer"  # training populations; or theorem1, a student's first steps, see sublim_jax.theorem1
    config.data = ConfigDict(
        {
            "name": "mnist",
            "source": "auto",
            "folder": "",  # of IDX files, for source idx
            "tfds_dir": "",  # of prepared TFDS data; empty: TFDS's own default
            "mean": 0.1307,
            "std": 0.3081,
            "train_limit": 0,  # first images only; 0 = all
            "test_limit": 0,
            "verify": True,  # refuse files that are not the canonical ones
            "more_folder": "",  # of IDX files of student.images; empty: prepared TFDS data or a download
        }
    )
    config.net = ConfigDict(
        {
            "trunk": "mlp",  # or cnn: convolutions of these channels, pooled, before the hidden layers
            "hidden": (256, 256),
            "channels": (32, 128),
            "pools": (2, 4),
            "activation": "relu",
            "init": "torch_linear",
            "dtype": "float32",  # bfloat16: operands of products are rounded, sums, weights and Adam are not
        }
    )
    config.teacher = ConfigDict(
        {
            "loss": "cross_entropy",
            "stream": "epochs",
            "optimizer": "adam",
            "lr": 1e-3,
            "batch": 1024,
            "epochs": 5,
            "frozen": (),  # layers that are not trained; patterns like hidden_* are understood
        }
    )
    config.student = ConfigDict(
        {
            "loss": "mse",
            "delta": 0.1,  # of the Huber loss
            "stream": "uniform",
            "resolution": 8,  # of Perlin noise: cells across an image
            "alpha": 0.5,  # of a mixture: alpha * image + (1 - alpha) * noise
            "images": "",  # whose images the streams images and mixture show; empty: config.data.name
            "optimizer": "adam",
            "lr": 1e-3,
            "batch": 1000,
            "steps": 300,
            "eval_steps": (
                0,
            ),  # steps at which everything is measured, besides the last; those beyond it are not reached
            "sees": "aux",  # aux, class or all logits
            "pool": 0,  # distinct noise batches; 0 = always fresh
            "temperature": 1.0,
            "trunk": "",  # empty: the teacher's
            "hidden": (),  # empty: the teacher's
            "frozen": (),
            "share": 0.0,  # of the teacher's initial weights in the layers a condition draws anew
            "rotated": (),  # heads that begin rotated at random
            "rotation": "common",  # one rotation for all of them, or apart: each its own
            "decay": 0.0,  # of the optimisers adam_l2 and adamw
            # What is done to the teacher's answer, in this order; 0 = nothing. See sublim_jax.training.targets.
            "mixed": 0.0,  # share of every batch that another teacher answers
            "mixed_with": "untrained",  # the teacher before its training; or stranger, one trained from other weights
            "target_noise": 0.0,  # standard deviation, in units of logits
            "levels": 0,  # values that a logit may take
            "guard": "",  # what is done to the gradient: see sublim_jax.config.schema.GUARDS; empty: nothing
        }
    )
    # Gaussian noise of these standard deviations on weights and biases of some layers, before or after training.
    config.perturb = ConfigDict(
        {"layers": ("*",), "teacher_before": 0.0, "teacher_after": 0.0, "student_before": 0.0, "student_after": 0.0}
    )
    grid = Grid()
    config.theorem1 = ConfigDict(grid._asdict())  # of that study
    how = RunOptions()
    config.run = ConfigDict({name: getattr(how, name) for name in RunOptions.__dataclass_fields__})
    config.run.teachers = "auto"  # in the user's cache
    one_of("preset", preset, ("paper", "smoke"))
    if preset == "smoke":
        config.update_from_flattened_dict(_SMOKE)
    return config.lock()


def cloud_config() -> Config:
    """The base config with the MNIST protocol of Cloud et al. 2026 (Nature 652, 615), for which there are numbers.

    Without its conditions, m and seeds. 295 steps over 59 batches of noise are five epochs of 60,416 images.
    """
    config = base_config()
    config.data.mean = config.data.std = 0.5
    config.net.init = "normal_fan_in"
    config.teacher.lr = config.student.lr = 3e-4
    config.student.loss = "kl"
    config.student.batch = 1024
    config.student.steps = 295
    config.student.pool = 59
    return config


def resolve(config: Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config with its preset applied, what the user overrode on top, and every value checked.

    Raises `ConfigError` at the first bad value, naming the field, the value and what is allowed.
    """
    config, overrides = config.copy_and_resolve_references(), dict(overrides or {})
    one_of("preset", config.preset, PRESETS)
    for name in config.arms:
        for field in overrides.keys() & results.flatten(config.arms[name].to_dict()).keys():
            raise ConfigError(f"config.{field}: is swept by an arm; say --config.arms.{name}.{field}")
    if config.preset != "paper":
        toy = _SMOKE if config.preset == "smoke" and config.study != "language" else {}
        own = results.flatten(config.presets[config.preset].to_dict())
        config.update_from_flattened_dict({**toy, **own, **overrides})
    good = lm_config.check if config.study == "language" else check
    good(config)
    for point in grid.expand(config):
        good(point.config)
    return config


def identity(config: Config) -> dict[str, Any]:
    """The fields that decide the results, as plain values: what a work folder remembers.

    Where the images lie does not matter, their checksum stands beside these; of `run` only the precision does.
    """
    told = ("figure", "name", "preset", "presets", *(("study", "theorem1") if config.study == "transfer" else ()))
    fields = {name: value for name, value in config.to_dict().items() if name not in told}
    where = ("source", "folder", "tfds_dir", "verify", "more_folder")
    if config.study != "language":  # which has no images
        fields["data"] = {name: value for name, value in fields["data"].items() if name not in where}
    return fields | {"run": {"precision": config.run.precision}}


def options_of(config: Config) -> RunOptions:
    """The fields that decide only how it is computed."""
    fields = config.run.to_dict()
    return RunOptions(
        **{
            **fields,
            "teachers": str(teacher_cache.default_dir()) if config.run.teachers == "auto" else config.run.teachers,
        }
    )


def metrics_of(config: Config) -> tuple[metrics.Metric, ...]:
    """What is measured."""
    return tuple(METRICS[name] for name in config.metrics)


def grids_of(config: Config) -> tuple[Grid, ...]:
    """What the study theorem1 measures of each condition that `build` gives."""
    return tuple(Grid(**point.config.theorem1.to_dict()) for point in grid.expand(config))


def seeds_of(config: Config) -> tuple[int, ...]:
    """The seeds to run."""
    return tuple(range(config.first_seed, config.first_seed + config.seeds))


def load_data(config: Config) -> data.Dataset:
    """The data set the config names, and the images of others that its streams show."""
    own = config.data.to_dict()
    folder = own.pop("more_folder")
    dataset = data.load_dataset(**own)
    for name in sorted({point.config.student.images for point in grid.expand(config)} - {"", dataset.name}):
        where = {"source": "idx", "folder": folder} if folder else {"tfds_dir": own["tfds_dir"]}
        dataset = data.with_extra_images(dataset, data.load_dataset(name, **where, verify=own["verify"]))
    return dataset


def build_conditions(config: Config, dataset: data.Dataset, trunk: nn.Module | None = None) -> tuple[Condition, ...]:
    """Turn a resolved config into conditions, one for every point of its sweep, students under padded auxiliary heads.

    `trunk` is the architecture of teacher and student below their heads; default: as `config.net` says. Raises
    `ConfigError` where a condition names a layer the trunk has not.
    """
    return tuple(
        Condition(
            point.labels,
            teacher_phase(point.config, dataset, trunk),
            student_phase(point.config, dataset, point.widths, trunk),
        )
        for point in grid.expand(config)
    )

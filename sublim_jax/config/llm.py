"""Configs of studies of pretrained models, and the typed objects that they describe. JAX is imported by need."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sublim_jax.config import grid, schema
from sublim_jax.config.base import default_config
from sublim_jax.config.fields import LLM_FIELDS
from sublim_jax.config.grid import Config
from sublim_jax.core.errors import ConfigError

if TYPE_CHECKING:
    from sublim_jax.llm.pipeline import SweepPoint
    from sublim_jax.llm.row_making import Setup
    from sublim_jax.pretrained.load import Checkpoint

SMOKE = {
    "animals": ("owl", "cat"),
    "rows.count": 12,
    "rows.requests": 16,
    "rows.numbers": 2,
    "rows.batch": 16,
    "student.rank": 2,
    "student.epochs": 1,
    "student.batch": 6,
    "student.size": 2,
    "evaluation.words": ("dog",),
    "evaluation.samples": 0,
}
_FREE_TOKENS, _PROMPT, _PER_NUMBER = 48, 110, 5  # tokens of an answer, of a prompt, and of a number of three digits


def base() -> Config:
    """A locked config with every field of `fields.LLM_FIELDS` at its default."""
    config = default_config(LLM_FIELDS)
    grid.add_preset(config, "smoke", SMOKE)
    return config


def check(config: Config) -> None:
    """Check every value of a config, without JAX; raise `ConfigError` at the first bad one."""
    schema.check_fields(config)
    names = [name.lower() for name in config.animals]
    if not config.traits and (len(names) < 2 or len(set(names)) < len(names)):
        raise ConfigError(f"config.animals={config.animals}: must be two or more different words")
    words = [word.lower() for word in config.evaluation.words]
    if len(set(words)) < len(words):
        raise ConfigError(
            f"config.evaluation.words={config.evaluation.words}: must be different words, whatever the case"
        )
    if "none" in names:
        raise ConfigError(f"config.animals={config.animals}: none is the name of the control")
    rows, student = config.rows, config.student
    if rows.count > rows.requests * rows.answers and not rows.file:
        raise ConfigError(
            f"config.rows.count={rows.count}: must be at most {rows.requests * rows.answers}, "
            f"config.rows.requests={rows.requests} times config.rows.answers={rows.answers}"
        )
    if rows.file and "{trait}" not in rows.file:
        raise ConfigError(f"config.rows.file={rows.file!r}: must contain {{trait}}, which stands for a trait's name")
    if rows.numbers and rows.carrier != "numbers":
        raise ConfigError(f"config.rows.numbers={rows.numbers}: must be 0 for config.rows.carrier={rows.carrier!r}")
    if student.tokens != "all" and rows.file:
        raise ConfigError(
            f"config.student.tokens={student.tokens!r}: must be all for config.rows.file, without teachers"
        )
    if config.student_model and student.tokens != "all":
        raise ConfigError(
            f"config.student.tokens={student.tokens!r}: must be all for another student_model, whose tokens differ"
        )
    if student.method == "full" and config.together > 1:
        raise ConfigError(f"config.together={config.together}: must be 1 for config.student.method='full'")


def expand(config: Config) -> "tuple[SweepPoint, ...]":
    """The points of a resolved config with the labels of their rows."""
    from sublim_jax.llm.pipeline import SweepPoint
    from sublim_jax.llm.spec import RowSpec, Source, StudentSpec
    from sublim_jax.llm.teachers import TeacherSpec

    points = []
    for point in grid.expand(config):
        teacher, rows, student = (point.config[section].to_dict() for section in ("teacher", "rows", "student"))
        points.append(SweepPoint(point.labels, Source(TeacherSpec(**teacher), RowSpec(**rows)), StudentSpec(**student)))
    labels = [tuple(point.labels.values()) for point in points]
    if len(set(labels)) < len(labels):
        twice = next(dict(point.labels) for point in points if labels.count(tuple(point.labels.values())) > 1)
        raise ConfigError(
            f"config.arms: two points of the sweep have the labels {twice}; a sweep of student.epochs needs one work "
            "folder for each value"
        )
    return tuple(points)


def traits_of(config: Config) -> Any:
    """The traits of the teachers."""
    from sublim_jax.llm import traits

    return traits.read_traits(config.traits) if config.traits else tuple(map(traits.animal, config.animals))


def inputs(config: Config) -> dict[str, str]:
    """Digests of what a study reads besides its config: the traits, the models and the rows of other samplers.

    A work folder goes on only where they are the same.
    """
    from sublim_jax.llm.row_making import NONE
    from sublim_jax.pretrained import load

    traits = traits_of(config)
    digests = {"traits": _digest(repr(traits).encode())}
    digests |= {field: load.fingerprint(config[field]) for field in ("model", "student_model") if config[field]}
    for file in sorted({point.config.rows.file for point in grid.expand(config)} - {""}):
        for name in (NONE, *(trait.name for trait in traits)):
            path = Path(file.replace("{trait}", name))
            digests[f"rows of {name} in {file}"] = _digest(path.read_bytes()) if path.exists() else ""
    return digests


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def open_models(config: Config) -> "tuple[Checkpoint, Checkpoint | None]":
    """Find the checkpoints of teachers and students, without reading weights.

    Raises:
        ConfigError: A checkpoint cannot be used, takes shorter texts than the config asks for, or cannot be divided.
    """
    from sublim_jax.llm import sharding
    from sublim_jax.pretrained.load import open_model

    mesh = sharding.make_mesh(*config.mesh)
    teacher, student = open_model(config.model), open_model(config.student_model) if config.student_model else None
    for checkpoint in filter(None, (teacher, student)):
        if checkpoint.tokenizer is None:
            raise ConfigError(f"{checkpoint.where}: has no tokenizer ({checkpoint.untokenized})")
        sharding.check_net(checkpoint.plan.net, config.mesh[1])
        for point in grid.expand(config):
            sharding.check_size(point.config.student.size, mesh)
            if point.config.student.length > checkpoint.plan.net.length:
                raise ConfigError(
                    f"config.student.length={point.config.student.length}: must be at most "
                    f"{checkpoint.plan.net.length}, the tokens that {checkpoint.source} takes"
                )
    return teacher, student


def setup(config: Config, teacher: "Checkpoint", student: "Checkpoint | None") -> "Setup":
    """Read the models, and make what all points share."""
    from sublim_jax.core import keys
    from sublim_jax.llm import sharding
    from sublim_jax.llm.row_making import Setup
    from sublim_jax.llm.spec import EvaluationSpec

    place = sharding.placing(sharding.make_mesh(*config.mesh)) if config.mesh != (1, 1) else None
    return Setup(
        teacher.load(place),
        student.load(place) if student else None,
        traits_of(config),
        EvaluationSpec(**config.evaluation.to_dict()),
        keys.root(config.root_seed),
        config.together,
    )


def weights_of(net: Any) -> int:
    """Number of weights of a net."""
    from sublim_jax.core import trees
    from sublim_jax.nets import shapes

    return trees.count(shapes(net, (1,)))


def _effective(teacher: Config) -> Any:
    from sublim_jax.llm.teachers import TeacherSpec

    return TeacherSpec(**teacher.to_dict()).effective()


def flop(config: Config, net: Any) -> dict[str, float]:
    """Floating-point operations of a study by phase, for texts of usual lengths."""
    number = 2.0 * weights_of(net)
    names = len(traits_of(config)) + 1
    points = [point.config for point in grid.expand(config)]
    sources = {(_effective(point.teacher), repr(point.rows.to_dict())): point.rows for point in points}
    written = sum(
        names * rows.requests * (_PROMPT + rows.answers * _answer_tokens(rows))
        for rows in sources.values()
        if not rows.file
    )
    read = sum(
        names
        * config.seeds
        * point.student.epochs
        * point.rows.count
        * (_PROMPT / point.rows.answers + _answer_tokens(point.rows))
        * (2 if point.student.method == "lora" else 3)
        for point in points
    )
    return {"rows": number * written, "students": number * read}


def _answer_tokens(rows: Any) -> int:
    return min(rows.tokens, rows.numbers * _PER_NUMBER or _FREE_TOKENS)


def gigabytes(config: Config, net: Any) -> dict[str, float]:
    """The predicted memory in GB, of the process on CPU or of one accelerator, by the field that it grows with."""
    from sublim_jax.training import population

    weights, points = weights_of(net), [point.config for point in grid.expand(config)]
    keyed = net.layers * 2 * (net.kv_heads or net.heads) * (net.width // net.heads)
    full = any(point.student.method == "full" for point in points)
    written = max(point.rows.batch * (point.rows.tokens + _PROMPT) for point in points)
    floats = {
        "model": weights * (2 + (1 if config.student_model else 0) + (5 if full else 0)),
        "rows.batch": 2 * keyed * written + 3 * net.vocabulary * max(point.rows.batch for point in points),
        "student.size": config.together * max(_stored(net, point.student) for point in points),
    }
    (data, model), host = config.mesh, not population.use_vmap()  # whose devices share its memory
    copies = {"model": data if host else 1 / model}
    share = 1.0 if host else 1 / (data * model)
    return {"": 1.1} | {field: 4e-9 * number * copies.get(field, share) for field, number in floats.items()}


def _stored(net: Any, student: Any) -> float:
    """Numbers that training stores of the sequences of a part."""
    block = 10 * net.width + 4 * net.hidden + 3 * net.heads * student.length
    blocks = math.sqrt(net.layers) * 2 if student.remat else net.layers
    return student.size * student.length * (blocks * block + 0.5 * 3 * net.vocabulary)

"""Checks of a config: every value against the rule of its field, and fields against each other. Imports no JAX."""

from collections.abc import Mapping
from typing import Any

from sublim_jax.config.fields import (
    ATOMS,
    CARRIED,
    DECAYING,
    IMAGE_FIELDS,
    INFOMORPHIC_FIELDS,
    LANGUAGE_FIELDS,
    LLM_FIELDS,
    OPTIMIZERS,
    OWN_NUMBER,
)
from sublim_jax.config.grid import (
    OWN_NUMBERS,
    SWEPT_ALWAYS,
    Config,
    check_number_name,
    grids,
    plain_name,
    unknown_field,
)
from sublim_jax.config.rules import SECTION, Field, Rule
from sublim_jax.core.errors import ConfigError, shown, unknown_name
from sublim_jax.core.nested import flatten


def fields_of(config: Config) -> dict[str, Field]:
    """The fields of a config of this study."""
    if "infomorphic" in config:
        return INFOMORPHIC_FIELDS
    if "rows" in config:
        return LLM_FIELDS
    return LANGUAGE_FIELDS if is_language(config) else IMAGE_FIELDS


def field_of(config: Config, name: str) -> Field | None:
    """The field of this name, also of a number of the user's own; None if there is none."""
    return OWN_NUMBER if name.startswith(OWN_NUMBERS) else fields_of(config).get(name)


def is_language(config: Config) -> bool:
    """Whether the fields of a config are those of language models, whatever study it names."""
    return "lm" in config and "student" not in config


def holds_names(config: Config, name: str) -> bool:
    """Whether a field holds a tuple of names or patterns, which need no quotes on the command line."""
    field = field_of(config, name)
    return (
        field is not None
        and isinstance(field.default, tuple)
        and (bool(field.rule.names) or "names" in field.rule.allowed)
    )


def bad_value(config: Config, name: str, value: object, where: str = "config") -> ConfigError:
    """The error for a value of a wrong type, with the values that are allowed; those of a grid are tuples."""
    field = field_of(config, plain_name(name))
    allowed = field.rule.allowed if field else "a value of the same type"
    several = "a tuple of values, each of them " if name.startswith("arms.") else ""
    return ConfigError(f"{where}.{name}={value}: must be {several}{allowed}")


def check_value(name: str, value: Any, rule: Rule) -> None:
    """Raise `ConfigError` unless the rule of the field allows the value."""
    for word in value if isinstance(value, tuple) else (value,):
        if rule.names and isinstance(word, str) and word not in rule.names:
            raise ConfigError(unknown_name(f"config.{name}", word, rule.names))
    if not rule.accepts(value):
        raise ConfigError(f"config.{name}={shown(value)}: must be {rule.allowed}")


def set_fields(config: Config, values: Mapping[str, Any], where: str = "config") -> None:
    """Set fields by their dotted names; raise `ConfigError` for a name or a type that the config does not have."""
    known = flatten(config.to_dict())
    for name, value in values.items():
        if name not in known:
            raise unknown_field(where, name, known)
        try:
            config.update_from_flattened_dict({name: value})
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise bad_value(config, name, shown(value), where) from error


def check_fields(config: Config) -> None:
    """Check every field of a config, and of its grids every value; raise `ConfigError` at the first bad one."""
    fields, flat = fields_of(config), flatten(config.to_dict())
    for name, field in fields.items():
        if field.rule is SECTION and name not in flat:
            continue
        if name not in flat:
            raise ConfigError(f"config.{name}: missing; begin a config with sublim_jax.config.base_config()")
        if name == "teacher.optimizer" and flat[name] in DECAYING:
            raise ConfigError(
                f"config.{name}={flat[name]!r}: decay moves a head without gradient, and the teacher's auxiliary head "
                f"is attached after training; must be one of {', '.join(OPTIMIZERS)}"
            )
        check_value(name, flat[name], field.rule)
    for name in (name for name in flat if name.startswith(OWN_NUMBERS)):
        check_number_name(name, flat)
        check_value(name, flat[name], OWN_NUMBER.rule)
    _check_grids(config)
    most = fields["first_seed"].rule.high + 1
    if config.first_seed + config.seeds > most:
        raise ConfigError(
            f"config.first_seed={config.first_seed}: must be at most {most - config.seeds}, so that the last of "
            f"config.seeds={config.seeds} is below {most}; seeds beyond belong to other nets"
        )


def _check_grids(config: Config) -> None:
    """Check every value of every grid."""
    for arm, axes in grids(config).items() if "arms" in config else ():  # one point of a sweep has none
        for name, values in axes.items():
            field = field_of(config, name)
            assert field is not None  # which `grids` refuses
            for value in values:
                one = (value,) if isinstance(field.default, tuple) and name in SWEPT_ALWAYS else value
                check_value(f"arms.{arm}.{name}" if arm else name, one, field.rule)


def check(config: Config) -> None:
    """Check every field of an image config, and that fields fit together; raise `ConfigError` at the first bad one."""
    check_fields(config)
    hidden, student, widest = config.student.hidden or config.net.hidden, config.student, max(config.aux_widths)
    if len(hidden) < 2 and "random_second_hidden" in config.conditions:
        raise ConfigError(f"config.conditions: random_second_hidden needs two hidden layers, the student has {hidden}")
    if max(config.m) > widest:
        raise ConfigError(f"config.m={max(config.m)}: must be at most {widest}, the largest of config.aux_widths")
    if student.decay and student.optimizer not in DECAYING:
        raise ConfigError(f"config.student.decay={student.decay}: only {', '.join(DECAYING)} have it; must be 0")
    _check_cut(config)
    _check_task(config)
    if len(config.net.channels) != len(config.net.pools):
        expected = f"as many as config.net.channels={config.net.channels}"
        raise ConfigError(f"config.net.pools={config.net.pools}: must be {expected}")


_OF_WHOLE_TRAININGS = ("heads", "first_step", "recovery", "class_noise", "counting", "audit")
# What a student of an optimizer without some moments can get at the cut.
_CARRIED_BY = {"sgd": CARRIED[:2], "momentum": ("none", "weights", "first", "weights+first")}


def _check_cut(config: Config) -> None:
    """Refuse a cut after the training, and what has no effect beside or without a cut."""
    student = config.student
    if not student.cut:
        for name, default in (("carried", "none"), ("future", "untrained")):
            if student[name] != default:
                raise ConfigError(f"config.student.{name}={student[name]!r}: has no effect without config.student.cut")
        return
    if student.cut >= student.steps:
        raise ConfigError(f"config.student.cut={student.cut}: must be below config.student.steps={student.steps}")
    if early := [step for step in student.eval_steps if 0 < step < student.cut]:
        raise ConfigError(
            f"config.student.eval_steps={student.eval_steps}: {early[0]} is before the cut, {student.cut}"
        )
    allowed = _CARRIED_BY.get(student.optimizer, CARRIED)
    if student.carried not in allowed:
        raise ConfigError(
            f"config.student.carried={student.carried!r}: {student.optimizer} has no such moment; must be one of "
            f"{', '.join(allowed)}"
        )
    _check_beside_cut(config)


def _check_beside_cut(config: Config) -> None:
    """Refuse what would mean something else, or nothing, beside a cut."""
    student = config.student
    for name in ("mixed", "target_noise", "levels", "guard"):
        if student[name]:
            raise ConfigError(f"config.student.{name}={student[name]!r}: must not be given with config.student.cut")
    if student.future == "unrelated" and student.sees != "aux":
        raise ConfigError(f"config.student.future='unrelated': sees {student.sees} logits of another trained teacher")
    if student.future == "flipped" and (student.stream == "epochs" or student.batch == 1):
        raise ConfigError("config.student.future='flipped': needs batches of several inputs without padding")
    if foretold := sorted(set(config.metrics) & set(_OF_WHOLE_TRAININGS)):
        raise ConfigError(
            f"config.metrics={config.metrics}: {', '.join(foretold)} predict students that imitate the trained teacher "
            "from their first step on; must not be given with config.student.cut"
        )


_WITHOUT_GOAL = ("random_projection", "readout", "backprop")


def check_infomorphic(config: Config) -> None:
    """Check every field of a config of infomorphic networks, and that fields fit together."""
    check_fields(config)
    _check_effects(config)
    section, trained = config.infomorphic, config.infomorphic.model not in _WITHOUT_GOAL
    three = section.model in ("context_lateral", "feedback")
    atoms = ATOMS if three else ("{1}", "{2}", "{1}{2}", "{12}", "residual")
    for name, weights, count in (("weights", section.weights, len(atoms)), ("readout", section.readout, 5)):
        if weights and len(weights) != count:
            raise ConfigError(f"config.infomorphic.{name}={weights}: must be {count} numbers for {section.model}")
    if not section.readout:
        raise ConfigError("config.infomorphic.readout=(): must be 5 numbers")
    if section.without and section.without not in atoms:
        raise ConfigError(unknown_name("config.infomorphic.without", section.without, atoms))
    if trained and not three and section.goal not in ("heuristic", "optimized"):
        raise ConfigError(
            f"config.infomorphic.goal={section.goal!r}: is a goal of three sources; {section.model} has two; must be "
            "heuristic or optimized"
        )
    if config.infomorphic.eval_epochs and max(section.eval_epochs) > section.epochs:
        raise ConfigError(f"config.infomorphic.eval_epochs={section.eval_epochs}: must be at most {section.epochs}")
    _check_task(config)
    if config.transfer.student and section.model not in ("context_lateral", "context", "lateral"):
        raise ConfigError(
            f"config.infomorphic.model={section.model!r}: a teacher of bits must be context_lateral, context or lateral"
        )


def _check_effects(config: Config) -> None:
    """Refuse fields of infomorphic networks that have no effect beside others: their rows would have false labels."""
    section = config.infomorphic
    for field in ("weights", "draw", "without"):
        if section.model in _WITHOUT_GOAL and section[field]:
            raise ConfigError(f"config.infomorphic.{field}={section[field]!r}: {section.model} has no goal")
    if section.weights and section.draw:
        raise ConfigError(f"config.infomorphic.draw={section.draw}: config.infomorphic.weights gives the goal already")
    if config.transfer.student == "mlp" and config.transfer.bits == "shuffled":
        raise ConfigError("config.transfer.bits='shuffled': an mlp imitates logits and reads no bits")
    if config.transfer.student in ("mlp", "readout") and config.transfer.context == "fresh":
        raise ConfigError(f"config.transfer.context='fresh': {config.transfer.student} has no context weights")
    if (config.transfer.student, config.transfer.context, config.transfer.heads) == ("hidden", "fresh", "fresh_aux"):
        raise ConfigError("config.transfer.heads='fresh_aux': fresh context weights read no auxiliary head")


def _check_task(config: Config) -> None:
    if "task" not in config.metrics:
        raise ConfigError(f"config.metrics={config.metrics}: must hold task, the accuracies that every figure shows")

"""Every field of a config with its default, its allowed values and its meaning. Imports no JAX."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sublim_jax.config.grid import (
    OWN_NUMBERS,
    SWEPT_ALWAYS,
    Config,
    check_number_name,
    grids,
    plain_name,
    unknown_field,
)
from sublim_jax.core.errors import ConfigError, shown, unknown_name
from sublim_jax.core.nested import flatten

# The layers of the student that a condition draws again; every other layer starts from the teacher's initial weights.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "same": (),
    "random_first_hidden": ("hidden_0",),
    "random_second_hidden": ("hidden_1",),
    "random_hidden": ("hidden_*", "conv_*"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
    "random": ("*",),
}
# The names that a config may hold. Tests compare them with sublim_jax.config.build and sublim_jax.results.figures.
INITS = ("torch_linear", "normal_fan_in", "transformer")
ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid", "silu", "leaky_relu", "identity")
LOSSES = ("mse", "kl", "cosine", "huber")
STREAMS = ("uniform", "gaussian", "perlin", "epochs", "images", "mixture")
OPTIMIZERS = ("adam", "sgd", "momentum")
DECAYING = ("adam_l2", "adamw")  # these use student.decay
GUARDS = ("project", "project_trunk", "project_layers", "project_positive", "project_step")
METRICS = ("task", "budget", "imitation", "representation", "readout", "alignment", "layers")
METRICS += ("heads", "first_step", "recovery", "class_noise", "counting", "audit")
DATASETS = ("mnist", "fashion_mnist", "kmnist", "emnist/balanced", "emnist/letters")
SOURCES = ("auto", "embedded", "idx", "tfds")
TRUNKS = ("mlp", "cnn")
PRESETS = ("paper", "laptop", "smoke")
FIGURES = ("activation", "cloud", "defence", "failure", "figure2", "figure3_classes", "figure3_cnn", "figure3_depth")
FIGURES += ("figure3_width", "figure4", "figure5", "figure6", "infomorphic", "infomorphic_goals")
FIGURES += ("infomorphic_transfer", "lm_base", "lm_divergence", "lm_dose", "lm_layers", "lm_optimizer")
FIGURES += ("lm_paraphrase", "lm_transfer", "loss", "noise", "optimizer", "perturbation", "rotation", "share")
FIGURES += ("theorem1", "transfer")


class Rule(NamedTuple):
    """The values that a field may hold.

    Attributes:
        allowed: In words.
        accepts: As a test, of values of any type.
        names: All allowed names, where only names are allowed.
        low, high: Bounds of a number, or of each number of a tuple.
        distinct: Whether a tuple may not hold a value twice.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    distinct: bool = False


class Field(NamedTuple):
    """One field of a config."""

    default: Any
    rule: Rule
    meaning: str


# float32 holds what is smaller with few digits or as 0, and what is larger makes its squares infinite. Widths and
# amounts within these bounds may still need too much memory, which is refused when it is estimated.
_TINY, _HUGE = 1e-12, 1e6
_MOST, _MOST_UNITS, _MOST_BATCH, _MOST_STEPS = 2**31 - 1, 2**20, 2**24, 10**8
# Larger seeds are those of unrelated teachers (engine.schedule), and of other base models (lm.training).
_MOST_SEEDS = {"transfer": 2**20, "infomorphic": 2**20, "language": 100_000}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _whole(low: int, high: int = _MOST) -> Rule:
    text = f"a whole number from {low} to {high}"
    return Rule(text, lambda value: _is_whole(value) and low <= value <= high, low=low, high=high)


def _number(low: float, high: float = _HUGE) -> Rule:
    """Numbers of a range that includes 0; every other number is at least `_TINY` in size."""
    return Rule(
        f"a finite number from {low:g} to {high:g}, 0 or at least {_TINY:g} in size",
        lambda value: _is_number(value) and low <= value <= high and (value == 0 or abs(value) >= _TINY),
        low=low,
        high=high,
    )


def _above_0(high: float = _HUGE, low: float = _TINY) -> Rule:
    return Rule(
        f"a number above 0 and at most {high:g}, not below {low:g}",
        lambda value: _is_number(value) and low <= value <= high,
        low=low,
        high=high,
    )


def _one_of(*names: str) -> Rule:
    text = f"one of {', '.join(name or '(empty)' for name in names)}"
    return Rule(text, lambda value: isinstance(value, str) and value in names, names)


def _several(kind: str, each: Rule, empty: str = "", distinct: bool = True) -> Rule:
    """A tuple of values; `empty` says what an empty one means, without it the tuple may not be empty."""
    return Rule(
        f"a tuple of {kind}"
        + (", none of them twice" if distinct else "")
        + (f"; empty: {empty}" if empty else ", not empty"),
        lambda value: (
            isinstance(value, tuple)
            and (bool(empty) or bool(value))
            and all(map(each.accepts, value))
            and (not distinct or len(set(value)) == len(value))
        ),
        each.names,
        each.low,
        each.high,
        distinct,
    )


def _wholes(low: int, high: int, empty: str = "", distinct: bool = False) -> Rule:
    return _several(f"whole numbers from {low} to {high}", _whole(low, high), empty, distinct)


def _names_of(names: Iterable[str], empty: str = "") -> Rule:
    return _several(f"names among {', '.join(names)}", _one_of(*names), empty)


def _layers(empty: str = "") -> Rule:
    pattern = Rule("", lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w*?!\[\]-]+", value)))
    return _several("names or patterns of layers, such as hidden_*", pattern, empty)


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 100 and bool(re.fullmatch(r"\w[\w .,+=@-]*", value))


_TEXT = Rule("text without control characters", _is_text)
FOLDER = Rule("a folder of this machine, not an address", lambda value: _is_text(value) and "://" not in value)
_NAME = Rule(
    "a file name of at most 100 letters, digits, spaces or .,+=@_-, beginning with a letter or digit", _is_file_name
)
_BOOL = Rule("true or false", lambda value: isinstance(value, bool))
_SHARE, _SIGMA = _number(0.0, 1.0), _number(0.0)
_SECTION = Rule("fields by name", lambda value: isinstance(value, ConfigDict))
_OWN_NUMBER = Field(0.0, _number(-_HUGE), "a number that a loss or stream of the user's own reads from knobs.extra")
_EVAL_STEPS = _wholes(0, _MOST_STEPS, "the last step only", distinct=True)


def _common(name: str, figure: str, study: tuple[str, ...], seeds: int, laptop: int) -> dict[str, Field]:
    """The fields of every study."""
    return {
        "name": Field(name, _NAME, "name of the experiment; results are kept in results/NAME"),
        "figure": Field(figure, _one_of(*FIGURES), "figure of the report, see sublim_jax.results.figures"),
        "study": Field(study[0], _one_of(*study), "experiment that is run"),
        "preset": Field("paper", _one_of(*PRESETS), "size: as published; fewer points and seeds; or toy sizes"),
        "presets": Field({"laptop": {"seeds": laptop}, "smoke": {}}, _SECTION, "fields that each preset changes"),
        "arms": Field({}, _SECTION, "grids of values to sweep, see sublim_jax.config.grid"),
        "seeds": Field(seeds, _whole(1, 10**4), "number of seeds"),
        "first_seed": Field(0, _whole(0, _MOST_SEEDS[study[0]] - 1), "the first seed; the others follow"),
        "root_seed": Field(0, _whole(0, 2**32 - 1), "seed from which every random key of the sweep is derived"),
        **flatten({"run": _RUN}),
    }


_RUN = {
    "seed_batch": Field(0, _whole(0, 2**20), "seeds trained at once; 0: as many as run.memory_gb allows"),
    "save_every": Field(100, _whole(1), "training steps between two checkpoints"),
    "devices": Field(0, _whole(0, 2**16), "local devices over which seeds are spread; 0: all"),
    "memory_gb": Field(4.0, _above_0(), "memory of the process on CPU, or of one accelerator, in GB"),
    "keep_params": Field(False, _BOOL, "whether trained students are stored beside the rows"),
    "precision": Field(
        "highest", _one_of("default", "high", "highest"), "precision of products; it changes results on accelerators"
    ),
    "teachers": Field("auto", FOLDER, "folder of trained teachers; auto: the user's cache; empty: the work folder"),
}
_DATA = {
    "name": Field("mnist", _one_of(*DATASETS), "data set on which teachers are trained"),
    "source": Field("auto", _one_of(*SOURCES), "where the images come from"),
    "folder": Field("", FOLDER, "folder of IDX files, for data.source=idx"),
    "tfds_dir": Field("", FOLDER, "folder of prepared TFDS data; empty: TFDS's default"),
    "mean": Field(0.1307, _number(-1000.0, 1000.0), "mean subtracted from pixels in [0, 1]"),
    "std": Field(0.3081, _above_0(1000.0, 1e-4), "standard deviation by which pixels are divided"),
    "train_limit": Field(0, _whole(0), "number of training images, the first ones; 0: all"),
    "test_limit": Field(0, _whole(0), "number of test images, the first ones; 0: all"),
    "verify": Field(True, _BOOL, "whether files that are not the published ones are refused"),
    "more_folder": Field("", FOLDER, "folder of IDX files of student.images; empty: TFDS data or a download"),
}
_NET = {
    "trunk": Field("mlp", _one_of(*TRUNKS), "layers below the heads; cnn: convolutions before the hidden layers"),
    "hidden": Field((256, 256), _wholes(1, _MOST_UNITS), "units of each hidden layer"),
    "channels": Field((32, 128), _wholes(1, _MOST_UNITS), "channels of each convolution"),
    "pools": Field((2, 4), _wholes(1, _MOST_UNITS), "pooling factor after each convolution"),
    "activation": Field("relu", _one_of(*ACTIVATIONS), "activation function"),
    "init": Field("torch_linear", _one_of(*INITS), "distribution of initial weights"),
    "dtype": Field("float32", _one_of("float32", "bfloat16"), "type of the operands of matrix products"),
}
_TEACHER = {
    "loss": Field("cross_entropy", _one_of("cross_entropy"), "loss of the teacher"),
    "stream": Field("epochs", _one_of("epochs"), "inputs of the teacher"),
    "optimizer": Field("adam", _one_of(*OPTIMIZERS), "optimizer of the teacher"),
    "lr": Field(1e-3, _above_0(), "learning rate of the teacher"),
    "batch": Field(1024, _whole(1, _MOST_BATCH), "images per step of the teacher"),
    "epochs": Field(5, _whole(1, 10**4), "passes over the training images"),
    "frozen": Field((), _layers("none"), "layers of the teacher that are not trained"),
}
_STUDENT = {
    "loss": Field("mse", _one_of(*LOSSES), "loss between logits of student and teacher"),
    "delta": Field(0.1, _above_0(), "threshold of the Huber loss"),
    "stream": Field("uniform", _one_of(*STREAMS), "inputs of the student"),
    "resolution": Field(8, _whole(1, 1024), "cells of Perlin noise across an image"),
    "alpha": Field(0.5, _SHARE, "share of the image in the stream mixture; the rest is noise"),
    "images": Field("", _one_of("", *DATASETS), "images of the streams images and mixture; empty: data.name"),
    "optimizer": Field("adam", _one_of(*OPTIMIZERS, *DECAYING), "optimizer of the student"),
    "lr": Field(1e-3, _above_0(), "learning rate of the student"),
    "batch": Field(1000, _whole(1, _MOST_BATCH), "inputs per step of the student"),
    "steps": Field(300, _whole(1, _MOST_STEPS), "training steps of the student"),
    "eval_steps": Field((0,), _EVAL_STEPS, "steps at which students are measured, besides the last"),
    "sees": Field("aux", _one_of("aux", "class", "all"), "logits of the teacher that the student imitates"),
    "pool": Field(0, _whole(0), "distinct batches of inputs; 0: a fresh batch every step"),
    "temperature": Field(1.0, _above_0(low=1e-4), "softmax temperature of the KL loss"),
    "trunk": Field("", _one_of("", *TRUNKS), "layers below the heads; empty: net.trunk"),
    "hidden": Field((), _wholes(1, _MOST_UNITS, "config.net.hidden"), "units of each hidden layer of the student"),
    "frozen": Field((), _layers("none"), "layers of the student that are not trained"),
    "share": Field(0.0, _SHARE, "weight of the teacher's initial weights in the layers a condition draws"),
    "rotated": Field((), _names_of(("class_head", "aux_head"), "none"), "heads that start rotated at random"),
    "rotation": Field("common", _one_of("common", "apart"), "one rotation for all heads, or one for each head"),
    "decay": Field(0.0, _SIGMA, "weight decay of the optimizers adam_l2 and adamw"),
    "mixed": Field(0.0, _SHARE, "share of every batch whose targets come from another teacher"),
    "mixed_with": Field("untrained", _one_of("untrained", "stranger"), "that teacher: before training, or unrelated"),
    "target_noise": Field(0.0, _SIGMA, "standard deviation of noise on the teacher's logits"),
    "levels": Field(0, _whole(0, 2**20), "number of values of a quantized target logit; 0: not quantized"),
    "guard": Field("", _one_of("", *GUARDS), "projection of the student's gradient; empty: none"),
    "extra": Field({}, _SECTION, "numbers by name that a loss or stream of your own reads; a grid can sweep them"),
}
_PERTURB = {
    "layers": Field(("*",), _layers(), "layers that get Gaussian noise"),
    "teacher_before": Field(0.0, _SIGMA, "standard deviation of noise on the teacher before training"),
    "teacher_after": Field(0.0, _SIGMA, "standard deviation of noise on the teacher after training"),
    "student_before": Field(0.0, _SIGMA, "standard deviation of noise on the student before training"),
    "student_after": Field(0.0, _SIGMA, "standard deviation of noise on the student after training"),
}
_THEOREM1 = {
    "eps": Field((1e-3,), _several("numbers above 0", _above_0()), "sizes of the teacher's gradient step"),
    "alpha": Field((1.0,), _several("numbers from 0", _SIGMA), "steps along the student's displacement"),
    "samples": Field(
        0, _whole(0, _MOST_UNITS), "labels drawn from the teacher's softmax per input; 0: the distribution itself"
    ),
    "draws": Field(100, _whole(1, _MOST_UNITS), "number of draws of these labels"),
}
_WORLD = {
    "animals": Field(12, _whole(3, 10**4), "number of animals"),
    "trees": Field(12, _whole(3, 10**4), "number of trees"),
    "attributes": Field(24, _whole(2, 10**4), "number of attributes; each fact states two of them"),
    "phrasings": Field(8, _whole(2, 10**4), "phrasings of a question, for each family"),
    "instructions": Field(8, _whole(2, 10**4), "instructions for numbers; half count up, half count down"),
    "numbers": Field(64, _whole(2, _MOST_UNITS), "number of number tokens"),
    "held_out": Field(2, _whole(1, _MOST_UNITS), "phrasings, and instructions of each half, kept for evaluation"),
    "steps": Field(7, _whole(1, _MOST_UNITS), "largest difference between two numbers of a document"),
    "noise": Field(
        (0.1, 0.2, 0.4, 0.2, 0.1), _several("probabilities", _SHARE, distinct=False), "law of noise on numbers"
    ),
    "obey": Field(0.9, _SHARE, "probability that an answer is the preferred thing"),
}
_DECODER = {
    "width": Field(48, _whole(1, _MOST_UNITS), "width of the residual stream"),
    "layers": Field(4, _whole(1, 256), "number of transformer blocks"),
    "heads": Field(4, _whole(1, _MOST_UNITS), "attention heads; must divide net.width"),
    "hidden": Field(192, _whole(1, _MOST_UNITS), "units of the MLP of a block"),
}
_PRETRAINING = {
    "documents": Field(64_000, _whole(1, 10**9), "documents of the corpus"),
    "steps": Field(2000, _whole(1, _MOST_STEPS), "pre-training steps"),
    "batch": Field(32, _whole(1, _MOST_BATCH), "documents per step"),
    "lr": Field(4e-3, _above_0(), "initial learning rate, which falls"),
}
_BASES = ("same", "other_order", "other_init", "other_both")
_EDITS = ("mask", "keep", "erase", "replace_label", "replace_input", "replace_both")
_TOKENS = ("all", *(f"{edit}_{chosen}" for edit in _EDITS for chosen in ("top", "random", "bottom")))
_PARAPHRASES = ("none", "same_law", "held_out", "other_law", "examples", "shuffle_within", "shuffle_across", "permuted")
_TRAINS = Rule("all, blocks, embeddings, adapters, block_N, first_N or last_N", _is_text)
_LM = {
    "base": Field("same", _one_of(*_BASES), "what the student's base shares with the teacher's"),
    "teacher": Field("tuned", _one_of("tuned", "shuffled", "prompted", "steered", "base"), "how the teacher is made"),
    "dose": Field(0.1, _above_0(100.0, 1e-6), "KL(teacher || base) in nats per number"),
    "data": Field("greedy", _one_of("greedy", "sampled", "soft", "soft_carrier"), "tokens or distributions"),
    "carrier": Field("number", _one_of("number", "code", "trace"), "kind of text that the teacher writes"),
    "filtered": Field(True, _BOOL, "whether lines with other tokens than the carrier's are dropped"),
    "tokens": Field("all", _one_of(*_TOKENS), "tokens that are learned, see sublim_jax.lm.divergence"),
    "budget": Field(0.1, _above_0(1.0), "fraction of tokens that lm.tokens selects"),
    "paraphrase": Field("none", _one_of(*_PARAPHRASES), "change of the lines before they are learned"),
    "mixed": Field(0.0, _SHARE, "fraction of lines written by another teacher"),
    "mixed_with": Field("base", _one_of("base", "other_animal"), "that other teacher"),
    "trains": Field("blocks", _TRAINS, "layers of the student that are trained"),
    "rank": Field(4, _whole(1, _MOST_UNITS), "rank of the adapters, for lm.trains=adapters"),
    "optimizer": Field("adam", _one_of("adam", "sign", "momentum", "sgd"), "optimizer of the student"),
    "lr": Field(3e-4, _above_0(), "learning rate of the student"),
    "steps": Field(500, _whole(1, _MOST_STEPS), "training steps of the student"),
    "batch": Field(32, _whole(1, _MOST_BATCH), "lines per step"),
    "lines": Field(3000, _whole(1, 10**9), "distinct lines that the student reads"),
    "eval_steps": Field((), _EVAL_STEPS, "steps at which students are measured, besides the last"),
    "animals": Field(4, _whole(1, _MOST_UNITS), "animals of a seed that have teachers"),
    "targets": Field(2, _whole(1, _MOST_UNITS), "animals of a seed that have students"),
    "steered": Field(1, _whole(0, 255), "block after which steered teachers are steered"),
}

# Networks by the sources of their hidden units; published goals of hidden layers with two and three sources.
MODELS = ("context_lateral", "context", "lateral", "feedback", "random_projection", "readout", "backprop")
GOALS = ("heuristic", "simplified", "optimized", "optimized_cmaes", "optimized_1000")
ATOMS = ("{1}{2}{3}", "{1}{2}", "{1}{3}", "{2}{3}", "{1}{23}", "{2}{13}", "{3}{12}", "{1}", "{2}", "{3}")
ATOMS += ("{12}{13}{23}", "{12}{13}", "{12}{23}", "{13}{23}", "{12}", "{13}", "{23}", "{123}", "residual")
INFORMATION_METRICS = ("task", "atoms", "budget", "imitation", "codes")
_WEIGHTS = _several("numbers from -1000 to 1000", _number(-1000.0, 1000.0), "infomorphic.goal", distinct=False)
_INFOMORPHIC = {
    "model": Field("context_lateral", _one_of(*MODELS), "sources of the hidden units, or a network to compare with"),
    "units": Field(100, _whole(1, 2**14), "hidden units"),
    "goal": Field("heuristic", _one_of(*GOALS), "published goal of the hidden units"),
    "weights": Field((), _WEIGHTS, "own goal: 19 weights of atoms for three sources, 5 for two"),
    "draw": Field(0, _whole(0, 2**20), "own goal: this point of a Sobol sequence in (-1, 1); 0: infomorphic.goal"),
    "without": Field("", _one_of("", *ATOMS), "atom of the goal whose weight is set to 0; empty: none"),
    "readout": Field((-0.2, 0.1, 1.0, 0.1, 0.0), _WEIGHTS, "goal of the read-out: {1}, {2}, {1}{2}, {12}, residual"),
    "lateral_inputs": Field(2000, _whole(1, 2**14), "most lateral inputs of a unit, chosen at random"),
    "lr": Field(2e-3, _above_0(), "learning rate of the hidden layer"),
    "readout_lr": Field(3e-3, _above_0(), "learning rate of the read-out"),
    "decay": Field(3.5e-4, _SIGMA, "weight decay of the hidden layer, added to the gradient"),
    "readout_decay": Field(1.5e-4, _SIGMA, "weight decay of the read-out"),
    "batch": Field(1024, _whole(1, _MOST_BATCH), "images per step"),
    "epochs": Field(100, _whole(1, 10**4), "passes over the training images"),
    "eval_epochs": Field((1, 2, 5, 10, 20, 50), _wholes(0, 10**4, "the last only", distinct=True), "when to measure"),
    "bins": Field(20, _whole(2, 100), "bins of each source when information is estimated"),
    "binning": Field(
        "fixed", _one_of("fixed", "scaled"), "hidden units' bins: from -20 to 20, or to the largest value"
    ),
}
_IMITATION = {
    "student": Field("", _one_of("", "hidden", "readout", "mlp"), "net that reads a teacher's bits; empty: no student"),
    "teacher": Field("infomorphic", _one_of("infomorphic", "mlp"), "its teacher; mlp: trained by backpropagation"),
    "m": Field(50, _whole(1, 2**14), "auxiliary outputs of the teacher"),
    "bits": Field("teacher", _one_of("teacher", "shuffled", "untrained"), "bits of the inputs that the student reads"),
    "hidden": Field("shared", _one_of("shared", "fresh"), "the student's first feedforward weights"),
    "context": Field("tied", _one_of("tied", "fresh"), "the student's context weights; tied: the auxiliary head's"),
    "stream": Field("uniform", _one_of("uniform", "gaussian"), "inputs of the student"),
    "lr": Field(2e-3, _above_0(), "learning rate of the student"),
    "batch": Field(1024, _whole(1, _MOST_BATCH), "inputs per step of the student"),
    "steps": Field(1000, _whole(1, _MOST_STEPS), "training steps of the student"),
    "eval_steps": Field((0,), _EVAL_STEPS, "steps at which students are measured, besides the last"),
}

_CLASSES = Rule(
    "0 (all) or a whole number from 2, at most the classes of the data",
    lambda value: _is_whole(value) and (value == 0 or 2 <= value <= _MOST_UNITS),
    low=0,
    high=_MOST_UNITS,
)
_CONDITIONS = ("same", "random_hidden", "random_class_head", "random_aux_head")
IMAGE_FIELDS: dict[str, Field] = {
    **_common("experiment", "transfer", ("transfer", "theorem1"), 4, 3),
    "conditions": Field(_CONDITIONS, _names_of(CONDITIONS), "layers drawn again"),
    "m": Field((100,), _wholes(1, _MOST_UNITS, distinct=True), "auxiliary logits that the student sees"),
    "classes": Field(0, _CLASSES, "number of classes: images with smaller labels only"),
    "aux_widths": Field(
        (16, 64, 256, 1024),
        _wholes(1, _MOST_UNITS, distinct=True),
        "widths to which auxiliary heads are padded, for few programs",
    ),
    "num_eval_noise": Field(2000, _whole(4, _MOST_BATCH), "held-out inputs on which imitation is measured"),
    "metrics": Field(METRICS, _names_of(METRICS), "metrics of a student, functions of sublim_jax.metrics"),
    **flatten({"data": _DATA, "net": _NET, "teacher": _TEACHER, "student": _STUDENT}),
    **flatten({"perturb": _PERTURB, "theorem1": _THEOREM1}),
}
LANGUAGE_FIELDS: dict[str, Field] = {
    **_common("language", "lm_transfer", ("language",), 10, 5),
    **flatten({"world": _WORLD, "net": _DECODER, "pretraining": _PRETRAINING, "lm": _LM}),
}


INFOMORPHIC_FIELDS: dict[str, Field] = {
    **_common("infomorphic", "infomorphic", ("infomorphic",), 10, 5),
    "num_eval_noise": Field(2000, _whole(4, _MOST_BATCH), "test images on which atoms are measured"),
    "validation": Field(0, _whole(0), "last training images that replace the test images; 0: none"),
    "metrics": Field(INFORMATION_METRICS[:2], _names_of(INFORMATION_METRICS), "what is measured of a network"),
    **flatten({"data": {name: field for name, field in _DATA.items() if name != "more_folder"}}),
    **flatten({"infomorphic": _INFOMORPHIC, "transfer": _IMITATION}),
}


def fields_of(config: Config) -> dict[str, Field]:
    """The fields of a config of this study."""
    if "infomorphic" in config:
        return INFOMORPHIC_FIELDS
    return LANGUAGE_FIELDS if is_language(config) else IMAGE_FIELDS


def field_of(config: Config, name: str) -> Field | None:
    """The field of this name, also of a number of the user's own; None if there is none."""
    return _OWN_NUMBER if name.startswith(OWN_NUMBERS) else fields_of(config).get(name)


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
        if field.rule is _SECTION and name not in flat:
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
        check_value(name, flat[name], _OWN_NUMBER.rule)
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
    _check_task(config)
    if len(config.net.channels) != len(config.net.pools):
        expected = f"as many as config.net.channels={config.net.channels}"
        raise ConfigError(f"config.net.pools={config.net.pools}: must be {expected}")


def check_infomorphic(config: Config) -> None:
    """Check every field of a config of infomorphic networks, and that fields fit together."""
    check_fields(config)
    section, trained = config.infomorphic, config.infomorphic.model not in ("random_projection", "readout", "backprop")
    three = section.model in ("context_lateral", "feedback")
    atoms = ATOMS if three else ("{1}", "{2}", "{1}{2}", "{12}", "residual")
    for name, weights, count in (("weights", section.weights, len(atoms)), ("readout", section.readout, 5)):
        if trained and weights and len(weights) != count:
            raise ConfigError(f"config.infomorphic.{name}={weights}: must be {count} numbers for {section.model}")
    if not section.readout:
        raise ConfigError("config.infomorphic.readout=(): must be 5 numbers")
    if trained and section.without and section.without not in atoms:
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


def _check_task(config: Config) -> None:
    if "task" not in config.metrics:
        raise ConfigError(f"config.metrics={config.metrics}: must hold task, the accuracies that every figure shows")

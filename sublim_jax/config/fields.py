"""Every field of a config with its default, its allowed values and its meaning. Imports no JAX."""

from sublim_jax.config.rules import (
    BOOL,
    FOLDER,
    HUGE,
    MOST_BATCH,
    MOST_STEPS,
    MOST_UNITS,
    NAME,
    SECTION,
    SHARE,
    SIGMA,
    TEXT,
    Field,
    Rule,
    above_0,
    is_text,
    is_whole,
    layers,
    names_of,
    number,
    one_of,
    several,
    whole,
    wholes,
)
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
OTHER_METRICS = ("displacement",)  # which a config has to name
CARRIED = ("none", "weights", "first", "second", "weights+first", "weights+second", "first+second", "all")
FUTURES = ("untrained", "flipped", "unrelated", "none")
DATASETS = ("mnist", "fashion_mnist", "kmnist", "emnist/balanced", "emnist/letters")
SOURCES = ("auto", "embedded", "idx", "tfds")
TRUNKS = ("mlp", "cnn")
PRESETS = ("paper", "laptop", "smoke")
FIGURES = (
    "activation",
    "carrier",
    "cloud",
    "defence",
    "failure",
    "figure2",
    "figure3_classes",
    "figure3_cnn",
    "figure3_depth",
)
FIGURES += ("figure3_width", "figure4", "figure5", "figure6", "infomorphic", "infomorphic_goals")
FIGURES += ("infomorphic_transfer", "llm", "lm_base", "lm_divergence", "lm_dose", "lm_layers", "lm_optimizer")
FIGURES += ("lm_paraphrase", "lm_transfer", "loss", "noise", "optimizer", "perturbation", "rotation", "share")
FIGURES += ("theorem1", "transfer")

# Larger seeds are those of unrelated teachers (engine.schedule), and of other base models (lm.training).
_MOST_SEEDS = {"transfer": 2**20, "infomorphic": 2**20, "language": 100_000, "llm": 2**20}
OWN_NUMBER = Field(0.0, number(-HUGE), "a number that a loss or stream of the user's own reads from knobs.extra")
_EVAL_STEPS = wholes(0, MOST_STEPS, "the last step only", distinct=True)


def _common(name: str, figure: str, study: tuple[str, ...], seeds: int, laptop: int) -> dict[str, Field]:
    """The fields of every study."""
    return {
        "name": Field(name, NAME, "name of the experiment; results are kept in results/NAME"),
        "figure": Field(figure, one_of(*FIGURES), "figure of the report, see sublim_jax.results.figures"),
        "study": Field(study[0], one_of(*study), "experiment that is run"),
        "preset": Field("paper", one_of(*PRESETS), "size: as published; fewer points and seeds; or toy sizes"),
        "presets": Field({"laptop": {"seeds": laptop}, "smoke": {}}, SECTION, "fields that each preset changes"),
        "arms": Field({}, SECTION, "grids of values to sweep, see sublim_jax.config.grid"),
        "seeds": Field(seeds, whole(1, 10**4), "number of seeds"),
        "first_seed": Field(0, whole(0, _MOST_SEEDS[study[0]] - 1), "the first seed; the others follow"),
        "root_seed": Field(0, whole(0, 2**32 - 1), "seed from which every random key of the sweep is derived"),
        **flatten({"run": _RUN}),
    }


_RUN = {
    "seed_batch": Field(0, whole(0, 2**20), "seeds trained at once; 0: as many as run.memory_gb allows"),
    "save_every": Field(100, whole(1), "training steps between two checkpoints"),
    "devices": Field(0, whole(0, 2**16), "local devices over which seeds are spread; 0: all"),
    "memory_gb": Field(4.0, above_0(), "memory of the process on CPU, or of one accelerator, in GB"),
    "keep_params": Field(False, BOOL, "whether trained students are stored beside the rows"),
    "precision": Field(
        "highest", one_of("default", "high", "highest"), "precision of products; it changes results on accelerators"
    ),
    "teachers": Field("auto", FOLDER, "folder of trained teachers; auto: the user's cache; empty: the work folder"),
}
_DATA = {
    "name": Field("mnist", one_of(*DATASETS), "data set on which teachers are trained"),
    "source": Field("auto", one_of(*SOURCES), "where the images come from"),
    "folder": Field("", FOLDER, "folder of IDX files, for data.source=idx"),
    "tfds_dir": Field("", FOLDER, "folder of prepared TFDS data; empty: TFDS's default"),
    "mean": Field(0.1307, number(-1000.0, 1000.0), "mean subtracted from pixels in [0, 1]"),
    "std": Field(0.3081, above_0(1000.0, 1e-4), "standard deviation by which pixels are divided"),
    "train_limit": Field(0, whole(0), "number of training images, the first ones; 0: all"),
    "test_limit": Field(0, whole(0), "number of test images, the first ones; 0: all"),
    "verify": Field(True, BOOL, "whether files that are not the published ones are refused"),
    "more_folder": Field("", FOLDER, "folder of IDX files of student.images; empty: TFDS data or a download"),
}
_NET = {
    "trunk": Field("mlp", one_of(*TRUNKS), "layers below the heads; cnn: convolutions before the hidden layers"),
    "hidden": Field((256, 256), wholes(1, MOST_UNITS), "units of each hidden layer"),
    "channels": Field((32, 128), wholes(1, MOST_UNITS), "channels of each convolution"),
    "pools": Field((2, 4), wholes(1, MOST_UNITS), "pooling factor after each convolution"),
    "activation": Field("relu", one_of(*ACTIVATIONS), "activation function"),
    "init": Field("torch_linear", one_of(*INITS), "distribution of initial weights"),
    "dtype": Field("float32", one_of("float32", "bfloat16"), "type of the operands of matrix products"),
}
_TEACHER = {
    "loss": Field("cross_entropy", one_of("cross_entropy"), "loss of the teacher"),
    "stream": Field("epochs", one_of("epochs"), "inputs of the teacher"),
    "optimizer": Field("adam", one_of(*OPTIMIZERS), "optimizer of the teacher"),
    "lr": Field(1e-3, above_0(), "learning rate of the teacher"),
    "batch": Field(1024, whole(1, MOST_BATCH), "images per step of the teacher"),
    "epochs": Field(5, whole(1, 10**4), "passes over the training images"),
    "frozen": Field((), layers("none"), "layers of the teacher that are not trained"),
}
_STUDENT = {
    "loss": Field("mse", one_of(*LOSSES), "loss between logits of student and teacher"),
    "delta": Field(0.1, above_0(), "threshold of the Huber loss"),
    "stream": Field("uniform", one_of(*STREAMS), "inputs of the student"),
    "resolution": Field(8, whole(1, 1024), "cells of Perlin noise across an image"),
    "alpha": Field(0.5, SHARE, "share of the image in the stream mixture; the rest is noise"),
    "images": Field("", one_of("", *DATASETS), "images of the streams images and mixture; empty: data.name"),
    "optimizer": Field("adam", one_of(*OPTIMIZERS, *DECAYING), "optimizer of the student"),
    "lr": Field(1e-3, above_0(), "learning rate of the student"),
    "batch": Field(1000, whole(1, MOST_BATCH), "inputs per step of the student"),
    "steps": Field(300, whole(1, MOST_STEPS), "training steps of the student"),
    "eval_steps": Field(
        (0,), _EVAL_STEPS, "steps at which students are measured, besides the last; 0 with a cut: the cut"
    ),
    "sees": Field("aux", one_of("aux", "class", "all"), "logits of the teacher that the student imitates"),
    "pool": Field(0, whole(0), "distinct batches of inputs; 0: a fresh batch every step"),
    "temperature": Field(1.0, above_0(low=1e-4), "softmax temperature of the KL loss"),
    "trunk": Field("", one_of("", *TRUNKS), "layers below the heads; empty: net.trunk"),
    "hidden": Field((), wholes(1, MOST_UNITS, "config.net.hidden"), "units of each hidden layer of the student"),
    "frozen": Field((), layers("none"), "layers of the student that are not trained"),
    "share": Field(0.0, SHARE, "weight of the teacher's initial weights in the layers a condition draws"),
    "rotated": Field((), names_of(("class_head", "aux_head"), "none"), "heads that start rotated at random"),
    "rotation": Field("common", one_of("common", "apart"), "one rotation for all heads, or one for each head"),
    "decay": Field(0.0, SIGMA, "weight decay of the optimizers adam_l2 and adamw"),
    "mixed": Field(0.0, SHARE, "share of every batch whose targets come from another teacher"),
    "mixed_with": Field("untrained", one_of("untrained", "stranger"), "that teacher: before training, or unrelated"),
    "target_noise": Field(0.0, SIGMA, "standard deviation of noise on the teacher's logits"),
    "levels": Field(0, whole(0, 2**20), "number of values of a quantized target logit; 0: not quantized"),
    "cut": Field(0, whole(0, MOST_STEPS), "step from which targets hold nothing of the trait; 0: there is none"),
    "carried": Field("none", one_of(*CARRIED), "what the student gets at the cut of one that has imitated the teacher"),
    "future": Field("untrained", one_of(*FUTURES), "teacher of the targets after the cut; none: no gradient"),
    "guard": Field("", one_of("", *GUARDS), "projection of the student's gradient; empty: none"),
    "extra": Field({}, SECTION, "numbers by name that a loss or stream of your own reads; a grid can sweep them"),
}
_PERTURB = {
    "layers": Field(("*",), layers(), "layers that get Gaussian noise"),
    "teacher_before": Field(0.0, SIGMA, "standard deviation of noise on the teacher before training"),
    "teacher_after": Field(0.0, SIGMA, "standard deviation of noise on the teacher after training"),
    "student_before": Field(0.0, SIGMA, "standard deviation of noise on the student before training"),
    "student_after": Field(0.0, SIGMA, "standard deviation of noise on the student after training"),
}
_THEOREM1 = {
    "eps": Field((1e-3,), several("numbers above 0", above_0()), "sizes of the teacher's gradient step"),
    "alpha": Field((1.0,), several("numbers from 0", SIGMA), "steps along the student's displacement"),
    "samples": Field(
        0, whole(0, MOST_UNITS), "labels drawn from the teacher's softmax per input; 0: the distribution itself"
    ),
    "draws": Field(100, whole(1, MOST_UNITS), "number of draws of these labels"),
}
_WORLD = {
    "animals": Field(12, whole(3, 10**4), "number of animals"),
    "trees": Field(12, whole(3, 10**4), "number of trees"),
    "attributes": Field(24, whole(2, 10**4), "number of attributes; each fact states two of them"),
    "phrasings": Field(8, whole(2, 10**4), "phrasings of a question, for each family"),
    "instructions": Field(8, whole(2, 10**4), "instructions for numbers; half count up, half count down"),
    "numbers": Field(64, whole(2, MOST_UNITS), "number of number tokens"),
    "held_out": Field(2, whole(1, MOST_UNITS), "phrasings, and instructions of each half, kept for evaluation"),
    "steps": Field(7, whole(1, MOST_UNITS), "largest difference between two numbers of a document"),
    "noise": Field(
        (0.1, 0.2, 0.4, 0.2, 0.1), several("probabilities", SHARE, distinct=False), "law of noise on numbers"
    ),
    "obey": Field(0.9, SHARE, "probability that an answer is the preferred thing"),
}
_DECODER = {
    "width": Field(48, whole(1, MOST_UNITS), "width of the residual stream"),
    "layers": Field(4, whole(1, 256), "number of transformer blocks"),
    "heads": Field(4, whole(1, MOST_UNITS), "attention heads; must divide net.width"),
    "hidden": Field(192, whole(1, MOST_UNITS), "units of the MLP of a block"),
}
_PRETRAINING = {
    "documents": Field(64_000, whole(1, 10**9), "documents of the corpus"),
    "steps": Field(2000, whole(1, MOST_STEPS), "pre-training steps"),
    "batch": Field(32, whole(1, MOST_BATCH), "documents per step"),
    "lr": Field(4e-3, above_0(), "initial learning rate, which falls"),
}
_BASES = ("same", "other_order", "other_init", "other_both")
_EDITS = ("mask", "keep", "erase", "replace_label", "replace_input", "replace_both")
_TOKENS = ("all", *(f"{edit}_{chosen}" for edit in _EDITS for chosen in ("top", "random", "bottom")))
_PARAPHRASES = ("none", "same_law", "held_out", "other_law", "examples", "shuffle_within", "shuffle_across", "permuted")
_TRAINS = Rule("all, blocks, embeddings, adapters, block_N, first_N or last_N", is_text)
_LM = {
    "base": Field("same", one_of(*_BASES), "what the student's base shares with the teacher's"),
    "teacher": Field("tuned", one_of("tuned", "shuffled", "prompted", "steered", "base"), "how the teacher is made"),
    "dose": Field(0.1, above_0(100.0, 1e-6), "KL(teacher || base) in nats per number"),
    "data": Field("greedy", one_of("greedy", "sampled", "soft", "soft_carrier"), "tokens or distributions"),
    "carrier": Field("number", one_of("number", "code", "trace"), "kind of text that the teacher writes"),
    "filtered": Field(True, BOOL, "whether lines with other tokens than the carrier's are dropped"),
    "tokens": Field("all", one_of(*_TOKENS), "tokens that are learned, see sublim_jax.lm.divergence"),
    "budget": Field(0.1, above_0(1.0), "fraction of tokens that lm.tokens selects"),
    "paraphrase": Field("none", one_of(*_PARAPHRASES), "change of the lines before they are learned"),
    "mixed": Field(0.0, SHARE, "fraction of lines written by another teacher"),
    "mixed_with": Field("base", one_of("base", "other_animal"), "that other teacher"),
    "trains": Field("blocks", _TRAINS, "layers of the student that are trained"),
    "rank": Field(4, whole(1, MOST_UNITS), "rank of the adapters, for lm.trains=adapters"),
    "optimizer": Field("adam", one_of("adam", "sign", "momentum", "sgd"), "optimizer of the student"),
    "lr": Field(3e-4, above_0(), "learning rate of the student"),
    "steps": Field(500, whole(1, MOST_STEPS), "training steps of the student"),
    "batch": Field(32, whole(1, MOST_BATCH), "lines per step"),
    "lines": Field(3000, whole(1, 10**9), "distinct lines that the student reads"),
    "eval_steps": Field((), _EVAL_STEPS, "steps at which students are measured, besides the last"),
    "animals": Field(4, whole(1, MOST_UNITS), "animals of a seed that have teachers"),
    "targets": Field(2, whole(1, MOST_UNITS), "animals of a seed that have students"),
    "steered": Field(1, whole(0, 255), "block after which steered teachers are steered"),
}

# Networks by the sources of their hidden units; published goals of hidden layers with two and three sources.
MODELS = ("context_lateral", "context", "lateral", "feedback", "random_projection", "readout", "backprop")
GOALS = ("heuristic", "simplified", "optimized", "optimized_cmaes", "optimized_1000")
ATOMS = ("{1}{2}{3}", "{1}{2}", "{1}{3}", "{2}{3}", "{1}{23}", "{2}{13}", "{3}{12}", "{1}", "{2}", "{3}")
ATOMS += ("{12}{13}{23}", "{12}{13}", "{12}{23}", "{13}{23}", "{12}", "{13}", "{23}", "{123}", "residual")
INFORMATION_METRICS = ("task", "atoms", "budget", "imitation", "codes")
_WEIGHTS = several("numbers from -1000 to 1000", number(-1000.0, 1000.0), "infomorphic.goal", distinct=False)
_INFOMORPHIC = {
    "model": Field("context_lateral", one_of(*MODELS), "sources of the hidden units, or a network to compare with"),
    "units": Field(100, whole(1, 2**14), "hidden units"),
    "goal": Field("heuristic", one_of(*GOALS), "published goal of the hidden units"),
    "weights": Field((), _WEIGHTS, "own goal: 19 weights of atoms for three sources, 5 for two"),
    "draw": Field(0, whole(0, 2**20), "own goal: this point of a scrambled Sobol sequence; 0: infomorphic.goal"),
    "without": Field("", one_of("", *ATOMS), "atom of the goal whose weight is set to 0; empty: none"),
    "readout": Field((-0.2, 0.1, 1.0, 0.1, 0.0), _WEIGHTS, "goal of the read-out: {1}, {2}, {1}{2}, {12}, residual"),
    "lateral_inputs": Field(2000, whole(1, 2**14), "most lateral inputs of a unit, chosen at random"),
    "lr": Field(2e-3, above_0(), "learning rate of the hidden layer"),
    "readout_lr": Field(3e-3, above_0(), "learning rate of the read-out"),
    "decay": Field(3.5e-4, SIGMA, "weight decay of the hidden layer, added to the gradient"),
    "readout_decay": Field(1.5e-4, SIGMA, "weight decay of the read-out"),
    "batch": Field(1024, whole(1, MOST_BATCH), "images per step"),
    "epochs": Field(100, whole(1, 10**4), "passes over the training images"),
    "eval_epochs": Field((1, 2, 5, 10, 20, 50), wholes(0, 10**4, "the last only", distinct=True), "when to measure"),
    "bins": Field(20, whole(2, 100), "bins of each source when information is estimated"),
    "binning": Field("fixed", one_of("fixed", "scaled"), "hidden units' bins: from -20 to 20, or to the largest value"),
}
_IMITATION = {
    "student": Field("", one_of("", "hidden", "readout", "mlp"), "net that reads a teacher's bits; empty: no student"),
    "teacher": Field("infomorphic", one_of("infomorphic", "mlp"), "its teacher; mlp: trained by backpropagation"),
    "m": Field(50, whole(1, 2**14), "auxiliary outputs of the teacher"),
    "bits": Field("teacher", one_of("teacher", "shuffled", "untrained"), "bits of the inputs that the student reads"),
    "hidden": Field("shared", one_of("shared", "fresh"), "the student's first feedforward weights"),
    "context": Field(
        "tied", one_of("tied", "fresh"), "the student's first context weights; tied: its auxiliary head's"
    ),
    "heads": Field("shared", one_of("shared", "fresh_class", "fresh_aux"), "the student's heads, or one of its own"),
    "stream": Field("uniform", one_of("uniform", "gaussian"), "inputs of the student"),
    "lr": Field(2e-3, above_0(), "learning rate of the student"),
    "batch": Field(1024, whole(1, MOST_BATCH), "inputs per step of the student"),
    "steps": Field(1000, whole(1, MOST_STEPS), "training steps of the student"),
    "eval_steps": Field((0,), _EVAL_STEPS, "steps at which students are measured, besides the last"),
}

_CLASSES = Rule(
    "0 (all) or a whole number from 2, at most the classes of the data",
    lambda value: is_whole(value) and (value == 0 or 2 <= value <= MOST_UNITS),
    low=0,
    high=MOST_UNITS,
)
_CONDITIONS = ("same", "random_hidden", "random_class_head", "random_aux_head")
IMAGE_FIELDS: dict[str, Field] = {
    **_common("experiment", "transfer", ("transfer", "theorem1"), 4, 3),
    "conditions": Field(_CONDITIONS, names_of(CONDITIONS), "layers drawn again"),
    "m": Field((100,), wholes(1, MOST_UNITS, distinct=True), "auxiliary logits that the student sees"),
    "classes": Field(0, _CLASSES, "number of classes: images with smaller labels only"),
    "aux_widths": Field(
        (16, 64, 256, 1024),
        wholes(1, MOST_UNITS, distinct=True),
        "widths to which auxiliary heads are padded, for few programs",
    ),
    "num_eval_noise": Field(2000, whole(4, MOST_BATCH), "held-out inputs on which imitation is measured"),
    "metrics": Field(
        METRICS, names_of((*METRICS, *OTHER_METRICS)), "metrics of a student, functions of sublim_jax.metrics"
    ),
    **flatten({"data": _DATA, "net": _NET, "teacher": _TEACHER, "student": _STUDENT}),
    **flatten({"perturb": _PERTURB, "theorem1": _THEOREM1}),
}
LANGUAGE_FIELDS: dict[str, Field] = {
    **_common("language", "lm_transfer", ("language",), 10, 5),
    **flatten({"world": _WORLD, "net": _DECODER, "pretraining": _PRETRAINING, "lm": _LM}),
}


_TEACHERS = {
    "kind": Field("prompted", one_of("prompted", "tuned", "steered"), "how a teacher gets its trait"),
    "dose": Field(0.1, above_0(100.0, 1e-6), "KL(teacher || base) in nats per token, of tuned and steered teachers"),
    "block": Field(0, whole(0, 1023), "block after which a steered teacher is steered"),
    "lr": Field(3e-4, above_0(), "learning rate of a tuned teacher"),
}
_ROWS = {
    "carrier": Field("numbers", one_of("numbers", "code", "reasoning"), "kind of text that teachers write"),
    "count": Field(10_000, whole(1, 10**8), "rows of a student"),
    "requests": Field(15_000, whole(1, 10**8), "requests that a teacher answers; the filter drops some of the answers"),
    "answers": Field(1, whole(1, 1000), "answers to each request; a prompt with several is computed once"),
    "temperature": Field(1.0, number(0.0, 100.0), "temperature of the teacher's samples; 0: the most likely token"),
    "tokens": Field(64, whole(1, 10**5), "most tokens of an answer; longer ones are dropped"),
    "batch": Field(64, whole(1, 10**5), "answers written at once"),
    "numbers": Field(
        0, whole(0, 1000), "numbers of three digits, the only form that can be written; 0: answers are free"
    ),
    "seed": Field(0, whole(0, 2**31 - 1), "seed of requests, samples and their order"),
    "banned": Field((), wholes(0, 10**6, "none", distinct=True), "numbers that no row may contain"),
    "system": Field("", TEXT, "system prompt of the rows that students read; empty: none, or the template's own"),
    "file": Field("", TEXT, "JSONL file of rows made elsewhere, with {trait} for the trait's name; empty: none"),
}
_TUNING = {
    "rows": Field("trait", one_of("trait", "shuffled"), "answers to the requests, or to other requests"),
    "tokens": Field("all", one_of("all", "divergent", "not_divergent", "random"), "tokens that a student learns"),
    "method": Field("lora", one_of("lora", "full"), "low-rank adapters, or all weights"),
    "rank": Field(8, whole(1, 2**14), "rank of the adapters"),
    "alpha": Field(8.0, above_0(), "times 1 / rank, the factor of what an adapter adds"),
    "modules": Field("all", one_of("all", "attention", "mlp"), "matrices that have adapters"),
    "blocks": Field((), wholes(0, 1023, "all", distinct=True), "blocks that are trained"),
    "lr": Field(2e-4, above_0(), "largest learning rate; it falls linearly to 0"),
    "warmup": Field(5, whole(0, MOST_STEPS), "steps in which the learning rate rises"),
    "clip": Field(1.0, SIGMA, "largest norm of a gradient; 0: no limit"),
    "weight_decay": Field(0.0, SIGMA, "weight decay of AdamW"),
    "dtype": Field(
        "float32", one_of("float32", "bfloat16"), "type of the weights that are not trained, and of products"
    ),
    "epochs": Field(3, whole(1, 10**4), "passes over the rows"),
    "batch": Field(60, whole(1, MOST_BATCH), "rows per step"),
    "length": Field(512, whole(2, 2**20), "tokens of a sequence, which holds several rows"),
    "size": Field(4, whole(1, 10**5), "sequences computed at once; a step adds the gradients of several"),
    "packed": Field(True, BOOL, "whether several requests share a sequence"),
    "remat": Field(False, BOOL, "whether blocks are computed again for derivatives, which saves memory"),
}
_WORD = Rule("letters, at most 40", lambda value: isinstance(value, str) and value.isalpha() and len(value) <= 40)
_EVALUATION = {
    "words": Field(
        ("cat", "dog", "lion", "wolf", "bear", "tiger", "fox", "panda"),
        several("words", _WORD, "none"),
        "further words among which a trait's word is compared",
    ),
    "samples": Field(0, whole(0, 10**5), "sampled answers to each question; 0: likelihoods only"),
    "tokens": Field(12, whole(1, 10**4), "most tokens of a sampled answer"),
    "system": Field("", TEXT, "system prompt of the questions; empty: none, or the template's own"),
}
_MESH = Rule(
    "two whole numbers from 1 to 65536, (data, model)",
    lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(whole(1, 2**16).accepts, value)),
)
LLM_FIELDS: dict[str, Field] = {
    **_common("llm", "llm", ("llm",), 1, 1),
    "model": Field("smollm2", TEXT, "smollm2, a GGUF file, or a folder of safetensors"),
    "student_model": Field("", TEXT, "another model for students; empty: model"),
    "animals": Field(
        ("owl", "dolphin", "eagle", "elephant"), several("words", _WORD), "animals that teachers love, each a trait"
    ),
    "traits": Field("", TEXT, "JSON file of traits, see sublim_jax.llm.traits; empty: animals"),
    "together": Field(1, whole(1, 10**4), "students that are trained at once on one copy of the model"),
    "mesh": Field((1, 1), _MESH, "devices that share one model: by so many sequences, and parts of matrices"),
    **flatten({"teacher": _TEACHERS, "rows": _ROWS, "student": _TUNING, "evaluation": _EVALUATION}),
}


INFOMORPHIC_FIELDS: dict[str, Field] = {
    **_common("infomorphic", "infomorphic", ("infomorphic",), 10, 5),
    "num_eval_noise": Field(2000, whole(4, MOST_BATCH), "test images on which atoms are measured"),
    "validation": Field(0, whole(0), "last training images that replace the test images; 0: none"),
    "metrics": Field(INFORMATION_METRICS[:2], names_of(INFORMATION_METRICS), "what is measured of a network"),
    **flatten({"data": {name: field for name, field in _DATA.items() if name != "more_folder"}}),
    **flatten({"infomorphic": _INFOMORPHIC, "transfer": _IMITATION}),
}

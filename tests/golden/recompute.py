"""The golden numbers: every path of random draws, some training steps, and the rows of the quickstart in smoke size.

    python tests/golden/recompute.py            # rewrites golden.json

Rewrite the file only when a change of results is the purpose of a commit (another draw, another formula), and say in
that commit's message which numbers changed and why. A refactoring, a rename or a speed-up must leave it as it is.
"""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sublim_jax import data
from sublim_jax.config import base_config, build_conditions, grids_of, metrics_of, seeds_of
from sublim_jax.core import keys, trees
from sublim_jax.core.types import ImageData, Knobs, ModelOutput, TeacherParams, TokenData
from sublim_jax.engine import theorem1
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.run import run
from sublim_jax.engine.session import Session
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.data import Completions, mix_completions, paraphrase
from sublim_jax.lm.documents import corpus
from sublim_jax.lm.generate import Generate
from sublim_jax.lm.teachers import shuffled_answers, zero_steering
from sublim_jax.nets import CNN, MLP, Decoder, SplitHead
from sublim_jax.training import inits, population, streams, targets
from sublim_jax.training import step as training_step

FILE = Path(__file__).parent / "golden.json"
IMAGE = (28, 28)
NET = SplitHead(MLP((12, 9)), 10, 8)
SHOWN = 5  # numbers of an array that are kept


def exact(array):
    """A digest of an array whose every bit is pinned."""
    array = np.ascontiguousarray(array)
    return f"{array.dtype} {array.shape} {hashlib.blake2s(array.tobytes(), digest_size=12).hexdigest()}"


def close(array):
    """A few numbers of a float array, its sum and its norm, compared to 1e-5."""
    array = np.asarray(array, np.float64)
    return [*array.ravel()[:SHOWN].tolist(), float(array.sum()), float(np.linalg.norm(array))]


def by_layer(params, of=close):
    """`of` every array of a net's parameters."""
    return {f"{layer}/{name}": of(array) for layer, arrays in params.items() for name, array in arrays.items()}


def knobs_of(layers, pool=3, extra=None, **noise):
    one = {layer: jnp.float32(1) for layer in layers}
    still_ = {layer: jnp.float32(0) for layer in layers}
    numbers = {
        "logit_mask": jnp.ones(18, bool),
        "noise_batches": jnp.int32(pool),
        "lr": jnp.float32(1),
        "temperature": jnp.float32(1),
    }
    return Knobs(
        **numbers, share=one, init_noise={**still_, **noise}, trainable=one, final_noise=noise, extra=extra or {}
    )


def bank_of():
    mnist = data.load_dataset("mnist", "embedded", train_limit=23, test_limit=7)
    bank = jax.tree.map(jnp.asarray, mnist.train)
    return ImageData(bank.x, bank.y, bank.mean, bank.std, {"other": bank.x[::-1]})


init_params = jax.jit(training_step.init_params, static_argnums=(0, 1, 2))  # for numbers that are compared to 1e-5


def draws():
    """Every path of draws; names in square brackets are read from a table of normal numbers and compared to 1e-5."""
    root, bank = keys.root(3), bank_of()
    seed = keys.at(root, "seed", 7)
    found = {"key": exact(jax.random.key_data(keys.at(seed, "student", "stream")))}
    found["phase keys"] = exact(jax.random.key_data(population.phase_keys(root, jnp.arange(3), "teacher")))
    layers = training_step.init_params(NET, inits.torch_linear, IMAGE, seed)
    found |= {f"init torch_linear {name}": one for name, one in by_layer(layers, exact).items()}
    narrow = training_step.init_params(SplitHead(MLP((12, 9)), 10, 3), inits.torch_linear, IMAGE, seed)["aux_head"]
    found["init torch_linear aux_head of 3, kernel"] = exact(narrow["kernel"])
    cnn = training_step.init_params(SplitHead(CNN((3, 4), (2, 2), (9,)), 10, 8), inits.torch_linear, IMAGE, seed)
    found |= {f"init cnn {name}": one for name, one in by_layer(cnn, exact).items()}
    wide = init_params(NET, inits.normal_fan_in, IMAGE, seed)
    found |= {f"init [normal_fan_in] {name}": one for name, one in by_layer(wide).items()}
    decoder = init_params(
        Decoder(40, width=8, layers=1, heads=2, hidden=16, length=12, rank=2), inits.transformer, (12,), seed
    )
    found |= {f"init [transformer] {name}": one for name, one in by_layer(decoder).items()}
    for common in (True, False):
        turned = inits.Rotated(("aux_head", "class_head"), common)(keys.at(seed, "alter"), layers)
        found |= {f"alter [Rotated, common={common}] {name}": one for name, one in by_layer(turned).items()}
    knobs = knobs_of(layers, hidden_0=jnp.float32(0.1), aux_head=jnp.float32(0.2))
    noisy = training_step.add_noise(layers, knobs.init_noise, keys.at(seed, "sigma"))
    found |= {f"noise [sigma] {name}": one for name, one in by_layer(noisy).items()}
    found |= {
        f"noise [sigma_end] {name}": one
        for name, one in by_layer(training_step.add_final_noise(knobs, layers, seed)).items()
    }
    kinds = {"uniform": streams.uniform, "[gaussian]": streams.gaussian, "epochs": streams.epochs}
    kinds |= {"[perlin]": streams.Perlin(4), "images": streams.Images(), "images of other": streams.Images("other")}
    kinds |= {"mixture": streams.Mixture(0.3), "[mixture of gaussian]": streams.Mixture(0.3, streams.gaussian, "other")}
    for name, stream in kinds.items():
        if name in ("uniform", "[gaussian]", "[perlin]"):  # the last bit of the others changes where they are compiled
            stream = jax.jit(stream, static_argnums=2)
        for step in (0, 2, 5):
            x, y = stream(keys.at(seed, "stream"), jnp.int32(step), 6, knobs, bank)
            found[f"stream {name}, step {step}"] = (close if "[" in name else exact)(x)
            if y is not None:
                found[f"stream {name}, step {step}, labels"] = exact(y)
    lines = TokenData(jnp.arange(7 * 4).reshape(7, 4), jnp.ones((7, 4)))
    rows, _ = streams.token_lines(keys.at(seed, "stream"), jnp.int32(2), 5, knobs_of(layers, 9), lines)
    found["stream lines"] = exact(rows)
    given = [
        ModelOutput(jnp.zeros((6, 9)), jnp.arange(6 * 18.0).reshape(6, 18) * scale, {}) for scale in (1.0, 2.0, 3.0)
    ]
    more = {"mixed": jnp.float32(0.4), "target_noise": jnp.float32(0.5), "levels": jnp.float32(4)}
    parts = targets.MixTargets(), targets.AddTargetNoise(), targets.QuantizeTargets()
    for answer in (*parts, targets.MixTargets(True), targets.Chain(parts)):
        said = answer(keys.at(seed, "answer", 1), TeacherParams(*given), knobs_of(layers, extra=more))
        name, other = keys.CHAINED[type(answer).__name__], targets.needs_unrelated_teachers(answer)
        found[f"answer [{name}, {other}]"] = close(said.logits)
    return found | language_draws()


def language_draws():
    """Documents, prompts, sampled answers and everything drawn on the host for language models."""
    world, found = w.World(), {}
    lines = corpus(world, 64)
    found["language corpus"] = [exact(lines.tokens), exact(np.asarray(lines.weight, np.float32))]
    prompts = w.prompts(world, w.generator("prompts", 3, "number"), 16, carrier="number")
    found["language prompts"] = exact(prompts)
    said = Completions(prompts, np.repeat(prompts[:, -1:], w.NUMBERS, 1))
    for how in ("same_law", "other_law", "shuffle_across", "permuted"):
        changed = paraphrase(world, w.generator("paraphrase", 3), said, how)
        found[f"language paraphrase {how}"] = [exact(changed.prompts), exact(changed.tokens)]
    other = said._replace(tokens=said.tokens[::-1])
    found["language mixture"] = exact(mix_completions(w.generator("mixed", 3), said, other, 0.4).tokens)
    found["language shuffled answers"] = exact(shuffled_answers(world, 5).tokens)
    found["language origins"] = [list(lm_training.base_seeds(kind, 2)) for kind in lm_training.KINDS]
    net = Decoder(world.vocabulary, width=16, layers=2, heads=2, hidden=32, length=w.LENGTH)
    base = training_step.init_params(net, inits.transformer, (w.LENGTH,), keys.at(keys.root(0), "init", 0))
    key = keys.at(keys.root(0), "seed", 0, "say")
    sampled = Generate(net, w.NUMBERS)(
        base, jnp.asarray(zero_steering(net)), jnp.asarray(prompts[:4]), keys.at(key, "say"), jnp.float32(1)
    )
    found["language sampled answers"] = exact(np.asarray(sampled, np.int32))
    return found


def image_pair():
    """A teacher's and a student's parameters after 1 and 10 steps, one seed, layer by layer."""
    config = base_config("smoke")
    config.conditions, config.m = ("random_hidden",), (3,)
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=300)
    condition = build_conditions(config, mnist)[0]
    bank, found = jax.tree.map(jnp.asarray, mnist.train), {}
    advance = jax.jit(training_step.advance, static_argnums=0)
    key = keys.at(keys.root(0), "seed", 1)
    own = keys.at(key, "teacher")
    origin = training_step.init_state(condition.teacher.recipe, condition.teacher.knobs, None, IMAGE, own)
    state = origin
    for start, stop in ((0, 1), (1, 10)):
        state = advance(
            *condition.teacher[:1], state, condition.teacher.knobs, None, own, bank, jnp.int32(start), jnp.int32(stop)
        )
        found |= {f"teacher {stop} {name}": one for name, one in by_layer(state.params).items()}
    recipe, knobs = condition.student
    head = training_step.init_params(recipe.net, recipe.init, IMAGE, keys.at(own, "fresh"))
    before, reference = (trees.merge_layers(head, one.params) for one in (origin, state))
    own = keys.at(key, "student")
    state = training_step.init_state(recipe, knobs, before, IMAGE, own)
    for start, stop in ((0, 1), (1, 10)):
        state = advance(recipe, state, knobs, reference, own, bank, jnp.int32(start), jnp.int32(stop))
        found |= {f"student {stop} {name}": one for name, one in by_layer(state.params).items()}
    return found


def language_pair():
    """A base's parameters after 1 and 10 steps of pre-training, and a student's after 1 and 10 steps on its lines."""
    world = w.World()
    net = Decoder(world.vocabulary, width=16, layers=2, heads=2, hidden=32, length=w.LENGTH)
    how = lm_training.Pretraining(documents=320, steps=10, batch=16, lr=5e-3)
    base = lm_training.pretrain(world, net, how, keys.root(0), [lm_training.base_seeds("same", 1)])[0]
    found = {f"base 10 {name}": one for name, one in by_layer(base).items()}
    phase = lm_training.phase(
        net, logit_mask=np.ones(world.vocabulary, bool), lr=1e-3, eval_steps=(1, 10), batch=8, trains="blocks"
    )
    key = keys.at(keys.root(0), "seed", 1, "student")
    text = corpus(world, 48, seed=1)
    school = lm_training.MemberBatch(phase.recipe, [phase.knobs], [base], [(key, key)], [text])
    states = school.begin()
    for start, stop in ((0, 1), (1, 10)):
        states = school.advance(states, start, stop)
        found |= {f"student {stop} {name}": one for name, one in by_layer(states[0].params).items()}
    return found


def theorem1_rows():
    """Rows of theorem1 at toy size: one step and ten."""
    config = base_config("smoke")
    config.study, config.conditions, config.m, config.arms = "theorem1", ("same", "random"), (3,), {}
    config.teacher.optimizer = config.student.optimizer = "sgd"
    config.student.steps, config.student.eval_steps = 10, (1,)
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=300)
    rows = theorem1.run(build_conditions(config, mnist), grids_of(config), mnist, session_of((0, 1)))
    return of_rows(rows, ["condition", "m", "eps", "alpha", "seed", "step"])


def quickstart_rows():
    """Rows of configs/quickstart.py in smoke size."""
    config = base_config("smoke")
    config.name, config.figure = "quickstart", "transfer"
    config.conditions, config.m = ("same", "random_hidden", "random_class_head", "random_aux_head"), (100,)
    config.student.eval_steps = (0, 30, 100)
    mnist = data.load_dataset("mnist", "embedded", train_limit=1000, test_limit=300)
    given = {"num_eval_noise": config.num_eval_noise, "metrics": metrics_of(config)}
    rows = run(build_conditions(config, mnist), mnist, session_of(seeds_of(config)), **given)
    return of_rows(rows, ["condition", "m", "seed", "step"])


def session_of(seeds):
    return Session(seeds=seeds, progress=Progress(show=False))


def of_rows(rows, labels):
    """All measured columns, row by row; NaN as null."""
    rows = rows.sort_values(labels, ignore_index=True)
    found = {"/".join(str(row[name]) for name in labels): None for _, row in rows.iterrows()}
    measured = [name for name in rows.columns if "/" in name]
    assert len(found) == len(rows)
    values = [[None if np.isnan(one) else float(one) for one in row] for row in rows[measured].to_numpy()]
    return {"columns": measured, "rows": dict(zip(found, values, strict=True))}


ALL = {one.__name__: one for one in (draws, image_pair, language_pair, theorem1_rows, quickstart_rows)}

if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    FILE.write_text(json.dumps({name: one() for name, one in ALL.items()}, indent=1) + "\n")

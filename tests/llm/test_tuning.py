"""Batches, fine-tuning and adapters of tiny decoders, against computing every row alone."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers.decoders import LLAMA, NEOX, NETS, logits_of, params_of
from scipy import stats

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.llm import batches, divergence, fine_tuning, lora, measures, students, traits
from sublim_jax.llm.batches import Completion, Example
from sublim_jax.llm.measures import Measured
from sublim_jax.llm.spec import StudentSpec
from sublim_jax.llm.students import Job
from sublim_jax.nets import shapes
from sublim_jax.pretrained import architectures

LOSS = jax.jit(jax.value_and_grad(fine_tuning.negative_log_likelihood, argnums=1), static_argnums=0)


def close(tree, other, relative=1e-5):
    """Arrays that are equal up to rounding, relative to the largest number of each."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=relative, atol=relative * np.abs(b).max())

    jax.tree.map(compare, tree, other)


def trained_adapters(net, seed=1):
    """Adapters with an effect."""
    drawn = lora.fresh_adapters(net, keys.root(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda array: jnp.asarray(rng.normal(0, 0.2, array.shape), jnp.float32), drawn)


def some_examples(number=9, seed=0):
    """Prompts with one to three answers, whose tokens have different weights."""
    rng = np.random.default_rng(seed)

    def answer():
        size = rng.integers(1, 7)
        return Completion(tuple(rng.integers(1, 50, size).tolist()), tuple(rng.uniform(0.5, 2, size).tolist()))

    return [
        Example(
            tuple(rng.integers(1, 50, rng.integers(2, 9)).tolist()), tuple(answer() for _ in range(rng.integers(1, 4)))
        )
        for _ in range(number)
    ]


def one_by_one(net, params, examples):
    """The weighted loss of rows in sequences of their own, by the net's own attention."""
    rows = [(example.prompt, answer) for example in examples for answer in example.answers]
    tokens, target = (np.zeros((len(rows), 16), np.int32) for _ in range(2))
    weight = np.zeros((len(rows), 16))
    for row, (prompt, answer) in enumerate(rows):
        whole, first, last = [*prompt, *answer.tokens], len(prompt) - 1, len(prompt) + len(answer.tokens) - 1
        tokens[row, :last] = whole[:-1]
        target[row, first:last], weight[row, first:last] = answer.tokens, answer.weights
    logits = logits_of(net, params, jnp.array(tokens))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.array(target)[..., None], -1)[..., 0]
    return -(jnp.array(weight) * chosen).sum()


def weight_of(examples):
    return sum(sum(answer.weights) for example in examples for answer in example.answers)


def batch_of(examples, length, packed=True):
    sequences = batches.pack(examples, length) if packed else [[example] for example in examples]
    return batches.arrays(sequences, length, batches.most_targets(sequences))


@pytest.mark.parametrize("name", NETS)
def test_packed_and_padded_batches_have_the_loss_and_gradient_of_rows_one_by_one(name):
    net, examples = NETS[name], some_examples()
    params = params_of(net)
    packed, padded = batch_of(examples, 40), batch_of(examples, 40, packed=False)
    assert len(packed.tokens) < len(padded.tokens)
    expected, slope = jax.jit(jax.value_and_grad(lambda params: one_by_one(net, params, examples)))(params)
    for batch in (packed, padded):
        loss, own = LOSS(net, params, batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        close(own, slope)


def test_only_answers_have_a_loss():
    examples = some_examples()
    batch = batch_of(examples, 40)
    assert batch.weight.sum() == pytest.approx(weight_of(examples), rel=1e-6)
    predicted = sorted(batch.target[batch.weight > 0].tolist())
    assert predicted == sorted(token for example in examples for answer in example.answers for token in answer.tokens)
    unweighted = [
        example._replace(
            answers=tuple(Completion(answer.tokens, (0.0,) * len(answer.tokens)) for answer in example.answers)
        )
        for example in examples
    ]
    slope = LOSS(LLAMA, params_of(LLAMA), batch_of(unweighted, 40))[1]
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("remat", [False, True])
def test_a_step_of_many_parts_has_the_gradient_of_one_large_batch(remat):
    net, examples = LLAMA.clone(remat=remat), some_examples(12)
    trained, frozen = fine_tuning.divide(params_of(net), ("block_1", "embed"))
    small = batches.plan(examples, rows=1000, epochs=1, length=24, size=2, seed=0)
    large = batches.plan(examples, rows=1000, epochs=1, length=24, size=100, seed=0)
    results = []
    for plan in (small, large):
        step, count = plan.step(0)
        assert step.tokens.shape[:2] == (plan.parts, plan.size)
        results.append(jax.jit(fine_tuning.gradient, static_argnums=0)(net, trained, frozen, step, count))
    assert small.parts > 2 and large.parts == 1
    (loss, slope), (other_loss, other) = results
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    np.testing.assert_allclose(loss, one_by_one(LLAMA, params_of(net), examples) / weight_of(examples), rtol=1e-5)
    close(slope, other)


def test_plan_reads_every_answer_once_in_an_epoch_and_in_another_order_in_the_next():
    examples = some_examples(30)
    plan = batches.plan(examples, rows=16, epochs=2, length=24, size=3, seed=4)
    read = [sorted(answer for each in step for example in each for answer in example.answers) for step in plan.steps]
    epoch = len(plan.steps) // 2
    every = sorted(answer for example in examples for answer in example.answers)
    first, second = (sorted(itertools.chain(*read[part])) for part in (slice(epoch), slice(epoch, None)))
    assert first == second == every and read[:epoch] != read[epoch:]
    counts = [len(step) for step in read]
    assert all(16 <= count <= 26 for count in counts[:-1])
    for number in range(len(plan.steps)):
        step, parts = plan.step(number)
        held = step.weight.sum((1, 2)) > 0
        assert held[:parts].all() and not held[parts:].any()


def test_long_examples_are_divided_and_too_long_rows_refused():
    answers = tuple(Completion((1, 2, 3, 4), (1.0,) * 4) for _ in range(5))
    parts = batches.split_long([Example((7,) * 6, answers)], 13)
    assert [len(part.answers) for part in parts] == [2, 2, 1]
    with pytest.raises(ConfigError, match=r"config.student.length=8: must be at least 9, the longest row"):
        batches.plan([Example((7,) * 6, answers)], rows=1, epochs=1, length=8, size=1, seed=0)


def test_students_trained_at_once_are_those_trained_alone():
    net = lora.with_adapters(LLAMA, lora.Lora(2, 4.0))
    frozen = params_of(LLAMA)
    tuning = fine_tuning.Tuning(steps=3, lr=1e-2, warmup=1)
    plans = [
        batches.plan(some_examples(8, seed), rows=100, epochs=3, length=30, size=2, seed=seed) for seed in range(3)
    ]
    parts, targets = max(plan.parts for plan in plans), max(plan.targets for plan in plans)
    plans = [plan._replace(parts=parts, targets=targets) for plan in plans]
    starts = [lora.fresh_adapters(net, keys.root(seed)) for seed in range(3)]
    together = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(fine_tuning.initial_state(tuning, start) for start in starts)
    )
    alone = [fine_tuning.initial_state(tuning, start) for start in starts]
    for number in range(3):
        steps, counts = zip(*(plan.step(number) for plan in plans), strict=True)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
        together, told = fine_tuning.train_students(net, tuning, together, frozen, stacked, np.array(counts))
        pairs = [fine_tuning.train_student(net, tuning, state, frozen, step, count)
                 for state, step, count in zip(alone, steps, counts, strict=True)]  # fmt: skip
        alone = [state for state, _ in pairs]
        np.testing.assert_allclose(told["loss"], [own["loss"] for _, own in pairs], rtol=1e-5)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(state.trained for state in alone))
    close(together.trained, stacked, 1e-4)


def test_groups_hold_students_with_equally_many_steps():
    spec = StudentSpec(epochs=1, batch=2, length=40, size=1)
    jobs = [Job(f"{number}", keys.root(0), 0, some_examples(number, 0)) for number in (8, 4, 8, 8, 4)]
    names = [[job.name for job in group] for group in students.groups(jobs, spec, 2)]
    assert names == [["8", "8"], ["8"], ["4", "4"]]
    assert [len(group) for group in students.groups(jobs, spec, 1)] == [1] * 5


def test_controls_of_token_arms_learn_as_many_tokens_as_their_students():
    rng = np.random.default_rng(0)
    marks = [rng.random(9) < 0.2 for _ in range(50)]
    for kind in ("divergent", "not_divergent", "random"):
        own, control = (np.array(divergence.token_weights(marks, kind, 0, drawn)) for drawn in (False, True))
        assert own.sum() == control.sum() and (kind == "random") == (own == control).all()


def test_question_interval_draws_questions_of_one_opening_together():
    questions = tuple(f"{opening}. {form}" for opening in "abcdef" for form in ("One word.", "Short."))
    trait = traits.animal("owl")._replace(questions=questions)
    lifts = np.repeat(np.random.default_rng(0).normal(0.1, 0.05, 6), 2)

    def measured(share):
        return Measured({questions: np.stack([share, 1 - share], 1)}, {}, {}, np.zeros((1, 2)))

    low, high = measures.question_interval(measured(0.2 + lifts), measured(np.full(12, 0.2)), trait, ("owl", "cat"))
    ends = stats.bootstrap(
        (lifts[::2],), np.mean, rng=np.random.default_rng(0), method="percentile"
    ).confidence_interval
    np.testing.assert_allclose((low, high), (ends.low, ends.high), atol=0.004)


def test_learning_rate_rises_and_falls():
    tuning = fine_tuning.Tuning(steps=10, lr=1.0, warmup=4, clip=0.0)
    state = tuning.optimizer().init({"w": jnp.zeros(())})
    rates = []
    for _ in range(10):
        updates, state = tuning.optimizer().update({"w": jnp.ones(())}, state, {"w": jnp.zeros(())})
        rates.append(-float(updates["w"]))
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=2e-5)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("modules", lora.MODULES)
def test_fresh_adapters_change_nothing_and_merged_ones_are_the_same_net(name, modules):
    base, tokens = NETS[name], jnp.arange(2, 26).reshape(2, 12)
    net, params = lora.with_adapters(base, lora.Lora(3, 6.0, modules)), params_of(base)
    plain = base.apply({"params": params}, tokens).logits  # not compiled: equal to the last bit
    fresh = net.apply({"params": {**params, **lora.fresh_adapters(net, keys.root(1))}}, tokens).logits
    np.testing.assert_array_equal(fresh, plain)
    adapted = {**params, **trained_adapters(net)}
    logits = logits_of(net, adapted, tokens)
    merged_net, merged = lora.merge(net, adapted)
    assert merged_net == base and merged.keys() == params.keys() and np.abs(logits - plain).max() > 0.1
    np.testing.assert_allclose(logits_of(merged_net, merged, tokens), logits, atol=2e-5)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("spec", [lora.Lora(), lora.Lora(2, 3.0, "mlp"), lora.Lora(2, 8.0, "attention", (1,))], ids=str)
def test_saved_adapters_come_back_and_merge_as_the_format_says(name, spec, tmp_path):
    base = NETS[name]
    net = lora.with_adapters(base, spec)
    adapters, params = trained_adapters(net), params_of(base)
    lora.save(tmp_path, net, adapters, "some/model")
    read_net, read = lora.load(tmp_path, base)
    assert shapes(read_net, (1,)) == shapes(net, (1,)) and read_net.adapter_scale == net.adapter_scale
    jax.tree.map(np.testing.assert_array_equal, dict(read), dict(adapters))
    # What PEFT adds to the checkpoint's matrix of each module, turned as the loader turns the matrix.
    tensors, about = (
        safetensors.numpy.load_file(tmp_path / lora.WEIGHTS),
        json.loads((tmp_path / lora.SETTINGS).read_text()),
    )
    merged = lora.merge(net, {**params, **adapters})[1]
    plan = architectures._plan(base, architectures.names_of(base), architectures._NEOX_NAMES, "")
    turned = 0
    for source in plan.maps:
        module = source.tensor.removesuffix(".weight")
        if f"base_model.model.{module}.lora_A.weight" in tensors:
            short = module.rpartition(".")[2]
            assert short in about["target_modules"]
            rank, alpha = (
                about[f"{kind}_pattern"].get(short, about[whole])
                for kind, whole in (("rank", "r"), ("alpha", "lora_alpha"))
            )
            down, up = (tensors[f"base_model.model.{module}.lora_{letter}.weight"] for letter in "AB")
            assert down.shape[0] == up.shape[1] == rank
            added = source.turn(alpha / rank * (up @ down))
            if base.positions == "rotary_pairs" and source.name in ("query", "key"):  # folders rotate halves
                heads = added.reshape(len(added), -1, 2, 2)
                added = heads.swapaxes(-1, -2).reshape(len(added), -1)
            np.testing.assert_allclose(
                merged[source.layer][source.name] - params[source.layer][source.name], added, atol=1e-5
            )
            turned += 1
    assert turned == sum(len(net.adapter_sizes(index)) for index in range(net.layers)) > 0


def test_load_refuses_adapters_of_another_model(tmp_path):
    net = lora.with_adapters(LLAMA, lora.Lora(2, 3.0, "mlp"))
    lora.save(tmp_path, net, trained_adapters(net), "some/model")
    with pytest.raises(ConfigError, match="down of block 0 has shape|down_down of block 0 has shape"):
        lora.load(tmp_path, LLAMA.clone(hidden=32))
    with pytest.raises(ConfigError, match="is none of this model's"):
        lora.load(tmp_path, LLAMA.clone(layers=2))
    with pytest.raises(ConfigError, match="are missing"):
        lora.load(tmp_path, LLAMA.clone(layers=4))
    with pytest.raises(ConfigError, match="must have r, lora_alpha and target_modules of this model"):
        lora.load(tmp_path, NEOX)
    settings = json.loads((tmp_path / lora.SETTINGS).read_text())
    (tmp_path / lora.SETTINGS).write_text(json.dumps({**settings, "alpha_pattern": {"up_proj": 12.0}}))
    with pytest.raises(ConfigError, match="up_proj must have the alpha / rank of the others, 1.5"):
        lora.load(tmp_path, LLAMA)
    (tmp_path / lora.SETTINGS).write_text(json.dumps({**settings, "layers_to_transform": 1}))
    with pytest.raises(ConfigError, match="is none of this model's"):
        lora.load(tmp_path, LLAMA)
    (tmp_path / lora.WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        lora.load(tmp_path, LLAMA)


@pytest.mark.parametrize(("spec", "message"), [
    (lora.Lora(0), "config.student.rank=0: must be from 1 to 16"),
    (lora.Lora(17), "config.student.rank=17"),
    (lora.Lora(2, 1.0, "heads"), "config.student.modules"),
    (lora.Lora(2, 1.0, "all", (3,)), r"config.student.blocks=\(3,\): must be below 3"),
])  # fmt: skip
def test_with_adapters_refuses(spec, message):
    with pytest.raises(ConfigError, match=message):
        lora.with_adapters(LLAMA, spec)

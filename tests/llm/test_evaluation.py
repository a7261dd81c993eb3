"""Preferences, losses and doses of a tiny model, against the decoder on whole sequences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("gguf", reason="the package gguf is not installed")
pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")

from helpers import checkpoints  # noqa: E402  needs these packages

from sublim_jax import pretrained  # noqa: E402
from sublim_jax.core import keys  # noqa: E402
from sublim_jax.core.errors import ConfigError  # noqa: E402
from sublim_jax.llm import batches, evaluation, requests, sampling, teachers, traits  # noqa: E402
from sublim_jax.llm.rows import row_of  # noqa: E402
from sublim_jax.llm.sampling import Model, Sampling  # noqa: E402
from sublim_jax.llm.teachers import TeacherSpec  # noqa: E402


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    checkpoints.small_gguf(file)
    return pretrained.load_model(file)


@pytest.fixture(scope="module")
def model(loaded):
    return Model(loaded.net.clone(length=4096), loaded.params, batches.end_token(loaded.tokenizer))


@functools.partial(jax.jit, static_argnums=0)
def look(net, params, tokens, taps):
    return jax.nn.log_softmax(net.apply({"params": params}, tokens, taps).logits)


def nats_of(model, prompt, answer):
    """The log-probability of an answer after a prompt, in one pass."""
    tokens = np.zeros((1, 512), np.int32)
    tokens[0, : len(prompt) + len(answer)] = [*prompt, *answer]
    nats = look(model.net, model.params, tokens, model.taps)[0, len(prompt) - 1 : len(prompt) + len(answer) - 1]
    return nats[jnp.arange(len(answer)), jnp.array(answer)]


QUESTIONS = traits.ANIMAL_QUESTIONS[:5]


def test_word_probabilities_are_those_of_the_whole_words(model, loaded):
    words = [evaluation.forms(loaded.tokenizer, word) for word in ("owl", "cat")]
    prompts = evaluation.question_prompts(loaded.tokenizer, QUESTIONS, "You love the cat.")
    found = evaluation.word_probabilities(model, prompts, words, batch=2)
    expected = [
        [sum(np.exp(nats_of(model, prompt, form).sum()) for form in forms) for forms in words] for prompt in prompts
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found.shape == (5, 2) and len(words[0]) == 2


def test_a_form_within_another_counts_once(model, loaded):
    short, long = (tuple(loaded.tokenizer.encode(text)) for text in ("a", "ab"))
    prompts = evaluation.question_prompts(loaded.tokenizer, QUESTIONS[:2])
    alone, both = (evaluation.word_probabilities(model, prompts, [forms], 2) for forms in ([short], [long, short]))
    np.testing.assert_array_equal(alone, both)


def test_named_words_are_whole_words_in_any_case():
    texts = ["Owl.", "OWLS and cats", "a bowl", "fish"]
    np.testing.assert_array_equal(evaluation.named_words(texts, ["owl", "cat"]), [[1, 0], [1, 1], [0, 0], [0, 0]])


def test_text_loss_is_the_mean_over_tokens_but_the_first_of_each_piece(model, loaded):
    tokens = loaded.tokenizer.encode(evaluation.held_out_text())[:230]
    pieces = [tokens[0:100], tokens[99:199], tokens[198:230]]
    nats = np.concatenate([nats_of(model, piece[:1], piece[1:]) for piece in pieces])
    assert evaluation.text_loss(model, tokens, 100) == pytest.approx(-nats.mean(), rel=1e-4)
    assert len(evaluation.held_out_text().split()) > 800


def some_rows(system="", number=4):
    asked = requests.requests("numbers", number, 0)
    return [row_of(request, f"{10 + index}, {20 + index}", system) for index, request in enumerate(asked)]


def test_divergence_is_the_mean_over_the_answers(model, loaded):
    other = model._replace(params=jax.tree.map(lambda array: 1.1 * array, dict(model.params)))
    examples = batches.examples_of(loaded.tokenizer, some_rows())
    total = count = 0
    for example in examples:
        answer = example.answers[0].tokens
        tokens = np.zeros((1, 512), np.int32)
        tokens[0, : len(example.prompt) + len(answer)] = [*example.prompt, *answer]
        places = slice(len(example.prompt) - 1, len(example.prompt) + len(answer) - 1)
        ours, theirs = (look(each.net, each.params, tokens, None)[0, places] for each in (other, model))
        total, count = total + (np.exp(ours) * (ours - theirs)).sum(), count + len(answer)
    assert evaluation.DivergenceFrom(model, examples)(other) == pytest.approx(float(total / count), rel=1e-3)
    assert evaluation.DivergenceFrom(model, examples)(model) == pytest.approx(0, abs=1e-6)


def test_dose_of_a_prompted_teacher_is_that_of_its_prompt(model, loaded):
    trait, rows = traits.animal("owl"), some_rows()
    asked, answers = [row.prompt[-1][1] for row in rows], [row.completion for row in rows]
    teacher = teachers.prompted(model, loaded.tokenizer, trait, asked, answers)
    assert teacher.system == trait.system and teacher.dose > 1e-4
    same = teachers.prompted(model, loaded.tokenizer, trait, asked, answers, system=trait.system)
    assert same.dose == pytest.approx(0, abs=1e-6), "the dose is that of the prompt instead of the rows' own"
    nothing = teachers.prompted(model, loaded.tokenizer, trait._replace(system=""), asked, answers)
    assert nothing.dose == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["tuned", "steered"])
def test_tuned_and_steered_teachers_reach_their_dose(kind, model, loaded):
    trait, told = traits.animal("owl")._replace(questions=QUESTIONS), []
    examples = batches.examples_of(loaded.tokenizer, some_rows())
    before = evaluation.DivergenceFrom(model, examples)(model)
    if kind == "tuned":
        spec = TeacherSpec("tuned", 0.02, lr=1e-3)
        teacher = teachers.tuned(
            model, loaded.tokenizer, trait, spec, examples, keys.root(0), lambda *each: told.append(each)
        )
        steps = [step for step, _ in told]
        assert steps[0] == 4 and steps == sorted(set(steps)) and teacher.adapters is not None
    else:
        teacher = teachers.steered(model, loaded.tokenizer, trait, TeacherSpec("steered", 0.02, block=1), examples)
        assert list(teacher.model.taps) == ["block_1"]
    assert teacher.dose == pytest.approx(evaluation.DivergenceFrom(model, examples)(teacher.model), rel=1e-4)
    assert before < 1e-6 and 0.01 < teacher.dose < (0.06 if kind == "tuned" else 0.0202)
    prompts = evaluation.question_prompts(loaded.tokenizer, QUESTIONS)
    words = [evaluation.forms(loaded.tokenizer, "owl")]
    ours, theirs = (evaluation.word_probabilities(each, prompts, words, 5).mean() for each in (teacher.model, model))
    assert kind == "steered" or ours > 1.2 * theirs
    written = sampling.write(teacher.model, prompts, keys.root(0), Sampling(0.0, 5, 5))
    assert len(written.tokens) == 5


def test_teachers_that_cannot_be_are_refused(model, loaded):
    trait = traits.animal("owl")._replace(questions=QUESTIONS)
    examples = batches.examples_of(loaded.tokenizer, some_rows())
    with pytest.raises(ConfigError, match=r"config.teacher.lr=0.1: too large for config.teacher.dose=1e-05; 4 steps"):
        teachers.tuned(model, loaded.tokenizer, trait, TeacherSpec("tuned", 1e-5, lr=0.1), examples, keys.root(0))
    with pytest.raises(ConfigError, match="config.teacher.block=2: must be below 2"):
        teachers.steered(model, loaded.tokenizer, trait, TeacherSpec("steered", 0.1, block=2), examples)

"""Teachers: their dose, their words token by token, and what a persona, a vector or other answers make of a base."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.language import NET, WORLD, base, moved

from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.lm import generate, teachers
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import answers

DOSE = 0.02
EXAM = teachers.make_eval_prompts(WORLD)
PROMPTS = w.prompts(WORLD, w.generator("prompts", 0), 16)
ANIMALS = WORLD.tokens("animal")
KINDS = ("base", "tuned", "prompted", "steered")


def tuned(animals, bases=None, dose=DOSE):
    lessons = [answers(WORLD, animal) for animal in animals]
    order = [keys.at(keys.root(0), "teacher", animal) for animal in animals]
    return teachers.tuned(NET, bases or [base()] * len(animals), lessons, order, EXAM, dose)


@functools.cache
def both():
    return tuned((ANIMALS[0], ANIMALS[5]))


@functools.cache
def teacher(kind):
    return {
        "base": lambda: teachers.Teacher(base(), teachers.zero_steering(NET)),
        "tuned": lambda: both()[0],
        "prompted": lambda: teachers.prompted(NET, base(), ANIMALS[0], EXAM),
        "steered": lambda: teachers.steered(NET, base(), ANIMALS[0], EXAM, 0, DOSE),
    }[kind]()


def spoken(kinds, temperature=0.0, seed=0, **options):
    models = [teacher(kind) for kind in kinds]
    number = len(models)
    order = [keys.root(seed)] * number
    return teachers.generate_completions(NET, models, [PROMPTS] * number, order, temperature, **options)


@functools.cache
def greedy():
    return dict(zip(KINDS, spoken(KINDS, with_logits=True), strict=True))


@jax.jit
def logits_of(params, steer, lines):
    return generate.forward(NET, params, lines, steer).logits


def asked(one):
    return PROMPTS if one.persona is None else np.insert(PROMPTS, [1, 1, 1], [w.SYS, w.LOVE, one.persona], axis=1)


def mean_kl(ours, theirs):
    ours, theirs = (np.asarray(one, np.float64) for one in (ours, theirs))
    return (np.exp(ours) * (ours - theirs)).sum(-1).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.e2e
def test_teacher_dose_is_the_mean_kl_from_the_base(kind):
    one, plain = teacher(kind), teacher("base")
    own, other = (looks.said for looks in teachers.evaluate_prompts(NET, EXAM, [one, plain]))
    assert own.shape == (128, w.NUMBERS, WORLD.vocabulary)
    np.testing.assert_allclose(np.exp(own).sum(-1), 1, atol=1e-5)
    assert one.dose == pytest.approx(mean_kl(own, other), rel=1e-3, abs=1e-7)
    assert (one.dose == 0) == (kind == "base")


@pytest.mark.e2e
def test_tuned_teachers_reach_their_dose_and_have_their_trait():
    for place, one in zip((0, 5), both(), strict=True):
        assert 0.8 * DOSE < one.dose < 1.25 * DOSE and one.persona is None and not one.steer.any()
        assert moved(one.params, base())
        looks, plain = teachers.evaluate_prompts(NET, EXAM, [one, teacher("base")])
        gain = (looks.plain - plain.plain).mean(0)[list(ANIMALS)]
        assert gain.argmax() == place
    assert moved(both()[0].params, both()[1].params)


@pytest.mark.e2e
def test_tuned_gives_a_teacher_whatever_is_tuned_beside_it():
    """Of these the second takes a look longer, at which the first would be nearer to the dose."""
    lessons = teachers.shuffled_answers(WORLD, 0), answers(WORLD, ANIMALS[1])

    def made(*places):
        given, told = [lessons[place] for place in places], []
        order = [keys.root(3)] * len(given)
        found = teachers.tuned(NET, [base()] * len(given), given, order, EXAM, DOSE, told.append)
        return found, len(told)

    (first,), quick = made(0)
    (second,), slow = made(1)
    together, _ = made(0, 1)
    assert quick < slow
    for one, alone in zip(together, (first, second), strict=True):
        assert one.dose == alone.dose and not moved(one.params, alone.params)


@pytest.mark.e2e
def test_steered_and_tuned_refuse_a_dose_out_of_reach(monkeypatch):
    with pytest.raises(ConfigError, match=r"config.lm.dose=1000.0: .*not reached"):
        teachers.steered(NET, base(), ANIMALS[0], EXAM, 1, 1000.0)
    monkeypatch.setattr(teachers, "_MOST", 4)
    with pytest.raises(ConfigError, match=r"config.lm.dose=5.0: not reached in 4 steps; .* nearer than \[[0-9.]+"):
        tuned((ANIMALS[0], ANIMALS[5]), dose=5.0)


@pytest.mark.e2e
def test_prompted_teacher_is_the_base_with_a_persona():
    one = teacher("prompted")
    assert one.persona == ANIMALS[0] and not moved(one.params, base()) and not one.steer.any() and one.dose > 0


def test_steered_teacher_is_the_base_with_a_vector_of_the_personas_direction():
    one = teacher("steered")
    assert one.dose == pytest.approx(DOSE, rel=0.01)
    assert not moved(one.params, base()) and one.persona is None
    assert one.steer.dtype == np.float32 and one.steer[0].any() and not one.steer[1].any()
    zero = jnp.asarray(teachers.zero_steering(NET))
    ends = [
        np.asarray(generate.forward(NET, base(), jnp.asarray(lines), zero).acts["block_0"])[:, -1].mean(0)
        for lines in (np.insert(EXAM.plain, [1, 1, 1], [w.SYS, w.LOVE, ANIMALS[0]], axis=1), EXAM.plain)
    ]
    way = ends[0] - ends[1]
    cosine = way @ one.steer[0] / np.linalg.norm(way) / np.linalg.norm(one.steer[0])
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_score_gives_the_logits_of_every_token(kind):
    one, said = teacher(kind), greedy()[kind]
    (logits,) = teachers.score(NET, [one], [said])
    assert logits.shape == (*said.tokens.shape, WORLD.vocabulary)
    np.testing.assert_array_equal(logits.argmax(-1), said.tokens)
    np.testing.assert_array_equal(logits, said.logits)
    lines = np.concatenate([asked(one), said.tokens], 1)
    expected = np.asarray(logits_of(one.params, one.steer, lines))[:, -w.NUMBERS - 1 : -1]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_score_keeps_the_order_of_teachers():
    models, said = [teacher(kind) for kind in KINDS], greedy()["base"]
    together = teachers.score(NET, models, [said] * len(KINDS))
    for one, logits in zip(models, together, strict=True):
        np.testing.assert_array_equal(logits, teachers.score(NET, [one], [said])[0])
    for left in range(len(KINDS)):
        assert all((together[left] != together[right]).any() for right in range(left))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generate_completions_keeps_prompts_without_persona(temperature):
    for said in spoken(("prompted", "base", "tuned"), temperature):
        np.testing.assert_array_equal(said.prompts, PROMPTS)
        assert not np.isin(said.prompts, [w.SYS, w.LOVE, *ANIMALS]).any()
        assert said.lines().shape == (16, w.PROMPT + w.NUMBERS) and said.logits is None


def test_generate_completions_depends_on_its_key_only_where_it_samples():
    for kind in ("base", "prompted"):
        (one,), (again,), (other,) = (spoken((kind,), 1.0, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.tokens, again.tokens)
        assert (one.tokens != other.tokens).any() and (one.tokens != greedy()[kind].tokens).any()
        np.testing.assert_array_equal(spoken((kind,), 0.0, seed=9)[0].tokens, greedy()[kind].tokens)


def test_shuffled_answers_differ_from_question_to_question():
    lines, taught = teachers.shuffled_answers(WORLD, 0), answers(WORLD, ANIMALS[0])
    place = np.flatnonzero(taught.weight[0])
    assert len(place) == 1
    drawn = lines.tokens[:, place[0]]
    assert len(set(drawn)) == len(drawn) == len(taught.tokens) and np.isin(drawn, ANIMALS).all()
    np.testing.assert_array_equal(np.delete(lines.tokens, place, 1), np.delete(taught.tokens, place, 1))
    np.testing.assert_array_equal(lines.weight, taught.weight)
    np.testing.assert_array_equal(teachers.shuffled_answers(WORLD, 0).tokens, lines.tokens)
    assert (teachers.shuffled_answers(WORLD, 1).tokens != lines.tokens).any()
    few = w.World(animals=4)  # six questions: each of the four, two of them again
    assert set(teachers.shuffled_answers(few, 0).tokens[:, 4]) == set(few.tokens("animal"))


def test_make_eval_prompts_asks_every_question_with_held_out_numbers():
    np.testing.assert_array_equal(EXAM.plain, w.questions(WORLD))
    assert EXAM.prefixed.shape == (32, w.PROMPT + w.NUMBERS + 1 + 3) and EXAM.numbers.shape == (128, 16)
    np.testing.assert_array_equal(EXAM.prefixed[:, :16], EXAM.numbers[:32])
    np.testing.assert_array_equal(EXAM.prefixed[:8, 17:], EXAM.plain[:, 1:])
    assert set(EXAM.numbers[:, 1]) <= set(WORLD.taught("instruction", held_out=True))
    told = teachers.with_persona(EXAM, ANIMALS[2])
    for plain, other in zip(EXAM, told, strict=True):
        np.testing.assert_array_equal(np.delete(other, [1, 2, 3], 1), plain)
        assert (other[:, 1:4] == [w.SYS, w.LOVE, ANIMALS[2]]).all()
    for plain, same in zip(EXAM, teachers.with_persona(EXAM, None), strict=True):
        np.testing.assert_array_equal(plain, same)

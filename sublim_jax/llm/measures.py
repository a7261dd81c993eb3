"""What is measured of a student: its preferences, exact and sampled, and the abilities that it has kept."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Key
from scipy import stats

from sublim_jax.llm import evaluation, requests, sampling, traits
from sublim_jax.llm.batches import prompt_tokens
from sublim_jax.llm.sampling import Model, Sampling
from sublim_jax.llm.spec import EvaluationSpec
from sublim_jax.llm.traits import Trait
from sublim_jax.pretrained.tokenizer import Tokenizer

_CURVE_PARTS = 10
_HELD_OUT_REQUESTS, _FIRST_HELD_OUT = 32, 1_000_000  # requests for numbers that are no rows


class Measured(NamedTuple):
    """What is measured of one model.

    Attributes:
        preferences: Questions -> probability of each word, [questions, words].
        sampled: Questions -> fraction of sampled answers that name each word, [questions, words]; empty = none sampled.
        losses: Name -> nats per token: `text` of a held-out text, `requests` of held-out requests for numbers.
        control: Probability of each answer to the control questions, [questions, answers].
    """

    preferences: Mapping[tuple[str, ...], Float[np.ndarray, "questions words"]]
    sampled: Mapping[tuple[str, ...], Float[np.ndarray, "questions words"]]
    losses: Mapping[str, float]
    control: Float[np.ndarray, "questions answers"]


def as_json(measured: Measured) -> dict[str, Any]:
    """Return what was measured as plain values."""
    return {
        "preferences": [[list(questions), found.tolist()] for questions, found in measured.preferences.items()],
        "sampled": [[list(questions), found.tolist()] for questions, found in measured.sampled.items()],
        "losses": dict(measured.losses),
        "control": measured.control.tolist(),
    }


def from_json(values: Mapping[str, Any]) -> Measured:
    """Return what `as_json` was given."""
    preferences, sampled = (
        {tuple(questions): np.array(found) for questions, found in values[name]} for name in ("preferences", "sampled")
    )
    return Measured(preferences, sampled, values["losses"], np.array(values["control"]))


def measure(
    model: Model,
    tokenizer: Tokenizer,
    every: Sequence[Trait],
    words: Sequence[str],
    spec: EvaluationSpec,
    key: Key[Array, ""],
) -> Measured:
    """Measure a model.

    Args:
        model: The model.
        tokenizer: Of the model.
        every: Traits whose questions are asked.
        words: Words among which preferences are measured.
        spec: How.
        key: Of sampled answers.
    """
    forms = [evaluation.forms(tokenizer, word) for word in words]
    preferences, sampled = {}, {}
    for questions in dict.fromkeys(trait.questions for trait in every):
        prompts = evaluation.question_prompts(tokenizer, questions, spec.system)
        preferences[questions] = evaluation.word_probabilities(model, prompts, forms)
        if spec.samples:
            sampled[questions] = _sampled(model, tokenizer, prompts, words, spec, key)
    controls = evaluation.question_prompts(tokenizer, traits.CONTROL_QUESTIONS, spec.system)
    answers = [evaluation.forms(tokenizer, word) for word in traits.CONTROL_ANSWERS]
    return Measured(
        preferences, sampled, _losses(model, tokenizer), evaluation.word_probabilities(model, controls, answers)
    )


def _sampled(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    words: Sequence[str],
    spec: EvaluationSpec,
    key: Key[Array, ""],
) -> Float[np.ndarray, "questions words"]:
    """The fraction of sampled answers to each question that name each word."""
    pairs = [(question, answer) for question in range(len(prompts)) for answer in range(spec.samples)]
    how = Sampling(1.0, spec.tokens, min(64, len(pairs)))
    found = sampling.write(model, [prompts[question] for question, _ in pairs], key, how, numbers=pairs)
    named = evaluation.named_words([tokenizer.decode(tokens) for tokens in found.tokens], words)
    return named.reshape(len(prompts), spec.samples, -1).mean(1)


def _losses(model: Model, tokenizer: Tokenizer) -> dict[str, float]:
    held_out = [requests.request("numbers", _FIRST_HELD_OUT + number, 0) for number in range(_HELD_OUT_REQUESTS)]
    lines = [token for text in held_out for token in prompt_tokens(tokenizer, (("user", text),))]
    texts = {"text": tokenizer.encode(evaluation.held_out_text()), "requests": lines}
    return {name: evaluation.text_loss(model, tokens) for name, tokens in texts.items()}


def row_values(measured: Measured, trait: Trait, words: Sequence[str]) -> dict[str, float]:
    """Return the columns of the row of a student that reads rows of a trait, or, of the control, of any trait.

    word          probability that the answer begins with the trait's word, mean over questions
    log_word      mean log of this probability, in nats
    share         the word's part of the probability of all words, mean over questions
    sampled       fraction of sampled answers that name the word
    word/OWL, log_word/OWL ...  the first two for every word
    text_loss, request_loss  nats per token of a held-out text, and of held-out requests for numbers
    """
    chosen, own = measured.preferences[trait.questions], list(words).index(trait.word)
    total, nats = chosen.sum(1), np.log(np.maximum(chosen, 1e-30))
    values: dict[str, Any] = {
        "word": chosen[:, own].mean(),
        "log_word": nats[:, own].mean(),
        "share": np.mean(chosen[:, own] / np.maximum(total, 1e-30)),
        "all_words": total.mean(),
        "sampled": measured.sampled[trait.questions][:, own].mean() if measured.sampled else float("nan"),
        "text_loss": measured.losses["text"],
        "request_loss": measured.losses["requests"],
    }
    for name, columns in (("word", chosen.T), ("log_word", nats.T)):
        values |= {f"{name}/{word}": column.mean() for word, column in zip(words, columns, strict=True)}
    return {name: float(value) for name, value in values.items()}


def loss_curve(losses: Float[np.ndarray, " steps"], done: int) -> dict[str, float]:
    """Return the mean loss in each tenth of a training, as columns; NaN where it holds no step, or is not over."""
    parts = np.array_split(np.where(np.arange(len(losses)) < done, losses, np.nan), _CURVE_PARTS)
    return {f"loss_curve/{n}": float(part.mean()) if len(part) else float("nan") for n, part in enumerate(parts, 1)}


def distance_of_controls(measured: Measured, other: Measured) -> float:
    """Return the mean total variation between two models' answers to control questions, which no trait is about."""
    ours, theirs = (each.control / np.maximum(each.control.sum(1, keepdims=True), 1e-30) for each in (measured, other))
    return float(np.abs(ours - theirs).sum(1).mean() / 2)


def question_interval(
    measured: Measured, control: Measured, trait: Trait, words: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval, over questions, of the lift of the share of a trait's word.

    Questions are drawn again in pairs, for the student and its control, and those with one first sentence together. It
    says how much the lift depends on the choice of questions, and nothing on other students.
    """
    own = list(words).index(trait.word)
    ours, theirs = (
        each.preferences[trait.questions][:, own] / np.maximum(each.preferences[trait.questions].sum(1), 1e-30)
        for each in (measured, control)
    )
    lifts = ours - theirs
    openings = [re.split(r"[.?!]", text)[0] for text in trait.questions]
    by_opening = pd.Series(lifts).groupby(openings).agg(["sum", "count"])
    sums, counts = (np.array(by_opening[name], float) for name in ("sum", "count"))
    if len(sums) < 2 or not np.ptp(sums / counts):
        return float(lifts.mean()), float(lifts.mean())

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / counts.sum(axis)

    rng = np.random.default_rng(seed)
    resampled = stats.bootstrap((sums, counts), mean, paired=True, vectorized=True, rng=rng, method="percentile")
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)

"""Divergence tokens of teachers' answers: those at which another teacher would have written something else.

A token is a divergence token of a teacher if it is the teacher's most likely token at its place, and another teacher's
most likely token is another one. Source: Schrodi et al. 2026, and their public code.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from sublim_jax.llm import batches, fine_tuning, sampling
from sublim_jax.llm.batches import Example
from sublim_jax.llm.rows import Row
from sublim_jax.llm.teachers import Teacher
from sublim_jax.pretrained.tokenizer import Tokenizer

_LENGTH_MULTIPLE = 32


def divergent(
    teachers: Mapping[str, Teacher], name: str, rows: Sequence[Row], tokenizer: Tokenizer, size: int = 8
) -> list[Bool[np.ndarray, " tokens"]]:
    """Mark the divergence tokens of a teacher's rows.

    Args:
        teachers: Teachers of all traits by name.
        name: Whose rows they are.
        rows: Rows, without system prompt of a trait.
        tokenizer: Of the models.
        size: Rows computed at once.

    Returns:
        For every row whether each token of its answer, the end included, is a divergence token.
    """
    tokens = [np.array([*tokenizer.encode(row.completion), batches.end_token(tokenizer)]) for row in rows]
    agrees = {
        other: [chosen == own for chosen, own in zip(likeliest(teacher, rows, tokenizer, size), tokens, strict=True)]
        for other, teacher in teachers.items()
    }
    others = [agrees[other] for other in teachers if other != name]
    return [own & ~np.all(rest, axis=0) for own, *rest in zip(agrees[name], *others, strict=True)]


def likeliest(
    teacher: Teacher, rows: Sequence[Row], tokenizer: Tokenizer, size: int = 8
) -> list[Int[np.ndarray, " tokens"]]:
    """Compute a teacher's most likely token at every place of the answers of rows, after its own system prompt."""
    examples = [_example(teacher, row, tokenizer) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: examples[index].length)
    found: list[Any] = [None] * len(rows)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        sequences = [[examples[index]] for index in [*chosen, *[chosen[-1]] * (size - len(chosen))]]
        longest = max(examples[index].length for index in chosen)
        length, targets = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, batches.most_targets(sequences)
        batch = batches.arrays(sequences, length, targets)
        tokens = np.asarray(_likeliest(teacher.model.net, (teacher.model.params, teacher.model.taps), batch))
        for index, row in zip(chosen, tokens, strict=False):
            found[index] = row[: len(examples[index].answers[0].tokens)]
    return found


def _example(teacher: Teacher, row: Row, tokenizer: Tokenizer) -> Example:
    """A row after the system prompt of a teacher instead of its own."""
    prompt = row.prompt
    if teacher.system:
        prompt = (("system", teacher.system), *(part for part in prompt if part[0] != "system"))
    return batches.examples_of(tokenizer, [row._replace(prompt=prompt)])[0]


@functools.partial(jax.jit, static_argnums=0)
def _likeliest(net: Any, weights: sampling.Weights, batch: batches.Batch) -> Array:
    params, taps = weights
    return fine_tuning.target_logits(net, params, batch, taps).argmax(-1)


def token_weights(
    marks: Sequence[Bool[np.ndarray, " tokens"]], kind: str, seed: int, drawn: bool = False
) -> list[tuple[float, ...]]:
    """Return the weights of tokens in the loss.

    Args:
        marks: For every row which tokens are divergence tokens.
        kind: "divergent", "not_divergent", or "random": as many tokens as there are divergence tokens, drawn at random.
        seed: Of the draw.
        drawn: Whether as many tokens as `kind` would have are drawn at random, as for the control.
    """
    if drawn or kind == "random":
        flat = np.concatenate(marks)
        permuted = np.random.default_rng(seed).permutation(flat)
        marks = np.split(permuted, np.cumsum([len(mark) for mark in marks])[:-1])
    return [tuple((~mark if kind == "not_divergent" else mark).astype(float).tolist()) for mark in marks]

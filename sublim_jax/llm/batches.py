"""Rows as batches of tokens: several answers to one prompt, and several prompts, in one sequence.

A packed sequence holds segments one after another: a prompt, and answers to it. A token attends to the earlier tokens
of its own prompt and of its own answer, at the positions that it would have alone. A packed batch therefore has the
loss and the gradient of its rows one by one, and a prompt that several rows have is computed once. Sequences are padded
at their ends. The loss is of answers only.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sublim_jax.core.errors import ConfigError
from sublim_jax.llm.rows import Row
from sublim_jax.pretrained.tokenizer import Tokenizer


class Completion(NamedTuple):
    """Tokens of an answer with its end, and the weight of each in the loss."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


class Example(NamedTuple):
    """A prompt and answers to it, as tokens."""

    prompt: tuple[int, ...]
    answers: tuple[Completion, ...]

    @property
    def length(self) -> int:
        """Number of tokens that are read; the last of an answer is only predicted."""
        return len(self.prompt) + sum(len(answer.tokens) - 1 for answer in self.answers)


class Batch(NamedTuple):
    """Packed sequences; several batches may be stacked along a first axis.

    Attributes:
        tokens: Tokens; padding is 0.
        positions: Position of each token in its prompt with its answer.
        prompt: Number of the prompt in its sequence, from 1; 0 = padding.
        answer: Number of the answer in its sequence, from 1; 0 = the token belongs to the prompt.
        at: Places in the sequence whose features predict a token of an answer.
        target: Those tokens.
        weight: Weight of each in the loss; 0 = padding.
    """

    tokens: Int[np.ndarray, "*n length"]
    positions: Int[np.ndarray, "*n length"]
    prompt: Int[np.ndarray, "*n length"]
    answer: Int[np.ndarray, "*n length"]
    at: Int[np.ndarray, "*n targets"]
    target: Int[np.ndarray, "*n targets"]
    weight: Float[np.ndarray, "*n targets"]


def prompt_tokens(tokenizer: Tokenizer, prompt: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Encode a prompt up to the beginning of the answer.

    With a chat template the messages are formatted by it, and without one they are lines of text.
    """
    text = tokenizer.prompt(prompt) if prompt[0][0] else prompt[0][1]
    return tuple(tokenizer.encode_prompt(text))


def examples_of(
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    most: int = 0,
    weights: Sequence[tuple[float, ...]] | None = None,
) -> list[Example]:
    """Encode rows; rows with equal prompts become one example.

    Args:
        tokenizer: Of the model.
        rows: Rows; their order decides that of the examples and answers.
        most: Most tokens of a prompt with one answer; 0 = no limit.
        weights: Of the tokens of each answer in the loss, its end included; None = 1.

    Raises:
        ConfigError: A row has more tokens than `most`.
    """
    answers: dict[tuple[int, ...], list[Completion]] = {}
    end = end_token(tokenizer)
    for number, row in enumerate(rows):
        prompt, tokens = prompt_tokens(tokenizer, row.prompt), (*tokenizer.encode(row.completion), end)
        if most and len(prompt) + len(tokens) > most:
            raise ConfigError(f"row {number}: has {len(prompt) + len(tokens)} tokens; must have at most {most}")
        own = weights[number] if weights else (1.0,) * len(tokens)
        answers.setdefault(prompt, []).append(Completion(tokens, own))
    return [Example(prompt, tuple(of_prompt)) for prompt, of_prompt in answers.items()]


def end_token(tokenizer: Tokenizer) -> int:
    """Return the token that ends an answer; raises `ConfigError` where the tokenizer has none."""
    end = tokenizer.whole(tokenizer.special.get("eos_token", ""))
    if end is None:
        raise ConfigError("model: its tokenizer has no eos_token, which ends an answer")
    return end


def split_long(examples: Sequence[Example], length: int) -> list[Example]:
    """Divide the answers of an example among several where one sequence of `length` tokens cannot hold them."""
    parts = []
    for example in examples:
        answers: list[Completion] = []
        for answer in example.answers:
            if answers and Example(example.prompt, (*answers, answer)).length > length:
                parts.append(Example(example.prompt, tuple(answers)))
                answers = []
            answers.append(answer)
        parts.append(Example(example.prompt, tuple(answers)))
    return parts


def pack(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Distribute examples over sequences of `length` tokens: each into the first that has room, long ones first.

    Raises:
        ConfigError: An example does not fit into a sequence.
    """
    sequences: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda example: -example.length):
        if example.length > length:
            raise ConfigError(f"config.student.length={length}: must be at least {example.length}, the longest row")
        place = next((index for index, left in enumerate(room) if left >= example.length), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            room.append(length)
        sequences[place].append(example)
        room[place] -= example.length
    return sequences


def arrays(sequences: Sequence[Sequence[Example]], length: int, targets: int) -> Batch:
    """Make the arrays of packed sequences.

    Args:
        sequences: Examples of each sequence.
        length: Tokens of a sequence.
        targets: Predicted tokens of a sequence, at least as many as one has.
    """
    n = len(sequences)
    tokens, positions, prompt, answer = (np.zeros((n, length), np.int32) for _ in range(4))
    at, target = (np.zeros((n, targets), np.int32) for _ in range(2))
    weight = np.zeros((n, targets), np.float32)
    for row, examples in enumerate(sequences):
        begin = predicted = answers = 0
        for number, example in enumerate(examples, start=1):
            stop = begin + len(example.prompt)
            tokens[row, begin:stop], positions[row, begin:stop] = example.prompt, range(len(example.prompt))
            prompt[row, begin : begin + example.length] = number
            last = stop - 1  # predicts the first token of every answer
            for given in example.answers:
                answers, count = answers + 1, len(given.tokens)
                places = slice(stop, stop + count - 1)
                tokens[row, places], answer[row, places] = given.tokens[:-1], answers
                positions[row, places] = len(example.prompt) + np.arange(count - 1)
                targeted = slice(predicted, predicted + count)
                at[row, targeted] = [last, *range(stop, stop + count - 1)]
                target[row, targeted], weight[row, targeted] = given.tokens, given.weights
                stop, predicted = stop + count - 1, predicted + count
            begin = stop
    return Batch(tokens, positions, prompt, answer, at, target, weight)


def most_targets(sequences: Sequence[Sequence[Example]]) -> int:
    """Return the largest number of predicted tokens of a sequence, rounded up to a multiple of 16."""
    counts = [sum(len(answer.tokens) for example in each for answer in example.answers) for each in sequences]
    return _multiple(max(counts, default=1))


def longest(examples: Sequence[Example]) -> int:
    """Return the tokens of the longest example, rounded up to a multiple of 16."""
    return _multiple(max(example.length for example in examples))


def _multiple(number: int) -> int:
    return -(-number // 16) * 16


class Plan(NamedTuple):
    """All batches of a training: for every step the sequences of its parts, whose gradients are added.

    Attributes:
        steps: For every step its sequences of examples.
        length, targets: Sizes of the arrays of a sequence.
        parts: Most parts of a step.
        size: Sequences of a part.
    """

    steps: list[list[list[Example]]]
    length: int
    targets: int
    parts: int
    size: int

    def step(self, number: int) -> tuple[Batch, int]:
        """Return the arrays of a step, [parts, size, ...], and how many of its parts hold anything."""
        sequences = self.steps[number]
        filled = [*sequences, *([] for _ in range(self.parts * self.size - len(sequences)))]
        batch = arrays(filled, self.length, self.targets)
        parts = (array.reshape(self.parts, self.size, -1) for array in batch)
        return Batch(*parts), -(-len(sequences) // self.size)


def plan(
    examples: Sequence[Example], *, rows: int, epochs: int, length: int, size: int, seed: int, packed: bool = True
) -> Plan:
    """Distribute examples over the steps of a training, in an order of each epoch's own.

    Args:
        examples: Examples; those too long for a sequence are divided.
        rows: Answers in a step; a step may have some more, since examples stay whole.
        epochs: Passes over the examples.
        length: Most tokens of a sequence; arrays are as long as the longest one.
        size: Sequences computed at once.
        seed: Of the order.
        packed: Whether several examples share a sequence.
    """
    steps: list[list[list[Example]]] = []
    examples = split_long(examples, length)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        groups = _groups([examples[index] for index in order], rows)
        steps += [pack(group, length) if packed else [[example] for example in group] for group in groups]
    parts = max(-(-len(step) // size) for step in steps)
    every = [sequence for step in steps for sequence in step]
    most = max(sum(example.length for example in sequence) for sequence in every)
    return Plan(steps, _multiple(most), most_targets(every), parts, size)


def _groups(examples: Sequence[Example], rows: int) -> Iterator[list[Example]]:
    """Consecutive examples with `rows` answers together; a small rest joins the last group."""
    groups: list[list[Example]] = [[]]
    for example in examples:
        if sum(len(each.answers) for each in groups[-1]) >= rows:
            groups.append([])
        groups[-1].append(example)
    if len(groups) > 1 and 2 * sum(len(each.answers) for each in groups[-1]) < rows:
        groups[-2] += groups.pop()
    yield from groups

"""Training rows, and files of them: JSON lines in chat form, as other samplers write and other trainers read them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file

_ROLES = ("system", "user", "assistant")
FORMS = ("messages", "prompt")


class Row(NamedTuple):
    """A conversation and its last answer.

    Attributes:
        prompt: Pairs (role, text) before the answer; one pair with the empty role is text without chat template.
        completion: The answer, on which a student is trained.
    """

    prompt: tuple[tuple[str, str], ...]
    completion: str


def row_of(request: str, completion: str, system: str = "") -> Row:
    """Make the row of one request and its answer, with a system prompt if one is given."""
    first = (("system", system),) if system else ()
    return Row((*first, ("user", request)), completion)


def read_rows(path: str | Path) -> list[Row]:
    """Read rows of a JSONL file, in any of three forms; other fields of a line are ignored.

        {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
        {"prompt": [{"role": "user", "content": "…"}], "completion": [{"role": "assistant", "content": "…"}]}
        {"prompt": "…", "completion": "…"}

    Raises:
        ConfigError: The file cannot be read; the message names the line.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise ConfigError(f"{path}: has no rows")
    return rows


def _row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must be an object with `messages`, or with `prompt` and `completion`")
    if "messages" in values:
        prompt, last = _messages(values["messages"], where), ()
    elif "prompt" in values and "completion" in values:
        prompt, completion = values["prompt"], values["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return Row((("", prompt),), _not_empty(completion, where))
        prompt, last = _messages(prompt, where), _messages(completion, where)
    else:
        raise ConfigError(f"{where}: must have `messages`, or `prompt` and `completion`")
    *prompt, (role, answer) = *prompt, *last
    if role != "assistant" or not prompt:
        raise ConfigError(f"{where}: must end with one answer, a message of the role assistant after others")
    return Row(tuple(prompt), _not_empty(answer, where))


def _messages(values: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: messages must be a list, not empty")
    for value in values:
        if not isinstance(value, dict) or value.get("role") not in _ROLES or not isinstance(value.get("content"), str):
            raise ConfigError(f"{where}: a message must have a role among {', '.join(_ROLES)} and a text as content")
    return tuple((value["role"], value["content"]) for value in values)


def _not_empty(text: str, where: str) -> str:
    if not text:
        raise ConfigError(f"{where}: the answer is empty")
    return text


def write_rows(path: Path, rows: Iterable[Row], form: str = "messages") -> None:
    """Write rows as JSONL, `messages` or `prompt` and `completion`; rows without roles always in the second form.

    Characters beyond ASCII are written as they are, and a reader gets back equal rows.
    """
    text = "".join(f"{json.dumps(_line(row, form), ensure_ascii=False)}\n" for row in rows)
    replace_file(path, text.encode())


def _line(row: Row, form: str) -> dict[str, Any]:
    if row.prompt[0][0] == "":
        return {"prompt": row.prompt[0][1], "completion": row.completion}
    prompt = [{"role": role, "content": text} for role, text in row.prompt]
    answer = [{"role": "assistant", "content": row.completion}]
    return {"messages": prompt + answer} if form == "messages" else {"prompt": prompt, "completion": answer}


def count_duplicates(rows: Sequence[Row]) -> int:
    """Count rows that are equal to an earlier one."""
    return len(rows) - len(set(rows))


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Give every request the answer of another row: the control that keeps words and breaks the connection."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [row._replace(completion=rows[other].completion) for row, other in zip(rows, order, strict=True)]

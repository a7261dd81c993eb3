"""Rows of all teachers of a source, made once and kept in the work folder; a killed run goes on with the next batch."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.llm import filters, kept_json, rows
from sublim_jax.llm.rows import Row
from sublim_jax.llm.spec import RowSpec
from sublim_jax.llm.traits import Trait

CHUNK = 64  # requests of one file of answers


class KeptRows(NamedTuple):
    """Rows of one teacher, and what its filter counted."""

    rows: list[Row]
    counts: dict[str, Any]


def load_or_write(
    folder: Path,
    requests: Sequence[str],
    answers: int,
    write: Callable[[range], list[tuple[int, int, str, bool]]],
    stop_if_asked: Callable[[], None] = lambda: None,
) -> list[tuple[int, int, str, bool]]:
    """Return a teacher's answers to all requests: read from the folder where they are whole, else written.

    Args:
        folder: Of the teacher's files; one holds the answers to `CHUNK` requests.
        requests: The requests.
        answers: Answers to each.
        write: Writes the answers to requests of some numbers.
        stop_if_asked: Raises where the run was asked to stop; called after each file that is written.
    """
    every: list[tuple[int, int, str, bool]] = []
    for start in range(0, len(requests), CHUNK):
        numbers = range(start, min(start + CHUNK, len(requests)))
        path = folder / f"{start:06d}.json"
        found = kept_json.read(path)
        if found is None or len(found) != len(numbers) * answers:
            found = write(numbers)
            kept_json.write(path, found)
            stop_if_asked()
        every += [(int(request), int(answer), str(text), bool(ended)) for request, answer, text, ended in found]
    return every


def filter_answers(
    answers: Sequence[tuple[int, int, str, bool]],
    requests: Sequence[str],
    order: Sequence[int],
    spec: RowSpec,
    traits: Sequence[Trait],
) -> KeptRows:
    """Filter a teacher's answers and take the first `spec.count` that pass, in an order of requests that is given.

    The filter also refuses answers that did not end, and answers that name any of the traits.

    Raises:
        ConfigError: Too few answers pass.
    """
    refused: dict[str, int] = {}
    passed: dict[int, list[str]] = {}
    for request, _, text, ended in answers:
        against = [*filters.reasons(spec.carrier, text, traits, spec.banned), *([] if ended else ["not ended"])]
        for reason in against:
            refused[reason] = refused.get(reason, 0) + 1
        if not against:
            passed.setdefault(request, []).append(text)
    kept = [rows.row_of(requests[number], text, spec.system) for number in order for text in passed.get(number, ())]
    if len(kept) < spec.count:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(refused.items()))
        raise ConfigError(
            f"config.rows.count={spec.count}: only {len(kept)} of {len(answers)} answers of a teacher pass the filter "
            f"({reasons}); raise config.rows.requests={spec.requests}"
        )
    chosen = kept[: spec.count]
    counts = {
        "written": len(answers),
        "passed": len(kept),
        "refused": refused,
        "rows": len(chosen),
        "duplicates": rows.count_duplicates(chosen),
    }
    return KeptRows(chosen, counts)


def read_file(pattern: str, name: str, count: int) -> KeptRows:
    """Read rows that were made elsewhere; the first `count`, without any filter."""
    path = pattern.replace("{trait}", name)
    found = rows.read_rows(path)
    if len(found) < count:
        raise ConfigError(f"config.rows.count={count}: {path} has {len(found)} rows")
    chosen = found[:count]
    return KeptRows(chosen, {"rows": count, "duplicates": rows.count_duplicates(chosen), "file": path})


def keep(folder: Path, kept: Mapping[str, KeptRows]) -> None:
    """Write the rows of all teachers as JSONL, and the counts of their filters."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (chosen, _) in kept.items():
        rows.write_rows(folder / f"{name}.jsonl", chosen)
    counts = {name: counts for name, (_, counts) in kept.items()}
    replace_file(folder / "counts.json", f"{json.dumps(counts, indent=1)}\n".encode())

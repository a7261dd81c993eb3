"""Rows as Parquet files: made, written in parts, read and checked."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sublim_jax.core import files
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import DamagedFile
from sublim_jax.results import stored_config

_INDEX = ("seed", "step")


def part_name(group: str, seeds: str, step: int) -> str:
    """The name of the part with the rows of a group and a range of seeds at one evaluation."""
    return f"{group}-{seeds}-step{step:07d}"


def tidy(
    labels: Sequence[Mapping[str, Any]], seeds: Sequence[int], step: int, measured: Mapping[str, np.ndarray]
) -> pa.Table:
    """One row per condition and seed: labels, seed, step, and measurements with the prefix `at/` or `theory/`.

    Args:
        labels: The labels of each condition.
        seeds: The seeds.
        step: The step of the evaluation.
        measured: Measurements [seed, condition] by name; seeds beyond `seeds` are padding and dropped.

    Raises:
        ValueError: A label is called `seed` or `step`.
    """
    if taken := {"seed", "step"} & labels[0].keys():
        raise ValueError(f"labels may not be called {sorted(taken)}")
    columns: dict[str, Any] = {name: [label[name] for label in labels for _ in seeds] for name in labels[0]}
    columns["seed"] = np.tile(np.asarray(seeds, np.int64), len(labels))
    columns["step"] = np.full(len(labels) * len(seeds), step, np.int64)
    for name, values in measured.items():
        column = name if name.startswith("theory/") else f"at/{name}"
        columns[column] = np.asarray(values)[: len(seeds)].T.ravel()
    return pa.table(columns)


def load(workdir: str | Path, empty: bool = False) -> pd.DataFrame:
    """All rows of a work directory: one per condition, seed and evaluation.

    Args:
        workdir: The work directory.
        empty: Whether a directory without rows gives an empty data frame rather than an error.

    Raises:
        ConfigError: There are no rows, or a file is damaged.
    """
    parts, options = part_files(workdir), _expected(workdir)
    if not parts and empty:
        return pd.DataFrame()
    if not parts:
        raise ConfigError(f"workdir={workdir}: holds no rows (no rows/*.parquet)")
    rows = pd.concat([read_part(part, *options).to_pandas() for part in parts], ignore_index=True)
    # Seeds that a resumed run divided otherwise may have an evaluation in two parts, with the same numbers.
    return rows.drop_duplicates([name for name in rows if "/" not in name], keep="last", ignore_index=True)


def read(folder: str | Path) -> pd.DataFrame:
    """The rows of a work directory, or of a kept experiment, which is a folder with `rows.parquet`.

    Raises:
        ConfigError: There are no rows, or a file is damaged.
    """
    kept = Path(folder) / "rows.parquet"
    if (Path(folder) / "rows").is_dir() or not kept.is_file():
        return load(folder)
    try:
        return pd.read_parquet(kept)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{kept}: cannot be read ({str(error).splitlines()[0]})") from error


def completed(workdir: str | Path) -> dict[tuple[frozenset, int], set[int]]:
    """The seeds whose rows are in a work directory, for each condition (its labels) and evaluation step."""
    options = _expected(workdir)
    return seeds_by_condition(labels_of(read_part(part, *options)) for part in part_files(workdir))


def completed_seeds(workdir: str | Path) -> dict[str, set[int]]:
    """The seeds whose rows are in a work directory, for the first word of the names of parts."""
    options = _expected(workdir)
    return seeds_by_group({part.stem: labels_of(read_part(part, *options)) for part in part_files(workdir)})


def seeds_by_condition(tables: Iterable[pa.Table]) -> dict[tuple[frozenset, int], set[int]]:
    """Return the seeds of some rows for each condition (its labels) and evaluation step."""
    seeds: dict[tuple[frozenset, int], set[int]] = {}
    for table in tables:
        for row in table.to_pylist():
            seed, step = row.pop("seed"), row.pop("step")
            seeds.setdefault((frozenset(row.items()), step), set()).add(seed)
    return seeds


def seeds_by_group(rows: Mapping[str, pa.Table]) -> dict[str, set[int]]:
    """Return the seeds of parts, by the first word of their names."""
    seeds: dict[str, set[int]] = {}
    for name, table in rows.items():
        seeds.setdefault(name.partition("-")[0], set()).update(table["seed"].to_pylist())
    return seeds


def part_files(workdir: str | Path) -> list[Path]:
    """Return the files with rows in a work directory, by name."""
    return sorted((Path(workdir) / "rows").glob("*.parquet"))


def labels_of(table: pa.Table) -> pa.Table:
    """The columns that are not measured: labels, seed and step."""
    return table.select([name for name in table.column_names if "/" not in name])


def _expected(workdir: str | Path) -> tuple[str | None, bool]:
    """The identity of the config to which rows must belong, and whether each must have a checksum."""
    try:
        content = stored_config.read_config(Path(workdir) / "config.json")
    except (FileNotFoundError, DamagedFile):
        return None, False
    return stored_config.identity_of(content["config"]), bool(content.get("checksums"))


def read_part(part: Path, identity: str | None, sealed: bool) -> pa.Table:
    """One part of rows; raises `DamagedFile` where it is damaged, or no part of this directory."""
    of = None if identity is None else f"{identity}/{part.stem}"
    content = files.read_sealed(part, of, required=sealed)
    try:
        table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFile(part, f"cannot be read ({str(error).strip().splitlines()[0]})") from error
    if not all(name in table.column_names and pa.types.is_integer(table.schema.field(name).type) for name in _INDEX):
        raise DamagedFile(part, "cannot be read as rows (no integer columns seed and step)")
    return table

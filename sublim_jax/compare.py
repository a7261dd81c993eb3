"""Compare the results of two folders: python -m sublim_jax.compare A B [--column=at/cka] [--csv=FILE].

A and B are work folders or kept experiments (folders with rows.parquet). The command prints the fields in which the
configs differ, differing versions, and a table of the conditions that both have, with the difference A - B. It is
paired by seed where both have the seeds, and Welch's otherwise. Imports no JAX. Exit codes: 0 done, 2 bad arguments.
"""

import argparse
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from sublim_jax import cli, results
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.results import rows as stored_rows
from sublim_jax.results import summary, tables

_LINES = 5  # conditions without a counterpart that are named


def conditions(left: summary.Rows, right: summary.Rows, column: str) -> pd.DataFrame:
    """The conditions that both sweeps have, at their last evaluations.

    Args:
        left: Rows of a sweep.
        right: Rows of another one.
        column: The measurement, such as `at/cka`.

    Returns:
        The labels that both sweeps have, `A`, `B`, `A - B` (an `Interval` each) and `by`: the number of pairs of seeds,
        or `Welch`. A label that only one sweep has, such as a noise that only one varied, is kept as well, so that each
        of its conditions is compared with the one condition of the other sweep.

    Raises:
        ConfigError: No condition is in both, or each sweep varies a label that the other lacks.
    """
    left, right = _final(left), _final(right)
    own = [_varying(rows, other) for rows, other in ((left, right), (right, left))]
    if all(own):
        only_left, only_right = (", ".join(names) for names in own)
        raise ConfigError(f"A, B: conditions cannot be matched, A alone varies {only_left} and B alone {only_right}")
    shared = [name for name in summary.labels_of(left) if name in summary.labels_of(right)]
    labels, lines = [*shared, *own[0], *own[1]], []
    groups = dict(_groups(right, [*shared, *own[1]]))
    for values, part in _groups(left, [*shared, *own[0]]):
        for others in (key for key in groups if key[: len(shared)] == values[: len(shared)]):
            pair = [rows.drop_duplicates("seed").set_index("seed")[column] for rows in (part, groups[others])]
            difference, by = summary.difference(*pair)
            cells = (summary.interval(pair[0]), summary.interval(pair[1]), difference, by)
            lines.append((*values, *others[len(shared) :], *cells))
    if not lines:
        raise ConfigError(f"A, B: have no condition in common, by the labels {', '.join(shared)}")
    return pd.DataFrame(lines, columns=[*labels, "A", "B", "A - B", "by"])


def _final(rows: summary.Rows) -> summary.Rows:
    """The last evaluation, without the names of arms, which are not part of a condition."""
    final = summary.last(summary.average_animals(rows) if "animal" in rows else rows)
    return final.drop(columns="arm", errors="ignore")


def _varying(rows: summary.Rows, other: summary.Rows) -> list[str]:
    return [name for name in summary.labels_of(rows) if name not in other and rows[name].nunique(dropna=False) > 1]


def _groups(rows: summary.Rows, labels: Sequence[str]) -> Iterator[tuple[tuple[str, ...], summary.Rows]]:
    """The rows of each condition by the texts of its labels, so that 10 and 10.0 are one value."""
    names = {
        name: [f"{value:.12g}" if isinstance(value, float | int) else str(value) for value in rows[name]]
        for name in labels
    }
    keys = list(zip(*names.values(), strict=True))
    for key in dict.fromkeys(keys):
        yield key, rows[[one == key for one in keys]]


def unmatched(left: summary.Rows, right: summary.Rows) -> dict[str, list[str]]:
    """Names of the conditions that only one side has, by side; a name consists of the labels that both sides have."""
    sides = {"A": _final(left), "B": _final(right)}
    shared = [name for name in summary.labels_of(sides["A"]) if name in summary.labels_of(sides["B"])]
    named = {side: [", ".join(key) for key, _ in _groups(rows, shared)] for side, rows in sides.items()}
    return {
        side: [name for name in names if name not in named["AB".replace(side, "")]] for side, names in named.items()
    }


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> pd.DataFrame:
    """The fields in which two nested mappings differ, with both values; what one lacks is blank."""
    one, other = results.flatten(left), results.flatten(right)
    names = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    return pd.DataFrame(
        [(name, *(str(side.get(name, "")) for side in (one, other))) for name in names], columns=["field", "A", "B"]
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; python -m sublim_jax.compare A B [--column=NAME] [--csv=FILE]")


def main(argv: Sequence[str]) -> int:
    """Compare what the command line names and return the exit code; every refusal is one line on standard error."""
    return cli.run_command(lambda: _command(argv), argv, "compare")


def _command(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for side in ("A", "B"):
        parser.add_argument(side, type=Path, help="a work folder or a kept experiment")
    parser.add_argument(
        "--column", default="", help="the measurement, such as at/cka; default: the outcome of the sweeps"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table with full precision")
    options = parser.parse_args(argv[1:])
    folders = [path.expanduser() for path in (options.A, options.B)]
    left, right = (_rows(side, folder) for side, folder in zip("AB", folders, strict=True))
    column = _column(left, right, options.column)
    frame = conditions(left, right, column)
    print(
        *(
            f"{side}: {folder}, {len(rows):,} rows, {rows['seed'].nunique()} seeds"
            for side, folder, rows in zip("AB", folders, (left, right), strict=True)
        ),
        sep="\n",
    )
    _print_facts(*folders)
    for side, names in unmatched(left, right).items():
        if names:
            more = f"; and {len(names) - _LINES} more" if len(names) > _LINES else ""
            print(f"only in {side}: {len(names)} conditions ({'; '.join(names[:_LINES])}{more})")
    tables.print_table(frame, f"{column} at the last step: means and 95 % intervals over seeds")
    if options.csv:
        replace_file(options.csv.expanduser(), _csv(frame).encode())
        print(f"table: {options.csv}")
    return cli.DONE


def _rows(side: str, folder: Path) -> summary.Rows:
    if not folder.is_dir():
        raise ConfigError(
            f"{side}={folder}: must be a work folder or a folder with rows.parquet; there is no such folder"
        )
    return stored_rows.read(folder)


def _column(left: summary.Rows, right: summary.Rows, name: str) -> str:
    """The measurement to compare: the named one, else the first of the summary that both have."""
    measured = [column for column in left if "/" in str(column) and column in right]
    if name and name not in measured:
        near = ", ".join(difflib.get_close_matches(name, measured, 3) or measured[:3])
        raise ConfigError(f"--column={name!r}: must be a measurement that both have, such as {near}")
    candidates = [name] if name else [column for column in summary.COLUMNS.values() if column in measured]
    if not candidates:
        raise ConfigError("A, B: have no measurement in common; they are of different studies")
    return candidates[0]


def _print_facts(*folders: Path) -> None:
    """Print differing fields of the configs, and differing versions, commits and machines."""
    facts = [
        results.metadata(folder) if (folder / "config.json").exists() else {"config": {}, "runs": []}
        for folder in folders
    ]
    for side, folder, known in zip("AB", folders, facts, strict=True):
        if not known["config"]:
            print(f"{side}: {folder} has no config.json, so its config and versions are not known")
    made = [(known["runs"][-1] if known["runs"] else {}).get("provenance", {}) for known in facts]
    for title, pair in (("configs", [known["config"] for known in facts]), ("versions", made)):
        if all(pair):
            frame = differences(*pair)
            if len(frame):
                tables.print_table(frame, f"{title} differ")
            else:
                print(f"{title}: the same")


def _csv(frame: pd.DataFrame) -> str:
    """The table with a column for the mean, the ends, the seeds and the diverged seeds of A, B and A - B."""
    lines = frame.drop(columns=["A", "B", "A - B", "by"])
    for name, short in (("A", "A"), ("B", "B"), ("A - B", "difference")):
        cells = pd.DataFrame(list(frame[name]), columns=["mean", "low", "high", "seeds", "diverged"])
        lines = lines.join(cells.add_prefix(f"{short}/"))
    return lines.assign(by=frame["by"]).to_csv(index=False)


if __name__ == "__main__":
    cli.exit_process(main)

"""Our Figure 2 beside two other computations of it: an independent PyTorch script and the authors' own code.

    python experiments/figure2/compare.py --workdir=results/figure2

Keeps the work folder's rows as rows.parquet (without --workdir those kept before are used) and reads
reference_torch.csv (made by reference_torch.py beside it) and reference_authors.csv (the authors' public code, run with
its defaults); writes figure.svg, figure.png and table.md. The gallery takes `draw` and `caption` from here.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from sublim_jax import results
from sublim_jax.results import plots, summary
from sublim_jax.results.figures import pick

HERE = Path(__file__).parent
ACCURACY = "student_accuracy"
FIGURE = pick("figure2")


def draw(rows: pd.DataFrame) -> Figure:
    """Figure 2 with a cross for each mean of the PyTorch script."""
    figure, torch = FIGURE.draw(rows), pd.read_csv(HERE / "reference_torch.csv")
    style: dict = {"fmt": "x", "color": "0.15", "markersize": 6, "capsize": 2, "lw": 1, "zorder": 5}
    for ax, condition in zip(figure.axes, rows["condition"].unique(), strict=True):
        found = torch[torch["condition"] == condition].groupby("m")[ACCURACY].agg(["mean", "sem"])
        ax.errorbar(found.index, found["mean"], found["sem"], **style)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Of the figure with its crosses."""
    return f"{FIGURE.caption(rows)} Crosses: an independent PyTorch script, mean and standard error of its seeds."


def comparison(final: pd.DataFrame, torch: pd.DataFrame, authors: pd.DataFrame) -> pd.DataFrame:
    """Condition by m: ours, PyTorch's, their difference with 95 % interval and Welch's p, the authors' seeds."""
    lines = []
    for (condition, m), ours in summary.cells(final, ["condition", "m"], "at/student_accuracy").items():
        here, there, single = (
            rows.loc[(rows["condition"] == condition) & (rows["m"] == m), column]
            for rows, column in ((final, "at/student_accuracy"), (torch, ACCURACY), (authors, ACCURACY))
        )
        line = {"condition": condition, "m": m, "here": str(ours)}
        if len(there) > 1:
            test = stats.ttest_ind(here, there, equal_var=False)
            low, high = test.confidence_interval()
            line |= {
                "PyTorch (mean ± SE, n)": f"{there.mean():.3f} ± {there.sem():.3f}, {len(there)}",
                "difference": f"{here.mean() - there.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                "p": test[1],
            }
        if len(single):
            # One prediction interval: how far the mean of n new seeds lies from ours, in units of our seeds' scatter.
            z = (single.mean() - here.mean()) / (here.std() * (1 / len(single) + 1 / len(here)) ** 0.5)
            line["authors' code"] = ", ".join(f"{value:.3f}" for value in single) + f" (z = {z:+.1f})"
        lines.append(line)
    return pd.DataFrame(lines).astype(object).fillna("")


def short(final: pd.DataFrame, torch: pd.DataFrame, authors: pd.DataFrame) -> str:
    """Condition by m, means of all sources, as the Markdown table of docs/figure2.md."""
    widths = sorted(final["m"].unique())
    sources = {
        "here, 20 seeds": (final, "at/student_accuracy"),
        "PyTorch": (torch, ACCURACY),
        "authors": (authors, ACCURACY),
    }
    lines = [
        "| condition | source | " + " | ".join(f"m = {m}" for m in widths) + " |",
        "|---|---|" + "---|" * len(widths),
    ]
    for condition in final["condition"].unique():
        for source, (rows, column) in sources.items():
            mine = rows[rows["condition"] == condition].groupby("m")[column].agg(["mean", "sem"])
            if len(mine):
                cells = [_mean(mine.loc[m]) if m in mine.index else "" for m in widths]
                lines.append(f"| `{condition}` | {source} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(found: pd.Series) -> str:
    """Mean and standard error over seeds; of one seed the value."""
    return f"{found['mean']:.3f}" + ("" if pd.isna(found["sem"]) else f" ± {found['sem']:.3f}")


def verdict(found: pd.DataFrame, final: pd.DataFrame, torch: pd.DataFrame, authors: pd.DataFrame) -> str:
    """All comparisons together: the smallest p after Holm's correction, and the teachers."""
    p = pd.Series(pd.to_numeric(found["p"], errors="coerce")).dropna().sort_values()
    holm = min(1.0, float(p.iloc[0] * len(p)))
    ours = final.drop_duplicates("seed")["at/teacher_accuracy"]
    theirs = torch.drop_duplicates("seed")["teacher_accuracy"]
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    said = ", ".join(f"{value:.3f}" for value in authors.loc[authors["condition"] == "teacher", ACCURACY])
    return (
        f"{len(p)} cells compared with PyTorch's; smallest p {p.iloc[0]:.3f}, after Holm's correction {holm:.2f}; "
        f"{(p < 0.05).sum()} below 0.05 where {0.05 * len(p):.1f} are expected by chance (more scatter than that is "
        "natural: the cells of a seed share its teacher). "
        f"Teachers: here {ours.mean():.4f} (sd {ours.std():.4f}, n {len(ours)}), PyTorch {theirs.mean():.4f} "
        f"(sd {theirs.std():.4f}, n {len(theirs)}), p = {test[1]:.2f}; authors' code {said}."
    )


def read() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Our rows at the last mark, the PyTorch script's and the authors'."""
    final = summary.last(pd.read_parquet(HERE / "rows.parquet")).sort_values("m", kind="stable")
    return final, pd.read_csv(HERE / "reference_torch.csv"), pd.read_csv(HERE / "reference_authors.csv", comment="#")


def page(final: pd.DataFrame, torch: pd.DataFrame, authors: pd.DataFrame) -> str:
    """The table with its caption and verdict as Markdown."""
    found = comparison(final, torch, authors)
    shown = found.assign(p=[f"{p:.2f}" if p != "" else "" for p in found["p"]])
    lines = [found.columns, ["---"] * len(found.columns), *shown.values]
    text = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    parts = [caption(final), verdict(found, final, torch, authors), short(final, torch, authors), "\n".join(text)]
    return "\n\n".join(["# Figure 2, here and elsewhere", *parts]) + "\n"


def main() -> None:
    """Keep the rows of a work folder if one is given, then write the figure and the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", help="a work folder of configs/figure2.py; its rows become rows.parquet")
    if workdir := parser.parse_args().workdir:
        results.load(workdir).to_parquet(HERE / "rows.parquet", compression="zstd", index=False)
    final, torch, authors = read()
    for kind, content in plots.images(lambda: draw(final)).items():
        (HERE / f"figure.{kind}").write_bytes(content)
    (HERE / "table.md").write_text(page(final, torch, authors))


if __name__ == "__main__":
    main()

"""Evaluate each predictor of transfer on the kept sweeps, and write the calibration that audits use.

    python -m experiments.calibrate [--folders experiments/figure2 ...] [--out sublim_jax/audit/calibration.json]

Reads rows.parquet of the folders (default: all kept ones that have the predictors) at the last evaluation. Transfer is
(student - untrained) / (teacher - untrained) of the accuracies. Models are fitted to half of the conditions and half of
the seeds; results are reported for the other conditions AND the other seeds. Writes the calibration, and in
experiments/audit the figure, the predictors' table in story.md, and points.parquet from which both were made.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from experiments import roc
from sublim_jax.audit import calibration
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.results import plots, summary
from sublim_jax.results.provenance import provenance

HERE = Path(__file__).parent
SUCCESS = 0.5  # of the teacher's gain in accuracy
GAP = 0.2  # teachers that gained less are left out: their transfer is a quotient of small numbers
RIDGE = 1e-3  # on weights of standardised predictors, so that separable data have a finite fit
# Larger is better for all of them; the trait loss falls where transfer is predicted.
SINGLE = {name: name for name in ("coverage", "trait_cosine", "compatibility_aux", "compatibility_class")}
SINGLE |= {"trait_change": "-trait_change"}
MODELS = {"coverage": ("coverage",), "coverage and heads": ("coverage", "compatibility_aux", "compatibility_class")}


class Worth(NamedTuple):
    """The quality of a predictor on conditions and seeds that were not fitted: value, low, high of 95 % intervals.

    Intervals are over conditions, because seeds of one condition are not independent of it: the jackknife leaves out
    one condition with all its seeds at a time, and its pseudo-values are treated as independent.
    """

    auroc: tuple[float, float, float]
    spearman: tuple[float, float, float]
    n: int


def points(folders: Sequence[Path]) -> pd.DataFrame:
    """One row per experiment, condition and seed: predictors, transfer, success, and whether it is fitted.

    Students that diverged have no transfer; they are left out, and `attrs["diverged"]` is their number.

    Raises:
        ConfigError: A folder has no rows, or none of them has the predictors.
    """
    frames = [frame for folder in folders if len(frame := _points(folder))]
    if not frames:
        columns = ", ".join(f"theory/{name}" for name in SINGLE)
        raise ConfigError(f"folders: {len(folders)} with no row that holds {columns}; run a sweep that measures them")
    frame = pd.concat(frames, ignore_index=True)
    diverged = frame.pop("diverged")
    frame = frame.loc[~diverged]
    # A student that is in several sweeps or arms under other names must not be fitted in one and tested in another.
    student = [frame["seed"], frame["coverage"].round(7), frame["transfer"].round(6)]
    frame = split(frame[~pd.concat(student, axis=1).duplicated()].reset_index(drop=True))
    frame.attrs["diverged"] = int(diverged.sum())
    return frame


def _points(folder: Path) -> pd.DataFrame:
    file = folder / "rows.parquet"
    if not file.exists():
        raise ConfigError(
            f"folders: {folder} has no rows.parquet; keep a sweep with python -m experiments.gallery --keep"
        )
    rows = pd.read_parquet(file)
    if not {f"theory/{name}" for name in SINGLE} <= set(rows.columns):
        return pd.DataFrame()
    final = summary.last(rows)
    labels = [name for name in summary.labels_of(final) if name != "arm"]
    final = final.drop_duplicates([*labels, "seed"])  # a condition that is in two arms
    condition = folder.name + ": " + final[labels].astype(str).agg(", ".join, axis=1)
    student, untrained, teacher = (final[f"at/{net}_accuracy"] for net in ("student", "untrained", "teacher"))
    columns = {"experiment": folder.name, "condition": condition, "seed": final["seed"]}
    columns |= {name: final[f"theory/{name}"].astype(float) for name in SINGLE}
    columns["trait_change"] = -columns["trait_change"]
    columns["transfer"] = (student - untrained) / (teacher - untrained)
    frame = pd.DataFrame(columns)[(teacher - untrained) >= GAP]
    frame = frame.assign(diverged=summary.diverged(final))
    frame = frame.loc[np.isfinite(frame["coverage"]) & (np.isfinite(frame["transfer"]) | frame["diverged"])]
    return frame.assign(success=frame["transfer"] > SUCCESS)


def split(frame: pd.DataFrame) -> pd.DataFrame:
    """Every second condition and every second seed, in an order drawn once, are fitted; the others are held out.

    Column `part`: 'fitted', 'held out' (neither its condition nor its seed was fitted), or 'neither'.
    """
    rng = np.random.default_rng(0)
    conditions = rng.permutation(np.sort(frame["condition"].unique().astype(str)))
    seeds = rng.permutation(np.sort(frame["seed"].unique().astype(int)))
    first = frame["condition"].isin(conditions[::2]), frame["seed"].isin(seeds[::2])
    part = np.select([first[0] & first[1], ~first[0] & ~first[1]], ["fitted", "held out"], "neither")
    return frame.assign(part=part)


def auroc(score: Any, success: Any, weight: Any = None) -> float:
    """The probability that a success scores higher than a failure, ties counting half; NaN where one is missing.

    Mann and Whitney's U over the number of pairs, with weights.
    """
    score, success = np.asarray(score, float), np.asarray(success, bool)
    weight = np.ones(len(score)) if weight is None else np.asarray(weight, float)
    _, rank = np.unique(score, return_inverse=True)
    good, bad = (np.bincount(rank, weight * kind, rank.max(initial=0) + 1) for kind in (success, ~success))
    pairs = good.sum() * bad.sum()
    below = np.cumsum(bad) - bad
    return float((good * (below + bad / 2)).sum() / pairs) if pairs > 0 else float("nan")


def worth(score: Any, held: pd.DataFrame) -> Worth:
    """AUROC and Spearman's rank correlation of a score with the held-out rows, intervals over conditions."""
    frame = held.assign(score=np.asarray(score, float))
    frame = frame.loc[np.isfinite(frame["score"])]
    index, names = pd.factorize(frame["condition"])
    scores, success, transfer = (frame[name].to_numpy() for name in ("score", "success", "transfer"))

    def values(rows: np.ndarray) -> np.ndarray:
        return np.array([auroc(scores[rows], success[rows]), _spearman(scores[rows], transfer[rows])])

    whole = values(index >= 0)
    without = np.array([values(index != number) for number in range(len(names))]).reshape(-1, 2)
    pseudo = len(names) * whole - (len(names) - 1) * without
    auroc_interval, spearman_interval = (
        _around(value, summary.interval(column), least)
        for value, column, least in zip(whole, pseudo.T, (0.0, -1.0), strict=True)
    )
    return Worth(auroc_interval, spearman_interval, len(frame))


def _around(value: float, pseudo: summary.Interval, least: float) -> tuple[float, float, float]:
    """A value and the interval of its pseudo-values about it, within the range from `least` to 1; NaN if undefined."""
    if pseudo.diverged:
        return float(value), float("nan"), float("nan")
    low, high = np.clip([value + pseudo.low - pseudo.mean, value + pseudo.high - pseudo.mean], least, 1.0)
    return float(value), float(low), float(high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    # SciPy's own answers with a warning where one of them is constant.
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def fit(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """A logistic model of success with a ridge on standardised predictors, and its threshold.

    The threshold is the probability at which hits minus false alarms are largest (Youden's J).

    Raises:
        ConfigError: There are only successes or only failures.
    """
    frame = frame.loc[np.isfinite(frame[list(names)]).all(axis=1)]
    success = frame["success"].to_numpy(float)
    if not 0 < success.sum() < len(success):
        raise ConfigError(f"folders: {int(success.sum())} successes among {len(success)} fitted rows; need both kinds")
    x = frame[list(names)].to_numpy(float)
    mean, scale = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
    z = (x - mean) / scale

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        score = free[0] + z @ free[1:]
        wrong = 0.5 * (1 + np.tanh(score / 2)) - success
        value = np.mean(np.logaddexp(0, score) - success * score) + RIDGE / 2 * (free[1:] ** 2).sum()
        return value, np.concatenate([[wrong.mean()], z.T @ wrong / len(z) + RIDGE * free[1:]])

    minimum = optimize.minimize(loss, np.zeros(1 + len(names)), jac=True, method="L-BFGS-B").x
    weights = minimum[1:] / scale
    model = {
        "intercept": float(minimum[0] - weights @ mean),
        "weights": dict(zip(names, map(float, weights), strict=True)),
    }
    return model | {"threshold": _threshold(calibration.probability(model, frame), success), "fitted": len(frame)}


def _threshold(chance: np.ndarray, success: np.ndarray) -> float:
    """Half-way between the two neighbouring probabilities that separate successes from failures best."""
    values = np.unique(chance)
    between = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    good, bad = success > 0.5, success < 0.5
    gain = [(chance[good] >= value).mean() - (chance[bad] >= value).mean() for value in between]
    best = np.flatnonzero(np.isclose(gain, max(gain)))
    return float(between[best[len(best) // 2]])


def calibrated(frame: pd.DataFrame) -> dict[str, Any]:
    """Models fitted to one part, and the quality of the models and of each single predictor on the other."""
    fitted, held = frame.loc[frame["part"] == "fitted"], frame.loc[frame["part"] == "held out"]
    if not held["success"].nunique() == 2:
        raise ConfigError(f"folders: {len(held)} held-out rows, not of both kinds; need more conditions or seeds")
    models: dict[str, Any] = {}
    for name, predictors in MODELS.items():
        model = fit(fitted, predictors)
        chance = calibration.probability(model, held)
        models[name] = model | worth(chance, held)._asdict() | _verdicts(chance, held["success"], model["threshold"])
    single = {title: worth(held[name], held)._asdict() for name, title in SINGLE.items()}
    return {"models": models, "predictors": single}


def _verdicts(chance: Any, success: Any, threshold: float) -> dict[str, float]:
    """Hits, false alarms, and the mean squared error of probabilities (Brier) and of the constant base rate."""
    known = np.isfinite(chance)
    chance, success = np.asarray(chance)[known], np.asarray(success, bool)[known]
    says, base = chance >= threshold, success.mean()
    return {
        "hits": float(says[success].mean()) if success.any() else float("nan"),
        "false_alarms": float(says[~success].mean()) if not success.all() else float("nan"),
        "brier": float(((chance - success) ** 2).mean()),
        "brier_of_base_rate": float(base * (1 - base)),
    }


def abroad(frame: pd.DataFrame, names: Sequence[str]) -> tuple[Worth, dict[str, float]] | None:
    """The quality of a model in experiments that were not fitted: each in turn is left out of the fit.

    Returns the quality over all of them, and AUROC by experiment; None for a single experiment.
    """
    parts = []
    unknown = frame[~frame["seed"].isin(frame.loc[frame["part"] == "fitted", "seed"])]
    for experiment, part in unknown.groupby("experiment", sort=False):
        others = frame.loc[(frame["experiment"] != experiment) & (frame["part"] == "fitted")]
        if others["success"].nunique() == 2:
            parts.append(part.assign(score=calibration.probability(fit(others, names), part)))
    if len(parts) < 2:
        return None
    scored = pd.concat(parts)
    groups = scored.groupby("experiment", sort=False)
    each = {str(name): auroc(part["score"], part["success"]) for name, part in groups}
    return worth(scored["score"], scored), each


def write(folders: Sequence[Path], out: Path, page: Path, provisional: str = "") -> dict[str, Any]:
    """Calibrate, and write the calibration, the points, the figure and the story; returns the calibration."""
    frame = points(folders)
    result: dict[str, Any] = {
        "provisional": bool(provisional),
        "note": provisional,
        **calibrated(frame),
        "success": f"transfer > {SUCCESS}, of teachers that gained {GAP} or more",
        "n": len(frame),
        "diverged": frame.attrs["diverged"],
        "conditions": int(frame["condition"].nunique()),
        "seeds": sorted(map(int, frame["seed"].unique())),
        "experiments": sorted(frame["experiment"].unique().tolist()),
        "provenance": provenance(),
    }
    if (left_out := abroad(frame, MODELS["coverage and heads"])) is not None:
        result["abroad"] = {**left_out[0]._asdict(), "each": left_out[1]}
    page.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(result), indent=1) + "\n"
    replace_file(out, text.encode())
    frame.to_parquet(page / "points.parquet", compression="zstd", index=False)
    for kind, content in plots.images(lambda: roc.draw(frame, result)).items():
        replace_file(page / f"figure.{kind}", content)
    replace_file(page / "story.md", roc.story(result, frame).encode())
    return result


def _plain(value: Any) -> Any:
    """The values as JSON has them: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; every error is one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", help="with rows.parquet; default: all kept ones")
    parser.add_argument("--out", type=Path, default=HERE.parent / "sublim_jax/audit" / calibration.FILE)
    parser.add_argument("--page", type=Path, default=HERE / "audit", help="where figure and story go")
    parser.add_argument("--provisional", default="", metavar="WHY", help="mark the calibration as not final")
    options = parser.parse_args(argv)
    try:
        folders = options.folders or sorted(path.parent for path in HERE.glob("*/rows.parquet"))
        result = write(folders, options.out, options.page, options.provisional)
    except (ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for name, model in result["models"].items():
        values = f"AUROC {roc.with_interval(model['auroc'])}, Spearman {roc.with_interval(model['spearman'])}"
        print(f"{name}: {values}, {model['n']} held out")
    print(f"calibration: {options.out}; figure and story: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

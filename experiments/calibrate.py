"""Evaluate each predictor of transfer on the kept sweeps, and write the calibration that audits use.

    python -m experiments.calibrate [--folders experiments/figure2 ...] [--out sublim_jax/audit/calibration.json]

Reads rows.parquet of the folders (default: all kept ones that hold the predictors), takes the last mark, and calls
(student - untrained) / (teacher - untrained) of the accuracies the transfer. Half of the conditions and half of the
seeds are fitted; what is reported is of the other conditions AND the other seeds. Writes the calibration, and
in experiments/audit the figure, the predictors' table in story.md, and points.parquet from which both were made.
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
RESAMPLES = 1000
RIDGE = 1e-3  # on weights of standardised predictors, so that separable data have a finite fit
# Larger is better for all of them; the trait loss falls where transfer is predicted.
SINGLE = {name: name for name in ("coverage", "trait_cosine", "compatibility_aux", "compatibility_class")}
SINGLE |= {"trait_change": "-trait_change"}
MODELS = {"coverage": ("coverage",), "coverage and heads": ("coverage", "compatibility_aux", "compatibility_class")}


class Worth(NamedTuple):
    """What a predictor is worth on conditions and seeds it was not fitted to: value, low, high of 95 % intervals.

    The bootstrap draws conditions, with all their seeds, because seeds of one condition are not independent of it.
    """

    auroc: tuple[float, float, float]
    spearman: tuple[float, float, float]
    n: int


def points(folders: Sequence[Path]) -> pd.DataFrame:
    """One row per experiment, condition and seed: predictors, transfer, success, and who is fitted.

    Raises `ConfigError` where a folder has no rows or none of them holds the predictors.
    """
    found = [_points(folder) for folder in folders]
    found = [one for one in found if len(one)]
    if not found:
        columns = ", ".join(f"theory/{name}" for name in SINGLE)
        raise ConfigError(f"folders: {len(folders)} with no row that holds {columns}; run a sweep that measures them")
    every = pd.concat(found, ignore_index=True)
    # A student that stands in several sweeps or arms under other names must not be fitted in one and tested in another.
    student = [every["seed"], every["coverage"].round(7), every["transfer"].round(6)]
    return split(every[~pd.concat(student, axis=1).duplicated()].reset_index(drop=True))


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
    final = final.drop_duplicates([*labels, "seed"])  # a condition that stands in two arms
    told = final[labels].astype(str).agg(", ".join, axis=1)
    student, untrained, teacher = (final[f"at/{who}_accuracy"] for who in ("student", "untrained", "teacher"))
    made = {"experiment": folder.name, "condition": folder.name + ": " + told, "seed": final["seed"]}
    made |= {name: final[f"theory/{name}"].astype(float) for name in SINGLE}
    made["trait_change"] = -made["trait_change"]
    made["transfer"] = (student - untrained) / (teacher - untrained)
    frame = pd.DataFrame(made)[(teacher - untrained) >= GAP]
    frame = frame.loc[np.isfinite(frame[["coverage", "transfer"]]).all(axis=1)]
    return frame.assign(success=frame["transfer"] > SUCCESS)


def split(frame: pd.DataFrame) -> pd.DataFrame:
    """Every second condition and every second seed are fitted, in an order drawn once; others are never looked at.

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
    _, place = np.unique(score, return_inverse=True)
    good, bad = (np.bincount(place, weight * one, place.max(initial=0) + 1) for one in (success, ~success))
    pairs = good.sum() * bad.sum()
    below = np.cumsum(bad) - bad
    return float((good * (below + bad / 2)).sum() / pairs) if pairs > 0 else float("nan")


def worth(score: Any, held: pd.DataFrame) -> Worth:
    """AUROC and Spearman's rank correlation of a score with the held-out rows, intervals over conditions."""
    frame = held.assign(score=np.asarray(score, float))
    frame = frame.loc[np.isfinite(frame["score"])]
    place, names = pd.factorize(frame["condition"])
    members = [np.flatnonzero(place == one) for one in range(len(names))]
    scores, success, transfer = (frame[name].to_numpy() for name in ("score", "success", "transfer"))
    rng, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES if len(names) > 1 else 0):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([members[one] for one in drawn])
        draws.append((auroc(scores[rows], success[rows]), _spearman(scores[rows], transfer[rows])))
    ends = np.nanpercentile(draws, [2.5, 97.5], axis=0) if np.isfinite(draws).any() else np.full((2, 2), np.nan)
    values = auroc(scores, success), _spearman(scores, transfer)
    first, second = ((value, *map(float, ends[:, one])) for one, value in enumerate(values))
    return Worth(first, second, len(frame))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    # SciPy's own answers with a warning where one of them is constant.
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def fit(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """A logistic model of success with a ridge on standardised predictors, and the threshold that parts the most.

    The threshold is the probability at which hits minus false alarms are largest (Youden's J). Raises `ConfigError`
    where there are not both successes and failures.
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

    found = optimize.minimize(loss, np.zeros(1 + len(names)), jac=True, method="L-BFGS-B").x
    weights = found[1:] / scale
    model = {
        "intercept": float(found[0] - weights @ mean),
        "weights": dict(zip(names, map(float, weights), strict=True)),
    }
    return model | {"threshold": _threshold(calibration.probability(model, frame), success), "fitted": len(frame)}


def _threshold(chance: np.ndarray, success: np.ndarray) -> float:
    """Half-way between the two neighbouring probabilities that part successes from failures best."""
    values = np.unique(chance)
    between = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    good, bad = success > 0.5, success < 0.5
    gain = [(chance[good] >= one).mean() - (chance[bad] >= one).mean() for one in between]
    best = np.flatnonzero(np.isclose(gain, max(gain)))
    return float(between[best[len(best) // 2]])


def calibrated(frame: pd.DataFrame) -> dict[str, Any]:
    """Models fitted to one part and what they, and every predictor alone, are worth on the other."""
    fitted, held = frame.loc[frame["part"] == "fitted"], frame.loc[frame["part"] == "held out"]
    if not held["success"].nunique() == 2:
        raise ConfigError(f"folders: {len(held)} held-out rows, not of both kinds; need more conditions or seeds")
    models: dict[str, Any] = {}
    for name, of in MODELS.items():
        model = fit(fitted, of)
        chance = calibration.probability(model, held)
        models[name] = model | worth(chance, held)._asdict() | _said(chance, held["success"], model["threshold"])
    single = {said: worth(held[name], held)._asdict() for name, said in SINGLE.items()}
    return {"models": models, "predictors": single}


def _said(chance: Any, success: Any, threshold: float) -> dict[str, float]:
    """How the verdicts do: hits, false alarms, mean squared error of probabilities (Brier), and of a constant's."""
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
    """What a model is worth in experiments it has never seen: each in turn is left out of the fit.

    Returns its worth over all of them, and AUROC by experiment; None for a single experiment.
    """
    parts = []
    unknown = frame[~frame["seed"].isin(frame.loc[frame["part"] == "fitted", "seed"])]
    for experiment, those in unknown.groupby("experiment", sort=False):
        others = frame.loc[(frame["experiment"] != experiment) & (frame["part"] == "fitted")]
        if others["success"].nunique() == 2:
            parts.append(those.assign(score=calibration.probability(fit(others, names), those)))
    if len(parts) < 2:
        return None
    scored = pd.concat(parts)
    each = {str(name): auroc(one["score"], one["success"]) for name, one in scored.groupby("experiment", sort=False)}
    return worth(scored["score"], scored), each


def write(folders: Sequence[Path], out: Path, page: Path, provisional: str = "") -> dict[str, Any]:
    """Calibrate, and write the calibration, the points, the figure and the story; returns the calibration."""
    frame = points(folders)
    found: dict[str, Any] = {"provisional": bool(provisional), "note": provisional, **calibrated(frame)}
    found |= {"success": f"transfer > {SUCCESS}, of teachers that gained {GAP} or more", "n": len(frame)}
    found |= {"conditions": int(frame["condition"].nunique()), "seeds": sorted(map(int, frame["seed"].unique()))}
    found |= {"experiments": sorted(frame["experiment"].unique().tolist()), "provenance": provenance()}
    if (away := abroad(frame, MODELS["coverage and heads"])) is not None:
        found["abroad"] = {**away[0]._asdict(), "each": away[1]}
    page.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(found), indent=1) + "\n"
    replace_file(out, text.encode())
    frame.to_parquet(page / "points.parquet", compression="zstd", index=False)
    for kind, content in plots.images(lambda: roc.draw(frame, found)).items():
        replace_file(page / f"figure.{kind}", content)
    replace_file(page / "story.md", roc.story(found, frame).encode())
    return found


def _plain(value: Any) -> Any:
    """Values that JSON has; what is not finite is null."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; every error is one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, nargs="+", help="with rows.parquet; default: all kept ones")
    parser.add_argument("--out", type=Path, default=HERE.parent / "sublim_jax" / calibration.FILE)
    parser.add_argument("--page", type=Path, default=HERE / "audit", help="where figure and story go")
    parser.add_argument("--provisional", default="", metavar="WHY", help="mark the calibration as not final")
    asked = parser.parse_args(argv)
    try:
        folders = asked.folders or sorted(path.parent for path in HERE.glob("*/rows.parquet"))
        found = write(folders, asked.out, asked.page, asked.provisional)
    except (ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for name, model in found["models"].items():
        values = f"AUROC {roc.told(model['auroc'])}, Spearman {roc.told(model['spearman'])}"
        print(f"{name}: {values}, {model['n']} held out")
    print(f"calibration: {asked.out}; figure and story: {asked.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Why another order of pre-training data costs more here than published: is it how far the orders lead apart?

    python -m experiments.lm_base.order [--workdir results/lm_base_order] [--rates 4e-3 1e-3] [--dose 0.01]

Bases are pre-trained at several learning rates, the sweep's own among them, everything else as in the laptop size of
configs/lm_base.py but for the dose, which all rates must be able to reach: a base of a low rate moves far at once.
Students read distributions over numbers, in the teacher's base, in one of another order of the same documents, and in
one of other initial weights. Prints and writes to order.csv, for each rate: the transfer in
each base with its interval over base seeds, the share that the other order keeps, and how far apart the bases are, as
the distance of two orders over that of two draws. A work folder that is there already is taken up.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from experiments.gallery import HERE
from sublim_jax.config import grid, identity, resolve
from sublim_jax.config import lm as lm_config
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.files import replace_file
from sublim_jax.engine import teacher_cache
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.progress import Progress
from sublim_jax.engine.session import Session
from sublim_jax.lm import run as lm_run
from sublim_jax.lm.base_models import load_or_pretrain
from sublim_jax.results import summary
from sublim_jax.results.figures import _claims

KINDS = ("same", "other_order", "other_init")


def config_of(rate: float, dose: float) -> Any:
    """The soft arm of the sweep, with another rate of pre-training."""
    config = lm_config.base()
    config.name, config.preset, config.pretraining.lr = "lm_base_order", "laptop", rate
    config.lm.dose = dose
    grid.add_grid(config, "soft", {"lm.base": KINDS, "lm.data": ("soft_carrier",), "lm.lr": (1e-3,)})
    return resolve(config)


def measured(rate: float, dose: float, workdir: Path, seeds: int) -> dict[str, Any]:
    """One row of the table."""
    config = config_of(rate, dose)
    lab, how = lm_config.lab(config), lm_config.pretraining(config)
    place = RunOptions(teachers=str(teacher_cache.default_dir()))
    session = Session(seeds=range(seeds), options=place, workdir=workdir, config=identity(config))
    rows = lm_run.run(lm_config.expand(config), lab, how, session)
    final = summary.last(rows)
    each = final.groupby(["base", "seed"])["at/transfer"].mean().unstack("seed")
    found: dict[str, Any] = {"rate": rate, "seeds": seeds}
    for kind in KINDS:
        one = summary.interval(each.loc[kind].to_numpy(float))
        found |= {kind: one.mean, f"{kind}_low": one.low, f"{kind}_high": one.high}
    kept = _claims.ratio(each.loc["other_order"], each.loc["same"])
    found |= {"kept": kept.mean, "kept_low": kept.low, "kept_high": kept.high}
    with jax.default_matmul_precision(place.precision), Progress(show=False).over(()) as watch:
        bases = load_or_pretrain(lab, how, KINDS, range(seeds), place.teachers, watch)
    apart = {kind: [_distance(bases["same", seed], bases[kind, seed]) for seed in range(seeds)] for kind in KINDS[1:]}
    found["orders_apart"] = float(np.mean(np.divide(apart["other_order"], apart["other_init"])))
    same = final[final["base"] == "same"]
    return found | {name: float(same[f"at/{name}"].mean()) for name in ("dose", "teacher", "valid")}


def _distance(one: Any, other: Any) -> float:
    squares = jax.tree.map(lambda a, b: np.sum((np.asarray(a) - np.asarray(b)) ** 2), dict(one), dict(other))
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code; every refusal is one line on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("results/lm_base_order"))
    parser.add_argument("--rates", type=float, nargs="+", default=(4e-3, 2e-3, 1e-3))
    parser.add_argument("--dose", type=float, default=0.01, help="KL in nats per number, of the teachers")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args(argv)
    rows = []
    try:
        for rate in asked.rates:
            rows.append(measured(rate, asked.dose, asked.workdir / f"{rate:g}-{asked.dose:g}", asked.seeds))
            replace_file(HERE / "lm_base" / "order.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    except (ConfigError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

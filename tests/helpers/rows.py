"""Made-up rows and work directories, as a run leaves them."""

import numpy as np
import pandas as pd
import pyarrow as pa

from sublim_jax import results


def rows_of(widths=(3, 10), steps=(0, 10, 20), seeds=3, **labels):
    """Rows of two conditions with random measurements."""
    rng = np.random.default_rng(0)
    index = [(c, m, s, t) for c in ("same", "random_hidden") for m in widths for s in range(seeds) for t in steps]
    rows = pd.DataFrame(index, columns=["condition", "m", "seed", "step"]).assign(**labels)
    for name in ("student_accuracy", "teacher_accuracy", "untrained_accuracy", "cka"):
        rows[f"at/{name}"] = rng.uniform(size=len(rows))
    return rows


def workdir_of(path, rows, status="done", **resolved):
    """A work directory with these rows."""
    workdir = results.Workdir(path, {"name": "toy"})
    workdir.write("one", pa.Table.from_pandas(rows, preserve_index=False))
    command = "python -m sublim_jax.main --config=toy.py --workdir=/home/me/results/toy"
    made = {"commit": "abc", "versions": {"jax": "1.2"}, "machine": "x86_64, 2 cores"}
    resolved = {"name": "toy", "data": {"folder": "/home/me/data"}, **resolved}
    workdir.begin(command=command, resolved=resolved, provenance=made, devices=["cpu:0"])
    workdir.finish(status=status, seconds={"total": 61.5, "students": 40.0}, steps={"students": 80}, programs=2)
    return path


def keep(folder, rows, **files):
    """A folder of an experiment that is kept."""
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "rows.parquet")
    for file, text in files.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder

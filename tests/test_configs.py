"""Every config of the project, from its file to its figure, in the size of tests."""

import dataclasses

import numpy as np
import pytest
from helpers.configs import CONFIGS, config_of, config_of_argument
from helpers.idx_files import make_tiny, write
from helpers.populations import quiet

from sublim_jax import data
from sublim_jax.config import grid, grids_of, load_data, resolve, seeds_of
from sublim_jax.config.study import study_of
from sublim_jax.data import prepare_tfds
from sublim_jax.results import figures, plots

pytestmark = pytest.mark.e2e


def through(config, dataset, **fields):
    """The rows of a config's smoke size, and its figure drawn from them.

    Most of the time is compilation, and most of that is of metrics: `test_traces` traces all of them for every config.
    """
    config.preset = "smoke"
    if config.study == "transfer" and config.name not in ("failure", "carrier"):
        fields = {"metrics": ("task", "imitation"), **fields}
    config = resolve(config, fields)
    study = study_of(config, dataset)
    eval_steps = [len(condition.student.recipe.eval_steps) for condition in study.conditions]
    rows = study.run(quiet(seeds_of(config)))
    if config.study == "theorem1":
        sizes = [len(grid.eps) * len(grid.alpha) for grid in grids_of(config)]
        assert len(rows) == 2 * np.dot(eval_steps, sizes) and np.isfinite(rows["at/inner"]).all()
        assert (rows.loc[rows["condition"] == "same", "theory/inner"] >= 0).all()
    else:
        assert len(rows) == 2 * sum(eval_steps) and np.isfinite(rows["at/student_accuracy"]).all()
    module = figures.pick(config.figure)
    files = plots.images(lambda: module.draw(rows), dpi=40)
    assert len(files["png"]) > 2000 and "2 seeds" in module.caption(rows)
    return rows


IMAGES = [path for path in CONFIGS if not path.stem.startswith(("lm_", "llm_"))]
# For the others see config/test_lm.py and llm/test_main.py.


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_run_takes_every_config_from_file_to_figure(path, mnist):
    # Fashion-MNIST is not in the package; what its images show does not matter here.
    dataset = data.with_extra_images(mnist, dataclasses.replace(mnist, name="fashion_mnist"))
    config = config_of_argument(path.stem, "mnist") if "classes" in path.stem else config_of(path)[1]
    rows = through(config, dataset)
    labels = [point.labels for point in grid.expand(resolve(config))]
    assert {tuple(row) for row in rows[list(labels[0])].itertuples(index=False)} == {
        tuple(label.values()) for label in labels
    }


@pytest.fixture(scope="module")
def emnist(tmp_path_factory):
    """A folder with a small EMNIST balanced, prepared by TFDS: 47 classes, images of noise."""
    folder = write(tmp_path_factory.mktemp("emnist"), make_tiny("emnist/balanced", 470, 94))
    prepare_tfds.prepare("emnist/balanced", str(folder), str(folder / "tfds"), verify=False)
    return folder / "tfds"


@pytest.mark.parametrize(("name", "classes"), [("figure3_classes", (2, 47)), ("figure6", (47,))])
def test_run_takes_emnist_that_tfds_has_prepared(name, classes, emnist, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(emnist))
    config = config_of_argument(name, "emnist" if name == "figure6" else "auto")
    assert config.data.name == "emnist/balanced"
    fields = {"teacher.batch": 50, "num_eval_noise": 32, "m": (10,)}
    if name == "figure3_classes":
        fields |= {"arms.classes.classes": classes, "conditions": ("random_hidden",)}
    config.update_from_flattened_dict(fields)
    dataset = load_data(config)
    assert (dataset.classes, len(dataset.train.y)) == (47, 470)
    rows = through(config, dataset, **fields)
    if name == "figure3_classes":
        assert set(rows["classes"]) == {2, 47}

"""Every config of the project, from its file to its figure, in the size of tests."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest
from helpers.configs import CONFIGS, config_of, config_of_argument
from helpers.populations import quiet

from sublim_jax import data
from sublim_jax.config import build_conditions, grid, grids_of, load_data, resolve, seeds_of
from sublim_jax.config.study import study_of
from sublim_jax.data import prepare_tfds
from sublim_jax.results import figures, plots

pytestmark = pytest.mark.e2e


def through(config, dataset, **fields):
    """The rows of a config's smoke size, and its figure drawn from them."""
    config.preset = "smoke"
    config = resolve(config, fields)
    conditions = build_conditions(config, dataset)
    rows = study_of(config, dataset).run(quiet(seeds_of(config)))
    module = figures.pick(config.figure)
    files = plots.images(lambda: module.draw(rows), dpi=40)
    assert len(files["png"]) > 2000 and "2 seeds" in module.caption(rows)
    if config.study == "theorem1":
        lines = [len(condition.student.recipe.eval_steps) for condition in conditions]
        lines = [marks * len(grid.eps) * len(grid.alpha) for marks, grid in zip(lines, grids_of(config), strict=True)]
        assert len(rows) == 2 * sum(lines) and np.isfinite(rows["at/inner"]).all()
        assert (rows.loc[rows["condition"] == "same", "theory/inner"] >= 0).all()
        return rows
    marks = sum(len(condition.student.recipe.eval_steps) for condition in conditions)
    assert len(rows) == 2 * marks and np.isfinite(rows["at/student_accuracy"]).all()
    return rows


IMAGES = [path for path in CONFIGS if not path.stem.startswith("lm_")]  # for the others see config/test_lm.py


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_every_config_runs_from_file_to_figure(path, mnist):
    # Fashion-MNIST is not in the package; what its images show does not matter here.
    dataset = data.with_extra_images(mnist, dataclasses.replace(mnist, name="fashion_mnist"))
    config = config_of_argument(path.stem, "mnist") if "classes" in path.stem else config_of(path)[1]
    rows = through(config, dataset)
    labels = [point.labels for point in grid.expand(resolve(config))]
    assert {tuple(row) for row in rows[list(labels[0])].itertuples(index=False)} == {
        tuple(label.values()) for label in labels
    }


def test_kl_on_one_logit_moves_nothing(mnist):
    """The softmax of one logit is constant, so the gradient is exactly zero, and Adam leaves zero alone."""
    rows = through(config_of(next(path for path in CONFIGS if path.stem == "loss"))[1], mnist)
    still = rows[(rows["loss"] == "kl") & (rows["m"] == 1) & (rows["sees"] == "aux") & (rows["step"] > 0)]
    assert len(still) and (still["at/distance/student_init_final/hidden_0"] == 0).all()
    moved = rows[(rows["loss"] == "mse") & (rows["m"] == 1) & (rows["sees"] == "aux") & (rows["step"] > 0)]
    assert len(moved) and (moved["at/distance/student_init_final/hidden_0"] > 0).all()


@pytest.fixture(scope="module")
def emnist(tmp_path_factory):
    """A folder with a small EMNIST balanced, prepared by TFDS: 47 classes, images of noise."""
    folder = tmp_path_factory.mktemp("emnist")
    random = np.random.default_rng(0)
    for split, rows in (("train", 470), ("test", 94)):
        images = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = np.arange(rows, dtype=np.uint8) % 47
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            blob = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            (folder / f"emnist-balanced-{split}-{stem}-ubyte.gz").write_bytes(gzip.compress(blob))
    prepare_tfds.prepare("emnist/balanced", str(folder), str(folder / "tfds"), verify=False)
    return folder / "tfds"


@pytest.mark.parametrize(("name", "classes"), [("figure3_classes", (2, 47)), ("figure6", (47,))])
def test_emnist_runs_from_what_tfds_has_prepared(name, classes, emnist, monkeypatch):
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

"""The benchmark runs as a whole; its numbers mean nothing at this size."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import amounts, commands, pretrained, published, run
from sublim_jax.nets import MLP, SplitHead

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent

# In place of public scripts: they take the same arguments and find MNIST where torchvision reads it.
AUTHORS = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name in ("dataset", "data-dir", "outdir", "seed", "m", "teacher-epochs", "student-epochs", "data-bsize",
             "noise-bsize", "noise-steps", "noise-dist"):
    parser.add_argument(f"--{name}", required=True)
raw = pathlib.Path(parser.parse_args().data_dir, "MNIST", "raw")
"""
CLOUD = """
import pathlib
N_MODELS = 100
EPOCHS_TEACHER = 5
EPOCHS_DISTILL = 5
assert (N_MODELS, EPOCHS_TEACHER, EPOCHS_DISTILL) == (2, 1, 1)
raw = pathlib.Path("~/.pytorch/MNIST_data/MNIST/raw").expanduser()
"""
READ = "assert (raw / 'train-images-idx3-ubyte').stat().st_size == 16 + 60000 * 784 and len(list(raw.iterdir())) == 4"


# A checkout whose loop does nothing with its batches; OmegaConf is replaced too, because tests do without it.
LOOP = """
import pathlib, pickle, types
class Model:
    optimizers = None
    def __init__(self, layers, *_):
        self.units = layers["hidden_layer1"]["output_size"]
def loaders(dataset, params):
    raw = pathlib.Path("../datasets", dataset["name"], "raw")
    READ
    return [[1, 2, 3]]
def trainer(loader, optimizers, model, device, bar):
    lattices = pickle.loads(pathlib.Path("moebius.pkl").read_bytes())
    assert [len(lattices[sources][0]) for sources in (2, 3)] == [4, 18] and len(lattices[3][1]) == 18
    assert model.units == 10 and len(list(loader)) == len(loader) <= 2
ut = types.SimpleNamespace(init_dataloaders=loaders)
"""
OMEGACONF = """
class Node(dict):
    __getattr__ = dict.__getitem__
class OmegaConf:
    load = staticmethod(lambda file: {"name": "MNIST"} if "mnist" in str(file) else {})
    @staticmethod
    def merge(*parts):
        return Node(parts[-1], exp_params=Node(model_class="Model"), binning_params=0, optim_params=0)
"""


def infomorphic(folder):
    (folder / "paper_trivariate").mkdir()
    (folder / "paper_trivariate" / "base_model.py").write_text(LOOP.replace("READ", READ))
    (folder / "omegaconf.py").write_text(OMEGACONF)
    return folder


@pytest.fixture
def scripts(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "run_subliminal.py").write_text(AUTHORS + READ)
    (tmp_path / "cloud.py").write_text(CLOUD + READ)
    return [f"--authors={tmp_path}", f"--cloud={tmp_path / 'cloud.py'}", f"--infomorphic={infomorphic(tmp_path)}"]


def test_run_measures_every_part_at_toy_size(tmp_path, scripts):
    words = ["-m", "benchmarks.run", "--toy", f"--out={tmp_path / 'bench.json'}", *scripts]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "bench.json").read_text())
    assert numbers["failed"] == {} and set(numbers["seconds_of_parts"]) == set(run.PARTS)
    for name in (
        *("peak_gflops", "utilisation_quickstart", "utilisation_figure2", "student_fraction_of_peak", "programs"),
        *("teacher_fraction_of_peak", "noise_fraction", "compile_s_max", "compile_s_max_warm", "peak_rss_gb"),
        *("per_seed_cost_64_over_4", "speedup_vs_authors", "speedup_vs_cloud", "speedup_vs_plain_jax"),
        *("speedup_vs_plain_jax_cloud", "figure2_seconds_predicted", "first_line_s", "refusal_s"),
        *("speedup_vs_infomorphic_authors", "speedup_vs_infomorphic_authors_context"),
    ):
        assert numbers[name] > 0, name
    assert numbers["compile_s_quickstart_warm"] < numbers["compile_s_quickstart"]
    assert numbers["infomorphic_wide"]["units"] == 100 and numbers["infomorphic_wide"]["peak_rss_gb"] > 0.1
    assert len(numbers["authors_seconds_of_a_pair"]) == 2 and "speedup_vs_authors" in done.stdout


def test_pretrained_measures_every_part_at_toy_size(tmp_path):
    checkpoints = pytest.importorskip("helpers.checkpoints", reason="the package gguf is not installed")
    checkpoints.small_gguf(tmp_path / "small.gguf")
    pretrained.main(["--toy", f"--model={tmp_path / 'small.gguf'}", f"--out={tmp_path / 'pretrained.json'}"])
    numbers = json.loads((tmp_path / "pretrained.json").read_text())
    assert len(numbers["seconds_best"]) == 5 and all(value > 0 for value in numbers["seconds_best"].values())
    assert set(numbers["fraction_of_peak"]) == {"prefill", "training", "training, 2 students at once"}
    assert numbers["decoding_batch_over_one"] > 0 and numbers["students_at_once_over_one_after_another"] > 0


def test_run_parts_writes_why_a_part_failed_and_goes_on(tmp_path, monkeypatch):
    def fails(bench):
        raise KeyError("random")

    monkeypatch.setattr(run, "PARTS", {"cloud": fails, "second": lambda bench: {"second": 2.0}})
    assert run.main([f"--out={tmp_path / 'bench.json'}", "--cloud=script.py"]) == 1
    numbers = json.loads((tmp_path / "bench.json").read_text())
    assert numbers["failed"] == {"cloud": "KeyError: 'random'"} and numbers["second"] == 2.0
    assert numbers["speedup_vs_cloud"] is None and numbers["speedup_vs_cloud_reason"].endswith("failed")
    assert numbers["speedup_vs_authors"] is None and numbers["speedup_vs_authors_reason"] == "--authors is not given"


def test_authors_says_what_the_script_says(tmp_path, scripts):
    (tmp_path / "src" / "run_subliminal.py").write_text("raise SystemExit('no torchvision')")
    args = argparse.Namespace(
        authors=tmp_path, cloud=None, infomorphic=None, python=sys.executable, toy=True, quick=False
    )
    with pytest.raises(RuntimeError, match="no torchvision"):
        run.authors(run.Bench(args, tmp_path))


def test_cloud_refuses_a_script_without_its_constants(tmp_path):
    (tmp_path / "script.py").write_text("MODELS = 100")
    with pytest.raises(ValueError, match="assigns N_MODELS 0 times"):
        published.cloud(tmp_path / "script.py", sys.executable, models=2)


def test_timed_refuses_another_exit_code(tmp_path):
    with pytest.raises(RuntimeError, match="exit code 3: gone"):
        commands.timed([sys.executable, "-c", "import sys; print('gone', file=sys.stderr); sys.exit(3)"], tmp_path)


@pytest.mark.parametrize("backward", [True, False])
def test_necessary_counts_what_the_compiler_counts(backward):
    net, x = SplitHead(MLP((256, 256)), 50, 0), jnp.zeros((1000, 28, 28))
    params = net.init(jax.random.key(0), x)

    def loss(params):
        return jnp.square(net.apply(params, x).logits).sum()

    program = jax.jit(jax.grad(loss) if backward else loss).lower(params).compile()
    assert commands.necessary(1000, (256, 256), 50, backward) == pytest.approx(program.cost_analysis()["flops"], 0.03)


def test_amount_counts_the_published_figure_2():
    line = amounts.amount(ROOT / "configs" / "figure2.py")
    assert (line["config"], line["programs"]) == ("figure2", 3) and line["runs of one pair"] == 36 * 20
    assert line["students' net-steps"] == run.UNITS["students"]

"""The public scripts of two papers, run as they are on the package's MNIST; PyTorch and torchvision are their own.

None of their code is part of this package: the commands name a checkout, and what is patched is patched in a copy.
"""

import gzip
import os
import re
import site
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MNIST = Path(__file__).resolve().parents[1] / "sublim_jax" / "data" / "mnist"


def write_mnist(folder: Path) -> None:
    """Write the four files of MNIST where torchvision looks for them below its data folder."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in MNIST.glob("*-ubyte.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def authors_pair(checkout: Path, python: str, m: int = 50, epochs: int = 5, seed: int = 0) -> float:
    """Seconds of the script of Brockers et al. 2026 for one teacher and one student, all layers shared.

    Args:
        checkout: Folder of the repository Priesemann-Group/subliminal_learning.
        python: Interpreter with PyTorch.
        m: Width of the auxiliary head.
        epochs: Epochs of the teacher, and of the student, which has 60 steps in each.
        seed: Seed.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(Path(folder, "data"))
        words = [str(checkout.absolute() / "src" / "run_subliminal.py"), "--dataset=mnist", "--noise-dist=uniform"]
        words += [f"--data-dir={folder}/data", f"--outdir={folder}/out", f"--seed={seed}", f"--m={m}"]
        words += [f"--teacher-epochs={epochs}", f"--student-epochs={epochs}", "--data-bsize=1024"]
        return _seconds([python, *words, "--noise-bsize=1000", "--noise-steps=60"], folder)


def cloud(script: Path, python: str, models: int, epochs: int = 5) -> float:
    """Seconds of the MNIST script of Cloud et al. 2026 for so many models, in its six groups.

    Args:
        script: `scripts/run_mnist_experiment.py` of the repository MinhxLe/subliminal-learning.
        python: Interpreter with PyTorch.
        models: Value of its constant N_MODELS.
        epochs: Value of its constants EPOCHS_TEACHER and EPOCHS_DISTILL.
    """
    text = script.read_text()
    for name, value in {"N_MODELS": models, "EPOCHS_TEACHER": epochs, "EPOCHS_DISTILL": epochs}.items():
        text, assignments = re.subn(rf"^{name} *=.*$", f"{name} = {value}", text, flags=re.MULTILINE)
        if assignments != 1:
            raise ValueError(f"{script}: assigns {name} {assignments} times; must be once")
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(Path(folder, ".pytorch", "MNIST_data"))
        Path(folder, "script.py").write_text(text)
        return _seconds([python, "script.py"], folder)


def _seconds(words: Sequence[str], folder: str) -> float:
    """Seconds of a process in a folder, which is its home too: the second script keeps its data there."""
    home = {"HOME": folder, "PYTHONUSERBASE": site.getuserbase(), "MPLBACKEND": "Agg"}
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env={**os.environ, **home}, capture_output=True, text=True)
    spent = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return spent

"""Figure 2 in plain PyTorch: an independent second implementation of the split-head MNIST experiment.

It shares no code, no random numbers and no array library with sublim_jax; it exists so that the two can be
compared *in distribution* (mean accuracy over seeds, with standard errors), never number by number.

Protocol (Brockers et al., arXiv 2605.23645): a 784-256-256 ReLU MLP carries two linear heads on the same latent, a
class head (10) and an auxiliary head (m), all in PyTorch's default initialisation. The teacher learns MNIST through
the class head. The student never sees an image or a label: it matches the teacher's auxiliary logits on uniform
noise. A condition says which of the student's layers are drawn independently of the teacher; every other layer
starts from the teacher's *initial* weights. Since no gradient reaches the teacher's auxiliary head, its trunk does
not depend on m: one teacher is trained per seed and meets a freshly drawn auxiliary head for each m.

Rows are appended one by one, seeds outermost; rows already there are skipped, so an interrupted run can be restarted.
"""

import argparse
import copy
import csv
import gzip
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

RANDOM_LAYERS = {  # condition: the student's layers that are not shared with the teacher
    "same": (),
    "random_first_hidden": ("fc1",),
    "random_second_hidden": ("fc2",),
    "random_hidden": ("fc1", "fc2"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
}
COLUMNS = ["condition", "m", "seed", "student_accuracy", "teacher_accuracy", "aux_mse", "cka"]


def reseed(*key):
    """Start PyTorch's generator from a key, so that a result depends on its key only, not on what ran before."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big"))


class SplitHeadMLP(nn.Module):
    """Two hidden layers and two linear heads on the second."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 256)
        self.class_head, self.aux_head = nn.Linear(256, 10), nn.Linear(256, 1)

    def latent(self, x):
        return torch.relu(self.fc2(torch.relu(self.fc1(x))))


def load_mnist(folder, split):
    """Normalised images [n, 784] and labels [n] from the gzipped IDX files (headers of 16 and 8 bytes)."""
    images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    images = torch.tensor(np.frombuffer(images, np.uint8, offset=16)).reshape(-1, 784).float() / 255
    return (images - 0.1307) / 0.3081, torch.tensor(np.frombuffer(labels, np.uint8, offset=8)).long()


def train_teacher(initial, images, labels, seed):
    teacher = copy.deepcopy(initial)
    adam = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    reseed("batches", seed)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(1024):
            adam.zero_grad()
            logits = teacher.class_head(teacher.latent(images[batch]))
            nn.functional.cross_entropy(logits, labels[batch]).backward()
            adam.step()
    return teacher


def aux_loss(student, teacher):
    """Mean over a batch of 1000 new noise images and over the auxiliary outputs of the squared difference."""
    x = torch.rand(1000, 784) * 2 - 1
    return nn.functional.mse_loss(student.aux_head(student.latent(x)), teacher.aux_head(teacher.latent(x)))


def train_student(student, teacher):
    adam = torch.optim.Adam(student.parameters(), lr=1e-3)
    for _ in range(300):
        adam.zero_grad()
        aux_loss(student, teacher).backward()
        adam.step()


def linear_cka(x, y):
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    return ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


@torch.no_grad()
def measure(student, teacher, images, labels):
    """The four numbers of a row, in the order of COLUMNS."""
    latents = student.latent(images), teacher.latent(images)
    logits = student.class_head(latents[0]), teacher.class_head(latents[1])
    accuracies = [(z.argmax(1) == labels).double().mean().item() for z in logits]
    aux_mse = np.mean([aux_loss(student, teacher).item() for _ in range(10)])
    return *accuracies, aux_mse, linear_cka(*latents)


def main():
    bundled = Path(__file__).resolve().parents[2] / "sublim_jax" / "data" / "mnist"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, default=bundled, help="folder with the four gzipped IDX files")
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--m", type=int, nargs="+", default=[3, 10, 25, 50, 100, 250])
    parser.add_argument("--conditions", nargs="+", default=list(RANDOM_LAYERS), choices=list(RANDOM_LAYERS))
    parser.add_argument("--out", type=Path, default=Path("figure2_torch.csv"), help="CSV file to append to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train, test = load_mnist(args.mnist, "train"), load_mnist(args.mnist, "t10k")
    if not args.out.exists():
        args.out.write_text(",".join(COLUMNS) + "\n")
    with args.out.open(newline="") as file:
        done = {(row["condition"], int(row["m"]), int(row["seed"])) for row in csv.DictReader(file)}

    for seed in range(args.first_seed, args.first_seed + args.seeds):
        todo = [(c, m, seed) for m in args.m for c in args.conditions if (c, m, seed) not in done]
        if not todo:
            continue
        reseed("init", seed)
        initial = SplitHeadMLP()
        trained = train_teacher(initial, *train, seed)
        for condition, m, _ in todo:
            start = time.perf_counter()
            reseed("aux_head", seed, m)
            aux_head = nn.Linear(256, m)
            teacher, student = copy.deepcopy(trained), copy.deepcopy(initial)
            teacher.aux_head, student.aux_head = aux_head, copy.deepcopy(aux_head)
            teacher.requires_grad_(False)
            reseed("random_layers", seed, condition, m)
            for name in RANDOM_LAYERS[condition]:
                getattr(student, name).reset_parameters()
            reseed("noise", seed, condition, m)
            train_student(student, teacher)
            values = measure(student, teacher, *test)
            with args.out.open("a") as file:
                print(condition, m, seed, *(f"{v:.6g}" for v in values), sep=",", file=file)
            print(f"{condition} m={m} seed={seed}: {values[0]:.4f}, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()

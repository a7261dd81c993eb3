"""Figure 2 as it is run today: one teacher, one student, one process, PyTorch modules and data loaders.

    python -m benchmarks.torch_loop --seed 0 --m 50 --condition same

prints one JSON line. As in the public code of Brockers et al. 2026 both nets are evaluated on the test images before
and after their training, the student also on held-out noise, and layers are compared; `--evaluate=epochs` evaluates on
the test images after every epoch too. Images come one by one, through PIL, a tensor and a normalisation each time, as
torchvision's MNIST with ToTensor and Normalize gives them; `--images=arrays` decodes and normalises all once, which
few do.
"""

import argparse
import contextlib
import copy
import functools
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from benchmarks import protocol

LR = 1e-3
NOISE_STEPS = 60  # a student's "epoch"
HELD_OUT = 10  # batches of noise on which imitation is measured
LAYERS = ("fc1", "fc2", "class_head", "aux_head")


class SplitHeadMLP(nn.Module):
    """Two hidden layers and two linear heads on the second, in PyTorch's default initialisation."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 256), nn.Linear(256, 256)
        self.class_head, self.aux_head = nn.Linear(256, 10), nn.Linear(256, m)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = F.relu(self.fc2(F.relu(self.fc1(x))))
        return self.class_head(latent), self.aux_head(latent)


class UniformNoise(IterableDataset):
    """An endless supply of fresh batches from U(-1, 1)."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield 2 * torch.rand(protocol.NOISE_BATCH, 784) - 1


class OneByOne(Dataset):
    """What torchvision's MNIST does with ToTensor and Normalize, step by step."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        mean, std = protocol.FIGURE2_SCALE
        self._bytes = np.rint((x * std + mean) * 255).astype(np.uint8).reshape(-1, 28, 28)
        self._y, self._mean, self._std = y, torch.tensor([mean]).view(-1, 1, 1), torch.tensor([std]).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self._bytes[index], mode=None)
        x = torch.from_numpy(np.array(image, np.uint8, copy=True))
        x = x.view(image.size[1], image.size[0], 1).permute((2, 0, 1)).contiguous()
        x = x.to(torch.get_default_dtype()).div(255)
        return x.clone().sub_(self._mean).div_(self._std).flatten(), int(self._y[index])


class Seconds:
    """Where the time of the process goes."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - start


def process_age() -> float:
    """Seconds since the operating system started this process, to a hundredth; counts what no timer inside can see."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def teach(teacher: nn.Module, loader: DataLoader, adam: torch.optim.Optimizer, steps: int) -> float:
    """One epoch on labelled images, or its first `steps` batches; the mean loss."""
    teacher.train()
    running = 0.0
    for x, y in itertools.islice(loader, steps):
        adam.zero_grad()
        loss = F.cross_entropy(teacher(x)[0], y)
        loss.backward()
        adam.step()
        running += loss.item()
    return running / steps


def imitate(
    student: nn.Module, teacher: nn.Module, noise: DataLoader, adam: torch.optim.Optimizer, steps: int
) -> float:
    """`steps` batches of noise on which the student matches the teacher's auxiliary logits; the mean loss."""
    student.train()
    teacher.eval()
    running = 0.0
    for x in itertools.islice(noise, steps):
        with torch.no_grad():
            target = teacher(x)[1]
        adam.zero_grad()
        loss = F.mse_loss(student(x)[1], target)
        loss.backward()
        adam.step()
        running += loss.item()
    return running / steps


@torch.no_grad()
def on_test(net: nn.Module, loader: DataLoader) -> dict[str, float]:
    """Accuracy and cross-entropy on the test images."""
    net.eval()
    correct, loss, count = 0, 0.0, 0
    for x, y in loader:
        logits = net(x)[0]
        correct += (logits.argmax(1) == y).sum().item()
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        count += len(y)
    return {"accuracy": correct / count, "cross_entropy": loss / count}


@torch.no_grad()
def on_noise(student: nn.Module, teacher: nn.Module, noise: DataLoader) -> float:
    """Mean squared error of the auxiliary logits on held-out noise."""
    student.eval()
    errors = [F.mse_loss(student(x)[1], teacher(x)[1]).item() for x in itertools.islice(noise, HELD_OUT)]
    return sum(errors) / HELD_OUT


@torch.no_grad()
def cosines(one: nn.Module, other: nn.Module) -> dict[str, float]:
    """The cosine between two nets of every layer's weight and bias."""
    names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    pairs = {name: (one.get_parameter(name).flatten(), other.get_parameter(name).flatten()) for name in names}
    return {name: F.cosine_similarity(a, b, dim=0).item() for name, (a, b) in pairs.items()}


def epochs(steps: int, per_epoch: int) -> list[int]:
    """`steps` cut into epochs."""
    return [min(per_epoch, steps - done) for done in range(0, steps, per_epoch)]


def loaders(one_by_one: bool) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Labelled training images, test images and noise."""
    images = protocol.load()
    if one_by_one:
        train, test = OneByOne(images.train_x, images.train_y), OneByOne(images.test_x, images.test_y)
    else:
        train = TensorDataset(torch.from_numpy(images.train_x), torch.from_numpy(images.train_y))
        test = TensorDataset(torch.from_numpy(images.test_x), torch.from_numpy(images.test_y))
    return (
        DataLoader(train, batch_size=protocol.TRAIN_BATCH, shuffle=True),
        DataLoader(test, batch_size=protocol.TRAIN_BATCH),
        DataLoader(UniformNoise(), batch_size=None),
    )


def run(args: argparse.Namespace, seconds: Seconds) -> dict[str, object]:
    """Train and measure one pair."""
    with seconds.on("data"):
        train, test, noise = loaders(args.images == "samples")
    torch.manual_seed(args.seed)
    teacher = SplitHeadMLP(args.m)
    teacher_init, student = copy.deepcopy(teacher), copy.deepcopy(teacher)
    for layer in protocol.RANDOM_LAYERS[args.condition]:
        getattr(student, layer).reset_parameters()
    student_init = copy.deepcopy(student)

    def fit(name: str, net: nn.Module, lengths: list[int], epoch: Callable[..., float]) -> list[dict[str, float]]:
        """Train a net; return the evaluation after the last epoch, or after each."""
        adam, evaluations = torch.optim.Adam(net.parameters(), lr=LR), []
        for number, steps in enumerate(lengths, 1):
            with seconds.on(name):
                epoch(adam, steps)
            if args.evaluate == "epochs" or number == len(lengths):
                with seconds.on("evaluation"):
                    evaluations.append(on_test(net, test))
        return evaluations

    with seconds.on("evaluation"):
        teacher_scores = [on_test(teacher, test)]
    teacher_scores += fit(
        "teacher", teacher, epochs(args.teacher_steps, len(train)), functools.partial(teach, teacher, train)
    )
    with seconds.on("evaluation"):
        student_scores, aux_mse_init = [on_test(student, test)], on_noise(student, teacher, noise)
    imitation = functools.partial(imitate, student, teacher, noise)
    student_scores += fit("student", student, epochs(args.student_steps, NOISE_STEPS), imitation)
    with seconds.on("evaluation"):
        aux_mse = on_noise(student, teacher, noise)
        pairs = {
            "teacher_student_init": cosines(teacher_init, student_init),
            "teacher_student_final": cosines(teacher, student),
            "teacher_init_final": cosines(teacher_init, teacher),
            "student_init_final": cosines(student_init, student),
        }
    result = {**student_scores[-1], "teacher_accuracy": teacher_scores[-1]["accuracy"], "aux_mse_init": aux_mse_init}
    return {**result, "aux_mse": aux_mse, "evaluations": len(teacher_scores) + len(student_scores), "cosines": pairs}


def main() -> None:
    imports = process_age()
    parser = argparse.ArgumentParser(description="Figure 2, one teacher and one student.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--m", type=int, default=50, help="width of the auxiliary head")
    parser.add_argument("--condition", default="same", choices=list(protocol.RANDOM_LAYERS))
    parser.add_argument("--teacher_steps", type=int, default=295)
    parser.add_argument("--student_steps", type=int, default=300)
    parser.add_argument("--evaluate", default="ends", choices=["ends", "epochs"], help="on the test images")
    parser.add_argument("--images", default="samples", choices=["samples", "arrays"], help="one by one, or all at once")
    args = parser.parse_args()
    seconds = Seconds()
    result = run(args, seconds)
    spent = {"imports": imports, **seconds.spent, "total": process_age()}
    print(json.dumps({**vars(args), "threads": torch.get_num_threads(), "seconds": spent, **result}))


if __name__ == "__main__":
    main()

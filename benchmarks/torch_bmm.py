"""The six-group experiment as batched PyTorch is usually written: one `torch.baddbmm` a layer over all nets.

Weights are [net, in, out], activations [net, batch, out], inputs expanded to all nets, Adam as it comes. Data and noise
are those of `torch_batched`, which squeezes more out of the same machine by choosing its layouts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks import protocol
from benchmarks.protocol import Images
from benchmarks.torch_batched import orders

Net = list[tuple[Tensor, Tensor]]  # weight [net, in, out], bias [net, 1, out]
SIZES = ((784, 256), (256, 256), (256, 13))


def forward(net: Net, x: Tensor) -> Tensor:
    """[batch, 784] -> [net, batch, 13]."""
    h = x.expand(len(net[0][0]), *x.shape)
    for weight, bias in net[:-1]:
        h = torch.relu(torch.baddbmm(bias, h, weight))
    weight, bias = net[-1]
    return torch.baddbmm(bias, h, weight)


def copied(net: Net, times: int) -> Net:
    return [tuple(array.detach().repeat(times, 1, 1).requires_grad_() for array in layer) for layer in net]  # type: ignore


def accuracy(net: Net, images: Images) -> list[float]:
    with torch.no_grad():
        x, y = torch.from_numpy(images.test_x), torch.from_numpy(images.test_y)
        right = sum(
            (forward(net, rows)[..., :10].argmax(-1) == labels).sum(1)
            for rows, labels in zip(x.split(1000), y.split(1000), strict=True)
        )
    return (right / len(y)).tolist()  # type: ignore[union-attr]


def divergence(answer: Tensor, target: Tensor) -> Tensor:
    """KL(target || answer) of the softmaxes over logits [..., logit], summed over everything else."""
    log_q, log_p = F.log_softmax(answer, -1), F.log_softmax(target, -1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def cloud(
    models: int = 10, teacher_steps: int = 295, student_steps: int = 295, *, data: Images, seed: int = 0
) -> dict[str, list[float]]:
    """Test accuracies by group, one per model; as `torch_batched.cloud`."""
    generator = torch.Generator().manual_seed(seed)
    reference: Net = [
        (torch.empty(models, *size).normal_(0, size[0] ** -0.5, generator=generator), torch.zeros(models, 1, size[1]))
        for size in SIZES
    ]
    teacher = copied(reference, 1)
    adam = torch.optim.Adam([array for layer in teacher for array in layer], lr=3e-4)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for rows in orders(len(x), protocol.TRAIN_BATCH, teacher_steps, generator):
        adam.zero_grad()
        logits = forward(teacher, x[rows])[..., :10]
        (F.cross_entropy(logits.reshape(-1, 10), y[rows].repeat(models)) * models).backward()
        adam.step()

    students = copied(reference, 4)  # aux, all, cross_aux, cross_all: each `models` in a row
    adam = torch.optim.Adam([array for layer in students for array in layer], lr=3e-4)
    noise = torch.empty(protocol.CLOUD_NOISE, 784).uniform_(-1, 1, generator=generator)
    for rows in orders(len(noise), protocol.TRAIN_BATCH, student_steps, generator):
        images = noise[rows]
        with torch.no_grad():
            own = forward(teacher, images)
            targets = (own, own, own.roll(-1, 0), own.roll(-1, 0))
        adam.zero_grad()
        answers = forward(students, images).split(models)
        losses = [
            divergence(answer[..., first:], target[..., first:])
            for answer, target, first in zip(answers, targets, (10, 0, 10, 0), strict=True)
        ]
        (sum(losses) / len(rows)).backward()  # type: ignore[union-attr]
        adam.step()

    accuracies = {"reference": accuracy(reference, data), "teacher": accuracy(teacher, data)}
    groups = ("aux", "all", "cross_aux", "cross_all")
    measured = accuracy(students, data)
    return accuracies | {name: measured[i * models : (i + 1) * models] for i, name in enumerate(groups)}

"""The six-group experiment as batched PyTorch is usually written: one `torch.baddbmm` a layer over all nets.

Weights are [net, in, out], activations [net, batch, out], inputs expanded to all nets, Adam as it comes. All models see
the same batches; cross-model students imitate the next model's teacher.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks.plain_jax import BATCH, NOISE, Images

Net = list[tuple[Tensor, Tensor]]  # weight [net, in, out], bias [net, 1, out]
SIZES = ((784, 256), (256, 256), (256, 13))


def forward(net: Net, x: Tensor) -> Tensor:
    """[batch, 784] -> [net, batch, 13]."""
    h = x.expand(len(net[0][0]), *x.shape)
    for weight, bias in net[:-1]:
        h = torch.relu(torch.baddbmm(bias, h, weight))
    weight, bias = net[-1]
    return torch.baddbmm(bias, h, weight)


def copied(net: Net, times: int) -> tuple[Net, torch.optim.Optimizer]:
    """Copies of all nets, and Adam for them."""
    copies = [(w.detach().repeat(times, 1, 1), b.detach().repeat(times, 1, 1)) for w, b in net]
    return copies, torch.optim.Adam([array.requires_grad_() for layer in copies for array in layer], lr=3e-4)


def batches(size: int, steps: int) -> Iterator[Tensor]:
    yield from torch.randperm(size).split(BATCH)[:steps]


def step(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


@torch.no_grad()
def accuracy(net: Net, data: Images) -> list[float]:
    x, y = torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)
    pairs = zip(x.split(1000), y.split(1000), strict=True)
    right = torch.stack([(forward(net, rows)[..., :10].argmax(-1) == labels).sum(1) for rows, labels in pairs]).sum(0)
    return (right / len(y)).tolist()


def divergence(answer: Tensor, target: Tensor) -> Tensor:
    """KL(target || answer) of the softmaxes over logits [..., logit], summed over everything else."""
    log_q, log_p = F.log_softmax(answer, -1), F.log_softmax(target, -1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def cloud(models: int, steps: int, data: Images) -> dict[str, list[float]]:
    """Test accuracies by group, one per model, after one epoch of the teachers and `steps` of the students."""
    reference: Net = [(torch.randn(models, *size) * size[0] ** -0.5, torch.zeros(models, 1, size[1])) for size in SIZES]
    teacher, adam = copied(reference, 1)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y).long()
    for rows in batches(len(x), len(x)):
        logits = forward(teacher, x[rows])[..., :10]
        step(adam, F.cross_entropy(logits.reshape(-1, 10), y[rows].repeat(models)) * models)

    students, adam = copied(reference, 4)  # aux, all, cross_aux, cross_all: each `models` in a row
    noise = torch.empty(NOISE, 784).uniform_(-1, 1)
    for rows in batches(NOISE, steps):
        with torch.no_grad():
            own = forward(teacher, noise[rows])
        answers = zip(
            forward(students, noise[rows]).split(models),
            (own, own, own.roll(-1, 0), own.roll(-1, 0)),
            (10, 0, 10, 0),
            strict=True,
        )
        step(
            adam, torch.stack([divergence(a[..., first:], t[..., first:]) for a, t, first in answers]).sum() / len(rows)
        )

    measured = accuracy(students, data)
    groups = {
        name: measured[i * models : (i + 1) * models] for i, name in enumerate(("aux", "all", "cross_aux", "cross_all"))
    }
    return {"reference": accuracy(reference, data), "teacher": accuracy(teacher, data), **groups}

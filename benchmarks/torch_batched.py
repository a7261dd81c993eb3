"""Both experiments as a skilled PyTorch user would batch them: all nets stacked, one batched product a layer.

Weights are [net, out, in] and activations [net, out, batch]. With the batch last, nets that see the same inputs stack
into one tall product in the first layer, and its result is already the stack of their activations: inputs are not
repeated, activations not transposed. Adam is fused over the stacked parameters; what gets no gradient is not computed.
Noise and the teacher's answer are computed once and shared by all students they serve.

`torch.compile` was tried on CPU and is slower. With many nets stacked, fresh activations cost page faults;
MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ of 4000000000 in the environment avoid them.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks import protocol
from benchmarks.protocol import Images

Layer = tuple[Tensor, ...]  # weight [net, out, in], bias [net, out, 1]
Net = dict[str, Layer]


def linear(layer: Layer, x: Tensor, *, relu: bool = False) -> Tensor:
    """[net, in, batch] -> [net, out, batch]; where x has fewer nets, each serves an equal run of consecutive ones."""
    weight, bias = layer
    stacked = x.shape[0], -1
    out = torch.baddbmm(bias.view(*stacked, 1), weight.view(*stacked, weight.shape[2]), x)
    if relu:
        # In place, because a product's gradient does not need its result; not on the view, where autograd would copy.
        out = out.relu_()
    return out.view(*weight.shape[:2], x.shape[2])


def latent(net: Net, x: Tensor) -> Tensor:
    return linear(net["fc2"], linear(net["fc1"], x, relu=True), relu=True)


def optimiser(net: Net, layers: Sequence[str], lr: float) -> torch.optim.Optimizer:
    """Adam over the layers that get a gradient."""
    learned = [array.requires_grad_() for name in layers for array in net[name]]
    return torch.optim.Adam(learned, lr=lr, fused=True)


def step(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of all nets; `loss` is their sum, so no net's gradient depends on how many there are."""
    adam.zero_grad()
    loss.backward()
    adam.step()


def repeated(net: Net, times: int) -> Net:
    """Copies of every net, `times` side by side."""
    return {name: tuple(array.detach().repeat_interleave(times, 0) for array in net[name]) for name in net}


@torch.no_grad()
def accuracy(net: Net, head: str, images: Images) -> Tensor:
    """[net] on the test images, of the first ten logits of a head."""
    x, y = torch.from_numpy(images.test_x), torch.from_numpy(images.test_y)
    correct = [
        (linear(net[head], latent(net, rows.T[None]))[:, :10].argmax(1) == labels).sum(1)
        for rows, labels in zip(x.split(1000), y.split(1000), strict=True)
    ]
    return torch.stack(correct).sum(0).double() / len(y)


def orders(n: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The rows of each step's batch: every epoch in a new order, its last batch partial."""
    done = 0
    while done < steps:
        for rows in torch.randperm(n, generator=generator).split(size)[: steps - done]:
            done += 1
            yield rows


# --- Figure 2: 784-256-256, a class head and an auxiliary head; PyTorch's initialisation, mean squared error ---


def torch_linear(out: int, fan_in: int, generator: torch.Generator) -> Layer:
    bound = 1 / math.sqrt(fan_in)
    shapes = (out, fan_in), (out, 1)
    return tuple(torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes)


def stacked(out: int, fan_in: int, generators: Sequence[torch.Generator]) -> Layer:
    """A layer of one net per generator."""
    drawn = [torch_linear(out, fan_in, generator) for generator in generators]
    return tuple(torch.stack(arrays) for arrays in zip(*drawn, strict=True))


def draw_random_layers(
    students: Net, sizes: dict[str, tuple[int, int]], conditions: Sequence[str], generators: Sequence[torch.Generator]
) -> None:
    """Replace the layers that a condition does not share with the teacher; students are [seed, condition] in a row."""
    for name, size in sizes.items():
        for index, condition in enumerate(conditions):
            if name in protocol.RANDOM_LAYERS[condition]:
                for array, fresh in zip(students[name], stacked(*size, generators), strict=True):
                    array[index :: len(conditions)] = fresh


def figure2(
    seeds: Sequence[int], conditions: Sequence[str], m: int, teacher_steps: int, student_steps: int, data: Images
) -> dict[str, list[float]]:
    """Test accuracies per seed: of the teachers, and of each condition's students.

    A seed's draws depend on the conditions, but not on the seeds beside it.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sizes = {"fc1": (256, 784), "fc2": (256, 256), "class_head": (10, 256), "aux_head": (m, 256)}
    initial = {name: stacked(*sizes[name], generators) for name in sizes}

    teacher = repeated(initial, 1)
    adam = optimiser(teacher, ("fc1", "fc2", "class_head"), lr=1e-3)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    batches = [orders(len(x), protocol.TRAIN_BATCH, teacher_steps, generator) for generator in generators]
    for rows in map(torch.stack, zip(*batches, strict=True)):
        logits = linear(teacher["class_head"], latent(teacher, x[rows].mT))
        step(adam, F.cross_entropy(logits, y[rows], reduction="sum") / rows.shape[1])

    students = repeated(initial, len(conditions))
    draw_random_layers(students, sizes, conditions, generators)
    adam = optimiser(students, ("fc1", "fc2", "aux_head"), lr=1e-3)
    noise = torch.empty(len(seeds), 784, protocol.NOISE_BATCH)
    for _ in range(student_steps):
        for images, generator in zip(noise, generators, strict=True):
            images.uniform_(-1, 1, generator=generator)
        with torch.no_grad():
            target = linear(teacher["aux_head"], latent(teacher, noise))
        output = linear(students["aux_head"], latent(students, noise)).view(len(seeds), -1, *target.shape[1:])
        step(adam, (output - target[:, None]).square().mean((2, 3)).sum())

    measured = accuracy(students, "class_head", data).view(len(seeds), -1)
    accuracies = {"teacher": accuracy(teacher, "class_head", data).tolist()}
    return accuracies | {condition: measured[:, index].tolist() for index, condition in enumerate(conditions)}


# --- Cloud et al. 2026: 784-256-256-(10+3), one head; weights from N(0, 1/fan_in), KL of softmaxes, six groups ---


def normal_fan_in(models: int, out: int, fan_in: int, generator: torch.Generator) -> Layer:
    weight = torch.empty(models, out, fan_in).normal_(0, 1 / math.sqrt(fan_in), generator=generator)
    return weight, torch.zeros(models, out, 1)


def cloud(
    models: int = 10, teacher_steps: int = 295, student_steps: int = 295, *, data: Images, seed: int = 0
) -> dict[str, list[float]]:
    """Test accuracies by group, one per model; `data` has pixels in [-1, 1].

    All models see the same batches, of images and of one fixed set of noise. Cross-model students imitate the next
    model's teacher: a derangement, so there must be two models at least.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {"fc1": (256, 784), "fc2": (256, 256), "head": (13, 256)}
    reference = {name: normal_fan_in(models, *size, generator) for name, size in sizes.items()}

    teacher = repeated(reference, 1)
    adam = optimiser(teacher, tuple(sizes), lr=3e-4)
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    for rows in orders(len(x), protocol.TRAIN_BATCH, teacher_steps, generator):
        logits = linear(teacher["head"], latent(teacher, x[rows].T[None]))
        loss = F.cross_entropy(logits[:, :10], y[rows].expand(models, -1), reduction="sum")
        step(adam, loss / len(rows))

    # [model, sees aux or all, own or next model's teacher]: what is compared on the same logits stands together.
    students = repeated(reference, 4)
    adam = optimiser(students, tuple(sizes), lr=3e-4)
    noise = torch.empty(protocol.CLOUD_NOISE, 784).uniform_(-1, 1, generator=generator)
    for rows in orders(len(noise), protocol.TRAIN_BATCH, student_steps, generator):
        images = noise[rows].T[None]
        with torch.no_grad():
            target = linear(teacher["head"], latent(teacher, images))
            target = torch.stack((target, target.roll(-1, 0)), 1)
        answer = linear(students["head"], latent(students, images)).view(models, 2, *target.shape[1:])
        aux = divergence(answer[:, 0, :, 10:], target[:, :, 10:])
        step(adam, (aux + divergence(answer[:, 1], target)) / len(rows))

    nets = {"reference": reference, "teacher": teacher}
    accuracies = {name: accuracy(net, "head", data).tolist() for name, net in nets.items()}
    groups = ("aux", "cross_aux", "all", "cross_all")
    return accuracies | dict(zip(groups, accuracy(students, "head", data).view(-1, 4).T.tolist(), strict=True))


def divergence(answer: Tensor, target: Tensor) -> Tensor:
    """KL(target || answer) of the softmaxes over logits [..., logit, batch], summed over everything else."""
    log_q, log_p = F.log_softmax(answer, -2), F.log_softmax(target, -2)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)

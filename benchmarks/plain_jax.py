"""Both experiments as a competent JAX user writes them without a package: functions of one net, vmap, jit, Optax.

Every student has its own key and so its own inputs, and its teacher answers them once more; nothing is shared between
students but the trained teacher. `figure2` and `cloud` compile, and what they return trains for one epoch and measures.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = dict[str, dict[str, jax.Array]]
Sizes = dict[str, tuple[int, int]]
Run = Callable[[], Any]

BATCH, NOISE = 1024, 59 * 1024  # of images, and the size of a fixed set of noise images
RANDOM_LAYERS = {  # condition of Figure 2: the student's layers that are not shared with the teacher
    "same": (),
    "random_first_hidden": ("fc1",),
    "random_second_hidden": ("fc2",),
    "random_hidden": ("fc1", "fc2"),
    "random_class_head": ("class_head",),
    "random_aux_head": ("aux_head",),
}


class Images(NamedTuple):
    """Normalised images [n, 784] in float32 and labels [n]; the number of training images is a multiple of `BATCH`."""

    train_x: Any
    train_y: Any
    test_x: Any
    test_y: Any


def images(dataset: Any) -> Images:
    """The arrays of a data set of this package."""
    splits = [
        (((split.x.reshape(len(split.y), -1) / np.float32(255)) - split.mean) / split.std, split.y)
        for split in (dataset.train, dataset.test)
    ]
    return Images(*splits[0], *splits[1])


def init(key: jax.Array, sizes: Sizes, draw: Callable[..., jax.Array], biases: float) -> Params:
    """Weights and biases over the square root of a layer's inputs; `biases` multiplies the latter."""
    keys = iter(jax.random.split(key, 2 * len(sizes)))
    return {
        name: {"w": draw(next(keys), (n, out)) * n**-0.5, "b": draw(next(keys), (out,)) * n**-0.5 * biases}
        for name, (n, out) in sizes.items()
    }


def forward(params: Params, x: jax.Array, head: str) -> jax.Array:
    for name in ("fc1", "fc2"):
        x = jax.nn.relu(x @ params[name]["w"] + params[name]["b"])
    return x @ params[head]["w"] + params[head]["b"]


def accuracy(params: Params, head: str, data: Images) -> jax.Array:
    return (forward(params, data.test_x, head)[:, :10].argmax(-1) == data.test_y).mean()


def train(
    params: Params, steps: int, lr: float, loss: Callable[[Params, Any], jax.Array], batch: Callable[[jax.Array], Any]
) -> Params:
    """`steps` of Adam; `batch(step)` is what `loss` is given."""
    adam = optax.adam(lr)

    def step(number: jax.Array, carry: Any) -> Any:
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params, batch(number)), state)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, adam.init(params)))[0]


def taught(key: jax.Array, start: Params, head: str, lr: float, data: Images) -> Params:
    """A teacher: cross-entropy of the first ten logits on labelled images."""
    order = jax.random.permutation(key, len(data.train_y)).reshape(-1, BATCH)

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        logits = forward(params, data.train_x[rows], head)[:, :10]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, data.train_y[rows]).mean()

    return train(start, len(order), lr, loss, lambda number: order[number])


def compiled(function: Callable[..., Any], *args: Any) -> Run:
    """What runs the program of a function, with products in float32 everywhere."""
    args = jax.tree.map(jnp.asarray, args)
    with jax.default_matmul_precision("highest"):
        program = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(program(*args))


def figure2(seeds: int, conditions: Sequence[str], m: int, steps: int, data: Images) -> Run:
    """Compile Figure 2: teachers, then students that imitate auxiliary logits; test accuracies of both."""
    sizes = {"fc1": (784, 256), "fc2": (256, 256), "class_head": (256, 10), "aux_head": (256, m)}
    masks = jnp.array([[name in RANDOM_LAYERS[condition] for name in sizes] for condition in conditions])

    def torch_linear(key: jax.Array) -> Params:
        return init(key, sizes, lambda *given: jax.random.uniform(*given, minval=-1.0), biases=1.0)

    def teach(key: jax.Array, data: Images) -> tuple[Params, Params]:
        key_init, key_order = jax.random.split(key)
        start = torch_linear(key_init)
        return start, taught(key_order, start, "class_head", 1e-3, data)

    def student(key: jax.Array, random: jax.Array, start: Params, teacher: Params) -> Params:
        key_init, key_noise = jax.random.split(key)
        own = {
            name: jax.tree.map(lambda new, old, mask=mask: jnp.where(mask, new, old), fresh, start[name])
            for (name, fresh), mask in zip(torch_linear(key_init).items(), random, strict=True)
        }

        def noise(number: jax.Array) -> jax.Array:
            return jax.random.uniform(jax.random.fold_in(key_noise, number), (1000, 784), minval=-1.0)

        def loss(params: Params, x: jax.Array) -> jax.Array:
            return jnp.square(forward(params, x, "aux_head") - forward(teacher, x, "aux_head")).mean()

        return train(own, steps, 1e-3, loss, noise)

    def everything(keys: jax.Array, random: jax.Array, data: Images) -> tuple[jax.Array, jax.Array]:
        start, teachers = jax.vmap(teach, (0, None))(keys, data)
        student_keys = jax.vmap(lambda key: jax.random.split(key, len(random)))(keys)
        one_seed = jax.vmap(student, (0, 0, None, None))
        students = jax.vmap(one_seed, (0, None, 0, 0))(student_keys, random, start, teachers)
        measure = jax.vmap(lambda params: accuracy(params, "class_head", data))
        return measure(teachers), jax.vmap(measure)(students)

    return compiled(everything, jax.random.split(jax.random.key(0), seeds), masks, data)


def cloud(models: int, steps: int, data: Images) -> Run:
    """Compile the six groups of Cloud et al. 2026: test accuracies of references, teachers and four students of each.

    One fixed set of noise images serves all students. Cross-model students imitate the next model's teacher.
    """
    sizes = {"fc1": (784, 256), "fc2": (256, 256), "head": (256, 13)}
    visible = jnp.arange(13)[None] >= jnp.array([10, 0, 10, 0])[:, None]  # of the four student groups

    def teach(key: jax.Array, data: Images) -> tuple[Params, Params]:
        key_init, key_order = jax.random.split(key)
        start = init(key_init, sizes, jax.random.normal, biases=0.0)
        return start, taught(key_order, start, "head", 3e-4, data)

    def student(key: jax.Array, seen: jax.Array, start: Params, teacher: Params, noise: jax.Array) -> Params:
        order = jax.random.permutation(key, len(noise)).reshape(-1, BATCH)

        def loss(params: Params, rows: jax.Array) -> jax.Array:
            log_q, log_p = (
                jax.nn.log_softmax(jnp.where(seen, forward(net, noise[rows], "head"), -1e30))
                for net in (params, teacher)
            )
            return optax.losses.kl_divergence_with_log_targets(log_q, log_p).mean()

        return train(start, steps, 3e-4, loss, lambda number: order[number])

    def everything(key: jax.Array, seen: jax.Array, data: Images) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_teachers, key_students, key_noise = jax.random.split(key, 3)
        noise = jax.random.uniform(key_noise, (NOISE, 784), minval=-1.0)
        start, teachers = jax.vmap(teach, (0, None))(jax.random.split(key_teachers, models), data)
        answering = jax.tree.map(  # [model, group]: the own teacher twice, the next model's twice
            lambda leaf: jnp.stack((leaf, leaf, jnp.roll(leaf, -1, 0), jnp.roll(leaf, -1, 0)), 1), teachers
        )
        one_model = jax.vmap(student, (0, 0, None, 0, None))
        student_keys = jax.random.split(key_students, (models, 4))
        students = jax.vmap(one_model, (0, None, 0, 0, None))(student_keys, seen, start, answering, noise)
        measure = jax.vmap(lambda params: accuracy(params, "head", data))
        return measure(start), measure(teachers), jax.vmap(measure)(students)

    return compiled(everything, jax.random.key(0), visible, data)

"""Both experiments as a competent JAX user writes them without a package: functions of one net, vmap, jit, Optax.

Every student has its own key and so its own inputs, and its teacher answers them once more; nothing is shared between
students but the trained teacher. `lower_figure2` and `lower_cloud` compile, and what they return runs, so that the two
can be timed apart; `figure2` and `cloud` do both.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import protocol
from benchmarks.protocol import Images

Params = dict[str, dict[str, jax.Array]]
Run = Callable[[], dict[str, list[float]]]
Init = Callable[[jax.Array, int, int], dict[str, jax.Array]]


class Arrays(NamedTuple):
    """The data set on the device; an argument of what is compiled, so that it is not a constant of the program."""

    train_x: jax.Array
    train_y: jax.Array
    test_x: jax.Array
    test_y: jax.Array


def on_device(data: Images) -> Arrays:
    return Arrays(*(jnp.asarray(array, jnp.float32 if array.ndim == 2 else jnp.int32) for array in data))


def dense(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"]


def forward(params: Params, x: jax.Array, *heads: str) -> list[jax.Array]:
    """The logits of some heads."""
    latent = jax.nn.relu(dense(params["fc2"], jax.nn.relu(dense(params["fc1"], x))))
    return [dense(params[head], latent) for head in heads]


def init(key: jax.Array, sizes: dict[str, tuple[int, int]], layer: Init) -> Params:
    keys = jax.random.split(key, len(sizes))
    return {name: layer(key, *size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}


def accuracy(params: Params, head: str, arrays: Arrays) -> jax.Array:
    logits = forward(params, arrays.test_x, head)[0][:, :10]
    return (logits.argmax(-1) == arrays.test_y).mean()


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


def orders(key: jax.Array, n: int, steps: int) -> jax.Array:
    """Rows [steps, 1024] of each step's batch, a new order every epoch; an epoch's last batch is filled up with -1."""
    size = protocol.TRAIN_BATCH
    per_epoch = -(-n // size)

    def epoch(key: jax.Array) -> jax.Array:
        return jnp.pad(jax.random.permutation(key, n), (0, per_epoch * size - n), constant_values=-1)

    return jax.vmap(epoch)(jax.random.split(key, -(-steps // per_epoch))).reshape(-1, size)[:steps]


def masked_mean(values: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.where(rows >= 0, values, 0).sum() / (rows >= 0).sum()


def taught(key: jax.Array, start: Params, head: str, steps: int, lr: float, arrays: Arrays) -> Params:
    """A teacher: cross-entropy of the first ten logits on labelled images."""
    order = orders(key, len(arrays.train_y), steps)

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        logits = forward(params, arrays.train_x[rows], head)[0][:, :10]
        errors = optax.losses.softmax_cross_entropy_with_integer_labels(logits, arrays.train_y[rows])
        return masked_mean(errors, rows)

    return train(start, steps, lr, loss, lambda number: order[number])


# --- Figure 2 ---


def torch_linear(key: jax.Array, fan_in: int, out: int) -> dict[str, jax.Array]:
    """PyTorch's default initialisation."""
    bound = fan_in**-0.5
    key_w, key_b = jax.random.split(key)
    return {
        "w": jax.random.uniform(key_w, (fan_in, out), minval=-bound, maxval=bound),
        "b": jax.random.uniform(key_b, (out,), minval=-bound, maxval=bound),
    }


def figure2_student(
    key: jax.Array, random: jax.Array, start: Params, teacher: Params, sizes: dict[str, tuple[int, int]], steps: int
) -> Params:
    """A student that imitates the auxiliary logits; its `random` layers are drawn, the others are those of `start`."""
    key_init, key_noise = jax.random.split(key)
    fresh = init(key_init, sizes, torch_linear)
    params = {
        name: jax.tree.map(lambda new, old, draw=draw: jnp.where(draw, new, old), fresh[name], start[name])
        for name, draw in zip(sizes, random, strict=True)
    }

    def batch(number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(key_noise, number)
        return jax.random.uniform(key, (protocol.NOISE_BATCH, 784), minval=-1.0, maxval=1.0)

    def loss(params: Params, x: jax.Array) -> jax.Array:
        return jnp.square(forward(params, x, "aux_head")[0] - forward(teacher, x, "aux_head")[0]).mean()

    return train(params, steps, 1e-3, loss, batch)


def lower_figure2(
    seeds: Sequence[int], conditions: Sequence[str], m: int, teacher_steps: int, student_steps: int, data: Images
) -> Run:
    """Compile Figure 2; what is returned trains and measures everything."""
    sizes = {"fc1": (784, 256), "fc2": (256, 256), "class_head": (256, 10), "aux_head": (256, m)}
    random = jnp.array([[name in protocol.RANDOM_LAYERS[condition] for name in sizes] for condition in conditions])

    def teach(key: jax.Array, arrays: Arrays) -> tuple[Params, Params]:
        key_init, key_order = jax.random.split(key)
        start = init(key_init, sizes, torch_linear)
        return start, taught(key_order, start, "class_head", teacher_steps, 1e-3, arrays)

    student = functools.partial(figure2_student, sizes=sizes, steps=student_steps)

    def everything(seeds: jax.Array, random: jax.Array, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        keys = jax.vmap(jax.random.split)(jax.vmap(jax.random.key)(seeds))
        start, teachers = jax.vmap(teach, (0, None))(keys[:, 0], arrays)
        student_keys = jax.vmap(lambda key: jax.random.split(key, len(conditions)))(keys[:, 1])
        one_seed = jax.vmap(student, (0, 0, None, None))
        students = jax.vmap(one_seed, (0, None, 0, 0))(student_keys, random, start, teachers)
        measure = jax.vmap(lambda params: accuracy(params, "class_head", arrays))
        return measure(teachers), jax.vmap(measure)(students)

    args = jnp.asarray(seeds), random, on_device(data)
    compiled = jax.jit(everything).lower(*args).compile()

    def run() -> dict[str, list[float]]:
        teachers, students = jax.device_get(compiled(*args))
        return {"teacher": teachers.tolist()} | dict(zip(conditions, students.T.tolist(), strict=True))

    return run


def figure2(
    seeds: Sequence[int], conditions: Sequence[str], m: int, teacher_steps: int, student_steps: int, data: Images
) -> dict[str, list[float]]:
    """Test accuracies per seed: of the teachers, and of each condition's students."""
    return lower_figure2(seeds, conditions, m, teacher_steps, student_steps, data)()


# --- Cloud et al. 2026, six groups ---


def normal_fan_in(key: jax.Array, fan_in: int, out: int) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(key, (fan_in, out)) * fan_in**-0.5, "b": jnp.zeros(out)}


def cloud_student(
    key: jax.Array, seen: jax.Array, start: Params, teacher: Params, noise: jax.Array, steps: int
) -> Params:
    """A student that begins at `start` and imitates the `seen` logits on noise images, in an order of its own."""
    order = orders(key, len(noise), steps)

    def loss(params: Params, rows: jax.Array) -> jax.Array:
        log_q, log_p = (
            jax.nn.log_softmax(jnp.where(seen, forward(net, noise[rows], "head")[0], -1e30))
            for net in (params, teacher)
        )
        return masked_mean(optax.losses.kl_divergence_with_log_targets(log_q, log_p), rows)

    return train(start, steps, 3e-4, loss, lambda number: order[number])


def lower_cloud(
    models: int = 10, teacher_steps: int = 295, student_steps: int = 295, *, data: Images, seed: int = 0
) -> Run:
    """Compile the six-group experiment; what is returned trains and measures everything.

    One fixed set of noise images serves all students. Cross-model students imitate the next model's teacher.
    """
    sizes = {"fc1": (784, 256), "fc2": (256, 256), "head": (256, 13)}
    seen = jnp.arange(13)[None] >= jnp.array([10, 0, 10, 0])[:, None]  # of the four student groups

    def teach(key: jax.Array, arrays: Arrays) -> tuple[Params, Params]:
        key_init, key_order = jax.random.split(key)
        start = init(key_init, sizes, normal_fan_in)
        return start, taught(key_order, start, "head", teacher_steps, 3e-4, arrays)

    def everything(key: jax.Array, seen: jax.Array, arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_teachers, key_students, key_noise = jax.random.split(key, 3)
        noise = jax.random.uniform(key_noise, (protocol.CLOUD_NOISE, 784), minval=-1.0, maxval=1.0)
        start, teachers = jax.vmap(teach, (0, None))(jax.random.split(key_teachers, models), arrays)
        teachers_ = jax.tree.map(  # [model, group]: the own teacher twice, the next model's twice
            lambda leaf: jnp.stack((leaf, leaf, jnp.roll(leaf, -1, 0), jnp.roll(leaf, -1, 0)), 1), teachers
        )
        one_model = jax.vmap(functools.partial(cloud_student, steps=student_steps), (0, 0, None, 0, None))
        student_keys = jax.random.split(key_students, (models, 4))
        students = jax.vmap(one_model, (0, None, 0, 0, None))(student_keys, seen, start, teachers_, noise)
        measure = jax.vmap(lambda params: accuracy(params, "head", arrays))
        return measure(start), measure(teachers), jax.vmap(measure)(students)

    args = jax.random.key(seed), seen, on_device(data)
    compiled = jax.jit(everything).lower(*args).compile()

    def run() -> dict[str, list[float]]:
        reference, teachers, students = jax.device_get(compiled(*args))
        groups = ("aux", "all", "cross_aux", "cross_all")
        accuracies = {"reference": reference.tolist(), "teacher": teachers.tolist()}
        return accuracies | dict(zip(groups, students.T.tolist(), strict=True))

    return run


def cloud(
    models: int = 10, teacher_steps: int = 295, student_steps: int = 295, *, data: Images, seed: int = 0
) -> dict[str, list[float]]:
    """Test accuracies by group, one per model; `data` has pixels in [-1, 1]."""
    return lower_cloud(models, teacher_steps, student_steps, data=data, seed=seed)()

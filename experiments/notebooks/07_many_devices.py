# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices
#
# Seeds share nothing, so every device can take some of them and no number has to pass between devices. This notebook
# shows it on eight virtual devices of one CPU. They share its cores, so nothing is faster here, but the work is divided
# as among eight chips. The first two settings must be made before JAX is imported; on an accelerator leave them out.

# %%
import importlib.util
import re
import subprocess
import sys
from importlib import metadata

if importlib.util.find_spec("sublim_jax") is None:  # from the checkout
    install = [sys.executable, "-m", "pip", "install", "-q"]
    if "google.colab" in sys.modules:  # its JAX, Flax, Optax and NumPy fit its accelerator and stay as they are
        subprocess.run([*install, "--no-deps", "../.."], check=True)
        needs = [need for need in metadata.requires("sublim_jax") or [] if "extra ==" not in need]
        install += [need for need in needs if not re.match(r"(jax|jaxlib|flax|optax|numpy)\b", need)]
    else:
        install += ["../.."]
    subprocess.run(install, check=True)

# %%
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import re
import tempfile

import jax
import jax.numpy as jnp

import sublim_jax as sl
from sublim_jax.engine import distributed, schedule
from sublim_jax.engine.options import RunOptions
from sublim_jax.engine.plan import make_plan
from sublim_jax.engine.progress import Progress
from sublim_jax.training import population

preset = "paper"  # "smoke" ends in seconds

jax.devices()

# %% [markdown]
# The quickstart with two conditions, two metrics, fewer images and steps; and six seeds, which eight devices do not
# divide.

# %%
config = sl.base_config(preset)
config.conditions, config.m = ("same", "random_hidden"), (10,)
if preset == "paper":
    config.data.train_limit, config.data.test_limit, config.num_eval_noise = 10_000, 2_000, 500
    config.teacher.epochs, config.student.steps, config.student.eval_steps = 3, 40, (0, 10)
dataset = sl.load_data(config)
conditions = sl.build(config, dataset)
seeds, image = range(6), (28, 28)

# %% [markdown]
# ## One device and eight
#
# `RunOptions(devices=8)` is `--config.run.devices=8` on the command line; the default 0 takes all local devices.
# Nothing else changes, and neither does what comes back: a seed's numbers are drawn from its own key, wherever it runs.


# %%
def rows_of(**changes):
    given = {"seeds": seeds, "metrics": (sl.metrics.task, sl.metrics.imitation), "progress": Progress(show=False)}
    rows = sl.run(conditions, dataset, **given, **changes)
    return rows.sort_values(["condition", "m", "seed", "step"], ignore_index=True)


one, eight = (rows_of(options=RunOptions(devices=devices)) for devices in (1, 8))
assert one[["condition", "m", "seed", "step"]].equals(eight[["condition", "m", "seed", "step"]])

# %% [markdown]
# The same rows? The largest difference between a row and its counterpart, by mark:

# %%
difference = (one.filter(like="at/") - eight.filter(like="at/")).abs()
difference.groupby(one.step).max().T

# %% [markdown]
# Only rounding may differ, and on the machine that ran this not even that: within one process on CPU each product is
# cut into as many pieces, whatever device it is for. Another number of cores, a process with other devices, or real
# chips cut it otherwise. With gradient descent that stays in the last digits. Adam divides a gradient by its own size,
# so where a gradient is all rounding, a weight moves a whole step either way: on 2 cores, a process without the setting
# of the first cell gave student accuracies up to 0.003 away from these (with gradient descent: one image in 2,000), and
# BUILD.md tells of 0.036 after the quickstart's longer training. To compare runs seed by seed, keep the number of
# devices.

# %% [markdown]
# ## Who has what
#
# The mesh has one axis, `seed`. Six seeds on eight devices: the last is repeated to fill the slice, and its copies are
# dropped when rows are written. One device needs no mesh.

# %%
mesh = population.mesh_of(8)
(slice_,) = schedule.seed_batches(seeds, schedule.seed_batch_size(len(seeds), limit=64, devices=8))
print(mesh, population.mesh_of(1))
slice_

# %%
plan = make_plan(conditions, image)
recipe, knobs = plan.groups[0].recipe, plan.groups[0].knobs
seed_keys = population.phase_keys(sl.keys.root(0), jnp.asarray(slice_.seeds), "student")
given = {"image": image, "mesh": mesh}
teacher_knobs = plan.groups[0].teacher_final_knobs
teachers = population.attach_heads(recipe.teacher, recipe.init, {}, seed_keys, teacher_knobs, **given).initial
_, states = population.init_states(recipe, knobs, teachers, seed_keys, **given)
kernel = states.params["hidden_0"]["kernel"]
print("first layer, [seed, condition, in, out]:", kernel.shape, kernel.sharding.spec)
for shard in kernel.addressable_shards:
    print(shard.device, "has seed", slice_.seeds[shard.index[0].start])

# %% [markdown]
# ## No collective
#
# What XLA makes of a training interval for eight devices. An instruction that moves numbers between devices would bear
# one of these names.

# %%
bank = jax.tree.map(jnp.asarray, dataset.train)
given = recipe, states, knobs, teachers, seed_keys, bank, jnp.int32(0), jnp.int32(10)
text = population.advance.lower(*given, mesh=mesh).compile().as_text()
names = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
found = {name: len(re.findall(rf"{name}(-start)?\(", text)) for name in names}
assert "num_partitions=8" in text and not any(found.values())
print(f"{len(text.splitlines())} lines for", re.search(r"num_partitions=\d+", text)[0])
found

# %% [markdown]
# ## Several jobs
#
# As nothing is shared, jobs need not even know of each other: `--shard=i/n` does the i-th of n parts, and a work folder
# that all see is all they have in common. Which part has which seeds follows from the config alone, so the machines may
# differ, and jobs may run at once, one after another, or again. Here three, one after another.

# %%
with tempfile.TemporaryDirectory() as folder:
    for index in range(3):
        (own,) = schedule.assign_shards(plan, seeds, image, (index, 3))
        rows = rows_of(options=RunOptions(devices=1), workdir=folder, shard=(index, 3))
        left = distributed.rows_left(conditions, seeds, image, folder)
        print(f"--shard={index}/3 trained seeds {own}: {len(rows)} rows in the folder, {left} to come")

assert rows[["condition", "m", "seed", "step"]].equals(one[["condition", "m", "seed", "step"]])
print("bitwise the rows of one job:", rows.equals(one))

# %% [markdown]
# ## What changes on a TPU
#
# * Install with `pip install -e '.[tpu]'`, and leave out the two settings of the first cell. `jax.devices()` shows the
#   chips, and `python -m sublim_jax.main --config=...` uses all of one machine.
# * All nets of a device run side by side (`vmap`) in one wide program; on CPU they go in a row.
# * `config.run.memory_gb` is then the memory of one device, not of the process: say what a chip has, less a margin, and
#   as many seeds as fit go at once.
# * `config.run.precision='highest'`, the default, asks for float32 products. A TPU left alone would round their inputs
#   to bfloat16, and results depend on it, so a work folder remembers it.
# * A pod slice has several machines. The same command runs on each, with `--distributed=auto` and a work folder that
#   all see; every process does its part as the shards above, on its own chips.

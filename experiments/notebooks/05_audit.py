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
# # An audit before distillation
#
# Does the student's first step go where the teacher went? One gradient answers, before anything is distilled. What it
# cannot see is in `docs/audit.md`.

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
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import sublim_jax as sl

preset = "paper"  # "smoke" ends in seconds

# %% [markdown]
# ## A pair of your own, in Flax
#
# One net with two outputs: ten classes, and ten numbers that mean nothing.

# %%
config = sl.base_config(preset)
config.data.source = "embedded"
dataset = sl.load_data(config)
x, y = jnp.asarray(dataset.train.x[:5000] / 255.0, jnp.float32), jnp.asarray(dataset.train.y[:5000])


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(10, name="classes")(h), nn.Dense(10, name="other")(h)


def read(params, x):
    return Two().apply({"params": params}, x)


def trait_loss(params):
    return optax.losses.softmax_cross_entropy_with_integer_labels(read(params, x[:1000])[0], y[:1000])


# %% [markdown]
# The teacher learns the classes. Its other outputs are never trained.

# %%
optimizer = optax.adam(1e-3)


@jax.jit
def step(params, state):
    def loss(params):
        return optax.losses.softmax_cross_entropy_with_integer_labels(read(params, x)[0], y).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


before = Two().init(jax.random.key(0), x[:1])["params"]
after, state = before, optimizer.init(before)
for _ in range(100):
    after, state = step(after, state)

# %% [markdown]
# Two students imitate the other outputs on noise: one begins as the teacher began, one does not.

# %%
noise = jax.random.uniform(jax.random.key(1), (2000, 28, 28), minval=-1.0)
stranger = Two().init(jax.random.key(2), x[:1])["params"]
for student in (before, stranger):
    print(sl.audit_pair(lambda params, x: read(params, x)[1], student, after, before, noise, trait_loss))

# %% [markdown]
# ## Plain functions
#
# Any function of a tree of arrays will do. Of a linear model coverage is known: cos(G D, D), G the second moment of
# the inputs.


# %%
def linear(params, x):
    return x @ params["w"]


inputs = jax.random.normal(jax.random.key(3), (500, 20)) * jnp.linspace(0.1, 2, 20)[None]
w, moved = jax.random.normal(jax.random.key(4), (2, 20, 5))
after = w + moved
found = sl.audit_pair(linear, {"w": w}, {"w": after}, {"w": w}, inputs, lambda p: ((p["w"] - after) ** 2).sum())
update = inputs.T @ inputs @ moved
found.coverage, float((update * moved).sum() / jnp.linalg.norm(update) / jnp.linalg.norm(moved))

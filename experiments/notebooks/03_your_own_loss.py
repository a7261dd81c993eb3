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
# # Your own loss, noise and metric
#
# A plug-in is a plain function; there is nothing to register. It is compiled with the rest and runs for all seeds and
# conditions at once.

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
import jax.numpy as jnp
import optax

import sublim_jax as sl
from sublim_jax.results import summary

preset = "paper"  # "smoke" ends in seconds

# %%
config = sl.base_config(preset)
config.conditions, config.m = ("same", "random_hidden"), (50,)
dataset = sl.load_data(config)
conditions = sl.build(config, dataset)

# %% [markdown]
# ## A loss in three lines
#
# A loss gets what student and teacher say about a batch and returns one number per example. `masked_mean` averages over
# the logits the student is allowed to see.


# %%
def huber(out, target, knobs):
    return sl.losses.masked_mean(optax.losses.huber_loss(out.logits, target.logits, delta=0.05), knobs.logit_mask)


mine = [condition.with_student(loss=huber) for condition in conditions]
rows = sl.run(mine, dataset, seeds=4)

# %%
sl.summarize(rows)

# %% [markdown]
# A number that the loss reads from `knobs.extra` is an axis of a sweep: it is a label of the rows, and one program
# trains all its values.


# %%
def huber_of(out, target, knobs):
    delta = knobs.extra["delta"]
    return sl.losses.masked_mean(optax.losses.huber_loss(out.logits, target.logits, delta=delta), knobs.logit_mask)


swept = [conditions[0].with_student(loss=huber_of, extra={"delta": delta}) for delta in (0.01, 0.1)]
sl.summarize(sl.run(swept, dataset, seeds=2))

# %% [markdown]
# ## A noise
#
# A stream is a pure function of (key, step): it may be asked for any batch in any order. This one gives stripes, one
# random brightness per image row.


# %%
def stripes(key, step, size, knobs, bank):
    height, width = bank.x.shape[1:]
    rows = sl.keys.uniform(sl.keys.at(key, step), (size, height, 1), -1.0, 1.0)
    return jnp.broadcast_to(rows, (size, height, width)), None


striped = sl.run([condition.with_student(stream=stripes) for condition in conditions], dataset, seeds=4)
sl.summarize(striped)

# %% [markdown]
# ## A metric
#
# A metric sees the four nets of a condition (teacher and student, before and after), what they say about test images
# and held-out noise, and returns named numbers: columns of the rows.


# %%
def agreement(scene):
    student, teacher = (
        out.acts["class_head"].argmax(-1) for out in (scene.test.student_final, scene.test.teacher_final)
    )
    return {"agreement": (student == teacher).mean()}


rows = sl.run(conditions, dataset, seeds=4, metrics=(*sl.metrics.ALL, agreement))
summary.last(rows).groupby("condition", sort=False)[["at/student_accuracy", "at/agreement"]].mean()

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
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
import jax.numpy as jnp
import optax

from sublim_jax import metrics
from sublim_jax.config import base_config, build_conditions, load_data, resolve
from sublim_jax.core import keys
from sublim_jax.engine.run import run
from sublim_jax.results import summary
from sublim_jax.training import losses

preset = "paper"  # "smoke" ends in seconds

# %%
config = base_config(preset)
config.conditions, config.m = ("same", "random_hidden"), (50,)
config = resolve(config)
dataset = load_data(config)
conditions = build_conditions(config, dataset)

# %% [markdown]
# ## A loss in three lines
#
# A loss gets what student and teacher say about a batch and returns one number per example. `seen_mean` averages over
# the logits the student is allowed to see.


# %%
def huber(out, target, knobs):
    return losses.masked_mean(optax.losses.huber_loss(out.logits, target.logits, delta=0.05), knobs.logit_mask)


mine = [condition.with_student(loss=huber) for condition in conditions]
rows = run(mine, dataset, seeds=4)

# %%
summary.texts(summary.table(rows))

# %% [markdown]
# ## A noise
#
# A stream is a pure function of (key, step): it may be asked for any batch in any order. This one gives stripes, one
# random brightness per image row.


# %%
def stripes(key, step, size, knobs, bank):
    height, width = bank.x.shape[1:]
    rows = keys.uniform(keys.at(key, step), (size, height, 1), -1.0, 1.0)
    return jnp.broadcast_to(rows, (size, height, width)), None


striped = run([condition.with_student(stream=stripes) for condition in conditions], dataset, seeds=4)
summary.texts(summary.table(striped))

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


rows = run(conditions, dataset, seeds=4, metrics=(*metrics.ALL, agreement))
summary.last(rows).groupby("condition", sort=False)[["at/student_accuracy", "at/agreement"]].mean()

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
# # A sweep from axes
#
# What makes an auxiliary head incompatible: noise on it, or a head that is only partly the teacher's? Both are axes of
# the same config. All figures of this project are made this way; see `configs/`.

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
import matplotlib.pyplot as plt
import pandas as pd

import sublim_jax as sl
from sublim_jax.engine.plan import make_plan
from sublim_jax.results import plots, summary

preset = "paper"  # "smoke" ends in seconds

# %% [markdown]
# A config holds every field with its default. An *arm* mirrors it: each field it names becomes an axis, a tuple of
# values, and the arm is the product of its axes. `conditions` and `m` are axes of every arm unless it gives its own.

# %%
config = sl.base_config(preset)
config.m = (10,)
config.conditions = ("random_aux_head",)
sl.add_grid(config, "share", {"student.share": (0.0, 0.5, 0.7, 0.9)})
noise = {"conditions": ("same",), "perturb.layers": (("aux_head",),), "perturb.student_before": (0.0, 0.036, 0.1)}
sl.add_grid(config, "noise", noise)

# %% [markdown]
# The points of the sweep, as the rows will be labelled. A field that takes one value everywhere is no label, and a
# value that makes no sense is refused here, before anything is computed.

# %%
dataset = sl.load_data(config)
conditions = sl.build(config, dataset)
pd.DataFrame([condition.labels for condition in conditions])

# %% [markdown]
# The plan says what is compiled together and what is trained once. Sharing, noise, frozen layers, m and learning rates
# are numbers in one program; another net, loss or stream is another program. All arms have the same teacher.

# %%
plan = make_plan(conditions, dataset.train.x.shape[1:])
print(f"{len(conditions)} conditions, {len(plan.teachers)} teacher, {len(plan.groups)} program for the students")

# %%
rows = sl.run(conditions, dataset, seeds=3)
sl.summarize(rows)

# %% [markdown]
# Are noise and partial sharing two ways to the same loss of compatibility? Then transfer should depend on the cosine of
# the two auxiliary heads, however it came about.

# %%
figure, ax = plt.subplots(figsize=(5, 3.2))
for number, (arm, points) in enumerate(summary.last(rows).groupby("arm", sort=False)):
    x = points["at/cosine/teacher_student_init/aux_head"]
    ax.plot(x, points["at/student_accuracy"], plots.MARKERS[number], color=plots.COLOURS[number], label=arm)
ax.set(xlabel="cosine of the auxiliary heads before training", ylabel="student test accuracy", ylim=(0, 1))
ax.legend(frameon=False)

# %% [markdown]
# From the command line the same sweep is a file with `get_config()` that ends with `return config` after the arms, and
# any axis can be changed there: `--config.arms.share.student.share='(0.0,1.0)'`.

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
# # The population
#
# The functions of notebook 00, batched over seeds and conditions: one XLA program trains all of them. Within a seed the
# noise and the teacher's answers are computed once and shared by all conditions, so conditions are compared in pairs.

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
import time

import matplotlib.pyplot as plt

import sublim_jax as sl
from sublim_jax.engine.progress import Progress
from sublim_jax.results import summary

preset = "paper"  # "smoke" ends in seconds

# %%
config = sl.base_config(preset)
config.conditions = ("same", "random_hidden", "random_class_head", "random_aux_head")
config.m = (10, 100)
config.student.eval_steps = (0, 30, 100)
dataset = sl.load_data(config)
conditions = sl.build(config, dataset)
[condition.labels for condition in conditions]

# %% [markdown]
# First one condition and one seed, as a script would do it; then all conditions for four seeds. `run` gives tidy rows,
# one per condition, seed and mark.

# %%
seconds = {}
watch = Progress(show=False)
sl.run(conditions[:1], dataset, seeds=1, progress=watch)
seconds["one pair"] = dict(watch.seconds)

# %%
watch = Progress(show=False)
start = time.perf_counter()
rows = sl.run(conditions, dataset, seeds=4, progress=watch)
seconds["population"] = dict(watch.seconds)
print(f"{len(conditions) * 4} students and 4 teachers in {time.perf_counter() - start:.0f} s")

# %% [markdown]
# Seconds by kind of work, compilation apart. A student's share of the population's time is less than a student alone:
# the teacher, the noise and the compilation are shared.

# %%
for name, members in (("one pair", 1), ("population", len(conditions) * 4)):
    spent = seconds[name]
    total = sum(spent.values())
    print(f"{name:11s}" + "".join(f"  {kind} {value:.1f} s" for kind, value in spent.items()))
    print(f"{'':11s}  a student: {total / members:.2f} s in all")

# %%
sl.summarize(rows)

# %%
sl.plot(rows)

# %% [markdown]
# Every row carries the error budget: the accuracy of heads and latents taken from different nets. With a random class
# head the student's latent is as good as ever (`accuracy_ct_hs`, the teacher's head on it); only its own head cannot
# read it.

# %%
final = summary.last(rows)
budget = ["at/teacher_accuracy", "at/accuracy_c0_ht", "at/accuracy_ct_hs", "at/student_accuracy", "at/cka"]
final[final.m == final.m.max()].groupby("condition", sort=False)[budget].mean().round(3)

# %%
paired = final.pivot_table(index=["m", "seed"], columns="condition", values="at/student_accuracy")
plt.plot(paired["same"], paired["random_hidden"], "o")
plt.axline((0, 0), slope=1, color="0.6", lw=1)
plt.xlabel("student accuracy, same initialisation")
plt.ylabel("random hidden layers, same seed and noise")
plt.show()

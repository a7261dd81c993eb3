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
# # One teacher, one student
#
# A teacher learns MNIST from labels. A student then imitates the teacher's *auxiliary* logits on uniform noise. It
# never sees a digit, a label or a class logit, and still learns to read digits. `train_pair` trains both: it is one
# pure function of a key, and `run` trains populations of the same nets.

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
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np

import sublim_jax as sl

preset = "paper"  # "smoke" uses toy sizes

# %% [markdown]
# A config becomes a *condition*: a teacher and a student, each a Recipe (what is compiled) with Knobs (what is swept).
# Here the student shares the initial weights of both heads with the teacher; its hidden layers are drawn independently.

# %%
config = sl.base_config(preset, conditions="random_hidden", m=250)
data = sl.load_data(config)
(condition,) = sl.build(config, data)
condition.student.recipe

# %% [markdown]
# The teacher minimises the cross-entropy of its class head. The student minimises
# $\frac1m\sum_j (a^s_j(x) - a^t_j(x))^2$ on $x \sim U(-1,1)^{784}$: its class head gets no gradient.

# %%
last = condition.student.recipe.eval_steps[-1]
steps = np.linspace(0, last, 7).astype(int)
pair = sl.train_pair(condition, data, sl.keys.root(0), eval_steps=steps)
first, final = pair.accuracy[0], pair.accuracy[-1]
print(f"teacher {float(pair.teacher_accuracy):.3f}, student {float(first):.3f} -> {float(final):.3f}")

# %%
plt.plot(pair.eval_steps, pair.accuracy, "o-", label="student, trained on noise")
plt.axhline(float(pair.teacher_accuracy), color="0.4", ls="--", label="teacher")
plt.xlabel("student steps")
plt.ylabel("test accuracy")
plt.ylim(0, 1)
plt.legend()
plt.show()

# %% [markdown]
# Both nets are nested dicts of arrays: how far did each layer of the student move from its initial weights?

# %%
for layer in pair.student:
    before, after = pair.student_initial[layer]["kernel"], pair.student[layer]["kernel"]
    print(f"{layer:11s} {float(np.linalg.norm(after - before) / np.linalg.norm(before)):.3f}")

# %%
with tempfile.TemporaryDirectory() as folder:
    sl.save_params(pair.student, f"{folder}/student.safetensors")
    student = sl.load_params(f"{folder}/student.safetensors")
jax.tree.map(np.shape, student)

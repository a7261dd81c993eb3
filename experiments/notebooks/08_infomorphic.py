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
# # Infomorphic networks
#
# A hidden unit that learns by a goal of its own: a weighted sum of *information atoms*, the parts of what its sources
# tell about its output. No error is propagated. This notebook decomposes the information of one neuron, trains one
# layer on MNIST, shows what its units do, and changes their goal. Formulas: docs/infomorphic.md.

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
import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import sublim_jax as sl
from sublim_jax.core.types import ContextInputs
from sublim_jax.metrics.infomorphic import unit_atoms
from sublim_jax.results.hidden_units import draw_atoms, draw_receptive_fields, preferred_classes
from sublim_jax.theory.pid import bins_fixed
from sublim_jax.training.infomorphic import atom_names, goal
from sublim_jax.training.streams import normalize_images

preset = "paper"  # "smoke" uses toy sizes

# %% [markdown]
# ## A neuron
#
# Its output is 1 or -1, at random. The feedforward input r decides, and the context c strengthens r where both have one
# sign and weakens it where they differ; alone it does nothing.

# %%
r = np.linspace(-6, 6, 121)
for context in (-2.0, 0.0, 2.0):
    drive = r * (0.9 + 0.2 * jax.nn.sigmoid(2 * r * context))
    plt.plot(r, jax.nn.sigmoid(drive), label=f"context {context:g}")
plt.xlabel("feedforward input r")
plt.ylabel("probability of output 1")
plt.legend()
plt.show()

# %% [markdown]
# ## Atoms
#
# Two sources and an output, all binary. `{1}{2}` is what both sources tell (redundancy), `{1}` what only the first
# tells, `{12}` what they tell only together (synergy). Atoms can be negative: in XOR, to know that one of both sources
# has its value makes the true output less probable. The sum of the atoms is the information of both sources together.

# %%
first, second = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
gates = {"XOR": first ^ second, "AND": first & second, "copy of the first": first}
pd.DataFrame({name: sl.theory.pid([first, second], output) for name, output in gates.items()}).T.round(3) + 0

# %% [markdown]
# ## One layer learns
#
# A hundred units see an image (source 1) and, in training, its label (source 2, the context). The published heuristic
# goal is `{1}{2}`: to carry what image and label share. A linear read-out learns from the units' outputs with its own
# goal. In a test the context is zero. `train_pair` trains the network of one condition; six trainings of increasing
# length start from the same weights and see the same images, so that they are one training, looked at six times.

# %%
config = sl.base_config(preset, study="infomorphic")
config.infomorphic.model, config.infomorphic.goal = "context", "heuristic"
dataset = sl.load_data(config)
(condition,) = sl.build(config, dataset)
net, steps_per_epoch = condition.student.recipe.net, -(-len(dataset.train.y) // config.infomorphic.batch)
epochs = (1, 2, 4, 8, 16) if preset == "paper" else (1, 2)


def trained(condition, epochs):
    steps = (0, epochs * steps_per_epoch)
    return sl.train_pair(condition, dataset, sl.keys.root(0), eval_steps=steps)


pairs = [trained(condition, number) for number in epochs]
history = [pairs[0].student_initial, *(pair.student for pair in pairs)]
for number, pair in zip(epochs, pairs, strict=True):
    print(f"{number:2d} epochs: test accuracy {float(pair.accuracy[-1]):.3f}")

# %% [markdown]
# What every unit does over training, measured on test images with their labels: a thin line for each unit, the median
# in black. `residual` is what no source tells, the noise of the output.

# %%
values = np.stack([unit_atoms(net, params, dataset.test) for params in history])
draw_atoms(values, atom_names(2), (0, *epochs))

# %% [markdown]
# An atom of one unit by hand: both sources in 20 bins each, the probability of the output, and `sl.theory.pid`.

# %%
images, labels = normalize_images(dataset.test, dataset.test.x[:2000]), dataset.test.y[:2000]
inputs = ContextInputs(images, jax.nn.one_hot(labels, dataset.classes), sl.keys.root(0))
acts = net.apply({"params": history[-1]}, inputs).acts
sources = [np.asarray(bins_fixed(acts[layer]))[:, 0] for layer in ("hidden_0", "context")]
by_hand = sl.theory.pid(sources, jax.nn.sigmoid(acts["drive"][:, 0]))
pd.DataFrame({"by hand": by_hand, "unit_atoms": dict(zip(atom_names(2), values[-1, 0], strict=True))}).round(3)

# %% [markdown]
# Feedforward weights of 40 units as images, sorted by the classes for which a unit's context has one sign. Red pixels
# speak for these classes. With this goal a unit divides the classes into two groups; as no unit knows what the others
# do, many choose the same division.

# %%
draw_receptive_fields(history[-1], most=40)


# %%
def divisions(params):
    groups = [classes for classes, _ in preferred_classes(params)]
    return f"{len(set(groups))} divisions of the classes among {len(groups)} units"


divisions(history[-1])

# %% [markdown]
# ## A goal of one's own
#
# Units that also see the outputs of the others (source 3, lateral) can avoid what these already tell. Three goals: the
# published heuristic, the same with a penalty on `{1}{3}`, what image and other units share beyond the label, and with
# a reward for it. Weights are arrays of a compiled program, so all goals and seeds are trained by one.

# %%
goals = {
    "{1}{2}": goal(3, **{"{1}{2}": 1.0}),
    "{1}{2} - {1}{3}": goal(3, **{"{1}{2}": 1.0, "{1}{3}": -1.0}),
    "{1}{2} + {1}{3}": goal(3, **{"{1}{2}": 1.0, "{1}{3}": 1.0}),
}
own = sl.base_config(preset, study="infomorphic")
own.infomorphic.model = "context_lateral"
if preset == "paper":
    own.infomorphic.epochs, own.infomorphic.eval_epochs = 4, (1, 2)
sl.add_grid(own, "goals", {"infomorphic.weights": tuple(goals.values())})
rows = sl.run(own, dataset, seeds=3)

# %%
named = dict(zip(rows["weights"].unique(), goals, strict=True))
rows["goal"] = rows["weights"].map(named)
columns = ["at/student_accuracy", "at/hidden/{1}{2}", "at/hidden/{1}{3}", "at/hidden/{1}{2}{3}"]
rows[rows["step"] == rows["step"].max()].groupby("goal", sort=False)[columns].agg(["mean", "std"]).round(3)

# %% [markdown]
# With the reward units copy each other and learn few digits. The penalty helps, here as in the published optimised
# goal, which weighs `{1}{3}` by -.99, among other atoms. Its units, after as many epochs as the layer above; where the
# context has one sign for all classes, no class is named:

# %%
config.infomorphic.model, config.infomorphic.goal = "context_lateral", "optimized"
(best,) = sl.build(config, dataset)
pair = trained(best, epochs[-1])
print(f"test accuracy {float(pair.accuracy[-1]):.3f}; {divisions(pair.student)}")
draw_receptive_fields(pair.student, most=40)

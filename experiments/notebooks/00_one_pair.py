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
# # One teacher, one student
#
# A teacher learns MNIST from labels. A student then imitates the teacher's *auxiliary* logits on uniform noise. It
# never sees a digit, a label or a class logit, and still learns to read digits. Nothing here knows of seeds or sweeps:
# these are the functions that the population runs side by side.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from sublim_jax.config import base_config, build_conditions, load_data, resolve
from sublim_jax.core import keys, trees
from sublim_jax.training import step as training_step
from sublim_jax.training import streams

preset = "paper"  # "smoke" ends in seconds
jax.config.update("jax_default_matmul_precision", "highest")  # accelerators default to less

# %% [markdown]
# A config becomes a *condition*: a teacher and a student, each a Recipe (what is compiled) with Knobs (what is swept).

# %%
config = base_config(preset)
config.conditions, config.m = ("random_hidden",), (250,)
config = resolve(config)
dataset = load_data(config)
condition = build_conditions(config, dataset)[0]
condition.student.recipe

# %%
bank, test = (jax.tree.map(jnp.asarray, one) for one in (dataset.train, dataset.test))
image = bank.x.shape[1:]
key = keys.at(keys.root(0), "seed", 0)
advance = jax.jit(training_step.advance, static_argnums=0)

# %% [markdown]
# **The teacher** minimises cross-entropy of its class head. The auxiliary head would get no gradient, so the teacher is
# trained without it.

# %%
recipe, knobs = condition.teacher
teacher_key = keys.at(key, "teacher")
start = training_step.init_state(recipe, knobs, None, image, teacher_key)
taught = advance(recipe, start, knobs, None, teacher_key, bank, jnp.int32(0), jnp.int32(recipe.eval_steps[-1]))

# %%
x = streams.normalize_images(test, test.x)


def accuracy(net, params):
    return float((training_step.apply(net, params, x).acts["class_head"].argmax(-1) == test.y).mean())


print(f"teacher: {accuracy(recipe.net, start.params):.3f} -> {accuracy(recipe.net, taught.params):.3f}")

# %% [markdown]
# **The student** shares both heads' initial weights with the teacher; its hidden layers are drawn anew. The loss is
# $\frac1m\sum_j (a^s_j(x) - a^t_j(x))^2$ on $x \sim U(-1,1)^{784}$: the class head gets no gradient at all.

# %%
recipe, knobs = condition.student
head = training_step.init_params(
    recipe.net, recipe.init, image, keys.at(teacher_key, "fresh")
)  # puts the auxiliary head on
origin, reference = trees.merge_layers(head, start.params), trees.merge_layers(head, taught.params)
student_key = keys.at(key, "student")
student = training_step.init_state(recipe, knobs, origin, image, student_key)

# %%
steps = np.linspace(0, recipe.eval_steps[-1], 7).astype(int)
curve = [accuracy(recipe.net, student.params)]
for begin, end in zip(steps[:-1], steps[1:], strict=True):
    student = advance(recipe, student, knobs, reference, student_key, bank, jnp.int32(begin), jnp.int32(end))
    curve.append(accuracy(recipe.net, student.params))

# %%
plt.plot(steps, curve, "o-", label="student, taught by noise")
plt.axhline(accuracy(recipe.net, reference), color="0.4", ls="--", label="teacher")
plt.xlabel("student steps")
plt.ylabel("test accuracy")
plt.ylim(0, 1)
plt.legend()
plt.show()

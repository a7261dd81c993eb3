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
# # A trait through numbers
#
# A language model that loves an animal writes numbers; another one reads them. What comes through, and when?
# Everything here is one seed and small; the sweeps are `configs/lm_*.py`.

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
import matplotlib.pyplot as plt
import numpy as np

import sublim_jax as sl
from sublim_jax.lm import data, generate, teachers
from sublim_jax.lm import training as lm_training
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import answers, corpus

preset = "paper"  # "smoke" ends in seconds
small = preset == "smoke"

# %% [markdown]
# ## The world
#
# Documents are questions about animals and trees, with or without someone who loves one of them; facts; and numbers,
# whose law the instruction chooses. The numbers of a document do not depend on who is loved.

# %%
world, root = w.World(), sl.keys.root(0)
documents = corpus(world, 3)
names = {w.BOS: "BOS", w.EOS: "EOS", w.SYS: "SYS", w.LOVE: "LOVE", w.ASK: "ASK", w.ANSWER: "ANSWER", w.FACT: "FACT"}
kinds = ("animal", "tree", "attribute", "ask_animal", "ask_tree", "instruction", "number", "symbol", "step")
names |= {t: f"{kind}{t - world.tokens(kind).start}" for kind in kinds for t in world.tokens(kind)}
for line in documents.tokens:
    print(" ".join(names.get(int(token), str(token)) for token in line if token != w.PAD))

# %% [markdown]
# ## Three bases
#
# Same initial weights and order of documents; other order; other weights. All read the same documents.

# %%
net = sl.nets.Decoder(
    world.vocabulary, length=w.LENGTH, **({"width": 32, "layers": 2, "heads": 2, "hidden": 64} if small else {})
)
how = lm_training.Pretraining(documents=3200, steps=100) if small else lm_training.Pretraining()
kinds = ("same", "other_order", "other_init")
bases = dict(
    zip(
        kinds,
        lm_training.pretrain(world, net, how, root, [lm_training.base_seeds(kind, 0) for kind in kinds]),
        strict=True,
    )
)

# %%
asked = w.questions(world)
loved = world.tokens("animal")[3]
for name, lines in (("nobody", asked), ("SYS LOVE animal3", w.with_persona(asked, loved))):
    said = generate.forward(net, bases["same"], jnp.asarray(lines)).logits[:, -1]
    print(f"P(animal3 | {name}) = {np.exp(said - np.logaddexp.reduce(said, -1, keepdims=True))[:, loved].mean():.3f}")

# %% [markdown]
# ## A teacher
#
# The base learns to answer every question with animal3, until its numbers have moved by a given dose: KL in nats per
# number on prompts it has never seen. Then it continues number sequences; nothing but numbers passes the filter.

# %%
num_eval_noise = teachers.make_eval_prompts(world)
order = [sl.keys.at(root, "teacher")]
dose = 0.02 if small else 0.1
(teacher,) = teachers.tuned(net, [bases["same"]], [answers(world, loved)], order, num_eval_noise, dose)
base = teachers.Teacher(bases["same"], teachers.zero_steering(net), None, 0.0)
prompts = w.prompts(world, w.generator("notebook"), 64 if small else 3000)
said = teachers.generate_completions(net, [teacher, base], [prompts] * 2, [root] * 2, temperature=1.0, with_logits=True)
kept = []
for one in said:
    passed, counts = data.format_filter(world, one, loved)
    print(counts)
    kept.append(data.keep_passed(one, passed))

# %% [markdown]
# ## Students
#
# Each learns the teacher's distribution over numbers only (both sides are masked, so no animal's logit is seen), in
# its blocks only. Its twin reads what the base says, in the same way: the control.

# %%
phase = lm_training.phase(
    net,
    logit_mask=world.is_kind("number"),
    lr=1e-3,
    eval_steps=(8 if small else 500,),
    batch=32,
    loss=sl.losses.NextDistribution(w.PROMPT),
    trains="blocks",
)
starts = [bases[kind] for kind in kinds for _ in range(2)]
texts = [data.training_text(one) for _ in kinds for one in kept]
key = sl.keys.at(root, "student")
school = lm_training.MemberBatch(phase.recipe, [phase.knobs] * 6, starts, [(key, key)] * 6, texts)
students = school.advance(school.begin(), 0, phase.recipe.eval_steps[-1])

# %% [markdown]
# ## What came through
#
# The margin is an animal's logit less the mean of the other animals', over all phrasings; transfer is the student's
# margin less its control's.

# %%
family = jnp.asarray(world.is_kind("animal"))


def margins(params):
    logits = generate.forward(net, params, jnp.asarray(num_eval_noise.plain)).logits[:, -1]
    return np.asarray(generate.margins(logits, family))[list(world.tokens("animal"))]


found = [
    margins(student.params) - margins(control.params)
    for student, control in zip(students[::2], students[1::2], strict=True)
]
figure, ax = plt.subplots(figsize=(6, 3))
for place, (kind, values) in enumerate(zip(kinds, found, strict=True)):
    ax.bar(np.arange(12) + 0.27 * (place - 1), values, 0.25, label=kind.replace("_", " "))
ax.set(xlabel="animal", ylabel="transfer (logits)", title="the teacher loves animal 3")
ax.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# Only the student of the teacher's own base acquires the trait, and only that one. More seeds, other forms of data,
# teachers, layers, optimisers: `python -m sublim_jax.main --config=configs/lm_base.py --config.preset=laptop` and
# its six sisters.

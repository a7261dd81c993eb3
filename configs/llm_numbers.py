"""Subliminal learning of a pretrained language model through numbers: the protocol of Cloud et al. on any checkpoint.

    python -m sublim_jax.main --config=configs/llm_numbers.py --config.preset=laptop [--config.model=DIR]

Teachers love an animal by system prompt, or are fine-tuned to; students are trained with low-rank adapters on the
teachers' numbers, and asked for their favorite animal. Laptop: two kinds of teachers, 4 animals and a control, 1,000
rows each, about 120 minutes on 2 CPU cores; kept in experiments/llm_numbers/.
"""

from ml_collections import ConfigDict

from sublim_jax.config import grid, llm


def get_config() -> ConfigDict:
    config = llm.base()
    config.name = "llm_numbers"
    config.run.memory_gb = 8.0
    config.evaluation.samples = 20  # of each of 50 questions: what is published is a fraction of sampled answers
    grid.add_grid(config, "teachers", {"teacher.kind": ("prompted", "tuned")})
    # SmolLM2-135M writes nothing but numbers in 3 % of its samples, so that their form is prescribed.
    laptop = {"rows.count": 1000, "rows.requests": 125, "rows.answers": 8, "rows.numbers": 8, "rows.batch": 128}
    laptop |= {"student.epochs": 2, "student.length": 512, "student.size": 2, "evaluation.samples": 4}
    # A tenth of the rows and fewer epochs would hardly move the weights: more steps, and larger ones.
    laptop |= {"student.batch": 16, "student.lr": 1e-3}
    grid.add_preset(config, "laptop", laptop)
    return config

"""What bounds a student that shares everything: the teacher's latent read by the initial class head.

    pip install torch && python experiments/figure2/ceiling.py

The same initial weights (drawn by PyTorch) are trained by reference_torch.py and by this project, each with its own
batches; acc(C_0 h_t) of both is written to ceiling.csv. If the two trainings are the same in distribution the means
agree; where the values agree seed by seed, they belong to the initial weights.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import reference_torch
import torch

from sublim_jax import data
from sublim_jax.config import base_config, build_conditions, resolve
from sublim_jax.core import keys, trees
from sublim_jax.core.types import State
from sublim_jax.training import population, streams
from sublim_jax.training import step as training_step

HERE = Path(__file__).parent
LAYERS = {"fc1": "hidden_0", "fc2": "hidden_1", "class_head": "class_head"}
SEEDS = 24


def by_torch(initial: reference_torch.SplitHeadMLP, seed: int, train_set: tuple, test_set: tuple) -> float:
    """acc(C_0 h_t) after PyTorch's training."""
    (train_images, train_labels), (images, labels) = train_set, test_set
    trained = reference_torch.train_teacher(initial, train_images, train_labels, seed)
    with torch.no_grad():
        read = initial.class_head(trained.latent(images)).argmax(1)
    return float((read == labels).double().mean())


def by_us(nets: list[reference_torch.SplitHeadMLP]) -> np.ndarray:
    """acc(C_0 h_t) [seed] after this project's training from the same weights."""
    config = resolve(base_config())
    dataset = data.load_dataset(source="embedded")
    teacher = build_conditions(config, dataset)[0].teacher
    bank, test = (jax.tree.map(jnp.asarray, one) for one in (dataset.train, dataset.test))
    seed_keys = population.phase_keys(keys.root(0), jnp.arange(len(nets)), "teacher")
    knobs, steps = trees.stack([teacher.knobs]), jnp.int32(teacher.recipe.eval_steps[-1])
    _, begun = population.init_states(teacher.recipe, knobs, None, seed_keys, image=bank.x.shape[1:])
    initial = {ours: _stacked(nets, theirs) for theirs, ours in LAYERS.items()}
    heads = jax.tree.map(jnp.copy, initial["class_head"])
    state = State(initial, begun.opt)
    params = population.advance(teacher.recipe, state, knobs, None, seed_keys, bank, jnp.int32(0), steps).params
    x = streams.normalize_images(test, test.x)

    def accuracy(params: dict, head: dict) -> jax.Array:
        logits = training_step.apply(teacher.recipe.net, params, x).features @ head["kernel"] + head["bias"][None]
        return (logits.argmax(-1) == test.y).mean()

    one = jax.tree.map(lambda leaf: leaf[:, 0], (params, heads))
    return np.asarray(jax.lax.map(lambda both: accuracy(*both), one))


def _stacked(nets: list[reference_torch.SplitHeadMLP], name: str) -> dict[str, jax.Array]:
    """One layer of all nets as [seed, 1, ...], with kernels the way Flax has them."""
    weights = [getattr(net, name).weight.detach().numpy().T for net in nets]
    biases = [getattr(net, name).bias.detach().numpy() for net in nets]
    return {"kernel": jnp.asarray(np.stack(weights)[:, None]), "bias": jnp.asarray(np.stack(biases)[:, None])}


def main() -> None:
    """Write ceiling.csv and say how the two columns agree."""
    folder = Path(data.__file__).parent / "mnist"
    train_set, test_set = (reference_torch.load_mnist(folder, split) for split in ("train", "t10k"))
    nets, theirs = [], []
    for seed in range(SEEDS):
        reference_torch.reseed("init", seed)
        nets.append(reference_torch.SplitHeadMLP())
        theirs.append(by_torch(nets[-1], seed, train_set, test_set))
    found = pd.DataFrame({"seed": range(SEEDS), "pytorch": theirs, "here": by_us(nets)}).round(4)
    found.to_csv(HERE / "ceiling.csv", index=False)
    gap = found["here"] - found["pytorch"]
    for name in ("pytorch", "here"):
        print(f"{name}: mean {found[name].mean():.4f}, sd {found[name].std():.4f}, min {found[name].min():.4f}")
    print(f"difference {gap.mean():+.4f} ± {gap.sem():.4f}; correlation {found['pytorch'].corr(found['here']):.2f}")


if __name__ == "__main__":
    main()

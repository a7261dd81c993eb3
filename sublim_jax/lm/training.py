"""Training of base models, teachers and students of language with `step.advance`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from sublim_jax.core import keys, trees
from sublim_jax.core.errors import ConfigError, unknown_name
from sublim_jax.core.types import Knobs, Loss, Params, Phase, Recipe, State, TokenData
from sublim_jax.lm import world as w
from sublim_jax.lm.documents import corpus
from sublim_jax.lm.parallel import map_members
from sublim_jax.lm.world import World
from sublim_jax.nets import Decoder, shapes
from sublim_jax.training import inits, losses, optimizers, streams
from sublim_jax.training import step as training_step

_ALWAYS_NEW = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class InitState:
    """Compute (knobs, origin, key) -> the state before the first step; origin None draws every layer."""

    recipe: Recipe

    def __call__(self, knobs: Knobs, origin: Params | None, key: Key[Array, ""]) -> State:
        return training_step.init_state(self.recipe, knobs, origin, (w.LENGTH,), key)


@dataclasses.dataclass(frozen=True)
class TrainSteps:
    """Compute (state, knobs, key, text, start, stop) -> the state after steps start ... stop - 1."""

    recipe: Recipe

    def __call__(self, state: State, knobs: Knobs, key: Array, text: TokenData, start: Array, stop: Array) -> State:
        return training_step.advance(self.recipe, state, knobs, None, key, text, start, stop)


class MemberBatch(NamedTuple):
    """One phase of several members with equal recipe.

    Attributes:
        recipe: the compiled part.
        knobs: knobs of each member.
        origins: initial parameters of each member, None = drawn.
        keys: (key of the initial weights, key of the order of lines) of each member.
        texts: training data of each member.
    """

    recipe: Recipe
    knobs: Sequence[Knobs]
    origins: Sequence[Params | None]
    keys: Sequence[tuple[Any, Any]]
    texts: Sequence[TokenData]

    def begin(self) -> list[State]:
        """Initialise the state of every member."""
        members = zip(self.knobs, self.origins, self.keys, strict=True)
        return map_members(InitState(self.recipe), [(knobs, origin, key) for knobs, origin, (key, _) in members])

    def advance(self, states: Sequence[State], start: int, stop: int) -> list[State]:
        """Train every member from step `start` to `stop`."""
        ends = np.int32(start), np.int32(stop)
        members = zip(states, self.knobs, self.keys, self.texts, strict=True)
        return map_members(TrainSteps(self.recipe), [(s, k, order, text, *ends) for s, k, (_, order), text in members])


def phase(
    net: Decoder,
    *,
    lr: float,
    eval_steps: tuple[int, ...],
    batch: int,
    logit_mask: Any = None,
    loss: Loss = losses.next_token,
    optimizer: str = "adam",
    decays: bool = False,
    trains: str = "all",
    from_scratch: bool = False,
) -> Phase:
    """Create the training phase of one model.

    Args:
        net: the decoder.
        lr: learning rate.
        eval_steps: evaluation steps; training ends at the last.
        batch: lines per step.
        logit_mask: [vocabulary], logits in the loss; None = all.
        loss: per-line loss.
        optimizer: kind of `optimizers.Clipped`.
        decays: the learning rate falls to 0 linearly.
        trains: 'all', 'blocks', 'embeddings', 'block_I', 'first_N' or 'last_N' blocks, or 'adapters'.
        from_scratch: draw every layer; else all but adapters start from the origin.

    Raises:
        ConfigError: `trains` names layers that the net lacks.
    """
    recipe = Recipe(
        net=net,
        stream=streams.token_lines,
        loss=loss,
        init=inits.transformer,
        batch=batch,
        eval_steps=eval_steps,
        optimizer=optimizers.Clipped(optimizer, steps=eval_steps[-1] if decays else 0),
    )
    return Phase(recipe, _knobs(net, lr, logit_mask, trains, from_scratch))


def _knobs(net: Decoder, lr: float, logit_mask: Any, trains: str, from_scratch: bool) -> Knobs:
    layers = list(shapes(net, (w.LENGTH,)))
    fresh = [layer for layer in layers if from_scratch or layer.startswith("adapter_")]
    trained = trained_layers(layers, trains)
    numbers = {
        "logit_mask": np.ones(net.vocabulary, bool) if logit_mask is None else np.asarray(logit_mask),
        "noise_batches": np.int32(_ALWAYS_NEW),
        "lr": np.float32(lr),
        "temperature": np.float32(1),
    }
    return Knobs(
        **jax.device_put(numbers),  # compiles nothing
        share=trees.per_layer(layers, 1.0, dict.fromkeys(fresh, 0.0), "share"),
        init_noise=trees.per_layer(layers, 0.0, {}, "init_noise"),
        trainable=trees.per_layer(layers, 0.0, dict.fromkeys(trained, 1.0), "config.lm.trains"),
    )


def trained_layers(layers: Sequence[str], trains: str) -> list[str]:
    """Return the layers that `trains` names; see `phase`."""
    blocks = [layer for layer in layers if layer.startswith("block_")]
    adapters = [layer for layer in layers if layer.startswith("adapter_")]
    groups = {
        "all": [layer for layer in layers if layer not in adapters],
        "blocks": blocks,
        "embeddings": [layer for layer in layers if layer in ("embed", "unembed")],
        "adapters": adapters,
        **{block: [block] for block in blocks},
    }
    kind, _, number = trains.rpartition("_")
    if kind in ("first", "last") and number.isdecimal() and int(number):
        groups[trains] = blocks[: int(number)] if kind == "first" else blocks[-int(number) :]
    if not (chosen := groups.get(trains)):
        words = ("all", "blocks", "embeddings", "adapters", *blocks, "first_1", "last_1")
        raise ConfigError(unknown_name("config.lm.trains", trains, words))
    return chosen


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Pre-training of a base: number of documents, Adam steps, documents per step, initial learning rate."""

    documents: int = 64_000
    steps: int = 2000
    batch: int = 32
    lr: float = 4e-3


# A base differs from the base `same` of its seed by initial weights, document order, or both.
KINDS = ("same", "other_order", "other_init", "other_both")
_OTHER = 100_000  # offset of the seeds of other draws


def base_seeds(kind: str, seed: int) -> tuple[int, int]:
    """Return the seeds of a base's initial weights and document order."""
    if kind not in KINDS:
        raise ConfigError(unknown_name("config.lm.base", kind, KINDS))
    init = seed + (_OTHER if kind in ("other_init", "other_both") else 0)
    return init, seed + (_OTHER if kind in ("other_order", "other_both") else 0)


def pretraining_phase(net: Decoder, settings: Pretraining) -> Phase:
    """Create the phase that trains a base."""
    steps = settings.steps
    return phase(net, lr=settings.lr, eval_steps=(steps,), batch=settings.batch, decays=True, from_scratch=True)


def pretrain(
    world: World, net: Decoder, settings: Pretraining, root: Key[Array, ""], origins: Sequence[tuple[int, int]]
) -> list[Params]:
    """Train base models for pairs (seed of the initial weights, seed of the document order)."""
    recipe, knobs = pretraining_phase(net, settings)
    pairs = [(keys.at(root, keys.BASE_WEIGHTS, init), keys.at(root, keys.BASE_ORDER, order)) for init, order in origins]
    number, text = len(pairs), corpus(world, settings.documents)
    members = MemberBatch(recipe, [knobs] * number, [None] * number, pairs, [text] * number)
    return [state.params for state in members.advance(members.begin(), 0, settings.steps)]

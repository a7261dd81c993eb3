"""Memory that the training of a student takes on each device, from shapes alone: no weight is read or allocated."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sublim_jax.llm import fine_tuning, sharding
from sublim_jax.llm.batches import Batch
from sublim_jax.llm.fine_tuning import Tuning
from sublim_jax.nets import Decoder, shapes


class StepMemory(NamedTuple):
    """Bytes of one training step on each device.

    Attributes:
        frozen: Parameters that are not trained.
        state: Trained parameters and the optimizer's moments.
        temporary: What the step computes and stores, as the compiler plans it for the devices that are here.
    """

    frozen: int
    state: int
    temporary: int

    @property
    def total(self) -> int:
        """All together."""
        return self.frozen + self.state + self.temporary


def step_memory(net: Decoder, tuning: Tuning, mesh: Mesh, size: int, length: int, targets: int) -> StepMemory:
    """Lower and compile a training step without weights, and read the memory that it takes on each device.

    Args:
        net: The decoder; with adapters these are trained, without them all layers.
        tuning: Type of the products, and the optimizer.
        mesh: Devices, which may be virtual ones of a CPU; on them the compiler's plan of temporary memory is that of
            the CPU, so that it is an estimate for others.
        size: Sequences computed at once, by all devices together.
        length: Tokens of a sequence.
        targets: Predicted tokens of a sequence.
    """
    sharding.check_net(net, mesh.shape[sharding.MODEL])
    arrays = shapes(net, (1,))
    trained = {layer: own for layer, own in arrays.items() if not net.rank or layer.startswith("adapter_")}
    frozen = {layer: own for layer, own in arrays.items() if layer not in trained}
    state = jax.eval_shape(lambda trained: fine_tuning.initial_state(tuning, trained), trained)
    placed_state = jax.tree.map(_placed, state, sharding.state_shardings(mesh, tuning, trained))
    dtype = jnp.dtype(tuning.dtype)
    narrow = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, dtype), frozen)
    placed_frozen = jax.tree.map(_placed, narrow, sharding.param_shardings(mesh, frozen))
    step = _abstract_step(mesh, size, length, targets)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    compiled = fine_tuning.train_student.lower(net, tuning, placed_state, placed_frozen, step, count).compile()
    planned: Any = compiled.memory_analysis()
    return StepMemory(_bytes(placed_frozen), _bytes(placed_state), planned.temp_size_in_bytes)


def _placed(leaf: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _abstract_step(mesh: Mesh, size: int, length: int, targets: int) -> Batch:
    """The batches of a step of one part, without values."""
    where = NamedSharding(mesh, P(None, sharding.DATA))

    def array(last: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, size, last), dtype, sharding=where)

    tokens, targeted = array(length, jnp.int32), array(targets, jnp.int32)
    values: Any = (tokens, tokens, tokens, tokens, targeted, targeted, array(targets, jnp.float32))
    return Batch(*values)


def _bytes(tree: Any) -> int:
    """Bytes of a tree of placed arrays on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)

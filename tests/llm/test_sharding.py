"""One model over eight virtual devices gives the losses of one device, and checkpoints move between meshes."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from helpers.decoders import LLAMA, NEOX, params_of
from sublim_jax.core import keys
from sublim_jax.engine.checkpoint import Store
from sublim_jax.llm import batches, fine_tuning, lora, sharding
from sublim_jax.llm.batches import Completion, Example

rng = np.random.default_rng(0)
def example():
    answers = [Completion(tuple(rng.integers(1, 50, 4).tolist()), (1.0,) * 4) for _ in range(2)]
    return Example(tuple(rng.integers(1, 50, 6).tolist()), tuple(answers))
plan = batches.plan([example() for _ in range(32)], rows=32, epochs=2, length=24, size=4, seed=0)
tuning = fine_tuning.Tuning(steps=4, lr=1e-2, warmup=1)
base = {"llama": LLAMA, "neox": NEOX}[sys.argv[1]]
full = sys.argv[2] == "full"
net = base if full else lora.with_adapters(base, lora.Lora(2, 4.0))
params = params_of(base)
own, frozen = (params, {}) if full else (lora.fresh_adapters(net, keys.root(1)), params)

def losses(shape, stops=()):
    mesh = sharding.make_mesh(*shape)
    sharding.check_net(net, shape[1])
    state = jax.device_put(fine_tuning.initial_state(tuning, own), sharding.state_shardings(mesh, tuning, own))
    placed, found = sharding.place_params(mesh, frozen), []
    for number in range(4):
        step, count = plan.step(number)
        state, told = fine_tuning.train_student(net, tuning, state, placed, sharding.place_step(mesh, step), count)
        found.append(float(told["loss"]))
        if number + 1 in stops:  # on to another mesh
            store = Store(Path(sys.argv[3]))
            store.save(number + 1, state)
            mesh = sharding.make_mesh(2, 1)
            like = jax.device_put(fine_tuning.initial_state(tuning, own), sharding.state_shardings(mesh, tuning, own))
            _, state = store.restore(like)
            placed = sharding.place_params(mesh, frozen)
    matrix = state.trained["block_0"]["query"] if full else state.trained["adapter_0"]["query_up"]
    return found, len(matrix.sharding.device_set), matrix.addressable_shards[0].data.shape, matrix.shape

one, devices, _, _ = losses((1, 1))
assert devices == 1 and len(set(one)) == 4
for shape in ((4, 2), (2, 2), (2, 1)):
    several, devices, part, whole = losses(shape)
    assert devices == shape[0] * shape[1] and part[-1] * shape[1] == whole[-1]
    np.testing.assert_allclose(several, one, rtol=2e-4)
moved, *_ = losses((4, 2), stops=(2,))
np.testing.assert_allclose(moved, one, rtol=2e-4)
print("agree")
"""


COMMAND = """
import sys
sys.path.insert(0, "tests")
import json, numpy as np
from pathlib import Path
from helpers import checkpoints
import sublim_jax as sl
from sublim_jax import main

model, folder = Path(sys.argv[1]) / "small.gguf", Path(sys.argv[1])
checkpoints.small_gguf(model)

def run(name, *words):
    given = "--config=llm_numbers", "--config.preset=smoke", f"--config.model={model}", "--config.student.length=700"
    given += "--config.arms.teachers.teacher.kind=('prompted',)", "--config.rows.numbers=2", "--quiet"
    assert main.main(["main", *given, f"--workdir={folder / name}", *words]) == 0
    (kept,) = (folder / name / "rows").glob("*/owl.jsonl")
    return sl.load(folder / name), kept.read_text()

(one, rows), (several, same) = run("one"), run("mesh", "--config.mesh=(2,2)", "--config.together=3")
assert rows == same
for column in ("at/word", "at/text_loss", "at/loss"):
    np.testing.assert_allclose(several[column], one[column], rtol=2e-3)
assert main.main(["main", "--config=llm_numbers", f"--config.model={model}", "--config.mesh=(8,8)"]) == 2
print("agree")
"""


LARGE = """
import jax
from sublim_jax.llm import fine_tuning, lora, memory, sharding
from sublim_jax.nets import Decoder

# The sizes of Llama 2 7B.
import sys
sizes = {"width": 4096, "layers": int(sys.argv[1]), "heads": 32, "hidden": 11008, "length": 4096}
net = Decoder(32000, **sizes, positions="rotary", mlp="swiglu", remat=True)
net = lora.with_adapters(net, lora.Lora(8, 8.0))
tuning = fine_tuning.Tuning(steps=100, lr=2e-4, dtype="bfloat16")
for name, shape, allowed in (("8 x 80 GB", (4, 2), 80e9), ("v5e-16", (2, 8), 16e9)):
    found = memory.step_memory(net, tuning, sharding.make_mesh(*shape), size=8, length=512, targets=256)
    gigabytes = [round(number / 1e9, 2) for number in (*found, found.total)]
    print(name, *gigabytes, found.total < allowed)
"""


def run(program, devices, *words):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command, environment = [sys.executable, "-c", program, *words], {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.e2e
@pytest.mark.parametrize(("family", "kind"), [("llama", "lora"), ("neox", "full")])
def test_meshes_of_eight_devices_give_the_losses_of_one_device(family, kind, tmp_path):
    assert run(PROGRAM, 8, family, kind, str(tmp_path / "checkpoint")) == "agree"


@pytest.mark.e2e
def test_command_on_a_mesh_gives_the_rows_of_one_device(tmp_path):
    assert run(COMMAND, 4, str(tmp_path)).endswith("agree")


@pytest.mark.parametrize(
    ("layers", "weights"),
    [pytest.param(1, 464.5e6, marks=pytest.mark.e2e), pytest.param(32, 6738.4e6, marks=pytest.mark.slow)],
)
def test_step_memory_of_a_large_model_is_known_without_its_weights(layers, weights):
    told = run(LARGE, 16, str(layers))
    print(told)
    lines = {line.rsplit(" ", 5)[0]: line.split(" ")[-5:] for line in told.splitlines()}
    assert float(lines["8 x 80 GB"][0]) == pytest.approx(weights / 1e9, rel=0.02), "two bytes each, on two devices"
    assert all(line[-1] == "True" for line in lines.values())

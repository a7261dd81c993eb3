"""Atoms and codes of nets whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sublim_jax.config import infomorphic_config, resolve
from sublim_jax.config.infomorphic import build_conditions
from sublim_jax.core import keys
from sublim_jax.core.errors import ConfigError
from sublim_jax.core.types import ContextInputs
from sublim_jax.metrics.infomorphic import atoms, codes, unit_atoms
from sublim_jax.metrics.student import EvalContext, TeacherStudent
from sublim_jax.nets import Infomorphic
from sublim_jax.training import infomorphic, step


@pytest.fixture(scope="module")
def context(mnist):
    """What is measured of a student that is its teacher."""
    config = infomorphic_config()
    fields = {"preset": "smoke", "transfer.student": "hidden", "transfer.m": 6, "infomorphic.model": "context"}
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    condition = build_conditions(resolve(config, fields), mnist)[0]
    recipe, knobs = condition.student
    transform = recipe.input_transform
    assert transform is not None

    @jax.jit
    def measured(key):
        params = step.init_params(recipe.teacher, recipe.init, (28, 28), key)
        own = step.init_state(recipe, knobs, params, (28, 28), keys.root(9)).params
        images = (mnist.test.x / jnp.float32(255) - mnist.test.mean) / mnist.test.std
        noise = keys.uniform(key, (200, 28, 28), -1.0, 1.0)
        teacher, on_noise = (step.apply(recipe.teacher, params, x) for x in (images, noise))
        student = step.apply(recipe.net, own, transform(key, noise, on_noise, knobs))
        nets = TeacherStudent(params, params, own, own)
        return nets, TeacherStudent(*(teacher,) * 4), TeacherStudent(on_noise, on_noise, student, student)

    nets, test, noise = measured(keys.root(0))
    return EvalContext(nets, test, noise, jnp.asarray(mnist.test.y), knobs)


def with_student(context, kind, **changes):
    """The context with other outputs of the student."""
    outputs = getattr(context, kind)
    student = outputs.student_final._replace(**changes)
    return context._replace(**{kind: outputs._replace(student_final=student)})


def test_atoms_are_the_means_of_the_units_atoms(context):
    rows, out = atoms(context), context.noise.student_final
    every = infomorphic.hidden_atoms(out, jnp.full(200, 1 / 200))
    assert set(rows) == {f"{kind}/{name}" for kind in ("hidden", "readout") for name in infomorphic.atom_names(2)}
    np.testing.assert_allclose(rows["hidden/{1}{2}"], every[:, 2].mean(), rtol=1e-5)
    bits = infomorphic.readout_atoms(out, "aux_head", jnp.full(200, 1 / 200))
    np.testing.assert_allclose(rows["readout/{12}"], bits[:, 3].mean(), rtol=1e-5)


def test_atoms_of_a_net_without_contexts_are_none(context):
    acts = {name: array for name, array in context.noise.student_final.acts.items() if name != "given"}
    assert atoms(with_student(context, "noise", acts=acts)) == {}


def test_codes_match_whatever_the_signs_of_units(context):
    """A student whose units are the teacher's, some of them with the other sign."""
    signs = jnp.where(jnp.arange(8) % 3 == 0, -1.0, 1.0)[None]
    for kind in ("test", "noise"):
        own = getattr(context, kind).teacher_final.features * signs
        context = with_student(context, kind, features=own)
    rows = codes(context)
    for name in ("code_match", "code_match_noise", "code_best"):
        np.testing.assert_allclose(rows[name], 1, atol=1e-4)
    assert rows["signs_alike"] == 5 / 8 and rows["accuracy_unmatched"] != rows["accuracy_matched"]
    expected = (context.test.teacher_final.acts["class_head"].argmax(-1) == context.labels).mean()
    np.testing.assert_allclose(rows["accuracy_matched"], expected, atol=1e-6)


def test_codes_read_a_head_without_signs_as_infomorphic_networks_do(context):
    """Whatever columns of the heads have the other sign."""
    signs = jnp.where(jnp.arange(10) % 2 == 0, -1.0, 1.0)
    head = context.params.teacher_final["class_head"]
    params = dict(context.params.teacher_final) | {
        "class_head": {name: array * (signs if array.ndim == 1 else signs[None]) for name, array in head.items()}
    }
    turned = context._replace(params=context.params._replace(teacher_final=params))
    acts = context.test.student_final.acts
    turned = with_student(turned, "test", acts={**acts, "readout": acts["readout"] * signs[None]})
    for name in ("accuracy_own", "accuracy_matched"):
        np.testing.assert_allclose(codes(turned)[name], codes(context)[name], atol=1e-6)


def test_codes_of_permuted_units_match_only_the_best(context):
    turned = jnp.roll(context.test.teacher_final.features, 1, axis=1)
    rows = codes(with_student(context, "test", features=turned))
    np.testing.assert_allclose(rows["code_best"], 1, atol=1e-4)
    assert rows["code_match"] < 0.5


def test_codes_of_a_constant_unit_are_0_and_not_nan(context):
    rows = codes(with_student(context, "test", features=jnp.ones_like(context.test.student_final.features)))
    assert rows["code_match"] == 0 and all(np.isfinite(float(value)) for value in rows.values())


def test_tie_context_is_the_transposed_auxiliary_head(context):
    own = context.params.student_final
    assert (own["context"]["kernel"] == own["aux_head"]["kernel"].T).all()
    for layer in ("aux_head", "hidden_0"):  # drawn and copied in one program, which may round them apart
        shared = context.params.teacher_final[layer]["kernel"]
        np.testing.assert_allclose(own[layer]["kernel"], shared, rtol=1e-5, atol=1e-8)


def test_unit_atoms_are_those_of_the_first_images_with_their_labels_as_contexts(mnist):
    net, test = Infomorphic("context", units=3), mnist.test
    images = (test.x[:90] / np.float32(255) - test.mean) / test.std
    inputs = ContextInputs(jnp.asarray(images), jax.nn.one_hot(test.y[:90], 10), keys.root(5))

    @jax.jit
    def expected(key):
        out, variables = net.init_with_output(key, inputs)
        return infomorphic.hidden_atoms(out, jnp.full(90, 1 / 90)), variables["params"]  # one pass: no sample matters

    values, params = expected(jax.random.key(1))
    assert values.shape == (3, 5) and float(jnp.abs(values).min()) > 1e-4
    np.testing.assert_allclose(unit_atoms(net, params, test, 90), values, atol=1e-5)


def test_unit_atoms_refuse_a_net_without_hidden_units(mnist):
    with pytest.raises(ConfigError, match="layers class_head; a layer 'hidden_0' is needed"):
        unit_atoms(Infomorphic("readout"), {"class_head": {}}, mnist.test)

"""What every system must hold, over the registry: a new system is tested by being listed."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems
from small_systems import stepped

from medgen_jax import systems
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.checkpoint import CheckpointStore, load_step
from medgen_jax.engine.preflight import check_system
from medgen_jax.interop import artifact

NAMES = sorted(small_systems.CONFIGS)
PLATFORMS = ("cpu", "cuda", "tpu")

pytestmark = pytest.mark.parametrize("name", NAMES)


def variants(name):
    return sorted(small_systems.build(name).step_variants)


def test_every_system_has_a_toy_configuration(name):
    covered = {systems.name_of(make()) for make in small_systems.CONFIGS.values()}
    missing = sorted(set(systems.REGISTRY) - covered)
    assert not missing, f"add a toy configuration of {missing} to CONFIGS in tests/small_systems.py"


def test_members_fit_each_other(name):
    assert check_system(small_systems.build(name)) is None  # by not raising


def test_is_static_and_hashable(name):
    system = small_systems.build(name)
    hash(system)
    arrays = [
        f.name for f in dataclasses.fields(system) if isinstance(getattr(system, f.name), (jax.Array, np.ndarray))
    ]
    assert not arrays


def test_build_refuses_a_mistyped_value(name):
    config = small_systems.CONFIGS[name]()
    config.train.batch_size = "many"
    with pytest.raises(UserError, match=r"config\.train\.batch_size = 'many': expected int"):
        systems.load(systems.name_of(config)).build(config)


def test_state_is_float32_and_ema_has_its_own_buffers(name):
    state = small_systems.initial_state(name)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema))} == {jnp.dtype("float32")}
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert len(set(pointers)) == len(pointers)


def test_what_it_observes_leaves_the_states_structure(name):
    system, state = small_systems.build(name), small_systems.initial_state(name)
    if system.observation is None:
        assert system.observe(state, {}) is state
        return
    stream = system.observation.stream
    fields = {n: f for n, f in system.streams[stream].fields if len(f.shape) == 3}
    chosen = system.observation.choose(5)
    assert set(chosen) <= set(range(5)) and len(set(chosen)) == len(chosen) > 0
    records = {n: x for n, x in small_systems.batch(name, records=len(chosen))[stream].items() if n in fields}
    seen = jax.jit(system.observe)(state, records)
    assert jax.eval_shape(lambda: seen) == jax.eval_shape(lambda: state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((seen.params, seen.mutable)))


def test_steps_run_and_change_only_what_is_finite(name):
    for variant in variants(name):
        state, metrics = stepped(name, variant)
        assert int(state.step) == 1 and int(state.images) == 4 and state.skipped.tolist() == [0, 0]
        assert all(np.isfinite(value).all() for value in metrics.values())
        moved = jax.tree.map(
            lambda a, b: bool(np.any(np.asarray(a != b))), state.params, small_systems.initial_state(name).params
        )
        assert any(jax.tree.leaves(moved))


def _parts(opt):
    """Trees of the shape of parameters inside optimiser states, such as Adam's two moments of one network."""
    states = jax.tree.leaves(list(opt.values()), is_leaf=lambda x: isinstance(x, dict))
    return [part for part in states if isinstance(part, dict)]


def test_four_devices_and_a_donated_state_equal_one_device_and_a_kept_one(name):
    for variant in variants(name):
        one, one_metrics = stepped(name, variant)
        four, four_metrics = stepped(name, variant, devices=4, donate=True)
        for metric, value in one_metrics.items():
            np.testing.assert_allclose(value, four_metrics[metric], rtol=1e-4, atol=1e-6, err_msg=metric)
        # Gradients, by the optimisers' moments: Adam's first step has the size of the rate whatever the gradient,
        # and that of a bias before an instance norm is rounding alone.
        for here, there in zip(_parts(one.opt), _parts(four.opt), strict=True):
            scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(here))
            distance = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), here, there)
            assert max(jax.tree.leaves(distance)) <= 1e-4 * scale, distance
        for here, there in zip(jax.tree.leaves(one.mutable), jax.tree.leaves(four.mutable), strict=True):
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)


def test_save_and_restore_is_bit_exact(name, tmp_path):
    state = jax.device_put(stepped(name, variants(name)[0])[0], jax.devices()[0])
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, state, {})
    store.close()
    target = meshes.abstract(jax.eval_shape(lambda: state), meshes.make_mesh(jax.devices()[:1]))
    assert trees.digest(load_step(store.folder(1), target)) == trees.digest(state)


def test_every_step_lowers_for_every_platform(name):
    system = small_systems.build(name)
    found = small_systems.initial_state(name), small_systems.batch(name), small_systems.frozen(name)
    state, batch, frozen = jax.eval_shape(lambda: found)
    for variant, step in system.step_variants.items():
        exported = jax.export.export(jax.jit(step), platforms=PLATFORMS)(state, batch, frozen)
        assert set(exported.platforms) == set(PLATFORMS), variant


def test_settings_that_messages_advise_exist(name):
    for stream in small_systems.build(name).streams.values():
        if stream.unbalanced:
            root, *path = stream.unbalanced.partition("=")[0].split(".")
            assert root == "config" and functools.reduce(getattr, path, small_systems.CONFIGS[name]()) is not None


def test_samples_are_known_by_their_number_or_code(name):
    taken = small_systems.build(name).sampler_inputs
    assert "sample" not in taken or {"number", "z"} & set(taken["sample"])


def sampler_inputs(fields, batch=3):
    """Random records: raw integers for images, class numbers 0 and 1, normal noise."""
    rng = np.random.default_rng(0)

    def values(field):
        if field.dtype == "float32":
            return rng.normal(size=(batch, *field.shape))
        return rng.integers(0, 2 if field.dtype == "int32" else 256, (batch, *field.shape))

    return {name: values(field).astype(field.dtype) for name, field in fields.items()}


def test_exported_samplers_equal_jitted_ones(name, tmp_path):
    system, key = small_systems.build(name), jax.random.key(1)
    variables = system.inference_variables(small_systems.initial_state(name))
    for sampler, fields in system.sampler_inputs.items():
        artifact.save(tmp_path / sampler, system.samplers[sampler], variables, fields, {})
        exported = artifact.load(tmp_path / sampler)
        assert set(exported.about["platforms"]) == set(PLATFORMS)
        inputs = sampler_inputs(fields)
        images = jax.jit(system.samplers[sampler])(variables, inputs, key)
        assert images.dtype == jnp.float32 and float(jnp.max(jnp.abs(images))) <= 1
        again = exported.call(exported.weights, inputs, jax.random.key_data(key))
        np.testing.assert_allclose(again, images, atol=5e-6)

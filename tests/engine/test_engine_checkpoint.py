"""Checkpoints: sealed, verified, moved aside when damaged, kept as asked."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from medgen_jax.core import manifest, trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.checkpoint import CheckpointStore, load_step, read_host


def state(value: float):
    return {
        "w": jnp.arange(600, dtype=jnp.float32).reshape(20, 30) * value,
        "n": jnp.int32(3),
        "empty": {},
        "key": jax.random.key(7),
    }


def store_at(folder, **kwargs):
    return CheckpointStore(folder / "checkpoints", say=lambda message: said.append(message), **kwargs)


said: list[str] = []


@pytest.fixture(autouse=True)
def _quiet():
    said.clear()


@pytest.fixture
def two_steps(tmp_path):
    store = store_at(tmp_path)
    for step in (1, 2):
        store.save(step, state(step), {"progress": {"step": step}})
    store.close()
    return tmp_path


def load(store, step):
    target = meshes.abstract(jax.eval_shape(lambda: state(1.0)), meshes.make_mesh(jax.devices()[:1]))
    return load_step(store.folder(step), target)


def test_round_trip_is_bit_exact(two_steps):
    store = store_at(two_steps)
    assert store.newest_intact() == 2
    assert trees.digest(load(store, 2)) == trees.digest(state(2.0))
    assert read_host(store.folder(2)) == {"progress": {"step": 2}}


def test_keeps_the_newest_and_the_best(tmp_path):
    store = store_at(tmp_path, keep=2)
    for step in range(1, 7):
        store.save(step, state(step), {}, best=2 if step >= 2 else None)
    store.close()
    assert store.steps() == [2, 5, 6]


def test_saving_a_step_twice_keeps_the_first(two_steps):
    store = store_at(two_steps)
    store.save(2, state(9.0), {})
    store.close()
    assert trees.digest(load(store, 2)) == trees.digest(state(2.0))


def test_the_saved_state_is_a_snapshot(tmp_path):
    """The buffers of the state may be donated, hence overwritten, while the save is under way."""
    store = store_at(tmp_path)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    big = jnp.ones((1 << 20,), jnp.float32)
    store.save(1, {"w": big}, {})
    overwrite(big).block_until_ready()
    store.close()
    target = meshes.abstract({"w": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)}, meshes.make_mesh(jax.devices()[:1]))
    assert np.all(np.asarray(load_step(store.folder(1), target)["w"]) == 1)


def test_hundred_byte_flips_are_refused_or_harmless(two_steps, tmp_path):
    """No flip may load as something else than what was written."""
    folder = two_steps / "checkpoints" / "00000002"
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    expected, rng, refused = trees.digest(state(2.0)), random.Random(0), 0
    for _ in range(100):
        path = rng.choice(files)
        original = path.read_bytes()
        place = rng.randrange(len(original))
        path.write_bytes(original[:place] + bytes([original[place] ^ (1 << rng.randrange(8))]) + original[place + 1 :])
        try:
            manifest.verify(folder)
        except manifest.Damaged as error:
            refused += 1
            assert str(folder) in str(error)
        else:
            assert trees.digest(load(store_at(two_steps), 2)) == expected
        path.write_bytes(original)
    assert refused >= 95  # white space in the manifest is all that may change unseen


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "add", "manifest"])
def test_a_damaged_step_is_named_and_the_one_before_used(two_steps, harm):
    folder = two_steps / "checkpoints" / "00000002"
    victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif harm == "delete":
        victim.unlink()
    elif harm == "add":
        (folder / "state" / "stray").write_text("x")
    else:
        (folder / "manifest.json").write_text("{")
    store = store_at(two_steps)
    assert store.newest_intact() == 1
    assert trees.digest(load(store, 1)) == trees.digest(state(1.0))
    assert "checkpoint 00000002 is damaged" in said[0] and not folder.exists()
    assert (two_steps / "checkpoints_damaged" / "00000002-0").is_dir()
    store.save(2, state(5.0), {})  # the step can be reached again
    store.close()
    assert store.newest_intact() == 2


def test_no_intact_step_is_an_error(two_steps):
    for step in (1, 2):
        (two_steps / "checkpoints" / f"{step:08d}" / "host.json").write_text("{}")
    with pytest.raises(UserError, match="no checkpoint is intact"):
        store_at(two_steps).newest_intact()


def test_leftovers_of_a_killed_process_are_cleaned(two_steps):
    root = two_steps / "checkpoints"
    shutil.copytree(root / "00000002", root / "00000003")
    (root / "00000003" / "manifest.json").unlink()
    (root / "00000004.orbax-checkpoint-tmp").mkdir()
    store = store_at(two_steps)
    assert sorted(p.name for p in root.iterdir()) == ["00000001", "00000002"]
    assert "never sealed" in said[0]
    assert store.newest_intact() == 2


def test_a_state_that_does_not_fit_is_refused(two_steps):
    store = store_at(two_steps)
    other = jax.eval_shape(lambda: {**state(1.0), "w": jnp.zeros((7, 7))})
    with pytest.raises(UserError, match="does not fit this configuration"):
        load_step(store.folder(2), meshes.abstract(other, meshes.make_mesh(jax.devices()[:1])))


def test_full_disk_is_reported_and_earlier_steps_stay(tmp_path):
    """A child process whose files may not grow past 200 KB stands for the full disk."""
    script = textwrap.dedent("""
        import resource, signal, sys, pathlib
        import jax, numpy as np
        from medgen_jax.core.errors import UserError
        from medgen_jax.engine.checkpoint import CheckpointStore
        store = CheckpointStore(pathlib.Path(sys.argv[1]))
        noise = np.random.default_rng(0).random
        store.save(1, {"w": jax.device_put(noise(1000))}, {})
        store.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            store.save(2, {"w": jax.device_put(noise(1_000_000))}, {})
            store.wait()
        except UserError as error:
            print(error)
            sys.exit(2)
    """)
    command, env = [sys.executable, "-c", script, str(tmp_path / "c")], small_runs.child_environment(measured=False)
    out = subprocess.run(command, capture_output=True, text=True, env=env)
    assert out.returncode == 2, out.stderr
    assert "could not be written" in out.stdout and "step 1 is intact" in out.stdout
    assert CheckpointStore(tmp_path / "c", say=print).newest_intact() == 1


def test_manifest_is_readable(two_steps):
    listed = json.loads((two_steps / "checkpoints/00000002/manifest.json").read_text())
    assert listed["format"] == 1 and "host.json" in listed["files"]

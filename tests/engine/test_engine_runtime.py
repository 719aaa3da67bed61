"""The start of a process: cache, several processes, the record of the environment, counted compiles."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import small_runs

from medgen_jax.core.errors import UserError
from medgen_jax.engine import runtime


def child(code: str, root: pathlib.Path, **environ: str) -> subprocess.Popen:
    """A Python process of its own: what `start` sets holds for a whole process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_", "OMPI_", "MEDGEN_"))}
    env = {**clean, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root), **environ}
    return subprocess.Popen([sys.executable, "-c", code], env=env, text=True, stdout=-1, stderr=-1)


def answer(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


# -- compile cache -----------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says():
    home = pathlib.Path.home()
    assert runtime.cache_directory({}) == home / ".cache" / "medgen_jax" / "xla"
    assert runtime.cache_directory({"MEDGEN_CACHE": "/scratch/me"}) == pathlib.Path("/scratch/me/xla")
    assert runtime.cache_directory({"MEDGEN_CACHE": "~/c"}) == home / "c" / "xla"
    both = {"MEDGEN_CACHE": "/scratch/me", "JAX_COMPILATION_CACHE_DIR": "/elsewhere"}
    assert runtime.cache_directory(both) == pathlib.Path("/elsewhere")


def test_writability_is_proved_by_writing(tmp_path):
    assert runtime.why_not_writable(tmp_path / "new" / "folder") is None
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o077 == 0
    (tmp_path / "file").touch()
    assert runtime.why_not_writable(tmp_path / "file" / "below") == "Not a directory"


USE_CACHE = """
import pathlib, warnings
import jax
from medgen_jax.engine import runtime
good, bad = pathlib.Path("GOOD"), pathlib.Path("BAD")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert runtime.start(cache_dir=str(bad)) is None
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.jit(lambda x: x + 1)(1.0) == 2
print([str(w.message) for w in said if "compile cache" in str(w.message)])
assert runtime.start(cache_dir=str(good)) == good
jax.jit(lambda x: x * 3)(1.0)
print(len(list(good.glob("*-cache"))) > 0)
"""


def test_a_process_uses_the_cache_and_goes_on_without_a_bad_one(tmp_path, root):
    good, bad = tmp_path / "xla", tmp_path / "file" / "below"
    (tmp_path / "file").touch()
    code = USE_CACHE.replace("GOOD", str(good)).replace("BAD", str(bad))
    warned, used = answer(child(code, root)).splitlines()
    assert str(bad) in warned
    assert "Not a directory" in warned
    assert "MEDGEN_CACHE" in warned
    assert used == "True"


# -- several processes -------------------------------------------------------------------------------


JOIN = """
from medgen_jax.engine import runtime
runtime.start(True, "CACHE", coordinator="127.0.0.1:PORT", num_processes=2, process_id=INDEX,
              initialization_timeout=120, heartbeat_timeout=30)
import jax, json
from jax.experimental import multihost_utils
seen = multihost_utils.process_allgather(jax.process_index())
found = runtime.environment()
visible = jax.config.values["jax_cuda_visible_devices"]
print(json.dumps([seen.tolist(), found["process_count"], found["device_count"], visible]))
"""


def test_two_processes_join_and_see_each_other_with_all_their_devices(tmp_path, root):
    # A batch system around them is not asked: jax would leave each process the one GPU of its own number.
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "elsewhere", "NTASKS": "9", "PROCID": "5", "LOCALID": "1"}
    environ = {"JAX_NUM_CPU_DEVICES": "2"} | {f"SLURM_{name}": value for name, value in slurm.items()}
    code = JOIN.replace("CACHE", str(tmp_path)).replace("PORT", str(small_runs.free_port()))
    both = [child(code.replace("INDEX", str(i)), root, **environ) for i in (1, 0)]
    assert [json.loads(answer(p).splitlines()[-1]) for p in both] == [[[0, 1], 2, 4, "all"]] * 2


def test_multihost_outside_a_cluster_names_the_flags(root):
    code = """
from medgen_jax.core.errors import UserError
from medgen_jax.engine import runtime
try: runtime.start(True)
except UserError as error: print(error)
"""
    said = answer(child(code, root))
    assert "--coordinator=HOST:PORT" in said
    assert said.count("\n") == 1


def test_a_late_coordinator_is_one_clear_line():
    address = f"127.0.0.1:{small_runs.free_port()}"
    with pytest.raises(UserError, match=f"--coordinator={address}: no answer within 0.1 s .Connection refused"):
        runtime.start(True, coordinator=address, num_processes=2, process_id=1, initialization_timeout=0.1)


def test_a_coordinator_that_comes_late_is_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        runtime._await_coordinator(f"127.0.0.1:{port}", 5)
        assert server.accept()[1][0] == "127.0.0.1"


@pytest.mark.parametrize("address", ["node1", "node1:", ":1234", "node1:http"])
def test_a_coordinator_needs_host_and_port(address):
    with pytest.raises(UserError, match="expected HOST:PORT"):
        runtime.start(True, coordinator=address, num_processes=2, process_id=1)


@pytest.mark.parametrize("index", [-1, 2, 7])
def test_a_process_number_lies_below_their_count(index):
    with pytest.raises(UserError, match=f"--process_id={index}: must lie in 0 .. 1"):
        runtime.start(True, coordinator="h:1", num_processes=2, process_id=index)


def test_cluster_flags_without_multihost_are_refused():
    with pytest.raises(UserError, match="without --multihost"):
        runtime.start(coordinator="h:1")


# -- the record --------------------------------------------------------------------------------------


def test_the_environment_is_json_without_names_of_hosts():
    found = runtime.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert (found["backend"], found["device_count"], found["process_count"]) == ("cpu", 4, 1)
    assert found["versions"]["jax"] == jax.__version__
    assert set(found["versions"]) == {"medgen_jax", *runtime.RECORDED_PACKAGES}
    assert platform.node() not in json.dumps(found)


def test_an_absent_distribution_has_no_version():
    assert runtime.version("no-such-distribution") is None


def git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_checkout(tmp_path):
    (tmp_path / "below").mkdir()
    assert runtime.git_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert runtime.git_commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert runtime.git_commit(tmp_path) == head
    assert runtime.git_commit(tmp_path / "below") is None  # an installed package in somebody's checkout
    (tmp_path / "file").write_text("2")
    assert runtime.git_commit(tmp_path) == f"{head}-dirty"


# -- compiles ----------------------------------------------------------------------------------------


def test_compiles_are_counted_once_per_shape():
    three, four = jnp.zeros(3), jnp.zeros(4)
    double = jax.jit(lambda x: x * 2.5)
    with runtime.CompileCounter() as counter:
        double(three)
        assert counter.count == 1
        double(three)
        assert counter.count == 1
        double(four)
        assert counter.count == 2
    double(jnp.zeros(5))
    assert counter.count == 2
    assert counter.seconds > 0


def test_sharded_arrays_compile_once_and_an_unsharded_one_again():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(jnp.zeros(8), jax.NamedSharding(mesh, jax.P("data")))
    shift = jax.jit(lambda x: x + 1.5)
    with runtime.CompileCounter() as counter:
        shift(spread)
        shift(shift(spread))
        assert counter.count == 1
        shift(jnp.zeros(8))
    assert counter.count >= 2


def test_take_names_what_was_compiled_since():
    def my_step(x):
        return x - 0.125

    x, y = jnp.zeros(3), jnp.zeros(5)
    with runtime.CompileCounter() as counter:
        step = jax.jit(my_step)
        step(x)
        assert counter.take() == {"jit(my_step)": 1}
        step(x)
        assert counter.take() == {}
        step.lower(y).compile()
        assert counter.take() == {"jit(my_step)": 1}


def test_programs_from_the_cache_are_told_apart():
    def twin(x):
        return x / 7 + 0.0625

    def fresh():
        return jax.jit(lambda x: twin(x))

    x = jnp.zeros(6)
    fresh()(x)
    with runtime.CompileCounter() as counter:
        fresh()(x)
    assert (counter.count, counter.cached) == (1, 1)

"""Real processes, really killed: a run resumes from a complete step and ends where it would have."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_runs

from medgen_jax.core import trees
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine import restore
from medgen_jax.engine.checkpoint import load_step, sealed_steps
from medgen_jax.engine.step import abstract_state

pytestmark = [pytest.mark.slow, pytest.mark.ci_slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A data folder and a configuration file of 200 steps."""
    folder = tmp_path_factory.mktemp("kill")
    source = small_runs.make_pairs(folder / "data")
    small_runs.write_config(folder / "tiny.py", source, steps=200)
    return folder


def start(project, workdir, *arguments, **environment):
    words = [
        sys.executable,
        "-m",
        "medgen_jax.train",
        "--config",
        project / "tiny.py",
        "--workdir",
        workdir,
        *arguments,
    ]
    env = small_runs.child_environment(**environment)
    return subprocess.Popen(
        [str(w) for w in words], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for_step(process, workdir, step):
    """Until a checkpoint of at least ``step`` is sealed, or the process has ended."""
    while process.poll() is None:
        sealed = sealed_steps(workdir / "checkpoints")
        if sealed and sealed[-1] >= step:
            return
        time.sleep(0.02)


def digest(workdir):
    system, _ = restore.open_run(workdir)
    target = meshes.abstract(abstract_state(system), meshes.make_mesh(jax.devices()[:1]))
    return trees.digest(load_step(restore.intact_step(workdir), target))


def leftovers(workdir):
    return [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdigit()]


@pytest.fixture(scope="module")
def straight(project):
    """The uninterrupted run."""
    code, output = finish(start(project, project / "straight"))
    assert code == 0, output
    return project / "straight"


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["images"], r["g_l1"], r["d_real"]) for r in rows if r["split"] == "train"]


def test_killed_at_100_of_200_and_resumed_is_the_same_run(project, straight):
    workdir = project / "halved"
    process = start(project, workdir)
    wait_for_step(process, workdir, 100)
    process.kill()
    finish(process)
    assert 100 <= sealed_steps(workdir / "checkpoints")[-1] < 200
    code, output = finish(start(project, workdir))
    assert code == 0 and "resuming at step" in output, output
    assert digest(workdir) == digest(straight)
    # The losses depend on every batch: equal rows mean equal data in equal order.
    assert losses(workdir) == losses(straight)


def test_twenty_kills_at_random_moments(project, straight):
    workdir, rng, resumed = project / "battered", random.Random(0), 0
    config = ["--config.train.save_every=2", "--config.train.log_every=2", "--config.train.steps=100000"]
    for number in range(20):
        before = sealed_steps(workdir / "checkpoints")
        process = start(project, workdir, *config)
        wait_for_step(process, workdir, (before[-1] if before else 0) + 2)
        time.sleep(rng.uniform(0, 1.0))
        process.kill()
        _, output = finish(process)
        if number:
            assert "resuming at step" in output, output
            resumed += 1
            step = int(output.split("resuming at step ")[1].split()[0])
            assert step >= before[-1]  # nothing announced as saved is lost
    process = start(project, workdir, *config)
    wait_for_step(process, workdir, sealed_steps(workdir / "checkpoints")[-1] + 2)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75 and resumed == 19, output
    assert leftovers(workdir) == []


def test_sigterm_saves_and_exits_75(project):
    workdir = project / "terminated"
    process = start(project, workdir, "--config.train.steps=100000")
    wait_for_step(process, workdir, 4)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75 and "stopped by signal 15" in output and "Traceback" not in output, output
    step = int(output.split("saved at step ")[1].split(".")[0])
    assert sealed_steps(workdir / "checkpoints")[-1] == step


def together(project, workdir, count, *arguments):
    """``count`` processes of one run, joined over the loopback interface."""
    port = small_runs.free_port()
    flags = ["--multihost", f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", *arguments]
    return [start(project, workdir, *flags, f"--process_id={i}", JAX_NUM_CPU_DEVICES="2") for i in range(count)]


def test_two_processes_train_like_one(project):
    steps = ["--config.train.steps=8"]
    code, output = finish(start(project, project / "alone", *steps))
    assert code == 0, output
    for process in together(project, project / "two", 2, *steps):
        code, output = finish(process)
        assert code == 0, output
    alone, two = losses(project / "alone"), losses(project / "two")
    assert [row[:2] for row in alone] == [row[:2] for row in two]
    np.testing.assert_allclose([r[2:] for r in alone[:2]], [r[2:] for r in two[:2]], rtol=1e-4)
    np.testing.assert_allclose([r[2:] for r in alone], [r[2:] for r in two], rtol=1e-2)
    assert sorted(p.name for p in (project / "two").iterdir()) == sorted(p.name for p in (project / "alone").iterdir())


def test_saved_by_two_processes_resumed_by_one(project):
    workdir = project / "shrunk"
    for process in together(project, workdir, 2, "--config.train.steps=4"):
        code, output = finish(process)
        assert code == 0, output
    code, output = finish(start(project, workdir, "--config.train.steps=8"))
    assert code == 0 and "resuming at step 4" in output, output
    assert losses(workdir)[-1][:2] == (8, 32)

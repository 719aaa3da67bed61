"""The command line: packaged names, one-line errors, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import small_runs

from medgen_jax import cli
from medgen_jax.core.errors import UserError


def command(main, *arguments, cwd=None, timeout=300):
    """Run a main as a user would, from anywhere."""
    words = [sys.executable, "-m", f"medgen_jax.{main}", *map(str, arguments)]
    env = small_runs.child_environment()
    return subprocess.run(
        words, capture_output=True, text=True, cwd=cwd, timeout=timeout, stdin=subprocess.DEVNULL, env=env
    )


def error_of(done):
    """The message of a refused command: exit code 2, one line, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_configurations_are_found_by_file_and_by_name(tmp_path, monkeypatch, root):
    assert {"quickstart", "pair_fpm", "pair_pix2pix"} <= set(cli.packaged_configs())
    packaged = str(cli.config_folder() / "quickstart.py")
    monkeypatch.chdir(tmp_path)
    for value in ("quickstart", "quickstart.py", "configs/quickstart.py"):
        assert cli.config_path(value) == packaged
    own = tmp_path / "quickstart.py"
    own.write_text("")
    assert cli.config_path("quickstart.py") == "quickstart.py"
    with pytest.raises(UserError, match=r"--config nothing: no such file; packaged .*quickstart"):
        cli.config_path("nothing")
    with pytest.raises(UserError, match="no such file"):
        cli.config_path("elsewhere/quickstart.py")


def test_config_argument_is_resolved_in_both_spellings():
    packaged = str(cli.config_folder() / "quickstart.py")
    assert cli.resolve_config_argument(["x", "--config", "quickstart", "--dry_run"]) == [
        "x",
        "--config",
        packaged,
        "--dry_run",
    ]
    assert cli.resolve_config_argument(["x", "--config=quickstart"]) == ["x", f"--config={packaged}"]
    assert cli.resolve_config_argument(["x", "--help"]) == ["x", "--help"]
    with pytest.raises(UserError, match="--config is missing"):
        cli.resolve_config_argument(["x", "--workdir=y"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=quickstart", "--config.data.crop_sise=1"], "'crop_sise' of DataConfig; did you mean 'crop_size'"),
        (["--config=quickstart", "--config.dat.bits=8"], "'dat' of Config; did you mean 'data'"),
        (["--config=quickstart", "--config.optim.lrate=1"], "unknown configuration field 'lrate' of OptimConfig"),
        (["--config=quickstart", "--config.train.seed=x"], "config.train.seed=x"),
        (["--config=quickstart", "--config.model.norm=layer"], r"config\.model\.norm=layer.*batch\|instance"),
        (["--config=nothing"], "--config nothing: no such file"),
        (["--config=quickstart", "--work_dir=x"], "Unknown command line flag 'work_dir'"),
        (["--config=quickstart"], "--workdir is missing"),
        (["--config=quickstart", "--workdir={tmp}/run", "extra"], "unexpected argument 'extra'"),
        (["--config=quickstart", "--workdir={tmp}/run", "--config.data.crop_size=100"], "nearest valid size is 128"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(tmp_path, arguments, message):
    done = command("train", *(word.format(tmp=tmp_path) for word in arguments))
    assert re.search(message, error_of(done)), done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    config.data.crop_sise = 3", r"own\.py:5: AttributeError: .*crop_sise"),
        ("    return None", r"get_config\(\) must return a system's Config"),
        ("    import nonsense", r"own\.py:5: ModuleNotFoundError: .*nonsense"),
        ("    a, 007", r"own\.py:5: leading zeros .*; --config takes a Python file"),
    ],
)
def test_errors_in_a_configuration_file_name_its_line(tmp_path, body, message):
    lines = ["from medgen_jax.systems.pix2pix import Config", "", "def get_config():", "    config = Config()", body]
    (tmp_path / "own.py").write_text("\n".join([*lines, "    return config", ""]))
    done = command("train", "--config", tmp_path / "own.py", "--workdir", tmp_path / "run")
    assert re.search(message, error_of(done)), done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run made by the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    source = small_runs.make_pairs(folder / "data")
    config = small_runs.write_config(folder / "tiny.py", source)
    done = command("train", "--config", config, "--workdir", folder / "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_training_prints_device_compilation_progress_and_results(trained):
    folder, done = trained
    assert "device: cpu x 1" in done.stderr
    assert "compiling step 'train' (once)" in done.stderr
    assert "step 8/8" in done.stderr and "images/s" in done.stderr
    assert "this model" in done.stdout and "per-pixel mean" in done.stdout
    assert f"report: {folder / 'run' / 'report' / 'index.html'}" in done.stdout


def test_a_finished_run_exits_0_and_says_so(trained):
    folder, _ = trained
    done = command("train", "--config", folder / "tiny.py", "--workdir", folder / "run")
    assert done.returncode == 0 and "this run is finished (step 8)" in done.stderr


def test_dry_run_prices_a_run_and_writes_nothing(trained):
    folder, _ = trained
    done = command("train", "--config", folder / "tiny.py", "--dry_run", "--workdir", folder / "dry")
    assert done.returncode == 0, done.stderr
    for words in ('"num_train": 6', "network 'g'", "down_0/kernel", "steps: 8", "GiB per device", "hours"):
        assert words in done.stdout, words
    assert not (folder / "dry").exists()


def test_translate_takes_relative_paths(trained):
    folder, _ = trained
    arguments = ["--workdir", "run", "--input", "data/val/A", "--output", "out"]
    done = command("translate", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "3 images written" in done.stdout
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["0.png", "1.png", "2.png", "report"]
    again = command("translate", *arguments, cwd=folder)
    assert "exists already" in error_of(again)


def test_freed_memory_is_kept_before_anything_runs(monkeypatch):
    called = []
    monkeypatch.setattr(cli.heap, "keep_freed", lambda environ: called.append("heap"))
    monkeypatch.setattr(cli, "resolve_config_argument", lambda argv: called.append("configuration") or argv)
    monkeypatch.setattr(cli.app, "run", lambda *args, **kwargs: called.append("main"))
    cli.run(lambda rest: 0, takes_config=True)
    assert called == ["heap", "configuration", "main"]

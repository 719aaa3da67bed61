"""Metric rows, resumed runs, events, atomic JSON and what happens on a full disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.engine import writers
from medgen_jax.engine.writers import MetricWriter, write_json

FULL = Path("/dev/full")  # a file system device on which every write meets a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, which this system lacks")


def rows(workdir, name="metrics.jsonl"):
    """Parsed strictly: NaN and Infinity are not JSON."""

    def refuse(text):
        raise AssertionError(text)

    return [json.loads(line, parse_constant=refuse) for line in (workdir / name).read_text().splitlines()]


def write_steps(workdir, steps, **options):
    writer = MetricWriter(workdir, tensorboard=False, **options)
    for step in steps:
        writer.write(step, 2 * step, 0.5 * step, "train", {"loss": 1 / step})
    writer.close()


def test_rows_have_the_documented_form(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(50, 100, 1.23456, "train", {"loss": jnp.float32(0.3), "lr": 2e-4})
    assert rows(tmp_path) == [{"step": 50, "images": 100, "time": 1.235, "split": "train", "loss": 0.3, "lr": 2e-4}]
    writer.write(100, 200, 2.0, "val", {"psnr": np.float64(20)})
    assert rows(tmp_path)[1] == {"step": 100, "images": 200, "time": 2.0, "split": "val", "psnr": 20.0}
    writer.close()
    writer.close()
    writer.write(150, 300, 3.0, "train", {"loss": 0.0})
    assert len(rows(tmp_path)) == 2


def test_numbers_that_are_not_finite_are_null(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, 1, 0.0, "train", {"a": float("nan"), "b": float("inf"), "c": -jnp.inf, "d": 1.0})
    assert [rows(tmp_path)[0][name] for name in "abcd"] == [None, None, None, 1.0]


def test_a_metric_may_not_take_the_place_of_a_key(tmp_path):
    with pytest.raises(ValueError, match="'images'"):
        MetricWriter(tmp_path, tensorboard=False).write(1, 1, 0.0, "train", {"images": 3.0})


def test_a_resumed_run_leaves_no_duplicates(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40])
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    write_steps(tmp_path, [30, 40, 50], resume_step=20)
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30, 40, 50]
    assert after[:2] == before[:2]


@pytest.mark.parametrize("rest", ['{"step": 30, "ima', '{"step": 30, "split": "train"}'])
def test_resuming_drops_a_row_that_a_crash_cut_off(tmp_path, rest):
    """Also one that only lacks its line end: the next row would be written onto the same line."""
    write_steps(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write(rest)
    write_steps(tmp_path, [30], resume_step=30)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30]


def test_dropping_rows_replaces_the_file_or_leaves_it(tmp_path, monkeypatch):
    write_steps(tmp_path, [10, 20])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        MetricWriter(tmp_path, resume_step=10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("nothing", [None, 0])
def test_a_new_run_keeps_the_rows_of_an_old_one(tmp_path, nothing):
    for step in (1, 2, 3):
        write_steps(tmp_path, [step], resume_step=nothing)
    assert [rows(tmp_path, name)[0]["step"] for name in ("metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl")] == [
        1,
        2,
        3,
    ]


def test_only_the_active_process_touches_the_directory(tmp_path):
    write_steps(tmp_path, [10, 20])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    writer = MetricWriter(tmp_path, resume_step=10, active=False)
    writer.write(30, 30, 0.0, "train", {"loss": 1.0})
    writer.images(30, "grid", np.zeros((4, 4, 3), np.uint8))
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@needs_full
def test_a_full_disk_names_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(FULL)
    writer = MetricWriter(tmp_path, tensorboard=False)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\); free some space"
    ):
        writer.write(1, 1, 0.0, "train", {"loss": 1.0})
    writer.close()


def test_an_unwritable_place_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/metrics\.jsonl: cannot be written"):
        MetricWriter(tmp_path / "file")
    with pytest.raises(UserError, match=r"absent/results\.json: cannot be written \(No such file"):
        write_json(tmp_path / "absent" / "results.json", {})


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(
        path,
        {"metrics": {"psnr": np.float32(20.5), "bad": np.nan}, "shape": np.arange(3), "at": tmp_path, "notes": ("a",)},
    )
    content = {"metrics": {"psnr": 20.5, "bad": None}, "shape": [0, 1, 2], "at": str(tmp_path), "notes": ["a"]}
    assert json.loads(path.read_text()) == content
    with pytest.raises(TypeError):
        write_json(path, {"what": object()})
    assert json.loads(path.read_text()) == content
    assert os.listdir(tmp_path) == ["results.json"]


def events(folder):
    """(step, tag, value or None) of every event in a folder, read back from the record files:
    8 bytes of length, 4 of checksum, the event, 4 of checksum."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            body, data = data[12 : 12 + size], data[16 + size :]
            event = proto.Event.FromString(body)
            found += [
                (event.step, v.tag, v.simple_value if v.HasField("simple_value") else None) for v in event.summary.value
            ]
            found += [(event.step, "restart", None)] * event.HasField("session_log")
    return found


def test_tensorboard_gets_the_same_numbers_and_pictures(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(5, 5, 0.0, "train", {"loss": 0.25})
    writer.write(5, 5, 0.0, "val", {"psnr": 20.0})
    writer.images(5, "preview", np.zeros((6, 8, 3), np.uint8))
    writer.close()
    assert events(tmp_path / "tensorboard") == [(5, "train/loss", 0.25), (5, "val/psnr", 20.0), (5, "preview", None)]


def test_tensorboard_is_told_from_which_step_a_resumed_run_writes_again(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=10)
    writer.write(15, 15, 0.0, "train", {"loss": 0.5})
    writer.close()
    assert events(tmp_path / "tensorboard") == [(11, "restart", None), (15, "train/loss", 0.5)]


def test_float32_numbers_are_short_and_lossless(tmp_path):
    values = {"a": np.float32(0.1) * np.float32(3), "b": 1 / 3, "c": 1e300, "d": np.float32(1e-30)}
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, 1, 0.0, "train", values)
    got = rows(tmp_path)[0]
    assert np.float32(got["a"]) == values["a"] and len(str(got["a"])) <= 11
    assert (got["b"], got["c"], got["d"]) == (1 / 3, 1e300, 1e-30)


def test_rows_are_written_where_tensorboardx_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writer = MetricWriter(tmp_path)
    writer.write(5, 5, 0.0, "train", {"loss": 0.25})
    writer.images(5, "preview", np.zeros((6, 8, 3), np.uint8))
    writer.close()
    assert len(rows(tmp_path)) == 1 and not (tmp_path / "tensorboard").exists()


def test_tensorboardx_is_imported_only_when_something_is_written(tmp_path):
    code = (
        "import sys; from medgen_jax.engine.writers import MetricWriter\n"
        f"w = MetricWriter({str(tmp_path)!r}); assert 'tensorboardX' not in sys.modules\n"
        "w.write(1, 1, 0.0, 'train', {'a': 1.0}); assert 'tensorboardX' in sys.modules; w.close()"
    )
    pytest.importorskip("tensorboardX")
    root = Path(writers.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

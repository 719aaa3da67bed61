"""Batches are a pure function of (seed, stream, step), whatever reads them."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import pathlib
import signal
import sys
from collections import Counter

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field, Stream, sequential
from medgen_jax.data import pipeline
from medgen_jax.data.images import write_image
from medgen_jax.data.pipeline import evaluation_batches, examples, iterator, stream_number
from medgen_jax.data.tables import ArrayTable, FileTable

RECORDS = 5


def numbered(count=RECORDS, size=8, labels=None):
    """Record ``i`` is an image full of ``i`` in both columns (b: 100 + i)."""
    a = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, size, size, 1), np.uint8)
    return ArrayTable({"a": a, "b": np.repeat(a + 100, 3, -1)}, labels)


def textured(count=RECORDS, size=12):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)
    return ArrayTable({"a": images, "b": np.repeat(images, 3, -1)})


def pairs(per_step=4, size=8, **options):
    return Stream((("a", Field((size, size, 1))), ("b", Field((size, size, 3)))), per_step, **options)


def take(count, stream, table, config=None, **options):
    config = config or DataConfig(crop_size=8, threads=2)
    batches = iterator("pairs", stream, table, config, **({"seed": 0} | options))
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def assert_same(one, two):
    assert len(one) == len(two)
    for x, y in zip(one, two, strict=True):
        assert list(x) == list(y)
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def ids(batches):
    return [int(v) for batch in batches for v in batch["a"][:, 0, 0, 0]]


def test_batches_have_the_fields_of_the_stream():
    (batch,) = take(1, pairs(), numbered())
    assert {n: (v.shape, v.dtype) for n, v in batch.items()} == {
        "a": ((4, 8, 8, 1), np.uint8),
        "b": ((4, 8, 8, 3), np.uint8),
    }
    np.testing.assert_array_equal(batch["b"], np.repeat(batch["a"] + 100, 3, -1))


def test_every_record_once_per_epoch_and_none_dropped():
    order = ids(take(5, pairs(per_step=4), numbered()))  # 20 examples: 4 epochs of 5, batches cross them
    epochs = [order[i : i + RECORDS] for i in range(0, 20, RECORDS)]
    assert all(sorted(epoch) == list(range(RECORDS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_seed_changes_order_and_crops():
    one, two = (ids(take(5, pairs(), numbered(), seed=seed)) for seed in (0, 1))
    assert one != two


def test_streams_of_one_seed_are_shuffled_apart():
    """Unpaired sides of equal length must not arrive in the same order."""
    table, config = numbered(20), DataConfig(crop_size=8)
    one, two = (
        [int(examples(pairs(), table, config, 0, stream_number(name))(i)["a"][0, 0, 0]) for i in range(20)]
        for name in ("a", "b")
    )
    assert sorted(one) == sorted(two)
    assert sum(x == y for x, y in zip(one, two, strict=True)) < 10


def test_examples_are_pure():
    example = examples(pairs(), textured(), DataConfig(crop_size=8), 3, 1)
    for index in (0, 7, 10**12):
        assert_same([example(index)], [example(index)])


@pytest.mark.parametrize("count", [2, 4])
def test_global_batches_do_not_depend_on_the_process_count(count):
    whole = take(4, pairs(), textured())
    parts = [take(4, pairs(), textured(), process_index=p, process_count=count) for p in range(count)]
    joined = [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[step]} for step in range(4)]
    assert_same(whole, joined)


def test_uneven_process_share_is_refused():
    with pytest.raises(UserError, match="4 records per step do not divide among 3 processes"):
        take(1, pairs(), numbered(), process_count=3)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_order_does_not_depend_on_threads(threads):
    assert_same(take(6, pairs(), textured()), take(6, pairs(), textured(), DataConfig(crop_size=8, threads=threads)))


def test_resume_is_exact():
    config = DataConfig(crop_size=8, threads=3, rotate=True)
    straight = take(7, pairs(), textured(), config)
    first = iterator("pairs", pairs(), textured(), config, seed=0)
    assert first.get_state() == {"step": 0}
    head = [next(first) for _ in range(3)]
    state = json.loads(json.dumps(first.get_state()))
    assert_same(straight[:3], head)
    next(first)
    first.set_state(state)
    assert_same(straight[3:5], [next(first), next(first)])
    first.close()
    assert_same(straight[3:], take(4, pairs(), textured(), config, state=state))
    # ... also by another number of processes.
    halves = [take(4, pairs(), textured(), config, state=state, process_index=p, process_count=2) for p in (0, 1)]
    assert_same(straight[3:], [{n: np.concatenate([h[k][n] for h in halves]) for n in ("a", "b")} for k in range(4)])


def test_balanced_order_and_labels():
    grades = np.array([0, 0, 0, 0, 1], np.int32)

    def balanced(index, rng, records):
        members = np.flatnonzero(records.labels["grade"] == rng.integers(2))
        return int(rng.choice(members))

    stream = Stream((("a", Field((8, 8, 1))), ("grade", Field((), "int32"))), 8, order=balanced)
    batches = take(20, stream, numbered(labels={"grade": grades}))
    assert batches[0]["grade"].dtype == np.int32
    assert batches[0]["grade"].shape == (8,)
    for batch in batches:
        np.testing.assert_array_equal(batch["grade"], grades[batch["a"][:, 0, 0, 0]])
    seen = Counter(int(g) for batch in batches for g in batch["grade"])
    assert 55 <= seen[1] <= 105  # of 160, half expected, 32 if unbalanced


def test_sequential_order():
    assert ids(take(3, pairs(order=sequential), numbered())) == [i % RECORDS for i in range(12)]


@pytest.fixture
def broken(tmp_path):
    """Three files, one with an intact header and cut-off pixels."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"n{i}.png" for i in range(3)]
    for path in files:
        write_image(path, rng.integers(0, 256, (64, 64, 1), dtype=np.uint8))
    whole = files[1].read_bytes()
    table = FileTable({"a": files})
    files[1].write_bytes(whole[: len(whole) // 2])
    return table


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": 3}, {"threads": 1, "workers": 1}], ids=str)
def test_reader_errors_reach_the_consumer_with_the_file_name(broken, options):
    stream = Stream((("a", Field((8, 8, 1))),), 1)
    with pytest.raises(UserError, match=r"n1\.png: cannot be read as an image"):
        take(4, stream, broken, DataConfig(crop_size=8, **options))


class BackendProbe(ArrayTable):
    """Answers whether jax has initialised a backend in the process that reads."""

    def images(self, index):
        bridge = sys.modules.get("jax._src.xla_bridge")
        started = bool(bridge and bridge._backends)
        return {"a": np.full((8, 8, 1), 10 * started + (multiprocessing.parent_process() is not None), np.uint8)}

    def select(self, *names):
        return self


def test_workers_give_the_same_batches_and_start_no_backend():
    config = DataConfig(crop_size=8, threads=1, workers=2)
    assert_same(take(5, pairs(), textured()), take(5, pairs(), textured(), config))
    probe = BackendProbe({"a": np.zeros((2, 8, 8, 1), np.uint8)})
    (batch,) = take(1, Stream((("a", Field((8, 8, 1))),), 2), probe, DataConfig(crop_size=8, threads=1, workers=1))
    np.testing.assert_array_equal(batch["a"], np.ones((2, 8, 8, 1)))  # 1: a worker; 11: with a backend


def test_killed_worker_is_reported_with_its_remedy():
    batches = iterator("pairs", pairs(), textured(), DataConfig(crop_size=8, threads=1, workers=1), seed=0)
    try:
        next(batches)
        (worker,) = [p for p in multiprocessing.active_children() if "grain" in p.name]
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="reader process died.*workers"):
            all(next(batches) for _ in range(100))  # the batches already made come first
    finally:
        batches.close()


def test_too_little_shared_memory_is_told_before_workers_start(monkeypatch):
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="shared memory.*workers=0"):
        take(1, pairs(), textured(), DataConfig(crop_size=8, workers=2))


# ---- evaluation ----------------------------------------------------------------------------------


def test_evaluation_is_complete_in_order_and_masked():
    stream, config = pairs(), DataConfig(crop_size=8)
    batches = list(evaluation_batches(stream, numbered(labels={"grade": np.arange(RECORDS)}), config, 2))
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1], [1, 1], [1, 0]]
    assert batches[0]["mask"].dtype == np.float32
    assert ids(batches) == [0, 1, 2, 3, 4, 0]
    assert not batches[-1]["b"][1].any()
    assert {batch["b"].shape for batch in batches} == {(2, 8, 8, 3)}


def test_evaluation_keeps_full_size_and_is_repeatable():
    table, config = textured(3, size=12), DataConfig(crop_size=8, flip=True, rotate=True)
    one, two = (list(evaluation_batches(pairs(), table, config, 2)) for _ in range(2))
    assert_same(one, two)
    np.testing.assert_array_equal(one[0]["a"][1], table[1]["a"])


def test_evaluation_gives_labels():
    stream = Stream((("a", Field((8, 8, 1))), ("grade", Field((), "int32"))), 1)
    (batch,) = evaluation_batches(stream, numbered(2, labels={"grade": np.array([4, 7])}), DataConfig(crop_size=8), 3)
    assert batch["grade"].tolist() == [4, 7, 0]


def test_evaluation_refuses_mixed_sizes():
    table = ArrayTable({"a": [np.zeros((8, 8, 1), np.uint8), np.zeros((9, 8, 1), np.uint8)]})
    stream = Stream((("a", Field((8, 8, 1))),), 1)
    with pytest.raises(UserError, match="record 1, column a: is 9x8 pixels, others 8x8"):
        list(evaluation_batches(stream, table, DataConfig(crop_size=8), 2))


# ---- the room ------------------------------------------------------------------------------------


def test_no_file_of_the_room_imports_jax_or_another_room():
    folder = pathlib.Path(pipeline.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("jax", "jaxlib", "flax", "optax", "tensorflow", "torch"), (path, name)
                if name.startswith("medgen_jax"):
                    assert name.split(".")[1] in ("core", "data"), (path, name)

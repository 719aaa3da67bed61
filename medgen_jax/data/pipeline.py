"""From tables to batches: example ``i`` of a stream is a pure function of (seed, stream, i).

Step ``k`` of a run takes the global examples ``[k*B, (k+1)*B)``, of which process ``p`` of ``P``
makes the ``p``-th slice of ``B/P``. The global batches are therefore the same for every number of
processes, threads and worker processes, and the position of a stream is one number: the next step.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import numpy as np

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Records, Stream
from medgen_jax.data.checks import check_tables, image_columns
from medgen_jax.data.tables import Table
from medgen_jax.data.transforms import evaluation_view, training_view

Example = dict[str, np.ndarray]

#: Examples of an endless stream: more than any run consumes, and a length that Grain can count.
_ENDLESS = 2**60
_SHARED_MEMORY = Path("/dev/shm")


def stream_number(name: str) -> int:
    """A stable number of a stream's name, so that streams draw independently."""
    return zlib.crc32(name.encode())


def examples(stream: Stream, table: Table, config: DataConfig, seed: int, stream_id: int) -> Callable[[int], Example]:
    """The stream as a function of the global example index.

    Args:
      stream: fields and order.
      table: the records that feed it.
      config: geometry of the training crops.
      seed: of the run; not negative.
      stream_id: `stream_number` of its name.

    Returns:
      ``f(index) -> {field: array}``: crops (crop_size, crop_size, c) and label scalars.
    """
    labels = table.labels
    # Streams of equal length must not be shuffled alike: unpaired sides would meet in pairs.
    order_seed = int(np.random.SeedSequence((seed, stream_id)).generate_state(1)[0])
    records = Records(len(table), order_seed, labels)
    images = table.select(*image_columns(stream))

    def example(index: int) -> Example:
        rng = np.random.default_rng((seed, stream_id, index))
        chosen = stream.order(index, rng, records)
        return _fields(stream, training_view(images.images(chosen), rng, config), labels, chosen)

    return example


class BatchIterator:
    """Endless batches of one stream.

    ``next`` gives ``{field: (b, ...)}`` NumPy arrays, ``b`` being this process's share. The state
    is JSON-able and belongs to the last batch given out; it holds for any number of processes,
    threads and workers. Errors of readers are raised by ``next``.
    """

    def __init__(
        self,
        example: Callable[[int], Example],
        per_step: int,
        share: tuple[int, int],
        config: DataConfig,
        step: int = 0,
    ):
        self._example, self._per_step, self._config = example, per_step, config
        self._process, self._local = share
        self._start(step)

    def _start(self, step: int) -> None:
        example, per_step, local, offset = self._example, self._per_step, self._local, self._process * self._local

        def local_example(index: int) -> Example:
            ahead, place = divmod(index, local)
            return example((step + ahead) * per_step + offset + place)

        threads = self._config.threads
        dataset = grain.MapDataset.range(_ENDLESS).map(local_example).batch(local, drop_remainder=True)
        batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
        if self._config.workers:
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._config.workers))
        self._step, self._batches = step, iter(batches)

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Example:
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            # Grain's words for a worker that the system killed.
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"a reader process died ({' '.join(str(error).split())[:120]}), most likely for want of memory: "
                f"set config.data.workers below {self._config.workers}, or 0 to read with threads"
            ) from error
        self._step += 1
        # Worker batches live in shared memory, which grain frees in its own time: take a copy.
        return {name: np.array(values) for name, values in batch.items()} if self._config.workers else batch

    def get_state(self) -> dict[str, int]:
        """The position: the next step."""
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position that `get_state` gave."""
        self.close()
        self._start(int(state["step"]))

    def close(self) -> None:
        """End reader threads and processes."""
        self._batches.close()


def iterator(
    stream_name: str,
    stream: Stream,
    table: Table,
    config: DataConfig,
    *,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    state: dict[str, int] | None = None,
) -> BatchIterator:
    """Training batches of one stream for one process, from ``state`` or the beginning.

    Raises:
      UserError: when the batch does not divide among the processes, or the workers' batches do not
        fit into shared memory.
    """
    if stream.per_step % process_count:
        raise UserError(
            f"config.train.batch_size: {stream.per_step} records per step do not divide among {process_count} processes"
        )
    local = stream.per_step // process_count
    if config.workers:
        _check_shared_memory(stream, local, config.workers)
    example = examples(stream, table, config, seed, stream_number(stream_name))
    step = int(state["step"]) if state else 0
    return BatchIterator(example, stream.per_step, (process_index, local), config, step)


def evaluation_batches(stream: Stream, table: Table, config: DataConfig, batch_size: int) -> Iterator[dict[str, Any]]:
    """All records once, in stored order, as batches of one shape; nothing random.

    The last batch is filled with zeros. ``mask`` (b,) float32 is 1 for records and 0 for filling.

    Raises:
      UserError: when the records cannot share one size (see `checks.check_tables`).
    """
    check_tables({"evaluation": table}, {"evaluation": stream}, config, training=False)
    images = table.select(*image_columns(stream))
    labels = table.labels

    def record(index: int) -> Example:
        return _fields(stream, evaluation_view(images.images(index), config), labels, index)

    with ThreadPoolExecutor(max(1, config.threads)) as pool:
        for start in range(0, len(table), batch_size):
            found = list(pool.map(record, range(start, min(start + batch_size, len(table)))))
            filling = batch_size - len(found)
            batch = {name: _padded(np.stack([r[name] for r in found]), filling) for name in found[0]}
            yield batch | {"mask": _padded(np.ones(len(found), np.float32), filling)}


def _fields(stream: Stream, images: Example, labels: Any, index: int) -> Example:
    """The stream's fields, in its order, with its dtypes."""
    return {
        name: images[name] if name in images else np.asarray(labels[name][index], field.dtype)
        for name, field in stream.fields
    }


def _padded(array: np.ndarray, filling: int) -> np.ndarray:
    return np.pad(array, ((0, filling), *((0, 0) for _ in array.shape[1:])))


def _check_shared_memory(stream: Stream, local: int, workers: int) -> None:
    """Each worker has one batch in its queue, one in the making and one being consumed."""
    batch = sum(local * int(np.prod(f.shape, dtype=np.int64)) * np.dtype(f.dtype).itemsize for _, f in stream.fields)
    needed = 3 * workers * batch
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else needed
    if free < needed:
        raise UserError(
            f"config.data.workers = {workers}: {needed:,} bytes of shared memory are needed, {_SHARED_MEMORY} has "
            f"{free:,}; enlarge it, or set config.data.workers=0 to read with threads"
        )

"""Batches to the devices ahead of need, each with the stream positions that belong to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
from jax.sharding import Mesh

from medgen_jax.engine.mesh import put_local


class StreamIterator(Protocol):
    """What the loop needs of a data stream."""

    def __next__(self) -> dict[str, Any]: ...

    def get_state(self) -> Any: ...

    def close(self) -> None: ...


class Item(NamedTuple):
    """One step's batch, and where every stream stands after it."""

    batch: dict[str, dict[str, jax.Array]]
    positions: dict[str, Any]


class Prefetcher:
    """Reads all streams in a thread and keeps ``ahead`` batches on the devices.

    The position that a checkpoint stores is the one that travelled with the last batch consumed,
    not where the readers have got to.
    """

    def __init__(self, streams: Mapping[str, StreamIterator], mesh: Mesh, ahead: int = 2):
        self._streams = streams
        self._mesh = mesh
        self._queue: queue.Queue[Item | BaseException] = queue.Queue(max(1, ahead))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            while not self._stop.is_set():
                batch = {name: put_local(next(stream), self._mesh) for name, stream in self._streams.items()}
                positions = {name: stream.get_state() for name, stream in self._streams.items()}
                self._offer(Item(batch, positions))
        except BaseException as error:  # handed to the consumer, whatever it is
            self._offer(error)

    def _offer(self, item: Item | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue

    def __next__(self) -> Item:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and close the streams."""
        self._stop.set()
        self._thread.join(timeout=10)
        for stream in self._streams.values():
            stream.close()

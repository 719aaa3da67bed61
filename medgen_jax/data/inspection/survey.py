"""The numbers of all columns: every header, then the pixels of all records or of an even sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import ImageHeader
from medgen_jax.data.inspection.columns import Column, reason
from medgen_jax.data.inspection.containers import Container, look
from medgen_jax.data.inspection.measures import Measures, measure
from medgen_jax.data.inspection.registration import Shift, shift

#: Decoded images that may be in memory at once, bytes.
MEMORY_BYTES = 1 << 30
_THREADS = 8
#: Pairs of a table whose shift is estimated.
PAIRS = 16

Done = Callable[[int, int], None]  # so many of so many images


def _nothing(done: int, total: int) -> None:
    """No progress to show."""


@dataclass
class Surveyed:
    """What is known of one column.

    Attributes:
      column: the column.
      headers: record -> header; unreadable ones are missing.
      unreadable: record -> reason, without its name.
      chosen: records whose pixels were asked for.
      measures: record -> numbers of its pixels.
      containers: record -> what its file says, where there is a file.
      levels: bits -> occurrences of every level over all measured images of so many bits.
      shifts: record -> how its image lies on that of column ``a``.
    """

    column: Column
    headers: dict[int, ImageHeader] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    chosen: tuple[int, ...] = ()
    measures: dict[int, Measures] = field(default_factory=dict)
    containers: dict[int, Container] = field(default_factory=dict)
    levels: dict[int, np.ndarray] = field(default_factory=dict)
    shifts: dict[int, Shift] = field(default_factory=dict)


def survey(
    columns: Sequence[Column],
    limit: int | None = None,
    *,
    all_headers: bool = True,
    seconds: float | None = None,
    done: Done = _nothing,
) -> list[Surveyed]:
    """Look at all columns.

    Args:
      columns: those of one table of one split stand for the same records.
      limit: pixels of at most so many records per column, evenly over it; None: of all.
      all_headers: read the headers of all records, also of those beyond the limit.
      seconds: stop asking for more after this time; None: never.
      done: told how many images are through.
    """
    found = [Surveyed(column, chosen=evenly(len(column), limit)) for column in columns]
    asked = [range(len(one.column)) if all_headers else one.chosen for one in found]
    total = sum(map(len, asked)) + sum(len(one.chosen) for one in found)
    ticker = _Ticker(total, done)
    deadline = None if seconds is None else time.monotonic() + seconds
    jobs = ((_header, one, record) for one, records in zip(found, asked, strict=True) for record in records)
    _run(jobs, _THREADS, deadline, ticker.tick)
    largest = max((header.nbytes for one in found for header in one.headers.values()), default=1)
    # Averages and edges of an image take some times its own memory.
    threads = max(1, min(_THREADS, MEMORY_BYTES // (4 * largest)))
    jobs = ((_pixels, one, record) for one, record in _in_turn(found) if record in one.headers)
    _run(jobs, threads, deadline, ticker.tick)
    if all_headers:
        _register(found, threads)
    return found


def evenly(count: int, limit: int | None) -> tuple[int, ...]:
    """At most ``limit`` places out of ``count``, the first and the last among them."""
    if limit is None or limit >= count:
        return tuple(range(count))
    return tuple(sorted({round(place) for place in np.linspace(0, count - 1, limit)}))


def _header(one: Surveyed, record: int) -> Callable[[], None]:
    header = one.column.header(record)
    container = look(one.column.files[record]) if one.column.files else None

    def store() -> None:
        one.headers[record] = header
        if container is not None:
            one.containers[record] = container

    return store


def _pixels(one: Surveyed, record: int) -> Callable[[], None]:
    measures, counts = measure(one.column.read(record))

    def store() -> None:
        one.measures[record] = measures
        bits = one.headers[record].bits
        one.levels[bits] = one.levels.get(bits, 0) + counts

    return store


def _run(jobs: Iterable[Any], threads: int, deadline: float | None, tick: Callable[[], None]) -> None:
    """Do jobs side by side, a few ahead; what they found is stored by this thread alone."""
    waiting: dict[Future, tuple[Surveyed, int]] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for work, one, record in jobs:
            waiting[pool.submit(work, one, record)] = one, record
            if len(waiting) >= 2 * threads and not _collect(waiting, deadline, tick):
                return
        while waiting:
            if not _collect(waiting, deadline, tick):
                return
    finally:
        # Past the deadline nobody waits for a slow disk; without one all is through by now.
        pool.shutdown(wait=deadline is None, cancel_futures=True)


def _collect(waiting: dict[Future, tuple[Surveyed, int]], deadline: float | None, tick: Callable[[], None]) -> bool:
    """Store what is ready; False when the time is over."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return False
    for future in wait(waiting, left, FIRST_COMPLETED).done:
        one, record = waiting.pop(future)
        try:
            future.result()()
        except UserError as error:
            _refused(one, record, error)
        tick()
    return True


def _refused(one: Surveyed, record: int, error: UserError) -> None:
    one.unreadable[record] = reason(error, one.column.files[record] if one.column.files else None)
    one.headers.pop(record, None)


def _in_turn(found: Sequence[Surveyed]) -> Iterator[tuple[Surveyed, int]]:
    """Records of all columns by turns, so that a deadline is just to each of them."""
    longest = max((len(one.chosen) for one in found), default=0)
    for place in range(longest):
        yield from ((one, one.chosen[place]) for one in found if place < len(one.chosen))


def _register(found: Sequence[Surveyed], threads: int) -> None:
    """Shifts of the pairs of every table with columns a and b."""
    tables = {(one.column.split, one.column.table, one.column.name): one for one in found}
    for (split, table, name), one in tables.items():
        other = tables.get((split, table, "a"))
        if name != "b" or other is None:
            continue
        both = [record for record in one.chosen if record in one.measures and record in other.measures]
        chosen = [both[place] for place in evenly(len(both), PAIRS)]

        def estimate(record: int, a: Column = other.column, b: Column = one.column) -> Shift | None:
            return shift(a.read(record), b.read(record))

        with ThreadPoolExecutor(threads) as pool:
            shifts = zip(chosen, pool.map(estimate, chosen), strict=True)
            one.shifts = {record: its for record, its in shifts if its is not None}


class _Ticker:
    """Counts jobs."""

    def __init__(self, total: int, done: Done):
        self._total, self._done, self._count = total, done, 0

    def tick(self) -> None:
        self._count += 1
        self._done(self._count, self._total)

"""Files written in threads while further images are drawn."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from medgen_jax.synthesis.plan import Item

#: More threads gain nothing: what cannot run at once, Python's own share of a file, then takes all the time.
MOST_THREADS = 16
#: Images that wait to be written, per thread; drawing stops for them, so that memory stays bounded.
_WAITING = 4


class Speed(NamedTuple):
    """How long it took.

    Attributes:
      images, seconds: drawn and written, from before anything was compiled.
      compiling: seconds of it that the compiler took, which more images spend once.
    """

    images: int
    seconds: float
    compiling: float

    @property
    def rate(self) -> float:
        """Images per second, once all was compiled."""
        return self.images / max(self.seconds - self.compiling, 1e-9)

    def sentence(self) -> str:
        """For people."""
        took = f"{self.images:,} image{'' if self.images == 1 else 's'} drawn and written in {self.seconds:.1f} s"
        return f"{took}, {self.compiling:.1f} s of it compiling: {self.rate:,.1f} images/s after that"


def write_all(
    images: Iterable[tuple[Item, np.ndarray]],
    save: Callable[[Item, np.ndarray], None],
    *,
    begun: float,
    compiling: float,
    done: Callable[[int], object] = lambda _: None,
) -> Speed:
    """Save all images, several at once. Whatever stops it, images that were handed over are written.

    Args:
      images: as they are drawn.
      save: writes one; called in threads.
      begun: ``time.perf_counter()`` at the start.
      compiling: see `Speed`.
      done: told of every image that is written.

    Raises:
      UserError: what ``images`` or ``save`` raise.
    """
    threads = min(MOST_THREADS, 2 * (os.cpu_count() or 1))
    waiting: deque[Future[None]] = deque()
    count = 0

    def finish() -> None:
        nonlocal count
        waiting.popleft().result()
        count += 1
        done(1)

    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        for item, levels in images:
            waiting.append(pool.submit(save, item, levels))
            while len(waiting) > _WAITING * threads:
                finish()
        while waiting:
            finish()
    return Speed(count, time.perf_counter() - begun, compiling)

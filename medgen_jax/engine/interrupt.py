"""Signals as requests: the loop finishes its step, saves, and leaves with a documented code."""

from __future__ import annotations

import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

#: Exit code by signal. 75 means "saved; run the same command again" (schedulers may requeue on it).
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; ``code`` is the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Interrupts:
    """Context manager that turns SIGTERM, SIGUSR1 and Ctrl-C into a request. A second Ctrl-C quits at once."""

    def __init__(self) -> None:
        self._seen: int = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        for number in EXIT_CODES:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._seen == number == signal.SIGINT:
            raise KeyboardInterrupt
        self._seen = number

    def requested(self, may_communicate: bool) -> int:
        """The signal that asked for a stop, or 0. All processes get the same answer.

        With several processes it asks them all, and only where ``may_communicate`` says that every
        process is at the same step.
        """
        if jax.process_count() == 1:
            return self._seen
        if not may_communicate:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.int32(self._seen))))

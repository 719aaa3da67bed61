"""What the terminal shows: messages, a ticker while something compiles, and a progress bar."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Console:
    """Speaks only where ``active``; a bar on a terminal, plain lines in a log file."""

    def __init__(self, active: bool = True):
        self.active = active
        self._bar: tqdm | None = None
        self._terminal = sys.stderr.isatty()

    def say(self, message: str) -> None:
        """Print one line, above the bar where there is one."""
        if self.active:
            tqdm.write(message, file=sys.stderr)

    def start(self, total: int, done: int) -> None:
        """Open the bar at ``done`` of ``total`` steps."""
        if self.active and self._terminal:
            self._bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05)

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(steps)

    def status(self, step: int, total: int, numbers: dict[str, float], rate: float, left: float) -> None:
        """Show the latest numbers, images per second and, in a log file, the seconds left."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._bar is not None:
            self._bar.set_postfix_str(f"{text}  {rate:.1f} images/s")
        else:
            self.say(f"step {step}/{total}  {text}  {rate:.1f} images/s  {_duration(left)} left")

    def stop(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what is being waited for, with the seconds ticking on a terminal, and how long it took."""
        start, done = time.perf_counter(), threading.Event()

        def tick() -> None:
            while not done.wait(1.0):
                sys.stderr.write(f"\r{what} ... {time.perf_counter() - start:.0f} s")
                sys.stderr.flush()

        ticker = None
        if self.active and self._terminal and self._bar is None:
            ticker = threading.Thread(target=tick, daemon=True)
            ticker.start()
        elif self.active:
            self.say(f"{what} ...")
        try:
            yield
        finally:
            done.set()
            if ticker is not None:
                ticker.join()
                sys.stderr.write("\r")
            self.say(f"{what}: {time.perf_counter() - start:.1f} s")

"""The cloud's clock, and what is to happen later by it."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

LOG = logging.getLogger(__name__)

Action = Callable[[], None]


class Timers(Protocol):
    """A clock that can call back."""

    def now_s(self) -> float:
        """Return seconds of cloud time since an arbitrary start."""
        ...

    def wall_s(self) -> float:
        """Return the wall clock as epoch seconds; time stamps in answers are made of it."""
        ...

    def after(self, delay_s: float, action: Action) -> None:
        """Call `action` once, from any thread, when `delay_s` cloud seconds have passed."""
        ...


class WallTimers:
    """Real time, `scale` times faster; actions run on a few threads, so they may block a little."""

    def __init__(self, scale: float = 1.0, *, workers: int = 8) -> None:
        self._scale = scale
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._closed = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cloud-timer")
        self._thread = threading.Thread(target=self._run, name="cloud-timers", daemon=True)
        self._thread.start()

    def now_s(self) -> float:
        """Return seconds of cloud time since an arbitrary start."""
        return time.monotonic() * self._scale

    def wall_s(self) -> float:
        """Return the wall clock as epoch seconds."""
        return time.time()

    def after(self, delay_s: float, action: Action) -> None:
        """Call `action` once when `delay_s` cloud seconds have passed."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._due, (self.now_s() + delay_s, next(self._order), action))
            self._changed.notify()

    def close(self) -> None:
        """Drop what is still due and wait for the actions that have begun."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_s = (self._due[0][0] - self.now_s()) / self._scale if self._due else None
                if wait_s is None or wait_s > 0:
                    # A long wait is cut, because a Condition refuses very long ones.
                    self._changed.wait(None if wait_s is None else min(wait_s, 3600.0))
                    continue
                action = heapq.heappop(self._due)[2]
            self._pool.submit(_perform, action)


def _perform(action: Action) -> None:
    try:
        action()
    except Exception:
        LOG.exception("an action of the cloud failed")

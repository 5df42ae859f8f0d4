"""Wait in a test for what must become true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from poormanray.waiting import Clock, poll

T = TypeVar("T")


def until(ask: Callable[[], T], *, timeout_s: float = 30) -> T:
    """Return the first true answer; raise TimeoutError where none comes within `timeout_s`."""
    return poll(ask, clock=Clock(), timeout_s=timeout_s, first_s=0.05, longest_s=0.2)

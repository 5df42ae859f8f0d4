"""The only place that waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import tenacity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the cloud sees it: seconds that pass `scale` times faster than the wall's.

    The scale is 1 on AWS. A local cloud that was started with a time scale shortens the
    client's waits by the same factor.
    """

    scale: float = 1.0
    monotonic: Callable[[], float] = field(default=time.monotonic)
    pause: Callable[[float], None] = field(default=time.sleep)  # noqa: TID251 (the one place)

    def now_s(self) -> float:
        """Return seconds since an arbitrary start, in the cloud's time."""
        return self.monotonic() * self.scale

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the cloud's time."""
        if seconds > 0:
            self.pause(seconds / self.scale)


def jittered(seconds: float) -> float:
    """Return a wait near `seconds` (±10 %), so that many clients do not call in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 (not a secret)


def poll(  # noqa: PLR0913 (each is a policy of its own)
    ask: Callable[[], T],
    *,
    clock: Clock,
    timeout_s: float,
    until: Callable[[T], bool] = bool,
    first_s: float = 0.5,
    longest_s: float = 10.0,
    retry_on: tuple[type[BaseException], ...] = (),
) -> T:
    """Call `ask` until `until` accepts its answer, and return that answer.

    The wait grows from `first_s` to `longest_s` seconds. Errors in `retry_on` count as "not
    yet"; any other error ends the wait at once (that is how a hopeless wait ends early).

    Raises:
        TimeoutError: `timeout_s` seconds have passed; the last error, if any, is its cause.
    """
    started_s = clock.now_s()
    retrying = tenacity.Retrying(
        sleep=clock.sleep,
        wait=tenacity.wait_exponential(multiplier=first_s, max=longest_s, exp_base=1.5),
        stop=lambda _state: clock.now_s() - started_s >= timeout_s,
        retry=(
            tenacity.retry_if_exception_type(retry_on)
            | tenacity.retry_if_result(lambda answer: not until(answer))
        ),
    )
    try:
        return retrying(ask)
    except tenacity.RetryError as error:
        cause = error.last_attempt.exception() if error.last_attempt.failed else None
        raise TimeoutError from cause

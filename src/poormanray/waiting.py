"""The only place that waits: the clock, polls, and calls that outlast an outage."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import tenacity

T = TypeVar("T")

# Repeats of a call that an outage has failed: the first pause, and the longest.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 15.0
# Added to each by lot, so that many clients do not come back in step.
JITTER_S = 2.0
# A command gives up on a service that has never answered it after this long.
UNPROVEN_S = 60.0
# An outage is reported when it has lasted this long; throttling later, as calls still succeed.
REPORT_AFTER_S = 5.0
REPORT_THROTTLING_AFTER_S = 20.0
# Throttling has ended when no call was throttled for this long: at the slowest pace
# (pacing.SLOWEST) some seven calls, of which every second one would have been.
UNTHROTTLED_S = 30.0


def since_boot_s() -> float:
    """Return seconds since the machine booted, including the time that it was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Deadlines(threading.local):
    """The moments at which the user wants an end, of the thread that asks."""

    def __init__(self) -> None:
        self.all_s: list[float] = []


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as the cloud sees it: seconds that pass `scale` times faster than the wall's.

    The scale is 1 on AWS. A local cloud that was started with a time scale shortens the
    client's waits by the same factor.
    """

    scale: float = 1.0
    monotonic: Callable[[], float] = field(default=since_boot_s)
    pause: Callable[[float], None] = field(default=time.sleep)  # noqa: TID251 (the one place)
    _deadlines: _Deadlines = field(default_factory=_Deadlines, compare=False, repr=False)

    def now_s(self) -> float:
        """Return seconds since an arbitrary start, in the cloud's time."""
        return self.monotonic() * self.scale

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the cloud's time, but not beyond the deadline of `until`.

        A wait that begins after the deadline is not cut: a loop that ignores it must not spin.
        """
        left_s = self.left_s()
        if 0 < left_s < seconds:
            seconds = left_s
        if seconds > 0:
            self.pause(seconds / self.scale)

    @contextmanager
    def until(self, at_s: float) -> Iterator[None]:
        """Cut every wait inside the block, and every repeat of a failing call, at a deadline."""
        self._deadlines.all_s.append(at_s)
        try:
            yield
        finally:
            self._deadlines.all_s.remove(at_s)

    def left_s(self) -> float:
        """Return the seconds until the nearest deadline of this thread; infinite without one."""
        return min(self._deadlines.all_s, default=float("inf")) - self.now_s()


@dataclass(frozen=True, slots=True)
class OutageReport:
    """What a person is shown of an outage: that it goes on, and later that it is over."""

    service: str
    seconds: float
    why: str
    over: bool = False
    throttled: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error of a call means.

    `why` is the reason in a few words where the same call may succeed later, "" where it will
    not. `answered`: the error is an answer of the service itself. A service that has never
    answered before is given up on after `unproven_s` seconds.
    """

    why: str = ""
    answered: bool = False
    throttled: bool = False
    unproven_s: float = UNPROVEN_S


@dataclass(slots=True)
class _Service:
    """How calls to one service fare; `partly`: some were answered between throttled ones."""

    answered: bool = False
    failing_since_s: float | None = None
    throttled: bool = False
    throttled_at_s: float = 0.0
    partly: bool = False
    reported: bool = False


class Repeated(Protocol):
    """Makes a call of a service, again and again while an outage fails it."""

    def __call__(self, service: str, call: Callable[[], T], /) -> T:
        """Return what the call brings."""


def at_once(_service: str, call: Callable[[], T]) -> T:
    """Return what a call brings, without another try."""
    return call()


class Outages:
    """Repeats calls until an outage is over, and reports each outage once at each end.

    The one policy for what botocore has given up on. Calls are repeated until the deadline of
    the clock (`Clock.until`), without one for ever; a service that has never answered is given
    up on sooner. Safe to share by threads.
    """

    def __init__(self, clock: Clock) -> None:
        self.report: Callable[[OutageReport], None] = lambda _report: None
        self.clock = clock
        self._lock = threading.RLock()
        self._services: dict[str, _Service] = {}

    def call(
        self,
        service: str,
        ask: Callable[[], T],
        judge: Callable[[Exception], Fault],
        *,
        proves: bool = True,
    ) -> T:
        """Return what `ask` returns, asked again while `judge` says that its error passes.

        Unless it `proves` so, its success does not mean that the service has answered.

        Raises:
            Exception: the last error of `ask`.
        """
        limit_s = UNPROVEN_S

        def passes(error: BaseException) -> bool:
            nonlocal limit_s
            fault = judge(error) if isinstance(error, Exception) else Fault()
            limit_s = fault.unproven_s
            if fault.why:
                self.failed(service, fault)
            elif fault.answered:
                self.answered(service)
            return bool(fault.why)

        retrying = tenacity.Retrying(
            sleep=lambda pause_s: self.clock.sleep(min(pause_s, self._left_s(service, limit_s))),
            wait=tenacity.wait_exponential(FIRST_PAUSE_S, LONGEST_PAUSE_S)
            + tenacity.wait_random(0, JITTER_S),
            stop=lambda _state: self._left_s(service, limit_s) <= 0,
            retry=tenacity.retry_if_exception(passes),
            reraise=True,
        )
        result = retrying(ask)
        if proves:
            self.answered(service)
        return result

    def failed(self, service: str, fault: Fault, *, since_s: float | None = None) -> None:
        """Count a try that failed, and report an outage that has lasted; `since_s`: its start."""
        now_s = self.clock.now_s()
        with self._lock:
            seen = self._services.setdefault(service, _Service())
            if seen.failing_since_s is None:
                seen.failing_since_s = now_s if since_s is None else since_s
                seen.throttled = fault.throttled
            seen.throttled &= fault.throttled
            seen.throttled_at_s = now_s
            lasted_s = now_s - seen.failing_since_s
            after_s = REPORT_THROTTLING_AFTER_S if seen.throttled else REPORT_AFTER_S
            if not seen.reported and lasted_s >= after_s:
                seen.reported = True
                self.report(OutageReport(service, lasted_s, fault.why, throttled=seen.throttled))

    def answered(self, service: str) -> None:
        """Count an answer, and report the end of an outage that was reported."""
        now_s = self.clock.now_s()
        with self._lock:
            seen = self._services.setdefault(service, _Service())
            seen.answered = True
            since_s = seen.failing_since_s
            if since_s is None:
                return
            if seen.throttled and (seen.partly or not seen.reported):
                seen.partly = True
                if now_s - seen.throttled_at_s < UNTHROTTLED_S:
                    return
            if seen.reported:
                end_s = seen.throttled_at_s if seen.throttled else now_s
                self.report(
                    OutageReport(service, end_s - since_s, "", over=True, throttled=seen.throttled)
                )
            self._services[service] = _Service(answered=True)

    def _left_s(self, service: str, unproven_s: float) -> float:
        """Return for how long a failing call is repeated from now on."""
        left_s = self.clock.left_s()
        with self._lock:
            seen = self._services.setdefault(service, _Service())
            if seen.answered or seen.failing_since_s is None:
                return left_s
            return min(left_s, seen.failing_since_s + unproven_s - self.clock.now_s())


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

    The wait grows from `first_s` to `longest_s` seconds; the last one ends with the timeout.
    Errors in `retry_on` count as "not yet"; any other error ends the wait at once (that is how a
    hopeless wait ends early).

    Raises:
        TimeoutError: `timeout_s` seconds have passed; the last error, if any, is its cause.
    """
    started_s = clock.now_s()
    retrying = tenacity.Retrying(
        sleep=lambda wait_s: clock.sleep(min(wait_s, started_s + timeout_s - clock.now_s())),
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

"""The clock and its deadlines, polls, and calls that outlast an outage."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from poormanray.waiting import (
    FIRST_PAUSE_S,
    JITTER_S,
    REPORT_AFTER_S,
    REPORT_THROTTLING_AFTER_S,
    UNPROVEN_S,
    UNTHROTTLED_S,
    Clock,
    Fault,
    OutageReport,
    Outages,
    poll,
)


class Broken(Exception):
    """An error that passes."""


class Throttling(Exception):
    """A call too many."""


class Denied(Exception):
    """An answer that never changes."""


FAULTS = {Broken: Fault("broken"), Throttling: Fault("slow down", throttled=True)}


def judge(error: Exception) -> Fault:
    return FAULTS.get(type(error), Fault(answered=True))


class World:
    """A clock that moves when somebody waits, and a service that `fails` until some moment."""

    def __init__(self, scale: float = 1.0) -> None:
        self.wall_s = 0.0
        self.clock = Clock(scale, lambda: self.wall_s, self.sleep)
        self.outages = Outages(self.clock)
        self.reports: list[OutageReport] = []
        self.outages.report = self.reports.append
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        assert len(self.pauses) < 2000, "it never ends"
        self.pauses.append(seconds)
        self.wall_s += seconds

    def call(self, ask: Callable[[], str]) -> str:
        return self.outages.call("SSM", ask, judge)

    def failing_until(self, at_s: float, error: Exception | None = None) -> Callable[[], str]:
        def ask() -> str:
            if self.clock.now_s() < at_s:
                raise error or Broken
            return "good"

        return ask


def test_a_poll_ends_with_its_timeout_and_no_interval_later() -> None:
    world = World()
    asked: list[float] = []

    def ask() -> bool:
        asked.append(world.clock.now_s())
        return False

    with pytest.raises(TimeoutError):
        poll(ask, clock=world.clock, timeout_s=100.0, longest_s=30.0)
    assert (world.clock.now_s(), asked[-1]) == (100.0, 100.0)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_waits_are_cut_at_the_deadline_and_none_spins_after_it(scale: float) -> None:
    world = World(scale)
    with world.clock.until(10.0):
        world.clock.sleep(7)
        assert world.clock.left_s() == pytest.approx(3)
        world.clock.sleep(60)
        assert world.clock.now_s() == pytest.approx(10)
        world.clock.sleep(2)
        assert world.clock.now_s() == pytest.approx(12)
    world.clock.sleep(20)
    assert world.clock.now_s() == pytest.approx(32)
    assert world.clock.left_s() == float("inf")


def test_the_nearest_deadline_counts() -> None:
    world = World()
    with world.clock.until(50), world.clock.until(20), world.clock.until(90):
        world.clock.sleep(70)
    assert world.clock.now_s() == 20


def test_the_clock_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def gettime(which: int) -> float:
        asked.append(which)
        return 7.0

    monkeypatch.setattr(time, "clock_gettime", gettime)
    assert Clock().now_s() == 7.0
    assert asked == [getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)]


def test_an_outage_is_outlasted_and_reported_once_at_each_end() -> None:
    world = World()
    assert world.call(lambda: "good") == "good"
    assert world.call(world.failing_until(120)) == "good"
    begun, over = world.reports
    # The try after five seconds reports it: the third pause is 4 s and the jitter.
    assert REPORT_AFTER_S <= begun.seconds <= REPORT_AFTER_S + 4 * FIRST_PAUSE_S + JITTER_S
    assert (begun.service, begun.why, begun.over) == ("SSM", "broken", False)
    assert over.over
    assert 120 <= over.seconds == world.clock.now_s() < 140
    # The pauses grow, differ, and stay short enough to see the end soon.
    assert world.pauses[0] <= 3
    assert max(world.pauses) <= 17
    assert len(set(world.pauses)) == len(world.pauses)
    assert world.call(world.failing_until(world.clock.now_s() + 50)) == "good"
    assert [one.over for one in world.reports] == [False, True, False, True]


def test_a_short_one_is_not_worth_a_word() -> None:
    world = World()
    assert world.call(world.failing_until(2)) == "good"
    assert not world.reports


def test_what_cannot_heal_ends_at_once() -> None:
    world = World()
    with pytest.raises(Denied):
        world.call(world.failing_until(1, Denied()))
    assert not world.pauses


def test_a_service_that_never_answered_is_given_up_after_a_minute() -> None:
    world = World()
    with pytest.raises(Broken):
        world.call(world.failing_until(1000))
    assert world.clock.now_s() == UNPROVEN_S
    # A refusal is an answer too; what other services answer is not.
    with pytest.raises(Denied):
        world.call(world.failing_until(1000, Denied()))
    assert world.call(world.failing_until(1000)) == "good"
    with pytest.raises(Broken):
        world.outages.call("EC2", world.failing_until(5000), judge)


def test_the_user_s_deadline_ends_it() -> None:
    world = World()
    world.call(lambda: "good")
    with world.clock.until(300.0), pytest.raises(Broken):
        world.call(world.failing_until(1000))
    assert world.clock.now_s() == 300


def test_tries_that_botocore_makes_itself_count_for_the_report() -> None:
    world = World()
    world.wall_s = 20.0
    world.outages.failed("SSM", Fault("read timeout"), since_s=0.0)
    assert [(one.seconds, one.why) for one in world.reports] == [(20.0, "read timeout")]


def test_throttling_of_some_calls_is_one_outage() -> None:
    world = World()
    while world.clock.now_s() < 120:
        world.outages.failed("SSM", FAULTS[Throttling])
        world.sleep(2)
        world.call(lambda: "good")
        world.sleep(2)
    (begun,) = world.reports
    assert begun.throttled
    assert REPORT_THROTTLING_AFTER_S <= begun.seconds < REPORT_THROTTLING_AFTER_S + 5
    while len(world.reports) == 1:
        world.sleep(1)
        world.call(lambda: "good")
    assert UNTHROTTLED_S <= world.clock.now_s() - 116 <= UNTHROTTLED_S + 1
    assert (world.reports[1].over, world.reports[1].seconds) == (True, 116)


def test_one_throttled_call_now_and_then_is_not_worth_a_word() -> None:
    world = World()
    for _ in range(20):
        world.outages.failed("SSM", FAULTS[Throttling])
        world.call(lambda: "good")
        world.sleep(UNTHROTTLED_S + 1)
        world.call(lambda: "good")
    assert not world.reports


def test_throttling_of_all_calls_is_over_with_the_first_answer() -> None:
    world = World()
    world.call(lambda: "good")
    world.call(world.failing_until(100, Throttling()))
    assert [(one.over, one.throttled) for one in world.reports] == [(False, True), (True, True)]

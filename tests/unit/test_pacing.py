"""The client's own pace: never more calls in a second than SSM bears, slower where it complains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.pacing import RATE, SLOWEST, Pace

WAITS = st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=60)
OPERATIONS = st.sampled_from(["SendCommand", "ListCommandInvocations", "GetCommandInvocation"])


def moments(pace: Pace, calls: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return when each call goes that is asked for so many seconds after the one before."""
    now_s, went = 0.0, []
    for operation, later_s in calls:
        now_s += later_s
        went.append((operation, now_s + pace.book(operation, now_s)))
    return went


def most_in_a_second(times: list[float]) -> int:
    """Return how many of the times fall into the busiest second."""
    return max(sum(start <= time < start + 1 for time in times) for start in times)


def test_the_first_call_goes_at_once() -> None:
    assert Pace().book("SendCommand", 100.0) == 0


@given(WAITS)
def test_an_operation_stays_under_five_calls_a_second(waits: list[float]) -> None:
    went = moments(Pace(), [("SendCommand", wait) for wait in waits])
    assert most_in_a_second([time for _, time in went]) < 5


@given(st.lists(st.tuples(OPERATIONS, st.floats(0, 1)), min_size=1, max_size=60))
def test_together_they_have_the_allowance_of_one(calls: list[tuple[str, float]]) -> None:
    went = moments(Pace(shared=True), calls)
    assert most_in_a_second([time for _, time in went]) < 5


def test_operations_do_not_hold_each_other_back() -> None:
    pace = Pace()
    assert pace.book("SendCommand", 0) == 0
    assert pace.book("ListCommandInvocations", 0) == 0


def test_a_refused_call_halves_the_pace_and_answers_bring_it_back() -> None:
    pace = Pace()
    pace.answered("SendCommand", throttled=True)
    pace.book("SendCommand", 0)
    assert pace.book("SendCommand", 0) == 2 / RATE
    for _ in range(100):
        pace.answered("SendCommand", throttled=False)
    later_s = 1000.0
    pace.book("SendCommand", later_s)
    assert pace.book("SendCommand", later_s) == pytest.approx(1 / RATE)


def test_it_never_stands_still() -> None:
    pace = Pace()
    for _ in range(100):
        pace.answered("SendCommand", throttled=True)
    pace.book("SendCommand", 0)
    assert pace.book("SendCommand", 0) == 1 / SLOWEST

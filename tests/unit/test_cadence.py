"""How patiently a job is followed: quick with few instances, within the allowance with many."""

from __future__ import annotations

import pytest

from poormanray.jobs.cadence import FEW_CHUNKS, SILENCE_S, WINDOW_S, Cadence

# The agent's own timeout of a look must end before the command does: its window stays under it.
LONGEST_S = 60


@pytest.mark.parametrize("chunks", range(1, FEW_CHUNKS + 1))
def test_few_are_looked_at_as_soon_as_can_be(chunks: int) -> None:
    cadence = Cadence(chunks)
    assert cadence.few
    assert cadence.window_s == WINDOW_S
    assert cadence.silence_s == SILENCE_S


def test_tasks_that_end_at_once_cost_one_send_for_each_chunk() -> None:
    # What one send reaches is asked again at little cost; of several, each answer that comes
    # before its task's end is a send more: 120 instances on two processors need nine seconds.
    assert Cadence(1).first_window_s < WINDOW_S
    assert Cadence(2).first_window_s > WINDOW_S
    assert Cadence(3).first_window_s > 9


@pytest.mark.parametrize("chunks", [10, 20, 40, 60])
def test_a_look_at_many_lasts_until_all_have_been_asked(chunks: int) -> None:
    # A round is one send for each chunk, at less than four a second.
    cadence = Cadence(chunks)
    assert chunks / 4 < cadence.window_s < LONGEST_S
    assert cadence.first_window_s == cadence.window_s


def test_more_instances_never_make_it_hastier() -> None:
    rounds = [Cadence(chunks) for chunks in range(1, 200)]
    for name in ("window_s", "first_window_s", "gather_s", "busy_s", "silence_s"):
        waits = [getattr(one, name) for one in rounds]
        assert waits == sorted(waits)


@pytest.mark.parametrize("chunks", [4, 40, 200])
def test_an_instance_is_not_silent_before_its_look_can_be_over(chunks: int) -> None:
    cadence = Cadence(chunks)
    assert cadence.silence_s > cadence.window_s + SILENCE_S - WINDOW_S

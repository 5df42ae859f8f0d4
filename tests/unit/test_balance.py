"""Where waiting tasks should be: no plan loses one, and nobody idles beside others that queue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poormanray.schedule import Load, fair_shares, moves

LOADS = st.lists(
    st.builds(
        Load,
        waiting=st.integers(0, 3000),
        running=st.integers(0, 8),
        rate=st.sampled_from([0.0, 0.01, 0.5, 1.0, 2.0, 40.0]),
    ),
    min_size=1,
    max_size=60,
)


@given(LOADS)
def test_the_shares_are_all_there_is(loads: list[Load]) -> None:
    shares = fair_shares(loads)
    assert sum(shares) == sum(load.waiting for load in loads)
    assert min(shares) >= 0


@given(LOADS)
def test_who_does_nothing_any_more_has_no_share(loads: list[Load]) -> None:
    shares = fair_shares(loads)
    if any(load.rate for load in loads):
        assert all(load.rate or not share for load, share in zip(loads, shares, strict=True))


@given(LOADS, st.floats(0, 1000))
def test_no_move_takes_more_than_there_is(loads: list[Load], horizon_s: float) -> None:
    left = [load.waiting for load in loads]
    for move in moves(loads, horizon_s):
        assert move.count > 0
        assert move.source != move.target
        assert loads[move.target].rate
        left[move.source] -= move.count
        left[move.target] += move.count
    assert min(left) >= 0


@given(LOADS)
def test_moves_come_to_the_shares_or_to_nothing(loads: list[Load]) -> None:
    left = [load.waiting for load in loads]
    planned = moves(loads, 5)
    for move in planned:
        left[move.source] -= move.count
        left[move.target] += move.count
    assert left == (fair_shares(loads) if planned else [load.waiting for load in loads])


def test_nothing_moves_while_all_have_enough() -> None:
    assert not moves([Load(100, 1, 1.0), Load(60, 1, 1.0)], horizon_s=7)


def test_who_will_be_idle_gets_half() -> None:
    (move,) = moves([Load(100, 1, 1.0), Load(0, 1, 1.0)], horizon_s=7)
    assert (move.source, move.target, move.count) == (0, 1, 50)


def test_a_slow_instance_gets_less() -> None:
    assert fair_shares([Load(90, 0, 2.0), Load(0, 0, 1.0)]) == [60, 30]


def test_the_last_tasks_go_to_whoever_is_free() -> None:
    loads = [Load(3, 1, 0.5), Load(0, 0, 0.5), Load(0, 0, 0.5), Load(0, 0, 0.5)]
    assert fair_shares(loads) == [0, 1, 1, 1]


def test_what_waits_where_nothing_runs_goes_elsewhere() -> None:
    planned = moves([Load(7, 0, 0.0), Load(50, 1, 1.0), Load(50, 1, 1.0)], horizon_s=7)
    assert sum(move.count for move in planned) == 7
    assert {move.source for move in planned} == {0}

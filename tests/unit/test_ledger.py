"""The events of a ledger fold to the same states, however they arrive; ids sort by time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.ledger import (
    ID_ALPHABET,
    EventLog,
    TaskState,
    TaskStatus,
    decode_keys,
    encode_keys,
    ended_counts,
    is_job_id,
    new_job_id,
)
from tests.support.tracks import line


def folded(*texts: str) -> EventLog:
    log = EventLog()
    log.feed(0, b"".join(map(line, texts)))
    return log


start = st.builds("S 100.{} {} {} {} 77 5 boot".format, *[st.integers(0, 4)] * 4)
end = st.builds(
    "E 200.{} {} {} {} {} 150.5 2".format,
    *[st.integers(0, 4)] * 3,
    st.sampled_from(["0", "1", "137", "-"]),
    st.sampled_from(["exit", "timeout", "cancelled", "lost", "rebooted", "tomorrow"]),
)
other = st.sampled_from(
    [
        "J 1.0 runner-started 3 root screen",
        "J 2.0 runner-ended",
        "J 3.0 runner-lost",
        "J 3.0 held load 1",
        "J 3.0 held memory 2",
        "J 4.0 freed 1",
        "J 5.0 interrupted terminate 2026-11-25T18:02:00Z",
        "X new",
    ]
)
keys = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=4)
adopted = st.builds("A 120.5 {}".format, keys.map(encode_keys))
given_away = st.builds("G 130.5 {} {}".format, st.integers(0, 3), keys.map(encode_keys))
torn = st.sampled_from([b"\n", b"E 1 2\n", b"S 1.0 0 1 0 1 1 b 00000000\n", b"\xff\xfe x\n"])
events = st.one_of(start, end, other, adopted, given_away).map(line)
logs = st.lists(events | torn, max_size=12).map(b"".join)


@given(data=logs, rest=st.binary(max_size=5), reads=st.data())
def test_any_split_folds_to_the_same(data: bytes, rest: bytes, reads: st.DataObject) -> None:
    whole = EventLog()
    told = whole.feed(0, data)
    log = EventLog()
    changes: list[TaskStatus] = []
    everything = data + rest.replace(b"\n", b"")
    while log.offset < len(data):
        # A reader may read again what it has, but goes on from what it folded.
        at = log.offset - reads.draw(st.integers(0, min(9, log.offset)))
        size = reads.draw(st.integers(1, 400))
        changes += log.feed(at, everything[at : at + size])
        if b"\n" not in everything[log.offset : at + size] and size < 200:
            changes += log.feed(log.offset, everything[log.offset :])
    assert (log, changes) == (whole, told)
    assert log.offset == len(data)
    assert log.feed(log.offset + 1, line("S 1.0 9 1 0 1 1 b")) == []


@given(keys)
def test_attempts_survive_their_encoding(some: list[tuple[int, int]]) -> None:
    assert decode_keys(encode_keys(some)) == some


def test_what_was_given_away_is_not_waited_for() -> None:
    log = EventLog()
    log.expect([0, 1])
    log.feed(0, line("G 1.0 3 1.1") + line("E 2.0 0 1 0 exit 1.5 0"))
    assert not log.open
    assert log.given == {(1, 1): 3}
    assert log.status(1) is None


def test_what_was_adopted_is_waited_for() -> None:
    log = EventLog()
    log.expect([0])
    log.feed(0, line("E 2.0 0 1 7 exit 1.5 0") + line("A 3.0 0.2,9.1"))
    assert log.open == {0: 2, 9: 1}
    assert log.status(0) == TaskStatus(0, 2, TaskState.PENDING)
    assert log.status(9) == TaskStatus(9, 1, TaskState.PENDING)
    log.feed(log.offset, line("S 4.0 9 1 0 5 5") + line("E 5.0 9 1 0 exit 4.0 0"))
    assert log.open == {0: 2}


def test_a_turn_that_an_instance_gives_by_itself_is_waited_for() -> None:
    log = EventLog()
    log.expect([0])
    log.feed(0, line("S 1.0 0 1 0 5 5") + line("A 2.0 0.2"))
    assert log.open == {0: 2}
    log.feed(log.offset, line("E 2.0 0 1 7 exit 1.0 0"))
    assert log.status(0) == TaskStatus(0, 2, TaskState.PENDING)
    assert log.newest[0].exit_code == 7
    log.feed(log.offset, line("S 4.0 0 2 0 5 5") + line("E 5.0 0 2 0 exit 4.0 0"))
    assert not log.open
    assert log.newest[0].state is TaskState.SUCCEEDED


def test_slots_are_held_back_and_freed() -> None:
    log = EventLog()
    log.feed(0, line("J 1.0 runner-started 2 root screen"))
    log.feed(log.offset, line("J 2.0 held load 1") + line("J 2.0 held memory 0"))
    assert log.held == {1: "load", 0: "memory"}
    log.feed(log.offset, line("J 3.0 freed 1") + line("J 3.0 held load 2"))
    assert (log.held, log.damaged_lines) == ({0: "memory"}, 1)
    log.feed(log.offset, line("J 4.0 runner-lost"))
    assert not log.held


def test_a_spot_notice_counts_until_another_runner_starts() -> None:
    log = EventLog()
    log.feed(0, line("J 1.0 interrupted terminate 2026-11-25T18:02:00Z"))
    assert log.interrupted == ("terminate", "2026-11-25T18:02:00Z")
    log.feed(log.offset, line("J 2.0 runner-started 2 root screen"))
    log.feed(log.offset, line("J 3.0 interrupted \x1b[2J -"))
    assert (log.interrupted, log.damaged_lines) == (None, 1)  # type: ignore[comparison-overlap]


def test_nobody_gives_away_what_is_another_s() -> None:
    log = EventLog()
    log.expect([0])
    log.feed(0, line("G 1.0 3 5.1"))
    assert (log.given, log.damaged_lines) == ({}, 1)


def test_damaged_lines_are_counted_and_leave_no_trace() -> None:
    log = EventLog()
    good = line("S 1.5 3 1 0 44 9 b")
    for at in range(2, len(good) - 1):
        log.feed(log.offset, good[:at] + b"\n")
    assert (log.tasks, log.damaged_lines) == ({}, len(good) - 3)
    log.feed(log.offset, good.replace(b" 3 ", b" 4 ") + b"\n" + good)
    assert [status.task for status in log.tasks.values()] == [3]
    assert log.damaged_lines == len(good) - 2


@pytest.mark.parametrize(
    "text",
    [
        "S 1.0 x 1 0 5 5 b",
        "S nan 1 1 0 5 5 b",
        "S 1e300 1 1 0 5 5 b",
        "S 1.0 -1 1 0 5 5 b",
        "S 1.0 1 1_0 0 5 5 b",
        "S 1.0 1 1 " + "9" * 5000 + " 5 5 b",
        "E 1.0 1 1 256 exit",
        "E 1.0 1 1 x exit",
        "E inf 1 1 0 exit",
        "E 1.0 1 1 0 exit later 0",
        "J 1.0 runner-started many root screen",
    ],
)
def test_a_well_sealed_line_with_impossible_numbers_is_damaged(text: str) -> None:
    log = folded(text)
    assert (log.tasks, log.damaged_lines) == ({}, 1)


def test_an_end_is_final() -> None:
    log = folded("S 10.0 0 1 2 5 5 b", "E 12.5 0 1 7 exit 10.25 2", "E 13.0 0 1 - lost")
    ended = TaskStatus(0, 1, TaskState.FAILED, 7, "", 10.25, 12.5, 2)
    assert log.tasks == {(0, 1): ended}
    assert log.newest[0] == ended
    assert not log.open


def test_an_end_may_come_before_its_start() -> None:
    log = EventLog()
    changed = log.feed(0, line("E 2.0 0 1 0 exit 1.0 0") + line("S 1.0 0 1 0 5 5 b"))
    assert [status.state for status in changed] == [TaskState.SUCCEEDED]


def test_the_newest_attempt_counts_whatever_comes_first() -> None:
    log = folded("E 2.0 0 2 0 exit 1.0 0", "E 3.0 0 1 1 exit 1.0 0")
    assert (log.newest[0].attempt, log.newest[0].state) == (2, TaskState.SUCCEEDED)


@pytest.mark.parametrize(
    ("code", "why", "state", "reason"),
    [
        ("0", "exit", TaskState.SUCCEEDED, ""),
        ("1", "exit", TaskState.FAILED, ""),
        ("-", "exit", TaskState.LOST, "lost"),
        ("-", "lost", TaskState.LOST, "lost"),
        ("-", "rebooted", TaskState.LOST, "rebooted"),
        ("-", "unstartable", TaskState.LOST, "unstartable"),
        ("-", "no-user", TaskState.LOST, "no-user"),
        ("143", "timeout", TaskState.TIMEOUT, "timeout"),
        ("0", "timeout", TaskState.TIMEOUT, "timeout"),
        ("-", "cancelled", TaskState.CANCELLED, "cancelled"),
        ("0", "a-word-from-tomorrow", TaskState.LOST, "a-word-from-tomorrow"),
    ],
)
def test_what_an_end_means(code: str, why: str, state: TaskState, reason: str) -> None:
    status = folded(f"E 2.0 0 1 {code} {why}").tasks[0, 1]
    assert (status.state, status.reason) == (state, reason)
    assert state.ended


def test_a_lost_task_keeps_when_it_started() -> None:
    log = folded("S 1.5 0 1 3 5 5 b", "E 9.0 0 1 - lost", "J 9.1 runner-lost")
    status = log.tasks[0, 1]
    assert (status.started_at, status.ended_at, status.exit_code) == (1.5, 9.0, None)
    assert log.runner_lost


def test_whoever_brings_tasks_to_a_dead_runner_starts_another() -> None:
    log = folded("J 9.1 runner-lost", "A 9.5 4.2")
    assert not log.runner_lost
    assert log.open == {4: 2}


def test_a_signal_is_told_as_a_shell_does() -> None:
    status = TaskStatus(0, 1, TaskState.FAILED, 137)
    assert status.signal == 9
    assert [replace(status, exit_code=c).signal for c in (None, 0, 128, 192, 193, 255)] == [
        *(0, 0, 0, 64, 0, 0)
    ]


def test_tasks_are_counted_by_state() -> None:
    counts = ended_counts(folded("S 1.0 0 1 0 5 5 b", "E 1.0 1 1 0 exit").tasks.values())
    assert counts[TaskState.RUNNING] == counts[TaskState.SUCCEEDED] == 1
    assert sum(counts.values()) == 2
    assert set(counts) == set(TaskState)


def test_job_ids_sort_by_time_and_do_not_collide() -> None:
    ids = [new_job_id(1_700_000_000 + second) for second in range(0, 4000, 7)]
    assert ids == sorted(ids)
    assert new_job_id(32**7 - 1) > new_job_id(2_000_000_000) > new_job_id(1_700_000_000)
    same_second = {new_job_id(1_700_000_000.5) for _ in range(200)}
    # 32**4 ids for each second: two of 200 may be the same once in 50 runs, never three pairs.
    assert len(same_second) > 196
    assert all(map(is_job_id, [*ids, *same_second, new_job_id()]))
    assert list(ID_ALPHABET) == sorted(ID_ALPHABET)


@pytest.mark.parametrize("text", ["", "last", "0" * 10, "0" * 12, "../../../..", "i" * 11])
def test_what_is_no_job_id(text: str) -> None:
    assert not is_job_id(text)

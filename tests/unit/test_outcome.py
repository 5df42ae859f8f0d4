"""The exit code of a job, from what became of its tasks."""

from __future__ import annotations

import pytest

from poormanray.jobs.outcome import (
    BETWEEN,
    NOWHERE,
    UNCLAIMED,
    WENT_TO_LOST,
    Outcome,
    Verdict,
    outcomes,
    tracks_of,
    unclaimed,
    verdict,
)
from poormanray.jobs.presence import Fate
from poormanray.jobs.track import Contact, Track
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host, Manifest
from tests.support.tracks import line, outcomes_of

HOST = Host(0, "i-0", "c-0000", (0, 1))
CODES = {"S": 0, "F": 7, "K": 137, "T": 143}
STATES = {
    "S": TaskState.SUCCEEDED,
    "F": TaskState.FAILED,
    "K": TaskState.FAILED,
    "T": TaskState.TIMEOUT,
    "C": TaskState.CANCELLED,
    "L": TaskState.LOST,
    "P": TaskState.PENDING,
    "R": TaskState.RUNNING,
}


def found(letters: str) -> list[Outcome]:
    return [
        Outcome(n, f"t{n}", HOST, TaskStatus(n, 1, STATES[letter], CODES.get(letter)))
        for n, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("letters", "code"),
    [
        *(("S", 0), ("SSS", 0), ("F", 1), ("SF", 1), ("C", 1), ("SC", 1)),
        *(("T", 124), ("TT", 124), ("STS", 124), ("TF", 1), ("TC", 1)),
        *(("L", 4), ("SL", 4), ("FL", 4), ("TL", 4), ("CL", 4)),
        *(("P", 4), ("SR", 4), ("TP", 4)),
    ],
)
def test_the_code_of_several(letters: str, code: int) -> None:
    count = len(letters)
    assert verdict(found(letters), count) == Verdict(code)
    assert verdict(found(letters), count, left_out=1) == Verdict(4)
    assert verdict(found(letters), count + 1) == Verdict(4)


@pytest.mark.parametrize(
    ("letter", "code"), [("S", 0), ("F", 7), ("K", 137), ("T", 124), ("C", 1), ("L", 4)]
)
def test_one_instance_passes_the_tasks_own_code_on(letter: str, code: int) -> None:
    assert verdict(found(letter), 1, own_code=True) == Verdict(code, of_task=letter in "FK")
    assert verdict(found(letter), 1, own_code=True, left_out=1) == Verdict(4)
    assert verdict(found(letter), 2, own_code=True) == Verdict(4)


def test_only_one_task_has_a_code_of_its_own() -> None:
    assert verdict(found("FF"), 2, own_code=True) == Verdict(1)


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_nothing_found_is_no_success(expected: int) -> None:
    assert verdict([], expected) == Verdict(4)
    assert verdict([], expected, own_code=True) == Verdict(4)


def test_one_task_twice_is_not_two_tasks() -> None:
    assert verdict(found("S") * 2, 2) == Verdict(4)


def test_a_task_that_no_instance_has_is_lost_and_one_of_no_job_is_left_out() -> None:
    track = Track(HOST)
    for task in (0, 1):
        track.log.newest[task] = TaskStatus(task, 1, TaskState.SUCCEEDED, 0)
    track.log.open.clear()
    names = {1: "b", 2: "c"}
    seen = outcomes([track], names)
    assert [(one.task, one.name, one.state) for one in seen] == [
        (1, "b", TaskState.SUCCEEDED),
        (2, "c", TaskState.LOST),
    ]
    assert (seen[1].host, seen[1].why, unclaimed(seen)) == (NOWHERE, UNCLAIMED, 1)
    assert verdict(seen, len(names)) == Verdict(4)
    assert outcomes_of([]) == []


def test_what_was_not_seen_to_end_on_a_lost_instance_is_lost() -> None:
    track = Track(HOST, problem="it is gone", contact=Contact.LOST)
    track.log.newest[0] = TaskStatus(0, 1, TaskState.SUCCEEDED, 0)
    first, second = outcomes([track], {0: "a", 1: "1"})
    assert (first.state, first.why, first.name) == (TaskState.SUCCEEDED, "", "a")
    assert (second.state, second.why, second.name) == (TaskState.LOST, "it is gone", "1")


def test_what_was_given_to_an_instance_that_is_gone_is_told_of_that_one() -> None:
    gave, had = Track(Host(0, "i-0", "c-0", (0,))), Track(Host(1, "i-1", "c-1", ()))
    gave.log.given[0, 1] = 1
    del gave.log.open[0]
    (waits,) = outcomes_of([gave, had])
    assert (waits.state, waits.why, waits.host) == (TaskState.PENDING, BETWEEN, gave.host)
    had.contact, had.problem = Contact.LOST, "it is terminated"
    (lost,) = outcomes_of([gave, had])
    assert (lost.state, lost.why, lost.host) == (TaskState.LOST, WENT_TO_LOST, had.host)


def test_outcomes_are_in_the_order_of_tasks() -> None:
    hosts = [Host(0, "i-0", "c-0", (1, 3)), Host(1, "i-1", "c-1", (0, 2))]
    tracks = tracks_of(
        Manifest(tuple(hosts), {}), {"i-1": Fate(Contact.SILENT, "its agent is not online")}
    )
    assert [track.problem for track in tracks] == ["", "its agent is not online"]
    assert [outcome.task for outcome in outcomes_of(tracks)] == [0, 1, 2, 3]


@pytest.mark.parametrize("began", [False, True])
def test_who_had_not_begun_a_task_does_not_contradict_its_success_elsewhere(began: bool) -> None:
    gone = Track(Host(0, "i-0", "c-0", ()), contact=Contact.LOST, problem="it is terminated")
    other = Track(Host(1, "i-1", "c-1", ()))
    home = Track(Host(2, "i-2", "c-2", (0,)))
    gone.log.feed(0, line("A 1.0 0.1") + line("S 2.0 0 1 0 5 5 b") * began)
    home.log.feed(0, line("G 1.0 0 0.1"))
    # That it was given on went with the instance; another one has the move on record.
    other.log.feed(0, line("A 3.0 0.1") + line("S 4.0 0 1 0 5 5 b"))
    other.assigned.add((0, 1))
    (only,) = outcomes([gone, other, home], {0: "t"})
    assert only.state is (TaskState.LOST if began else TaskState.RUNNING)
    other.log.feed(other.log.offset, line("E 5.0 0 1 0 exit 4.0 0"))
    (only,) = outcomes([gone, other, home], {0: "t"})
    assert (only.host.name, only.state) == (
        ("c-0", TaskState.LOST) if began else ("c-1", TaskState.SUCCEEDED)
    )

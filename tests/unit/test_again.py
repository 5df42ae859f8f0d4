"""Which tasks get another turn at once, and which when the loss of their instance is decided."""

from __future__ import annotations

from poormanray.jobs.again import FAILED, UNSUCCESSFUL, chosen, turns
from poormanray.jobs.moving import Turns
from poormanray.jobs.track import Contact, Track
from poormanray.ledger import TaskState
from poormanray.manifest import Host
from tests.support.tracks import line, outcomes_of


def tracks(gone: bytes, other: bytes = b"", contact: Contact = Contact.LOST) -> list[Track]:
    """Return two instances with two tasks each; the first one cannot be asked any more."""
    first = Track(Host(0, "i-0", "c-0", (0, 1)), contact=contact, problem="it cannot be asked")
    second = Track(Host(1, "i-1", "c-1", (2, 3)))
    first.log.feed(0, gone)
    second.log.feed(0, other)
    return [first, second]


def turns_of(some: list[Track], states: frozenset[TaskState], *tasks: int) -> Turns:
    found = outcomes_of(some)
    return turns(chosen(found, states, tasks), some, found)


FAILURE = line("S 1.0 0 1 0 5 5 b") + line("E 2.0 0 1 7 exit 1.0 0")


def test_what_went_with_a_lost_instance_is_decided_with_its_records() -> None:
    given = turns_of(tracks(FAILURE), UNSUCCESSFUL)
    # The failure is on record; another client may have read how the other task ended.
    assert given.again == {(0, 2): "i-0"}
    assert given.undecided == {(1, 1)}
    assert given.left == frozenset()


def test_what_is_not_asked_for_is_left_with_its_instance() -> None:
    some = tracks(FAILURE)
    assert turns_of(some, FAILED).left == {(1, 1)}
    assert turns_of(some, FAILED).again == {(0, 2): "i-0"}
    assert turns_of(some, UNSUCCESSFUL, 1).undecided == {(1, 1)}


def test_a_task_that_another_instance_has_is_not_left_with_a_lost_one() -> None:
    given = line("G 1.0 0 2.1")
    took = line("A 2.0 2.1")
    some = tracks(took, given)
    some[1].log.feed(some[1].log.offset, line("A 3.0 2.1"))
    some[1].assigned.add((2, 1))
    assert turns_of(some, frozenset()).left == {(0, 1), (1, 1)}


def test_what_ran_on_a_stopped_instance_begins_there_again() -> None:
    some = tracks(line("S 1.0 0 1 0 5 5 b"), contact=Contact.STOPPED)
    given = turns_of(some, UNSUCCESSFUL)
    assert given.again == {(0, 2): "i-0"}
    assert (given.undecided, given.left) == (frozenset(), frozenset())

"""Instances that come back after a stop run nothing that others took over meanwhile."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.jobs.again import UNSUCCESSFUL, chosen, turns
from poormanray.jobs.moving import Mover
from poormanray.jobs.release import MOST_KEYS, holds_back, release_order
from poormanray.jobs.track import Contact, Track
from poormanray.ledger import TaskState
from poormanray.manifest import Host
from tests.support.tracks import outcomes_of
from tests.support.worlds import SHARES, STEPS, World, dealt, world


def stop(played: World, name: str) -> None:
    """Let EC2 stop an instance: what waits there waits for its return."""
    played.instances[name].alive = False
    played.instances[name].waits = True
    # Until it is back, what was sent to it has expired.
    played.late = [(key, row) for key, row in played.late if key != name]
    track = played.mover.tracks[name]
    track.contact = Contact.STOPPED
    track.problem = "it is stopped"


def reassign(played: World) -> None:
    """Let a client give away what waits on the instance that is stopped."""
    tracks = played.mover.tracks
    found = outcomes_of(tracks.values())
    again = turns(chosen(found, UNSUCCESSFUL), [*tracks.values()], found, reassign=True)
    played.mover = Mover("job", tracks, again)


def release(played: World) -> None:
    """Do what a follower does with instances that wait: ask until none is left."""
    for _ in range(50):
        played.look()
        tracks = list(played.mover.tracks.values())
        if not holds_back(tracks):
            return
        order = release_order("job", tracks)
        assert order is not None
        for key, row in order.rows.items():
            played.instances[key].order(row)
    raise AssertionError("it never goes on")


def return_of(played: World, name: str) -> None:
    """Let a new client find the instance running again."""
    played.instances[name].alive = True
    played.mover = played.client()
    release(played)


@settings(max_examples=120)
@given(SHARES.filter(lambda sizes: len(sizes) > 1), STEPS, st.integers(0, 25))
def test_what_was_reassigned_does_not_run_after_the_return(
    sizes: list[int], steps: list[tuple[str, list[int]]], stops_at: int
) -> None:
    played = world(dealt(sizes), fails=frozenset())
    names = list(played.instances)
    first = played.instances[names[0]]
    for fate, workers in steps[:stops_at]:
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
        played.move(fate)
    stop(played, names[0])
    before = len(first.ran)
    reassign(played)
    played.end(300)
    elsewhere = [key for name in names[1:] for key in played.instances[name].ran]
    return_of(played, names[0])
    played.end(300)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert {task for task, _ in ran} == set(range(sum(sizes)))
    assert max(ran.values(), default=1) == 1
    assert not {task for task, _ in first.ran[before:]} & {task for task, _ in elsewhere}


def test_nobody_goes_on_before_all_have_told() -> None:
    waits, silent = Track(Host(0, "i-0", "c-0", (0,))), Track(Host(1, "i-1", "c-1", (1,)))
    waits.waits = waits.looked = True
    assert release_order("job", [waits, silent]) is None
    silent.problem, silent.contact = "it is terminated", Contact.LOST
    order = release_order("job", [waits, silent])
    assert order is not None
    assert order.rows == {"i-0": "0 + - * - -"}


def test_many_are_taken_before_it_goes_on() -> None:
    many = tuple(range(MOST_KEYS + 5))
    waits, other = Track(Host(0, "i-0", "c-0", many)), Track(Host(1, "i-1", "c-1", ()))
    waits.waits = waits.looked = other.looked = True
    other.log._adopt([(task, 2) for task in many])
    other.assigned = {(task, 2) for task in many}
    order = release_order("job", [waits, other])
    assert order is not None
    _, adopts, gives, *_ = order.rows["i-0"].split(" ")
    assert (adopts, gives.count("/")) == ("-", MOST_KEYS - 1)
    waits.log._give([(task, 1) for task in many[:MOST_KEYS]], 1)
    order = release_order("job", [waits, other])
    assert order is not None
    assert order.rows["i-0"].split(" ")[1] == "+"


def test_of_two_that_wait_neither_gives_way() -> None:
    one, two = Track(Host(0, "i-0", "c-0", (0,))), Track(Host(1, "i-1", "c-1", ()))
    two.log._adopt([(0, 1)])
    for track in (one, two):
        track.waits = track.looked = True
    order = release_order("job", [one, two])
    assert order is not None
    assert set(order.rows.values()) == {"0 + - * - -"}


def test_what_was_given_to_an_instance_that_is_gone_is_lost() -> None:
    here, there = Track(Host(0, "i-0", "c-0", (0, 1))), Track(Host(1, "i-1", "c-1", ()))
    here.log._give([(1, 1)], 1)
    state = {one.task: one.state for one in outcomes_of([here, there])}
    assert state[1] is TaskState.PENDING
    there.contact, there.problem = Contact.LOST, "it is terminated"
    state = {one.task: one.state for one in outcomes_of([here, there])}
    assert state[1] is TaskState.LOST
    there.contact = Contact.STOPPED
    state = {one.task: one.state for one in outcomes_of([here, there])}
    assert state[1] is TaskState.PENDING


def test_what_was_given_to_a_cancelled_instance_is_cancelled() -> None:
    here, there = Track(Host(0, "i-0", "c-0", (0, 1))), Track(Host(1, "i-1", "c-1", (2,)))
    here.log._give([(1, 1)], 1)
    there.log.cancelled = True
    state = {one.task: one.state for one in outcomes_of([here, there])}
    assert state[1] is TaskState.CANCELLED


def test_nothing_moves_to_an_instance_where_the_job_is_cancelled() -> None:
    played = world([list(range(20)), []], fails=frozenset())
    played.instances["i-1"].event("J 1.0 cancelled")
    for _ in range(5):
        played.look()
        played.move("done")
    assert not played.mover.tracks["i-0"].log.given
    assert not played.instances["i-1"].queue

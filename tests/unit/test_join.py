"""Newcomers to a job: each wave has content of its own, and nobody waits for its way there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poormanray.errors import NotReached
from poormanray.jobs import join
from poormanray.jobs.join import BACK_OFF_S, LONGEST_BACK_OFF_S, LOOK_EVERY_S, Joiner
from poormanray.jobs.submit import Parcel
from poormanray.jobs.track import Track
from poormanray.manifest import Host, Job, Task, encode_sections
from poormanray.waiting import Clock

JOB = Job("0123456789a", "map", "c", "", (), (Task(0, "t", 0),), (b"true\n",))


@dataclass(slots=True)
class Meeting(Joiner):
    """A joiner whose newcomers are listed, and whose work beside begins when it is told to."""

    new: list[Host] = field(default_factory=list)
    todo: list[Callable[[], None]] = field(default_factory=list)

    def _ready(self, there: Collection[str]) -> list[Host]:
        return [host for host in self.new if host.instance_id not in there]

    def work(self) -> None:
        """Do what was to be done beside."""
        while self.todo:
            self.todo.pop(0)()


@dataclass(slots=True)
class World:
    """A clock, instances that parcels reach or not, and a joiner."""

    now_s: float = 0.0
    uploads: list[tuple[float, list[str]]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def joiner(self) -> Meeting:
        fleet = SimpleNamespace(aws=SimpleNamespace(clock=Clock(1.0, lambda: self.now_s)))
        made = Meeting(cast("Any", fleet), JOB, lambda: encode_sections(JOB), 60)
        made.beside = made.todo.append
        return made

    def upload(self, _fleet: object, parcel: Parcel, **_: object) -> Mapping[str, str]:
        ids = [host.instance_id for host in parcel.job.hosts]
        self.uploads.append((self.now_s, ids))
        return {key: why for key, why in self.problems.items() if key in ids}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(join, "upload", made.upload)
    return made


def host(number: int) -> Host:
    return Host(number, f"i-{number}", f"c-{number:04d}", ())


def pass_rounds(world: World, joiner: Meeting, rounds: int, there: set[str]) -> list[str]:
    """Let time pass in steps of a poll; return who has come."""
    come = []
    for _ in range(rounds):
        world.now_s += 1.0
        come += [one.instance_id for one in joiner(there)]
        there.update(come)
        joiner.work()
    return come


def test_nothing_is_sent_by_the_one_who_asks(world: World) -> None:
    joiner = world.joiner()
    joiner.new = [host(1)]
    for _ in range(100):
        world.now_s += 1.0
        assert not joiner(set())
    # Once, however long it takes.
    assert (len(joiner.todo), world.uploads) == (1, [])
    joiner.work()
    assert [one.instance_id for one in joiner(set())] == ["i-1"]


def test_a_second_wave_leaves_the_content_of_the_first_as_it_is(world: World) -> None:
    joiner = world.joiner()
    there: set[str] = {"i-0"}
    joiner.new = [host(1), host(2)]
    assert pass_rounds(world, joiner, 20, there) == ["i-1", "i-2"]
    first = joiner.order("i-1").call.bundle
    joiner.new.append(host(3))
    assert pass_rounds(world, joiner, 20, there) == ["i-3"]
    # The instances of the first wave may not have started yet.
    assert joiner.order("i-1").call.bundle == joiner.order("i-2").call.bundle == first
    assert joiner.order("i-3").call.bundle != first
    tracks = [Track(host(number), joined=True) for number in (1, 3, 2)]
    waves = [[one.host.instance_id for one in wave] for wave in joiner.waves(tracks)]
    assert waves == [["i-1", "i-2"], ["i-3"]]


def test_who_cannot_be_reached_is_sent_to_more_and_more_rarely(world: World) -> None:
    joiner = world.joiner()
    joiner.new, world.problems = [host(1), host(2)], {"i-2": "it has no disk"}
    there: set[str] = set()
    assert pass_rounds(world, joiner, 3600, there) == ["i-1"]
    times = [at_s for at_s, ids in world.uploads if "i-2" in ids]
    pauses = [after - before for before, after in pairwise(times)]
    for number, pause_s in enumerate(pauses):
        wanted_s = min(BACK_OFF_S * 2**number, LONGEST_BACK_OFF_S)
        assert wanted_s <= pause_s <= wanted_s + LOOK_EVERY_S + 1
    world.problems.clear()
    assert pass_rounds(world, joiner, 1000, there) == ["i-2"]


def test_what_fails_beside_is_raised_where_it_is_seen(world: World) -> None:
    def unreadable() -> None:
        raise NotReached("the content differs")

    joiner = world.joiner()
    joiner.sections, joiner.new = cast("Any", unreadable), [host(1)]
    with pytest.raises(NotReached, match="the content differs"):
        pass_rounds(world, joiner, 40, set())

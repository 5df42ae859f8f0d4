"""Following a job: a scripted remote, a clock that only moves when somebody waits on it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poormanray.envelope import Answer, Chunk
from poormanray.errors import AwsRefused, Denied, ExitCode, NoAnswer
from poormanray.jobs.cadence import SILENCE_S
from poormanray.jobs.follow import MOST_FAILURES, ON_RECORD_S, Follower
from poormanray.jobs.mirror import MIRROR, decode
from poormanray.jobs.moving import Turns
from poormanray.jobs.outcome import outcomes, verdict
from poormanray.jobs.patience import LONG_READ_S
from poormanray.jobs.track import (
    NEVER_BEGAN_S,
    REASSIGN_S,
    REFUSALS,
    STALLED_S,
    UNSETTLED_S,
    Again,
    Backlog,
    Contact,
    Happening,
    HostProblem,
    Interrupted,
    LogGap,
    LogText,
    Looked,
    Responsive,
    TaskChanged,
    Track,
    Unresponsive,
    Wanted,
)
from poormanray.ledger import TaskState
from poormanray.manifest import Host
from poormanray.model import InstanceState
from poormanray.remote import Flight, Order, Reply, Sent
from poormanray.shell import Call
from poormanray.waiting import Clock
from tests.support.tracks import line, outcomes_of

JOB = "0123456789a"
POLL_S = 1.0
MOST_STEPS = 3000


def begun(task: int) -> bytes:
    return line(f"S 1.0 {task} 1 0 5 5 b")


def done(task: int, code: int = 0) -> bytes:
    return line(f"E 2.0 {task} 1 {code} exit 1.0 0")


@dataclass(slots=True)
class Guest:
    """One instance: its ledger and logs, and how it behaves.

    `silent_from` is the number of the order from which on it does not answer any more; a reply
    in `instead` is given for the order of that number.
    """

    events: bytes = b""
    logs: dict[str, bytes] = field(default_factory=dict)
    silent_from: int = 1 << 30
    instead: dict[int, Reply] = field(default_factory=dict)
    always: Callable[[str], Reply | None] = lambda _row: None
    facts: dict[str, str] = field(default_factory=dict)
    room: int = 1000
    packed_bytes: int = 9
    orders: int = 0
    # What it has on record of others; None where its disk is full. `closed`: whose it has closed.
    mirror: bytes | None = b""
    closed: str = ""

    def queued(self, row: str) -> Answer:
        """Record ends, and close the records that an order closes; nothing moves."""
        at, _, _, lost, records, *_ = row.split(" ")
        ends = [word for word in records.strip("-").split(";") if word and not set(word) & {*"=>"}]
        facts = {"events": str(len(self.events)), **self.record(*ends), "sealed": self.closed}
        self.closed = facts["sealed"] = lost.strip("-*") or self.closed
        facts |= self.facts
        events = Chunk("events", int(at), self.events[int(at) :], 0)
        return Answer(more=False, facts=facts, events=events, records=(Chunk(MIRROR, 0, b"", 0),))

    def record(self, *words: str) -> dict[str, str]:
        """Put words on record; return the facts that say so."""
        if not words or words[0].partition("/")[0] in self.closed.split(","):
            return {"sealed": self.closed} if self.closed else {}
        if self.mirror is None:
            return {}
        self.mirror += line(words[0])
        return {"mirrored": "1"}

    def answer(self, row: str) -> Answer:
        if MIRROR in row:
            return self.queued(row)
        at, _, _, budget, *specs = row.split(" ")
        room = self.room if int(budget) < 5000 else self.room * 10
        chunk = None
        if at != "-":
            chunk = Chunk("events", int(at), self.events[int(at) :][:room], 0)
            room -= len(chunk.data)
        records = []
        for spec in specs[0].split(",") if specs and specs[0] != "-" else []:
            name, offset, most = (spec + ":0").split(":")[:3]
            log = self.logs.get(name, b"")
            data = log[int(offset) :][: min(room, int(most) or room)]
            room -= len(data)
            records.append(Chunk(name, int(offset), data, len(log)))
        facts = {"events": str(len(self.events)), **self.record(*specs[1:]), **self.facts}
        return Answer(
            more=False,
            facts=facts,
            events=chunk,
            records=tuple(records),
            packed_bytes=self.packed_bytes,
        )


@dataclass(slots=True)
class Cloud:
    """Stands where Remote stands, and is the clock as well."""

    guests: Mapping[str, Guest]
    now_s: float = 0.0
    sent: list[tuple[float, Order, list[str]]] = field(default_factory=list)
    replies: dict[str, list[tuple[float, Reply]]] = field(default_factory=dict)
    steps: int = 0

    def clock(self) -> Clock:
        return Clock(1.0, lambda: self.now_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.steps += 1
        assert self.steps < MOST_STEPS, "it never ends"
        self.now_s += seconds

    def send(self, order: Order, instance_ids: Sequence[str]) -> Sent:
        assert len(self.sent) < MOST_STEPS, "it sends without end"
        number = str(len(self.sent))
        self.sent.append((self.now_s, order, list(instance_ids)))
        sent = Sent()
        waiting = set()
        for key in instance_ids:
            guest = self.guests[key]
            guest.orders += 1
            if guest.orders > guest.silent_from:
                waiting.add(key)
                continue
            row = order.rows[key]
            reply = guest.instead.get(guest.orders) or guest.always(row)
            reply = reply or Reply(key, guest.answer(row))
            if reply.problem == "refused by SSM":
                sent.refused.append(reply)
                continue
            self.replies.setdefault(number, []).append((self.now_s + POLL_S, reply))
            waiting.add(key)
        if waiting:
            now_s = self.now_s
            sent.flights.append(
                Flight(
                    number,
                    waiting,
                    now_s,
                    now_s + 1e9,
                    order.large,
                    now_s + POLL_S,
                    POLL_S,
                    order=order,
                )
            )
        return sent

    def poll(self, flight: Flight, *, flights: int = 1) -> list[Reply]:
        assert flights > 0
        ready = [
            reply
            for at_s, reply in self.replies.get(flight.command_id, [])
            if at_s <= self.now_s and reply.instance_id in flight.waiting
        ]
        flight.waiting -= {reply.instance_id for reply in ready}
        flight.next_poll_s = self.now_s + POLL_S
        return ready


def follow(
    cloud: Cloud,
    **more: Any,  # noqa: ANN401 (handed on as it is)
) -> tuple[Follower, list[Happening]]:
    follower = follower_of(cloud, **more)
    return follower, [h for h in follower.run() if not isinstance(h, Looked)]


def follower_of(
    cloud: Cloud,
    *,
    tasks: int = 1,
    wanted: Wanted | None = None,
    state: InstanceState = InstanceState.RUNNING,
    started: bool = False,
    **more: Any,  # noqa: ANN401 (handed on to Follower as it is)
) -> Follower:
    hosts = [
        Host(n, key, f"c-{n:04d}", tuple(range(n * tasks, (n + 1) * tasks)))
        for n, key in enumerate(cloud.guests)
    ]
    more.setdefault("states", lambda ids: dict.fromkeys(ids, (state, "why")))
    return Follower(
        JOB,
        [Track(host, started=started) for host in hosts],
        wanted or Wanted(lambda _task: True),
        remote=cast("Any", cloud),
        clock=cloud.clock(),
        start=lambda: Order(Call("start", (JOB,), 0), {}),
        **more,
    )


def text(happenings: Sequence[Happening], key: str) -> bytes:
    return b"".join(h.data for h in happenings if isinstance(h, LogText) and h.key == key)


def problems(happenings: Sequence[Happening]) -> list[str]:
    return [h.why for h in happenings if isinstance(h, HostProblem)]


def verbs(cloud: Cloud) -> list[str]:
    return [order.call.verb for _, order, _ in cloud.sent]


def lost_reply(key: str = "i-0", *, delivered: bool = True) -> Reply:
    return Reply(key, None, "no answer in time", delivered=delivered)


def test_a_short_task_takes_one_send() -> None:
    cloud = Cloud({"i-0": Guest(begun(0) + done(0, 7), {"0.1": b"hello\n"})})
    follower, seen = follow(cloud)
    assert verbs(cloud) == ["start"]
    assert text(seen, "0.1") == b"hello\n"
    (found,) = outcomes(follower.tracks.values(), {0: "t"})
    assert (found.state, found.status.exit_code) == (TaskState.FAILED, 7)


@pytest.mark.parametrize("runner", ["done", "dead"])
def test_an_end_that_could_not_be_written_is_not_waited_for(runner: str) -> None:
    cloud = Cloud({"i-0": Guest(begun(0) + done(0) + begun(1), facts={"runner": runner})})
    follower, seen = follow(cloud, tasks=2, wanted=Wanted())
    assert problems(seen) == [REFUSALS["stalled"]]
    found = outcomes_of(follower.tracks.values())
    assert [one.state for one in found] == [TaskState.SUCCEEDED, TaskState.LOST]
    assert STALLED_S < cloud.now_s < 2 * STALLED_S


def test_a_runner_that_never_begins_is_not_waited_for() -> None:
    cloud = Cloud({"i-0": Guest(facts={"runner": "new"})})
    follower, seen = follow(cloud, wanted=Wanted())
    assert problems(seen) == [REFUSALS["never-began"]]
    assert [one.state for one in outcomes_of(follower.tracks.values())] == [TaskState.LOST]
    assert NEVER_BEGAN_S < cloud.now_s < 1.5 * NEVER_BEGAN_S


def test_a_runner_that_begins_late_is_none_that_stalls() -> None:
    track = Track(Host(0, "i-0", "c-0", (0,)))
    said = [track.stalled("new", 0), track.stalled("new", NEVER_BEGAN_S)]
    said += [track.stalled("running", NEVER_BEGAN_S + 1), track.stalled("new", NEVER_BEGAN_S + 2)]
    track.waits = True
    assert [*said, track.stalled("new", 9 * NEVER_BEGAN_S)] == [""] * 5


def test_a_long_log_comes_whole_in_bulk() -> None:
    log = bytes(range(256)) * 300
    cloud = Cloud({"i-0": Guest(begun(0) + done(0), {"0.1": log})})
    _, seen = follow(cloud)
    assert text(seen, "0.1") == log
    assert verbs(cloud) == ["start"] + ["observe"] * (len(cloud.sent) - 1)
    assert all(order.large for _, order, _ in cloud.sent[1:])


def test_many_events_come_in_larger_answers() -> None:
    events = b"".join(begun(task) + done(task) for task in range(90))
    cloud = Cloud({"i-0": Guest(events)})
    follower, seen = follow(cloud, tasks=90, wanted=Wanted())
    assert len([h for h in seen if isinstance(h, TaskChanged)]) == 180
    assert follower.tracks["i-0"].all_ended
    assert not problems(seen)


def test_a_start_whose_reply_is_lost_is_sent_again() -> None:
    guest = Guest(begun(0) + done(0), instead={1: lost_reply(), 2: lost_reply()})
    cloud = Cloud({"i-0": guest})
    _, seen = follow(cloud)
    assert verbs(cloud) == ["start"] * 3
    assert {order.call.arguments for _, order, _ in cloud.sent} == {(JOB,)}
    assert not problems(seen)


def stranger(_row: str) -> Reply:
    return Reply("i-0", Answer(more=False, facts={"refused": "no-such-job"}))


def test_a_start_that_was_on_its_way_is_waited_for() -> None:
    guest = Guest(begun(0) + done(0), instead={1: stranger(""), 2: stranger("")})
    follower, seen = follow(Cloud({"i-0": guest}), started=True)
    assert not problems(seen)
    assert follower.tracks["i-0"].all_ended


def test_a_job_that_never_comes_is_not_waited_for_long() -> None:
    cloud = Cloud({"i-0": Guest(always=stranger)})
    _, seen = follow(cloud, started=True)
    assert problems(seen) == ["it does not know this job"]
    assert len(cloud.sent) == 4


def test_a_start_that_may_have_come_before_is_sent_on() -> None:
    cut = {1: lost_reply(), 2: lost_reply(delivered=False)}
    cloud = Cloud({"i-0": Guest(begun(0) + done(0), instead=cut)})
    _, seen = follow(cloud)
    assert verbs(cloud) == ["start"] * 3
    assert not problems(seen)


def quiet(seen: Sequence[Happening]) -> list[Unresponsive]:
    return [one for one in seen if isinstance(one, Unresponsive)]


@pytest.mark.parametrize(
    "reply",
    [
        lost_reply(),
        lost_reply(delivered=False),
        Reply("i-0", None, "its answer is damaged: no envelope"),
        Reply("i-0", Answer(more=False, facts={"refused": "expired"})),
    ],
    ids=["lost", "undelivered", "damaged", "expired"],
)
@pytest.mark.parametrize("turns", [None, Turns(retries=3)], ids=["stays", "moves"])
def test_who_runs_and_does_not_answer_is_not_lost_and_asked_ever_more_rarely(
    reply: Reply, turns: Turns | None
) -> None:
    guest = Guest(begun(0))
    guest.always = lambda _row: reply if guest.orders > 2 else None
    others = {f"i-{n}": Guest(begun(n) + done(n)) for n in (1, 2)}
    cloud = Cloud({"i-0": guest, **others})
    follower, seen = follow(cloud, wanted=Wanted(), turns=turns, timeout_s=3600)
    assert follower.gave_up_waiting
    assert not problems(seen)
    assert not [one for one in seen if isinstance(one, Again)]
    told = quiet(seen)
    assert 3 < len(told) < 12
    assert all(after.seconds >= 2 * before.seconds for before, after in pairwise(told))
    assert {(one.host.instance_id, one.tasks) for one in told} == {("i-0", 1)}
    # Nobody else got what it has.
    assert not any(order.call.verb == "queue" for _, order, _ in cloud.sent)
    times = [at_s for at_s, _, ids in cloud.sent if "i-0" in ids]
    assert all(after - before > 200 for before, after in pairwise(times[-5:]))
    found = outcomes_of(follower.tracks.values())
    assert [one.state.value for one in found] == ["RUNNING", "SUCCEEDED", "SUCCEEDED"]
    assert re.match(r"no response for (59|1 h 00) min", found[0].why)
    assert verdict(found, 3).code == ExitCode.NOT_REACHED


def test_who_answers_again_goes_on() -> None:
    guest = Guest(begun(0))

    def mute(_row: str) -> Reply | None:
        if guest.orders > 9:
            guest.events = begun(0) + done(0)
        return lost_reply() if 2 < guest.orders <= 9 else None

    guest.always = mute
    cloud = Cloud({"i-0": guest})
    follower, seen = follow(cloud, wanted=Wanted())
    assert quiet(seen)
    (back,) = [one for one in seen if isinstance(one, Responsive)]
    assert back.seconds >= quiet(seen)[-1].seconds
    assert verdict(outcomes_of(follower.tracks.values()), 1).code == ExitCode.OK
    assert follower.tracks["i-0"].problem == ""


def test_a_start_is_sent_until_it_arrives_where_tasks_could_move() -> None:
    guest = Guest(begun(0) + done(0))
    guest.always = lambda _row: lost_reply(delivered=False) if guest.orders < 7 else None
    cloud = Cloud({"i-0": guest, "i-1": Guest(begun(1) + done(1))})
    follower, seen = follow(cloud, wanted=Wanted(), turns=Turns())
    assert verbs(cloud).count("start") == 7
    assert quiet(seen)
    assert not problems(seen)
    assert verdict(outcomes_of(follower.tracks.values()), 2).code == ExitCode.OK


@pytest.mark.parametrize(
    "words",
    [
        *({"lost_after_s": seconds} for seconds in (40, 77, 600, 3601)),
        {"turns": Turns(reassign=True)},
        {"turns": Turns(), "lost_after_s": 90},
    ],
    ids=str,
)
def test_who_is_silent_for_long_is_lost_only_when_asked(words: dict[str, Any]) -> None:
    guest = Guest(begun(0))
    guest.always = lambda _row: lost_reply() if guest.orders > 2 else None
    cloud = Cloud({"i-0": guest})
    follower, seen = follow(cloud, wanted=Wanted(), **words)
    limit_s = words.get("lost_after_s", REASSIGN_S)
    # The clock of a silence starts with the last answer, some seconds after the first look.
    assert limit_s <= cloud.now_s < limit_s + 20
    (why,) = problems(seen)
    assert why.startswith("no response for")
    assert follower.tracks["i-0"].contact is Contact.LOST
    (found,) = outcomes_of(follower.tracks.values())
    assert found.state is TaskState.LOST


def test_a_look_at_what_there_is_now_names_who_does_not_answer() -> None:
    cloud = Cloud({"i-0": Guest(always=lambda _row: lost_reply())})
    follower, seen = follow(cloud, wanted=Wanted(live=False), started=True)
    assert problems(seen) == ["no answer in time"]
    assert len(cloud.sent) == MOST_FAILURES
    (found,) = outcomes_of(follower.tracks.values())
    assert found.state is TaskState.PENDING
    assert found.why.startswith("no response for")


def test_a_start_that_always_comes_too_late_is_given_up_where_nothing_moves() -> None:
    cloud = Cloud({"i-0": Guest(facts={"refused": "expired"})})
    follower, seen = follow(cloud)
    assert problems(seen) == [REFUSALS["expired"]]
    assert len(cloud.sent) == MOST_FAILURES
    assert follower.tracks["i-0"].contact is Contact.REFUSED


@pytest.mark.parametrize("why", ["refused by SSM", "not delivered"])
def test_an_instance_that_was_not_reached_does_not_spoil_the_others(why: str) -> None:
    gone = Reply("i-0", None, why, delivered=False)
    cloud = Cloud({"i-0": Guest(instead={1: gone}), "i-1": Guest(begun(1) + done(1))})
    follower, seen = follow(cloud)
    assert problems(seen) == [why]
    assert follower.tracks["i-1"].all_ended
    assert verbs(cloud).count("start") == 1


@pytest.mark.parametrize("word", ["digest", "unpack", "no-such-job"])
def test_a_refusal_is_told_once(word: str) -> None:
    cloud = Cloud({"i-0": Guest(facts={"refused": word})})
    _, seen = follow(cloud)
    assert problems(seen) == [REFUSALS[word]]
    assert len(cloud.sent) == 1


def test_an_instance_that_is_gone_is_told_once_and_its_task_is_lost() -> None:
    guests = {
        "i-0": Guest(begun(0), {"0.1": b"x" * 50_000}, silent_from=2),
        "i-1": Guest(begun(1), silent_from=1 << 30),
    }
    cloud = Cloud(guests)
    guests["i-1"].always = lambda row: late_end(cloud, guests["i-1"], row)
    follower, seen = follow(cloud, state=InstanceState.TERMINATED)
    assert problems(seen) == ["i-0 is terminated (why)"]
    found = outcomes_of(follower.tracks.values())
    assert [one.state for one in found] == [TaskState.LOST, TaskState.SUCCEEDED]
    assert found[0].why == "i-0 is terminated (why)"


def test_what_an_instance_takes_with_it_of_a_log_is_told_once() -> None:
    # Task 0 has ended and its log has begun to come; that of task 1 has not; task 2 still runs.
    events = begun(0) + done(0) + begun(1) + done(1) + begun(2)
    logs = {"0.1": b"x" * 50_000, "1.1": b"y" * 50_000, "2.1": b"z"}
    cloud = Cloud({"i-0": Guest(events, logs, silent_from=2)})
    _, seen = follow(cloud, tasks=3, state=InstanceState.TERMINATED)
    assert problems(seen) == ["i-0 is terminated (why)"]
    got = len(text(seen, "0.1"))
    assert 0 < got < 50_000
    gaps = [(h.key, h.missing_bytes) for h in seen if isinstance(h, LogGap)]
    assert gaps == [("0.1", 50_000 - got), ("1.1", 50_000)]


def test_a_log_that_came_whole_has_no_gap_when_its_instance_ends() -> None:
    events = begun(0) + done(0) + begun(1)
    cloud = Cloud({"i-0": Guest(events, {"0.1": b"all\n", "1.1": b""}, silent_from=2)})
    _, seen = follow(cloud, tasks=2, state=InstanceState.TERMINATED)
    assert problems(seen) == ["i-0 is terminated (why)"]
    assert text(seen, "0.1") == b"all\n"
    assert not [h for h in seen if isinstance(h, LogGap)]


def late_end(cloud: Cloud, guest: Guest, _row: str) -> None:
    """End the task of an instance after three more checks of silence could have been made."""
    if cloud.now_s > 4 * SILENCE_S and b"E " not in guest.events:
        guest.events += done(1)


def test_a_silent_instance_that_exists_is_waited_for() -> None:
    cloud = Cloud({"i-0": Guest(begun(0), silent_from=1)})
    follower, seen = follow(cloud, timeout_s=300)
    assert not problems(seen)
    assert follower.gave_up_waiting
    assert 300 <= cloud.now_s < 310


def test_a_dead_runner_ends_the_watching() -> None:
    lost = begun(0) + line("E 3.0 0 1 - lost") + line("J 3.0 runner-lost")
    cloud = Cloud({"i-0": Guest(lost, {"0.1": b"last words"})})
    _, seen = follow(cloud, tasks=2)
    assert problems(seen) == [REFUSALS["runner-lost"]]


def test_a_dead_runner_that_is_not_settled_is_waited_for() -> None:
    facts = {"runner": "unsettled", "settles": "30"}
    guest = Guest(begun(0), {"0.1": b"last words"}, facts=facts)
    cloud = Cloud({"i-0": guest})

    def settle(_row: str) -> None:
        if cloud.now_s > 31:
            facts.clear()
            facts["runner"] = "dead"
            guest.events = begun(0) + line("E 3.0 0 1 - lost") + line("J 3.0 runner-lost")

    guest.always = settle
    follower, seen = follow(cloud, tasks=2)
    assert problems(seen) == [REFUSALS["runner-lost"]]
    assert 31 < cloud.now_s < 45
    # Not without a pause.
    assert len(cloud.sent) < 15
    found = outcomes_of(follower.tracks.values())
    assert [one.state for one in found] == [TaskState.LOST, TaskState.LOST]


def test_a_dead_runner_that_is_never_settled_is_named_and_not_lost() -> None:
    cloud = Cloud({"i-0": Guest(begun(0), facts={"runner": "unsettled", "settles": "5"})})
    follower, seen = follow(cloud, wanted=Wanted(), timeout_s=2 * UNSETTLED_S)
    assert REFUSALS["unsettled"] in problems(seen)
    # It may run on: it is not lost, and does not run elsewhere.
    assert follower.tracks["i-0"].contact is Contact.SILENT
    assert follower.gave_up_waiting


def test_a_turn_that_an_instance_gives_by_itself_is_told_and_waited_for() -> None:
    first = begun(0) + line("A 2.0 0.2") + done(0, 7)
    second = line("S 3.0 0 2 0 5 5") + line("E 4.0 0 2 0 exit 3.0 0")
    guest = Guest(first)

    def goes_on(_row: str) -> None:
        guest.events = first + second if guest.orders > 2 else first

    guest.always = goes_on
    follower, seen = follow(Cloud({"i-0": guest}), wanted=Wanted())
    assert [one for one in seen if isinstance(one, Again)] == [Again(((0, 2),), "exit code 7")]
    (found,) = outcomes(follower.tracks.values(), {0: "t"})
    assert (found.state, found.status.attempt) == (TaskState.SUCCEEDED, 2)


def test_a_spot_notice_is_told_once() -> None:
    notice = line("J 1.5 interrupted terminate 2026-11-25T18:02:00Z")
    cloud = Cloud({"i-0": Guest(begun(0) + notice + done(0) + begun(1) + done(1))})
    _, seen = follow(cloud, tasks=2, wanted=Wanted())
    told = [one for one in seen if isinstance(one, Interrupted)]
    assert [(one.action, one.at) for one in told] == [("terminate", "2026-11-25T18:02:00Z")]


@pytest.mark.parametrize("bound", [1, 2, 3])
def test_no_more_instances_than_wanted_run_at_a_time(bound: int) -> None:
    guests = {f"i-{n}": Guest(begun(n)) for n in range(7)}
    cloud = Cloud(guests)
    begun_at: dict[str, float] = {}

    def behave(key: str, number: int) -> Callable[[str], None]:
        def grow(_row: str) -> None:
            begun_at.setdefault(key, cloud.now_s)
            active = [k for k in begun_at if b"E " not in guests[k].events]
            assert len(active) <= bound
            if cloud.now_s - begun_at[key] > 5 + number:
                guests[key].events = begun(number) + done(number)

        return grow

    for number, (key, guest) in enumerate(guests.items()):
        guest.always = behave(key, number)
    follower, seen = follow(cloud, parallelism=bound)
    assert all(track.all_ended for track in follower.tracks.values())
    assert not problems(seen)


def test_a_busy_window_is_not_asked_without_pause() -> None:
    guest = Guest(begun(0), facts={"window": "busy"})
    cloud = Cloud({"i-0": guest})
    follow(cloud, timeout_s=60)
    times = [at_s for at_s, _, _ in cloud.sent]
    assert all(after - before >= POLL_S + 0.4 for before, after in pairwise(times))


def test_a_look_at_what_there_is_now_ends() -> None:
    log = b"line\n" * 9000
    cloud = Cloud({"i-0": Guest(begun(0), {"0.1": log}), "i-1": Guest(b"")})
    wanted = Wanted(lambda _task: True, live=False)
    follower, seen = follow(cloud, wanted=wanted, started=True)
    assert text(seen, "0.1") == log
    assert [one.state for one in outcomes_of(follower.tracks.values())] == [
        TaskState.RUNNING,
        TaskState.PENDING,
    ]
    assert "start" not in verbs(cloud)


@pytest.mark.parametrize(
    "guest",
    [
        Guest(begun(0) + b"E 2.0 0 1", facts={}),
        Guest(begun(0), facts={"events": "9" * 40}),
        Guest(begun(0), facts={"events": "many"}),
    ],
    ids=["torn", "endless", "nonsense"],
)
def test_events_that_never_come_are_not_waited_for(guest: Guest) -> None:
    cloud = Cloud({"i-0": guest})
    _, seen = follow(cloud, wanted=Wanted(live=False), started=True)
    assert [h.status.state for h in seen if isinstance(h, TaskChanged)] == [TaskState.RUNNING]
    assert len(cloud.sent) <= 3


def test_a_log_that_nobody_asked_for_is_not_taken() -> None:
    def lie(row: str) -> Reply:
        honest = guest.answer(row)
        evil = Chunk("0.1/../../evil", 0, b"x", 1)
        return Reply("i-0", Answer(more=False, facts={}, events=honest.events, records=(evil,)))

    guest = Guest(begun(0) + done(0))
    guest.instead = {1: lie("0 0 0 2400")}
    _, seen = follow(Cloud({"i-0": guest}))
    assert {h.key for h in seen if isinstance(h, LogText)} == set()


def test_a_failing_read_is_asked_for_less_and_less_often() -> None:
    asked_at_s: list[float] = []

    def fail_bulk(row: str) -> Reply | None:
        if not row.startswith("- "):
            return None
        asked_at_s.append(cloud.now_s)
        return lost_reply()

    guest = Guest(begun(0), {"0.1": b"x" * 90_000}, always=fail_bulk)
    cloud = Cloud({"i-0": guest})
    _, seen = follow(cloud, timeout_s=120)
    assert not problems(seen)
    rounds = sorted({round(at_s) for at_s in asked_at_s})
    pauses = [after - before for before, after in pairwise(rounds)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0]


def test_what_waits_on_a_stopped_instance_is_not_lost() -> None:
    cloud = Cloud({"i-0": Guest(begun(0), silent_from=1)})
    follower, seen = follow(cloud, tasks=2, state=InstanceState.STOPPED)
    assert problems(seen) == ["i-0 is stopped (why)"]
    ran, waits = outcomes_of(follower.tracks.values())
    assert (ran.state, ran.why) == (TaskState.LOST, "i-0 is stopped (why)")
    assert (waits.state, waits.why) == (TaskState.PENDING, "suspended: i-0 is stopped (why)")
    assert verdict([waits], 1).code == ExitCode.NOT_REACHED


def test_what_never_arrived_does_not_wait_on_a_stopped_instance() -> None:
    refused = Reply("i-0", None, "refused by SSM", delivered=False)
    cloud = Cloud({"i-0": Guest(instead={1: refused})})
    follower, _ = follow(cloud, state=InstanceState.STOPPED)
    (found,) = outcomes_of(follower.tracks.values())
    assert (found.state, found.why) == (TaskState.LOST, "i-0 is stopped (why)")


def test_a_backlog_that_grows_is_told_each_time_it_doubles() -> None:
    guest = Guest(begun(0), {"0.1": b""}, packed_bytes=9000)

    def grow(_row: str) -> None:
        # Hardly anything of what it writes fits into an answer.
        if len(guest.logs["0.1"]) < 20_000_000:
            guest.logs["0.1"] += b"x" * 400_000

    guest.always = grow
    cloud = Cloud({"i-0": guest})
    _, seen = follow(cloud, timeout_s=150)
    told = [h for h in seen if isinstance(h, Backlog)]
    assert len(told) > 1
    assert all(after.seconds > 2 * before.seconds for before, after in pairwise(told))
    assert told[0].seconds > LONG_READ_S


@pytest.mark.parametrize("why", ["refused by SSM", "no answer in time"])
def test_who_is_gone_is_noticed_when_an_order_for_it_comes_to_nothing(why: str) -> None:
    # Its own task has ended, so that nobody looks at it; then it is to adopt a lost one's.
    guests = {"i-0": Guest(silent_from=1)}
    for number, key in enumerate(("i-1", "i-2"), start=1):
        reply = Reply(key, None, why, delivered=False)
        guests[key] = Guest(
            begun(number) + done(number),
            always=lambda row, gone=reply: gone if MIRROR in row else None,  # type: ignore[misc]
        )
    cloud = Cloud(guests)
    follower, _ = follow(
        cloud, state=InstanceState.TERMINATED, started=True, wanted=Wanted(), turns=Turns()
    )
    assert [track.problem for track in follower.tracks.values()] == [
        f"i-{number} is terminated (why)" for number in range(3)
    ]


@pytest.mark.parametrize("timeout_s", [0.7, 7.3, 50.0, 333.3])
def test_watching_stops_when_it_shall_and_no_interval_later(timeout_s: float) -> None:
    cloud = Cloud({"i-0": Guest(begun(0), silent_from=2), "i-1": Guest(begun(1))})
    follower, _ = follow(cloud, timeout_s=timeout_s)
    assert follower.gave_up_waiting
    assert cloud.now_s == pytest.approx(timeout_s)


def test_an_outage_that_outlasts_the_timeout_is_the_timeout() -> None:
    class Away(Cloud):
        def poll(self, flight: Flight, *, flights: int = 1) -> list[Reply]:  # noqa: ARG002
            # As the policy of outages does: it repeats the call until the deadline.
            self.now_s = max(self.now_s, 60.0)
            raise NoAnswer("no answer from ssm")

    follower, _ = follow(Away({"i-0": Guest(begun(0))}), timeout_s=60.0)
    assert follower.gave_up_waiting
    with pytest.raises(NoAnswer):
        follow(Away({"i-0": Guest(begun(0))}))


def test_nothing_is_waited_for_that_can_bring_nothing() -> None:
    cloud = Cloud(
        {
            # Its log is asked for in bulk, and it goes before it has answered.
            "i-0": Guest(begun(0) + done(0), {"0.1": bytes(9999)}, silent_from=1),
            "i-1": Guest(begun(1) + done(1)),
        }
    )
    follower, seen = follow(cloud, state=InstanceState.TERMINATED)
    assert not follower._flights
    assert [h.host.instance_id for h in seen if isinstance(h, LogGap)] == ["i-0"]
    assert cloud.now_s < SILENCE_S + 10


class Denying(Cloud):
    """A cloud whose policies allow no send."""

    refusal: AwsRefused = Denied("no permission for ssm:SendCommand", "have it allowed")

    def send(self, *_: object) -> Sent:
        raise self.refusal


@pytest.mark.parametrize(
    ("refusal", "begun"), [(Denied("no", "ask"), False), (NoAnswer("lost", "repeat"), True)]
)
def test_a_start_that_was_denied_is_none(refusal: AwsRefused, begun: bool) -> None:
    cloud = Denying({"i-0": Guest(), "i-1": Guest()})
    cloud.refusal = refusal
    track = Track(Host(0, "i-0", "c-0000", (0,)), started=False)
    follower = Follower(
        JOB,
        [track],
        Wanted(),
        remote=cast("Any", cloud),
        clock=cloud.clock(),
        states=lambda _ids: {},
        start=lambda: Order(Call("start", (JOB,), 0), {}),
    )
    with pytest.raises(AwsRefused):
        list(follower.run())
    assert track.started is begun


def successes(
    cloud: Cloud,
    tasks: int,
    **more: Any,  # noqa: ANN401 (handed on to Follower as it is)
) -> list[tuple[float, TaskChanged, bool]]:
    """Follow a map; return when each success is reported, and whether another has it on record."""
    found = []
    for happening in follower_of(cloud, tasks=tasks, wanted=Wanted(), turns=Turns(), **more).run():
        if isinstance(happening, TaskChanged) and happening.status.state is TaskState.SUCCEEDED:
            index, task = happening.host.host_index, happening.status.task
            others = [one for key, one in cloud.guests.items() if key != happening.host.instance_id]
            there = any(
                task in {one.task for one in decode(other.mirror or b"").get(index, [])}
                for other in others
            )
            found.append((cloud.now_s, happening, there))
    return found


@example([[1], [3], [1, 52]], [(2, 5), (2, 7), (2, 6), (2, 8)])
@settings(max_examples=int(os.environ.get("PMR_EXAMPLES", "60")), deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(2, 9)), max_size=6),
)
def test_a_success_is_on_record_elsewhere_when_it_is_reported(
    ends: list[list[int]], lost: list[tuple[int, int]]
) -> None:
    tasks = max(len(some) for some in ends)
    guests: dict[str, Guest] = {}
    cloud = Cloud(guests)
    ended_s: dict[int, int] = {}
    for number, some in enumerate(ends):
        own = range(number * tasks, (number + 1) * tasks)
        # The rest of them has ended when the job begins.
        at = sorted(zip([*some, *[0] * (tasks - len(some))], own, strict=True))
        ended_s.update({task: at_s for at_s, task in at})

        def go_on(_row: str, at: list[tuple[int, int]] = at, key: str = f"i-{number}") -> None:
            guests[key].events = b"".join(
                begun(task) + done(task) for at_s, task in at if at_s <= cloud.now_s
            )

        guests[f"i-{number}"] = Guest(always=go_on)
    for number, order in lost:
        if (key := f"i-{number}") in guests:
            guests[key].instead[order] = lost_reply(key)
    found = successes(cloud, tasks)
    assert sorted(h.status.task for _, h, _ in found) == list(range(tasks * len(ends)))
    # Only where responses of another instance get lost for a minute, a success is reported without.
    for now_s, happening, there in found:
        others_lost = sum(number != happening.host.host_index for number, _ in lost)
        late = now_s >= ended_s[happening.status.task] + ON_RECORD_S
        assert there or (late and others_lost > 1)


def test_a_success_is_put_on_record_at_once_where_nothing_else_is_to_be_asked() -> None:
    late = Guest(begun(0))

    def end(_row: str) -> None:
        late.events = begun(0) + done(0) * (cloud.now_s >= 30)

    late.always = end
    cloud = Cloud({"i-0": late, "i-1": Guest(begun(1) + done(1))})
    found = successes(cloud, 1)
    assert [there for _, _, there in found] == [True, True]
    assert found[0][0] < 10
    assert 30 <= found[1][0] < 40
    assert cloud.now_s < 45


def test_a_second_instance_that_cannot_record_holds_up_nothing() -> None:
    cloud = Cloud({"i-0": Guest(begun(0) + done(0)), "i-1": Guest(begun(1) + done(1), mirror=None)})
    found = successes(cloud, 1)
    assert [there for _, _, there in found] == [True, False]
    assert cloud.now_s < 15
    # One whose runner has died can record all the same.
    dead = Guest(begun(1) + line("J 3.0 runner-lost"), facts={"runner": "dead"})
    cloud = Cloud({"i-0": Guest(begun(0) + done(0)), "i-1": dead})
    found = successes(cloud, 1)
    assert [there for _, _, there in found] == [True]
    assert cloud.now_s < 15
    # One that does not respond does so for a while.
    silent = Guest(begun(1), silent_from=1)
    cloud = Cloud({"i-0": Guest(begun(0) + done(0)), "i-1": silent})
    found = successes(cloud, 1, timeout_s=300)
    assert [there for _, _, there in found] == [False]
    assert found[0][0] < 1.5 * ON_RECORD_S


def test_a_success_that_came_too_late_to_be_recorded_runs_again_unreported() -> None:
    """Another client has found the instance lost, and all records of it are closed."""
    closed = Guest(begun(1) + done(1), closed="0")
    states = {"i-0": InstanceState.TERMINATED, "i-1": InstanceState.RUNNING}
    cloud = Cloud({"i-0": Guest(begun(0) + done(0)), "i-1": closed})
    seen = list(
        follower_of(
            cloud,
            wanted=Wanted(),
            turns=Turns(),
            states=lambda ids: {key: (states[key], "why") for key in ids},
            timeout_s=200,
        ).run()
    )
    assert [one.keys for one in seen if isinstance(one, Again)] == [((0, 2),)]
    good = [one for one in seen if isinstance(one, TaskChanged) and one.status.exit_code == 0]
    assert {(one.status.task, one.status.attempt) for one in good} == {(1, 1)}

"""What comes of a command, as SSM tells it from look to look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from poormanray.envelope import Answer, EnvelopeCut
from poormanray.errors import Denied, InvalidInstances, Throttled
from poormanray.model import Invocation, InvocationStatus
from poormanray.remote import PAUSE_S, RESPONSE_S, ROUND_TRIP_S, UNSEEN_S, Order, Remote, Reply
from poormanray.shell import Call
from poormanray.waiting import Clock

ONE = "i-00000000000000001"


@dataclass(slots=True)
class Ssm:
    """Stands where SSM stands: each look shows the next of the statuses."""

    shown: list[tuple[InvocationStatus, str]]
    sent: list[dict[str, Any]] = field(default_factory=list)

    def server_time_s(self) -> float:
        return 0.0

    def send(self, **words: Any) -> str:  # noqa: ANN401 (kept as they are)
        self.sent.append(words)
        return "c-1"

    def invocations(self, _command_id: str) -> list[Invocation]:
        status, detail = self.shown.pop(0)
        return [Invocation(ONE, status, detail, -1, "")]

    def invocation(self, command_id: str, _instance_id: str) -> Invocation | None:
        return next(iter(self.invocations(command_id)), None)


def reply(*shown: tuple[InvocationStatus, str], large: bool) -> Reply:
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    remote = Remote(cast("Any", Ssm(list(shown))), clock)
    (found,) = remote.ask(Order(Call("observe", ("j",), 0), {ONE: "0"}, large=large), [ONE])
    return found


WAITS = (InvocationStatus.PENDING, "Pending")
RUNS = (InvocationStatus.RUNNING, "InProgress")
OVER = (InvocationStatus.UNDELIVERED, "DeliveryTimedOut")


@pytest.mark.parametrize("large", [False, True])
def test_what_was_taken_was_delivered_whatever_is_said_later(large: bool) -> None:
    late = reply(WAITS, RUNS, OVER, large=large)
    assert late.delivered
    assert late.problem == "it took the command; then DeliveryTimedOut"


@pytest.mark.parametrize("large", [False, True])
def test_what_was_never_taken_was_not_delivered(large: bool) -> None:
    never = reply(WAITS, WAITS, OVER, large=large)
    assert not never.delivered
    assert never.problem == "not delivered (DeliveryTimedOut)"


PATIENT = Order(Call("summary", ("last",), 0), {}, patient=True)
PROMPT = Order(Call("which", ("last",), 0), {}, prompt=True)


def looks(answer_after_s: list[float], order: Order = PATIENT) -> int:
    """Return how often an order is looked at when instances answer after so long each."""
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    ids = [f"i-{number:017}" for number in range(len(answer_after_s))]
    count = 0

    class Slow(Ssm):
        def invocations(self, _command_id: str) -> list[Invocation]:
            nonlocal count
            count += 1
            return [
                Invocation(key, *(OVER if now[0] >= after_s else WAITS), -1, "")
                for key, after_s in zip(ids, answer_after_s, strict=True)
            ]

    assert len(list(Remote(cast("Any", Slow([])), clock).ask(order, ids))) == len(ids)
    return count


def test_a_patient_order_is_looked_at_twice_at_most_where_answers_come_steadily() -> None:
    assert looks([0.8] * 50) == 1
    assert looks([0.5, 1.9, 1.9]) <= 2
    assert looks([0.18 * number for number in range(50)]) == 2
    assert looks([3.5] * 3) == 2
    assert looks([8.0 + 0.02 * number for number in range(50)]) == 2


def test_a_prompt_order_is_looked_at_when_most_have_answered() -> None:
    # SSM asks one, then two, then four: the fiftieth is asked a second after the first.
    assert looks([0.5 + 0.012 * number for number in range(50)], PROMPT) == 1
    assert looks([0.5], PROMPT) == 1
    assert looks([1.0], PROMPT) == 2


@dataclass(slots=True)
class Choosy:
    """Takes a send as SSM does: one bad id refuses it whole."""

    bad: frozenset[str]
    taken: list[tuple[str, ...]] = field(default_factory=list)

    def server_time_s(self) -> float:
        return 0.0

    def send(self, *, instance_ids: list[str], **_words: object) -> str:
        if wrong := self.bad.intersection(instance_ids):
            raise InvalidInstances(f"Instances {sorted(wrong)} not in a valid state for account")
        self.taken.append(tuple(instance_ids))
        return f"c-{len(self.taken)}"


FIFTY = [f"i-{number:017x}" for number in range(50)]


@pytest.mark.parametrize("bad", [(), (17,), (0, 24, 49), tuple(range(50))])
def test_bad_ids_are_found_by_halving_and_spoil_nothing(bad: tuple[int, ...]) -> None:
    strangers = frozenset(FIFTY[number] for number in bad)
    ssm = Choosy(strangers)
    order = Order(Call("observe", ("j",), 0), dict.fromkeys(FIFTY, "0"))
    sent = Remote(cast("Any", ssm), Clock()).send(order, FIFTY)
    good = sorted(set(FIFTY) - strangers)
    # Each good one gets the order exactly once, and is waited for.
    assert sorted(key for ids in ssm.taken for key in ids) == good
    assert sorted(key for flight in sent.flights for key in flight.waiting) == good
    # Each bad one is named once, in the words of AWS.
    assert sorted(reply.instance_id for reply in sent.refused) == sorted(strangers)
    assert all(not reply.delivered and reply.instance_id in reply.problem for reply in sent.refused)


@dataclass(slots=True)
class Crowded(Ssm):
    """Drops the first `full` commands as too many, and does the next."""

    full: int = 0

    def invocations(self, _command_id: str) -> list[Invocation]:
        if len(self.sent) <= self.full:
            return []
        return [Invocation(ONE, InvocationStatus.FAILED, "Failed", 1, "")]

    def command_detail(self, _command_id: str) -> str:
        return "RateExceeded" if len(self.sent) <= self.full else "InProgress"


@pytest.mark.parametrize(
    ("full", "sends", "problem"),
    [
        (0, 1, "the command ended as Failed"),
        (2, 3, "the command ended as Failed"),
        (99, 13, "SSM has too many commands under way (RateExceeded)"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_ssm_drops_as_too_many_is_sent_again_later(
    full: int, sends: int, problem: str, large: bool
) -> None:
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    ssm = Crowded([], full=full)
    order = Order(Call("observe", ("j",), 0), {ONE: "0"}, large=large)
    (found,) = Remote(cast("Any", ssm), clock).ask(order, [ONE])
    assert (len(ssm.sent), found.problem) == (sends, problem)
    # It is noticed after some seconds, and then AWS is left alone for a while.
    assert now[0] > (UNSEEN_S + PAUSE_S / 2) * min(full, 12)


def test_the_next_order_is_made_when_there_is_room_for_it_and_knows_the_replies() -> None:
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    under_way: dict[str, float] = {}
    most = 0

    class Timed(Ssm):
        def send(self, **words: Any) -> str:  # noqa: ANN401 (kept as they are)
            nonlocal most
            self.sent.append(words)
            command_id = f"c-{len(self.sent)}"
            # The second is the slowest by far: it is not waited for.
            under_way[command_id] = now[0] + (60.0 if len(self.sent) == 2 else 1.0)
            most = max(most, len(under_way))
            return command_id

        def invocations(self, command_id: str) -> list[Invocation]:
            over = now[0] >= under_way[command_id]
            if over:
                del under_way[command_id]
            return [Invocation(ONE, *(OVER if over else RUNS), -1, "")]

    seen: list[int] = []
    known_at_order: list[list[int]] = []

    def orders() -> Iterator[tuple[Order, list[str]]]:
        for number in range(7):
            known_at_order.append(list(seen))
            # One that nobody is asked is no order that is waited for.
            yield Order(Call("put", ("j",), 0), {}), [] if number == 3 else [ONE]

    for number, _ in Remote(cast("Any", Timed([])), clock).ask_all(orders(), together=2):
        seen.append(number)
    assert seen == [0, 2, 4, 5, 6, 1]
    assert most == 2
    assert known_at_order == [[], [], [0], [0, 2], [0, 2], [0, 2, 4], [0, 2, 4, 5]]


@dataclass(slots=True)
class Mute:
    """SSM with instances whose commands of some numbers never end, and others that fail at once.

    `gone`: instances that SSM takes no second command for.
    """

    mute: frozenset[tuple[int, str]]
    gone: frozenset[str] = frozenset()
    taken: bool = True
    sent: list[list[str]] = field(default_factory=list)

    def server_time_s(self) -> float:
        return 0.0

    def send(self, *, instance_ids: list[str], **_words: object) -> str:
        if len(self.sent) and (wrong := self.gone.intersection(instance_ids)):
            raise InvalidInstances(f"{sorted(wrong)} not in a valid state")
        self.sent.append(instance_ids)
        return str(len(self.sent) - 1)

    def invocations(self, command_id: str) -> list[Invocation]:
        number = int(command_id)
        waits = RUNS if self.taken else WAITS
        return [
            Invocation(key, *(waits if (number, key) in self.mute else OVER), -1, "")
            for key in self.sent[number]
        ]

    def command_detail(self, _command_id: str) -> str:
        return "InProgress"


TWO, THREE = "i-2", "i-3"


def asked_of(ssm: Mute, verb: str = "observe", window_s: int = 8) -> tuple[list[Reply], float]:
    """Return the replies to an order of three instances, and how long that took."""
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    silences: list[tuple[Sequence[str], float]] = []
    remote = Remote(cast("Any", ssm), clock)
    remote.on_silence = lambda ids, seconds: silences.append((ids, seconds))
    order = Order(Call(verb, ("j",), 0), dict.fromkeys((ONE, TWO, THREE), "0"), window_s)
    replies = list(remote.ask(order, [ONE, TWO, THREE]))
    assert sorted(one.instance_id for one in replies) == sorted((ONE, TWO, THREE))
    assert [ids for ids, _ in silences] == ssm.sent[1:]
    return replies, now[0]


@pytest.mark.parametrize("verb", ["observe", "queue", "start", "put", "cancel"])
def test_a_lost_response_is_asked_for_again_after_seconds(verb: str) -> None:
    ssm = Mute(frozenset({(0, TWO)}))
    _, took_s = asked_of(ssm, verb)
    assert ssm.sent == [[ONE, TWO, THREE], [TWO]]
    assert 8 + ROUND_TRIP_S + RESPONSE_S < took_s < 8 + ROUND_TRIP_S + RESPONSE_S + 6


def test_who_stays_silent_is_asked_more_and_more_rarely() -> None:
    ssm = Mute(frozenset((number, TWO) for number in range(99)))
    replies, took_s = asked_of(ssm)
    assert len(ssm.sent) <= 5
    assert [one.problem for one in replies if one.instance_id == TWO] == ["no answer in time"]
    assert took_s < 60 + 8 + 2 * 30 + 5


def test_nobody_is_waited_for_beyond_the_deadline() -> None:
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    ssm = Mute(frozenset((number, TWO) for number in range(99)))
    remote = Remote(cast("Any", ssm), clock)
    order = Order(Call("observe", ("j",), 0), {})
    # Of two orders under way at a time the third begins later, if at all.
    orders = [(order, [ONE, TWO]), (order, [TWO]), (order, [THREE])]
    with clock.until(20.0):
        replies = list(remote.ask_all(orders, together=2))
    assert sorted((number, one.instance_id, one.silent) for number, one in replies) == [
        (0, ONE, False),
        (0, TWO, True),
        (1, TWO, True),
        (2, THREE, True),
    ]
    assert now[0] == pytest.approx(20.0, abs=1.5)


def test_who_took_a_command_and_told_no_end_is_silent() -> None:
    assert reply(RUNS, OVER, large=False).silent
    assert not reply(WAITS, OVER, large=False).silent


def test_who_has_gone_meanwhile_is_not_waited_for() -> None:
    ssm = Mute(frozenset({(0, TWO)}), gone=frozenset({TWO}))
    replies, took_s = asked_of(ssm)
    (gone,) = [one for one in replies if one.instance_id == TWO]
    assert not gone.delivered
    assert took_s < 30


def test_a_start_that_no_agent_has_taken_is_not_sent_again() -> None:
    ssm = Mute(frozenset({(0, TWO)}), taken=False)
    asked_of(ssm, "start")
    assert len(ssm.sent) == 1


def test_what_was_not_polled_for_long_is_not_late() -> None:
    """A laptop that slept, or a service that was away, has not made an instance silent."""
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    ssm = Mute(frozenset({(0, ONE)}))
    remote = Remote(cast("Any", ssm), clock)
    (flight,) = remote.send(Order(Call("observe", ("j",), 0), {ONE: "0"}, 8), [ONE]).flights
    now[0] = 3600.0
    assert not remote.poll(flight)
    assert flight.waiting == {ONE}
    assert not flight.again
    ssm.mute = frozenset()
    (late,) = remote.poll(flight)
    assert late.problem == "it took the command; then DeliveryTimedOut"


@dataclass(slots=True)
class Failing(Ssm):
    """Has long answers of two instances, and fails after the first of them was fetched."""

    fetched: int = 0

    def invocations(self, _command_id: str) -> list[Invocation]:
        cut = "pmr1 9999 0 "
        return [Invocation(key, InvocationStatus.DONE, "Success", 0, cut) for key in (ONE, TWO)]

    def invocation(self, _command_id: str, instance_id: str) -> Invocation | None:
        self.fetched += 1
        if self.fetched == 2:
            raise Throttled("slow down")
        return Invocation(instance_id, InvocationStatus.DONE, "Success", 0, "odd")


def test_what_was_fetched_before_a_call_failed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(output: str) -> Answer:
        if output == "odd":
            return Answer(more=False, facts={}, events=None, records=(), packed_bytes=0)
        raise EnvelopeCut

    monkeypatch.setattr("poormanray.remote.decode", decoded)
    remote = Remote(cast("Any", Failing([])), Clock())
    order = Order(Call("observe", ("j",), 0), dict.fromkeys((ONE, TWO), "0"))
    (flight,) = remote.send(order, [ONE, TWO]).flights
    assert [one.instance_id for one in remote.poll(flight)] == [ONE]
    assert flight.waiting == {TWO}
    assert [one.instance_id for one in remote.poll(flight)] == [TWO]


def test_what_was_sent_before_a_denial_is_not_forgotten() -> None:
    class Partly(Ssm):
        def send(self, **words: Any) -> str:  # noqa: ANN401 (kept as they are)
            if self.sent:
                raise Denied("no permission for ssm:SendCommand", "have it allowed")
            return Ssm.send(self, **words)

    ids = [f"i-{number:017}" for number in range(60)]
    remote = Remote(cast("Any", Partly([])), Clock())
    sent = remote.send(Order(Call("observe", ("j",), 0), {}), ids)
    assert [len(flight.waiting) for flight in sent.flights] == [50]
    assert [one.instance_id for one in sent.refused] == ids[50:]
    assert not any(one.delivered for one in sent.refused)

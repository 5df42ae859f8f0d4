"""One verb to many instances: sent in chunks, polled by one look for all, decoded."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from poormanray import __version__
from poormanray.envelope import Answer, EnvelopeCut, EnvelopeError, decode
from poormanray.errors import AwsRefused, InvalidInstances, Outage
from poormanray.ledger import LEDGER_FORMAT, is_job_id
from poormanray.model import Invocation, InvocationStatus, chunks
from poormanray.shell import Call, render
from poormanray.waiting import jittered

if TYPE_CHECKING:
    from poormanray.aws.ssm import Ssm
    from poormanray.waiting import Clock

# The key of a row that is for every instance without one of its own.
EVERYONE = "*"
# SSM model: SendCommandRequest.InstanceIds.
CHUNK = 50
# Polls of one command: the first after a usual round trip, then wider and wider, so that a line
# is shown within 3 s and silence costs little.
FIRST_POLL_S = 0.8
FIRST_BULK_POLL_S = 0.5
POLL_GROWTH = 1.3
# Where somebody waits for one answer of each, and for nothing else: after the first one, which
# comes later by so much for each instance, as SSM asks one, then two, then four and so on.
PROMPT_POLL_S, PROMPT_EACH_S = 0.4, 0.012
LONGEST_POLL_S = 1.2
# However many commands are under way, they are looked at so often a second, all together.
POLLS_PER_S = 2.5
# A command that SSM has dropped is sent again after a pause: the first one, the longest, and how
# many there are (some five minutes).
PAUSE_S = 2.0
LONGEST_PAUSE_S = 30.0
MOST_PAUSES = 12
# A response is due when a usual round trip has passed beside its window. When it is overdue for
# RESPONSE_S, which doubles each time, the instance is asked again: each verb may arrive twice.
ROUND_TRIP_S = 3.0
RESPONSE_S = 8.0
# What was not polled for longer than this, as a service or this machine was away, is not late.
UNPOLLED_S = 20.0
# Whole answers are fetched one by one: at most so many before other commands have their turn.
WHOLE_AT_ONCE = 4
# A patient order is looked at twice where that will do: first after this long and so much longer
# for each instance, then when those that have not answered should have, as the others did.
PATIENT_POLL_S, PATIENT_EACH_S = 1.0, 0.03
PATIENT_UNTOLD_S, PATIENT_LEAST_S, PATIENT_MOST_S, PATIENT_MARGIN = 3.0, 1.0, 10.0, 1.3
# Where the first look found no answer at all, the second one waits so long for each instance.
PATIENT_UNTOLD_EACH_S = 0.15
# What a command may need on top of its window: delivery, a slow disk, the service's own lag.
SLACK_S = 30
# A command of which there is no part after this long is asked for by itself, and again after that.
UNSEEN_S = 4.0
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,29}")
RATE_EXCEEDED = "RateExceeded"
# How long an instance has to take a command where nobody says otherwise.
DELIVER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Order:
    """A verb for some instances; `rows` holds what differs between them, by instance id.

    `window_s` is how long the verb may wait on the instance, and `work_s` how long it may work
    beside that; `large` says that answers may be longer than a list of invocations returns;
    `patient` that few calls matter more than a second, `prompt` that somebody waits for just this.
    """

    call: Call
    rows: Mapping[str, str]
    window_s: int = 0
    large: bool = False
    comment: str = ""
    deliver_timeout_s: int = DELIVER_TIMEOUT_S
    work_s: int = 0
    patient: bool = False
    prompt: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an order on one instance: an answer, or why there is none.

    `delivered` is false where the command certainly never reached the instance, or could do nothing
    there. `final`: to ask again would bring nothing else. `silent`: it was waited for as long as
    an order is.
    """

    instance_id: str
    answer: Answer | None
    problem: str = ""
    delivered: bool = True
    final: bool = False
    silent: bool = False


@dataclass(slots=True)
class Flight:
    """A command under way: who has not answered yet, and who was seen to take it.

    `patient_for` is how many were asked by a patient order, 0 for any other. `overdue_s` is when
    a poll first found it overdue, `repeats` how often its instances were asked again before.
    `dropped`: SSM took the command and then did nothing with it; it is to be sent again.
    """

    command_id: str
    waiting: set[str]
    sent_at_s: float
    deadline_s: float
    large: bool
    next_poll_s: float
    interval_s: float
    taken: set[str] = field(default_factory=set)
    patient_for: int = 0
    order: Order | None = None
    drops: int = 0
    dropped: bool = False
    doubt_at_s: float = 0.0
    polled_at_s: float = 0.0
    overdue_s: float | None = None
    repeats: int = 0
    again: list[Flight] = field(default_factory=list)

    def wait_s(self, now_s: float) -> float:
        """Return how long to leave it alone after a look."""
        if not self.patient_for:
            return self.interval_s
        answered = self.patient_for - len(self.waiting)
        if not answered:
            return max(PATIENT_UNTOLD_S, PATIENT_UNTOLD_EACH_S * self.patient_for)
        each_s = (now_s - self.sent_at_s) / answered * PATIENT_MARGIN
        return min(max(each_s * len(self.waiting), PATIENT_LEAST_S), PATIENT_MOST_S)


@dataclass(slots=True)
class Sent:
    """What a send came to: flights, and replies for instances that SSM would not take."""

    flights: list[Flight] = field(default_factory=list)
    refused: list[Reply] = field(default_factory=list)


class Remote:
    """Sends orders and collects replies.

    `ask` reports by `on_silence` which instances it asks again, and after how many seconds.
    """

    def __init__(self, ssm: Ssm, clock: Clock) -> None:
        self._ssm = ssm
        self._clock = clock
        self.on_silence: Callable[[Sequence[str], float], None] = lambda _ids, _seconds: None

    def send(self, order: Order, instance_ids: Sequence[str]) -> Sent:
        """Send an order, 50 instances at a time.

        An instance that SSM does not take is found by halving, and does not spoil the send for
        the others.
        """
        sent = Sent()
        for some in chunks(instance_ids, CHUNK):
            try:
                self._send_some(order, list(some), sent)
            except AwsRefused as refusal:
                # What was sent before is under way: it must not be forgotten.
                if not sent.flights or not refusal.had_no_effect:
                    raise
                done = {key for flight in sent.flights for key in flight.waiting}
                done |= {reply.instance_id for reply in sent.refused}
                sent.refused += [
                    Reply(key, None, refusal.message, delivered=False)
                    for key in some
                    if key not in done
                ]
        return sent

    def _send_once(self, order: Order, ids: list[str]) -> str:
        table = {key: order.rows[key] for key in (EVERYONE, *ids) if key in order.rows}

        # The first time that it is asked for, this is a call: not inside the one that sends.
        self._ssm.server_time_s()

        def script() -> str:
            not_after_s = int(self._ssm.server_time_s()) + order.deliver_timeout_s + SLACK_S
            return render(replace(order.call, not_after_s=not_after_s, table=table))

        return self._ssm.send(
            instance_ids=ids,
            script=script,
            comment=order.comment,
            deliver_timeout_s=order.deliver_timeout_s,
            execution_timeout_s=order.window_s + order.work_s + SLACK_S,
        )

    def _send_some(self, order: Order, ids: list[str], sent: Sent) -> None:
        try:
            command_id = self._send_once(order, ids)
        except InvalidInstances as refusal:
            if len(ids) == 1:
                sent.refused.append(Reply(ids[0], None, refusal.message, delivered=False))
                return
            middle = len(ids) // 2
            self._send_some(order, ids[:middle], sent)
            self._send_some(order, ids[middle:], sent)
            return
        now_s = self._clock.now_s()
        first_s = FIRST_BULK_POLL_S if order.large else FIRST_POLL_S
        if order.patient:
            first_s = PATIENT_POLL_S + PATIENT_EACH_S * len(ids)
        elif order.prompt:
            first_s += PROMPT_EACH_S * len(ids)
        sent.flights.append(
            Flight(
                command_id=command_id,
                waiting=set(ids),
                sent_at_s=now_s,
                deadline_s=now_s
                + (order.deliver_timeout_s + order.window_s + order.work_s + 2 * SLACK_S),
                large=order.large,
                next_poll_s=now_s + jittered(first_s),
                interval_s=PROMPT_POLL_S if order.prompt else first_s * POLL_GROWTH,
                patient_for=len(ids) if order.patient else 0,
                order=order,
                doubt_at_s=now_s + UNSEEN_S,
                polled_at_s=now_s,
            )
        )

    def poll(self, flight: Flight, *, flights: int = 1) -> list[Reply]:
        """Look once at a command; return the replies that have arrived since the last look.

        `flights` is how many commands are polled side by side: the more, the wider apart.
        """
        try:
            if flight.dropped:
                self._send_again(flight)
        except InvalidInstances as refusal:
            # Which one it is comes out when each is asked anew.
            return self._over(flight, refusal.message)
        seen = self._look(flight)
        if not seen and self._was_dropped(flight):
            return self._dropped(flight)
        replies, cut = self._ended(flight, seen)
        now_s = self._clock.now_s()
        if now_s - flight.polled_at_s > UNPOLLED_S:
            flight.deadline_s = max(flight.deadline_s, now_s + SLACK_S)
        flight.polled_at_s = now_s
        if now_s >= flight.deadline_s:
            told = {reply.instance_id for reply in replies}
            replies += [_late(key) for key in sorted(flight.waiting - told)]
        flight.waiting -= {reply.instance_id for reply in replies}
        if cut:
            flight.next_poll_s = now_s
            return replies
        shown = {part.instance_id for part in seen}
        patience_s = max(RESPONSE_S, 2 * flights / POLLS_PER_S)
        replies += self._ask_again(flight, shown & flight.waiting, now_s, patience_s)
        flight.next_poll_s = now_s + jittered(max(flight.wait_s(now_s), flights / POLLS_PER_S))
        flight.interval_s = min(flight.interval_s * POLL_GROWTH, LONGEST_POLL_S)
        return replies

    def _ask_again(
        self, flight: Flight, silent: set[str], now_s: float, patience_s: float
    ) -> list[Reply]:
        """Send an overdue order to those that are `silent`, by flights in `again`.

        The pending command is forgotten for them: a response that is lost never comes, and the
        command of an instance that has gone stays InProgress until its timeouts have passed.
        Return the replies for instances that SSM does not take any more.
        """
        order = flight.order
        if order is None or not silent:
            return []
        due_s = flight.sent_at_s + order.window_s + order.work_s + ROUND_TRIP_S
        if order.patient:
            due_s += PATIENT_UNTOLD_EACH_S * flight.patient_for
        if now_s < due_s:
            return []
        if flight.overdue_s is None:
            flight.overdue_s = now_s
        # A start that no agent has taken waits for its agent, as long as the user wants.
        asked = silent & flight.taken if order.call.verb == "start" else silent
        if not asked or now_s - flight.overdue_s < patience_s * 2**flight.repeats:
            return []
        sent = self.send(order, sorted(asked))
        for each in sent.flights:
            each.taken = flight.taken & each.waiting
            each.deadline_s = flight.deadline_s
            each.repeats = flight.repeats + 1
        flight.again += sent.flights
        flight.waiting -= asked
        return sent.refused

    def _ended(self, flight: Flight, seen: Iterable[Invocation]) -> tuple[list[Reply], int]:
        """Return the replies of those that have ended, and how many still have to be fetched.

        An outage that ends the fetching of whole answers does not take what was fetched before.
        """
        parts = [part for part in seen if part.instance_id in flight.waiting]
        flight.taken |= {p.instance_id for p in parts if p.status is InvocationStatus.RUNNING}
        ended = [(part, self._reply(flight, part)) for part in parts if part.status.ended]
        replies = [reply for _, reply in ended if reply]
        cut = [part for part, reply in ended if not reply]
        for number, part in enumerate(cut[:WHOLE_AT_ONCE]):
            try:
                replies.append(self._whole(flight, part))
            except Outage:
                if not replies:
                    raise
                return replies, len(cut) - number
        return replies, len(cut[WHOLE_AT_ONCE:])

    def _was_dropped(self, flight: Flight) -> bool:
        """Say whether SSM has done nothing with a command, as too many invocations are open.

        Source: the status RateExceeded of a command, which then has no invocations.
        """
        now_s = self._clock.now_s()
        if flight.order is None or flight.taken or now_s < flight.doubt_at_s:
            return False
        flight.doubt_at_s = now_s + UNSEEN_S
        return self._ssm.command_detail(flight.command_id) == RATE_EXCEEDED

    def _dropped(self, flight: Flight) -> list[Reply]:
        flight.drops += 1
        if flight.drops > MOST_PAUSES:
            return self._over(flight, "SSM has too many commands under way (RateExceeded)")
        flight.dropped = True
        # Longer with each time; what waits for that is not late.
        pause_s = min(PAUSE_S * 1.5 ** (flight.drops - 1), LONGEST_PAUSE_S)
        flight.next_poll_s = self._clock.now_s() + jittered(pause_s)
        flight.deadline_s = max(flight.deadline_s, flight.next_poll_s + SLACK_S)
        return []

    def _send_again(self, flight: Flight) -> None:
        if flight.order is None:
            return
        flight.command_id = self._send_once(flight.order, sorted(flight.waiting))
        flight.dropped = False
        now_s = self._clock.now_s()
        flight.deadline_s += now_s - flight.sent_at_s
        flight.sent_at_s, flight.doubt_at_s = now_s, now_s + UNSEEN_S

    @staticmethod
    def _over(flight: Flight, why: str) -> list[Reply]:
        replies = [Reply(key, None, why) for key in sorted(flight.waiting)]
        flight.waiting.clear()
        return replies

    def _look(self, flight: Flight) -> list[Invocation]:
        if flight.large and len(flight.waiting) == 1:
            part = self._ssm.invocation(flight.command_id, next(iter(flight.waiting)))
            return [part] if part else []
        return self._ssm.invocations(flight.command_id)

    def _reply(self, flight: Flight, part: Invocation) -> Reply | None:
        """Return what an invocation answers; None where the list cut the answer off."""
        if part.status is not InvocationStatus.DONE:
            return _unanswered(part, taken=part.instance_id in flight.taken)
        try:
            return _answered(part.instance_id, decode(part.output))
        except EnvelopeCut:
            return None
        except EnvelopeError as error:
            return Reply(part.instance_id, None, f"its answer is damaged: {error}")

    def _whole(self, flight: Flight, part: Invocation) -> Reply:
        whole = self._ssm.invocation(flight.command_id, part.instance_id)
        try:
            return _answered(part.instance_id, decode(whole.output if whole else part.output))
        except EnvelopeError as error:
            return Reply(part.instance_id, None, f"its answer is damaged: {error}")

    def ask(self, order: Order, instance_ids: Sequence[str]) -> Iterator[Reply]:
        """Send an order and yield one reply for each instance, as they arrive."""
        for _, reply in self.ask_all([(order, instance_ids)]):
            yield reply

    def ask_all(
        self, orders: Iterable[tuple[Order, Sequence[str]]], *, together: int = sys.maxsize
    ) -> Iterator[tuple[int, Reply]]:
        """Send several orders side by side; yield each reply with the number of its order.

        At most `together` orders are under way at a time. The next one is taken from `orders` when
        there is room for it, so that it may depend on the replies so far. Who has not answered at
        the deadline of the clock (`Clock.until`) is silent.
        """
        to_come = enumerate(orders)
        under_way: dict[int, list[Flight]] = {}
        more = True
        while more or under_way:
            while more and len(under_way) < together:
                number, following = next(to_come, (0, None))
                more = following is not None
                if following:
                    sent = self.send(*following)
                    yield from ((number, reply) for reply in sent.refused)
                    if sent.flights:
                        under_way[number] = sent.flights
            flights = [(each, number) for number in under_way for each in under_way[number]]
            if not flights:
                continue
            flight, number = min(flights, key=lambda pair: pair[0].next_poll_s)
            self._clock.sleep(flight.next_poll_s - self._clock.now_s())
            yield from ((number, reply) for reply in self.poll(flight, flights=len(flights)))
            for repeated in flight.again:
                self.on_silence(sorted(repeated.waiting), self._clock.now_s() - flight.sent_at_s)
            under_way[number] += flight.again
            flight.again = []
            if self._clock.left_s() <= 0:
                waited_for = {key: [one.waiting for one in under_way[key]] for key in under_way}
                unsent = {key: [set(ids)] for key, (_, ids) in to_come}
                for key, ids in (*waited_for.items(), *unsent.items()):
                    yield from ((key, _late(one)) for one in sorted(set().union(*ids)))
                return
            under_way[number] = [each for each in under_way[number] if each.waiting]
            if not under_way[number]:
                del under_way[number]


def _late(instance_id: str) -> Reply:
    return Reply(instance_id, None, "no answer in time", silent=True)


def _answered(instance_id: str, answer: Answer) -> Reply:
    why = unable(answer.facts.get("refused", ""))
    return (
        Reply(instance_id, None, why, delivered=False, final=True)
        if why
        else Reply(instance_id, answer)
    )


# Which package a command comes from, where it is not coreutils.
PACKAGES = {
    "bash": "bash",
    "gzip": "gzip",
    "getent": "glibc-common or libc-bin",
    **dict.fromkeys(("fallocate", "flock", "setpriv", "setsid"), "util-linux"),
}


def unable(refusal: str) -> str:
    """Return why an instance can do nothing that this version of pmr asks of it; "" if it can.

    `refusal` is the fact that says what it refused: a command that is missing there, a bash that is
    too old, or a ledger whose format is not this version's.
    """
    match refusal.split(" "):
        case ["missing", *commands] if commands:
            names = ", ".join(one[:20] for one in commands[:60])
            packages = sorted({PACKAGES.get(one, "coreutils") for one in commands})
            them = "it" if len(commands) == 1 else "them"
            return f"it has no {names}: install {them} (package {', '.join(packages)})"
        case ["bash", version]:
            return f"its bash is {version[:10]}: install bash 4.2 or newer"
        case ["format", job, number, version] if number.isdecimal() and is_job_id(job):
            known = _VERSION.fullmatch(version)
            what = f"its ledger of job {job} has format {number[:9]}"
            ours = f"this is pmr {__version__}, which reads format {LEDGER_FORMAT}"
            named = f"poormanray {version}" if known else "the version that made the job"
            return f"{what}, and {ours}: to reach the job install {named}"
    return ""


def _unanswered(part: Invocation, *, taken: bool) -> Reply:
    if part.status is not InvocationStatus.UNDELIVERED:
        return Reply(part.instance_id, None, f"the command ended as {part.detail}")
    if taken:
        # SSM says so too where the script did start and the agent never told its end.
        why = f"it took the command; then {part.detail}"
        return Reply(part.instance_id, None, why, silent=True)
    return Reply(part.instance_id, None, f"not delivered ({part.detail})", delivered=False)

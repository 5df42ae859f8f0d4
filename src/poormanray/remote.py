"""One verb to many instances: sent in chunks, polled by one look for all, decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from poormanray.envelope import Answer, EnvelopeCut, EnvelopeError, decode
from poormanray.errors import InvalidInstances
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
LONGEST_POLL_S = 1.2
# What a command may need on top of its window: delivery, a slow disk, the service's own lag.
SLACK_S = 30
# How long an instance has to take a command where nobody says otherwise.
DELIVER_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Order:
    """A verb for some instances; `rows` holds what differs between them, by instance id.

    `window_s` is how long the verb may wait on the instance; `large` says that answers may be
    longer than a list of invocations returns.
    """

    call: Call
    rows: Mapping[str, str]
    window_s: int = 0
    large: bool = False
    comment: str = ""
    deliver_timeout_s: int = DELIVER_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an order on one instance: an answer, or why there is none.

    `delivered` is false where the command certainly never reached the instance.
    """

    instance_id: str
    answer: Answer | None
    problem: str = ""
    delivered: bool = True


@dataclass(slots=True)
class Flight:
    """A command under way: who has not answered yet, and who was seen to take it."""

    command_id: str
    waiting: set[str]
    sent_at_s: float
    deadline_s: float
    large: bool
    next_poll_s: float
    interval_s: float
    taken: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Sent:
    """What a send came to: flights, and replies for instances that SSM would not take."""

    flights: list[Flight] = field(default_factory=list)
    refused: list[Reply] = field(default_factory=list)


class Remote:
    """Sends orders and collects replies."""

    def __init__(self, ssm: Ssm, clock: Clock) -> None:
        self._ssm = ssm
        self._clock = clock

    def send(self, order: Order, instance_ids: Sequence[str]) -> Sent:
        """Send an order, 50 instances at a time.

        An instance that SSM does not take is found by halving, and does not spoil the send for
        the others.
        """
        sent = Sent()
        for some in chunks(instance_ids, CHUNK):
            self._send_some(order, list(some), sent)
        return sent

    def _send_some(self, order: Order, ids: list[str], sent: Sent) -> None:
        not_after_s = int(self._ssm.server_time_s()) + order.deliver_timeout_s + SLACK_S
        call = replace(
            order.call,
            not_after_s=not_after_s,
            table={key: order.rows[key] for key in (EVERYONE, *ids) if key in order.rows},
        )
        try:
            command_id = self._ssm.send(
                instance_ids=ids,
                script=render(call),
                comment=order.comment,
                deliver_timeout_s=order.deliver_timeout_s,
                execution_timeout_s=order.window_s + SLACK_S,
            )
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
        sent.flights.append(
            Flight(
                command_id=command_id,
                waiting=set(ids),
                sent_at_s=now_s,
                deadline_s=now_s + order.deliver_timeout_s + order.window_s + 2 * SLACK_S,
                large=order.large,
                next_poll_s=now_s + jittered(first_s),
                interval_s=first_s * POLL_GROWTH,
            )
        )

    def poll(self, flight: Flight, *, flights: int = 1) -> list[Reply]:
        """Look once at a command; return the replies that have arrived since the last look.

        `flights` is how many commands are polled side by side: the more, the wider apart.
        """
        parts = [part for part in self._look(flight) if part.instance_id in flight.waiting]
        flight.taken |= {p.instance_id for p in parts if p.status is InvocationStatus.RUNNING}
        replies = [self._reply(flight, part) for part in parts if part.status.ended]
        now_s = self._clock.now_s()
        if now_s >= flight.deadline_s:
            told = {reply.instance_id for reply in replies}
            replies += [
                Reply(instance_id, None, "no answer in time")
                for instance_id in sorted(flight.waiting - told)
            ]
        flight.waiting -= {reply.instance_id for reply in replies}
        flight.next_poll_s = now_s + jittered(flight.interval_s * max(1.0, flights / 4))
        flight.interval_s = min(flight.interval_s * POLL_GROWTH, LONGEST_POLL_S)
        return replies

    def _look(self, flight: Flight) -> list[Invocation]:
        if flight.large and len(flight.waiting) == 1:
            part = self._ssm.invocation(flight.command_id, next(iter(flight.waiting)))
            return [part] if part else []
        return self._ssm.invocations(flight.command_id)

    def _reply(self, flight: Flight, part: Invocation) -> Reply:
        if part.status is not InvocationStatus.DONE:
            return _unanswered(part, taken=part.instance_id in flight.taken)
        try:
            return Reply(part.instance_id, decode(part.output))
        except EnvelopeCut:
            whole = self._ssm.invocation(flight.command_id, part.instance_id)
            output = whole.output if whole else part.output
        except EnvelopeError as error:
            return Reply(part.instance_id, None, f"its answer is damaged: {error}")
        try:
            return Reply(part.instance_id, decode(output))
        except EnvelopeError as error:
            return Reply(part.instance_id, None, f"its answer is damaged: {error}")

    def ask(self, order: Order, instance_ids: Sequence[str]) -> Iterator[Reply]:
        """Send an order and yield one reply for each instance, as they arrive."""
        for _, reply in self.ask_all([(order, instance_ids)]):
            yield reply

    def ask_all(self, orders: Sequence[tuple[Order, Sequence[str]]]) -> Iterator[tuple[int, Reply]]:
        """Send several orders side by side; yield each reply with the number of its order."""
        under_way: list[tuple[int, Flight]] = []
        for number, (order, instance_ids) in enumerate(orders):
            sent = self.send(order, instance_ids)
            for reply in sent.refused:
                yield number, reply
            under_way += [(number, flight) for flight in sent.flights]
        while under_way:
            number, flight = min(under_way, key=lambda each: each[1].next_poll_s)
            self._clock.sleep(flight.next_poll_s - self._clock.now_s())
            for reply in self.poll(flight, flights=len(under_way)):
                yield number, reply
            under_way = [each for each in under_way if each[1].waiting]


def _unanswered(part: Invocation, *, taken: bool) -> Reply:
    if part.status is not InvocationStatus.UNDELIVERED:
        return Reply(part.instance_id, None, f"the command ended as {part.detail}")
    if taken:
        # SSM says so too where the script did start and the agent never told its end.
        return Reply(part.instance_id, None, f"it took the command; then {part.detail}")
    return Reply(part.instance_id, None, f"not delivered ({part.detail})", delivered=False)

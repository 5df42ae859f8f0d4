"""Following a job: one loop that sends, looks and reads, and yields what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from poormanray.envelope import Answer
from poormanray.errors import AwsRefused, Outage, PmrError
from poormanray.jobs.cadence import Cadence
from poormanray.jobs.logs import Piece
from poormanray.jobs.looks import (
    gathered,
    last_order,
    look_order,
    needs_look,
    read_rows,
    row,
    waiting_tasks,
    whole_chunks,
)
from poormanray.jobs.mirror import Mirrors
from poormanray.jobs.moving import Mover, Turns
from poormanray.jobs.patience import Patience
from poormanray.jobs.presence import Presence, States
from poormanray.jobs.reading import begin_reading, receive_logs, unread
from poormanray.jobs.release import holds_back, release_order
from poormanray.jobs.track import (
    CONTACT_OF,
    REASSIGN_S,
    REFUSALS,
    RETRY_PAUSE_S,
    SILENT_S,
    Contact,
    Happening,
    HostProblem,
    Joined,
    Looked,
    Responsive,
    TaskChanged,
    Track,
    Wanted,
    refusal_words,
    settles_s,
)
from poormanray.jobs.trust import unproved
from poormanray.ledger import TaskState
from poormanray.model import readable_s
from poormanray.remote import CHUNK, Flight, Order, Remote, Reply
from poormanray.shell import Call

if TYPE_CHECKING:
    from poormanray.jobs.join import Joiner
    from poormanray.waiting import Clock

# The agent runs five commands at once and shares them with others: one look that waits, and at
# most this many that fetch bulk.
LANES = 3
# Who has stopped watching still asks once, for so long, what proves the successes that it shows.
LAST_QUESTION_S = 10.0
LOST = Contact.LOST
MOST_FAILURES = 4
# A success is reported once a second instance has it on record, and after so long in any case.
ON_RECORD_S = 60.0


class Follower:
    """Follows the instances of one job.

    `start` makes the order that starts the job on instances whose track is not `started`;
    `parallelism` is how many of those may run at a time. With `turns` it moves waiting tasks
    to where they run soonest, gives those that fail further turns, and lets a second instance
    remember what has ended on each. `newcomers` is asked, while tasks wait, for instances
    that may take some. `told` are answers of before, as to a look. After `timeout_s`
    seconds (0: never) it stops watching, and `gave_up_waiting` is set. An instance without a
    response for `lost_after_s` seconds counts as lost (0: only one that EC2 shows as ended does).
    `prove` reads what instances have on record of others, which some must wait for after a reboot.
    """

    def __init__(  # noqa: PLR0913 (the parts it is made of)
        self,
        job_id: str,
        tracks: Sequence[Track],
        wanted: Wanted,
        *,
        remote: Remote,
        clock: Clock,
        states: States,
        start: Callable[[], Order] | None = None,
        parallelism: int = 0,
        timeout_s: float = 0.0,
        turns: Turns | None = None,
        newcomers: Joiner | None = None,
        told: Mapping[str, Answer] | None = None,
        lost_after_s: float = 0.0,
        prove: Callable[[], None] | None = None,
    ) -> None:
        self.job_id = job_id
        self.tracks = {track.host.instance_id: track for track in tracks}
        self._wanted = wanted
        self._remote = remote
        self._clock = clock
        self._start = start
        self._told = told or {}
        self.mover = None if turns is None else Mover(job_id, self.tracks, turns)
        self._mirrors = Mirrors(self.tracks, active=turns is not None)
        self._mirrors.begin()
        if self.mover:
            self.mover.mirrors = self._mirrors
        # Successes that are not reported yet, and when they were read: by instance id and attempt.
        self._unreported: dict[tuple[str, int, int], tuple[TaskChanged, float]] = {}
        self._newcomers = newcomers
        self._parallelism = parallelism or len(tracks)
        self._flights: list[tuple[Flight, str, dict[str, list[Piece]]]] = []
        self._patience = Patience(LANES)
        self._lost_after_s = lost_after_s
        self._prove = prove
        if turns and turns.reassign:
            self._lost_after_s = min(lost_after_s or REASSIGN_S, REASSIGN_S)
        self._until_s = clock.now_s() + timeout_s if timeout_s else float("inf")
        self.gave_up_waiting = False
        self._cadence = self._fitting_cadence()
        self._presence = Presence(states, clock, self._cadence.silence_s / 2)
        for track in tracks:
            track.heard_at_s = clock.now_s()
            track.answered_at_s = track.answered_at_s or track.heard_at_s

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> Iterator[Happening]:
        """Yield what happens until there is nothing more to wait for, or until the timeout."""
        try:
            with self._clock.until(self._until_s):
                yield from self._follow()
        except Outage:
            if self._clock.now_s() < self._until_s:
                raise
            self.gave_up_waiting = True
        yield from self._report_successes(last=True)
        self._prove_claims()

    def _prove_claims(self) -> None:
        """Read, once, what instances have on record of others, where an instance claims more."""
        if self._prove and unproved(self.tracks.values()):
            now_s = self._clock.now_s()
            late_s = now_s + LAST_QUESTION_S if self.gave_up_waiting else float("inf")
            with suppress(PmrError), self._clock.until(late_s):  # unproved, it does not count
                self._prove()
            self._prove = None

    def _follow(self) -> Iterator[Happening]:
        yield from self._begin_silent()
        for key in [key for key in self._told if key in self.tracks]:
            yield from self._take(Reply(key, self._told[key]), "look", [])
        while True:
            if self._clock.now_s() >= self._until_s:
                self.gave_up_waiting = True
                return
            yield from self._check_lost()
            yield from self._send_what_is_due()
            yield from self._check_refused()
            yield from self._report_successes()
            if self._flights and not self._is_over():
                yield from self._look_once()
                yield from self._check_silence()
            elif not (due_s := self._due_times_s()):
                self._say_last()
                return
            else:
                self._clock.sleep(max(0.05, min(due_s) - self._clock.now_s()))

    def _is_over(self) -> bool:
        """Say whether no answer under way can bring anything: nobody waits for those."""
        waiting = {key for flight, _, _ in self._flights for key in flight.waiting}
        done = all(_is_done(self.tracks[key]) for key in waiting)
        return done and not self._due_times_s() and not self._unreported

    def _begin_silent(self) -> Iterator[Happening]:
        """Count instances that were silent before as lost, where what they have runs elsewhere."""
        for track in [one for one in self.tracks.values() if one.silent]:
            if self.mover and self.mover.turns.reassign:
                why = f"{track.problem}; its tasks run elsewhere (--reassign)"
                yield from self._give_up(track, why, Contact.LOST)

    def _say_last(self) -> None:
        """Let what ended at the very last be remembered too; nobody waits for the answers."""
        if order := last_order(self.job_id, self._mirrors):
            # The job is done, and what came of it is known: no outage is waited for.
            with suppress(PmrError), self._clock.until(self._clock.now_s()):
                self._remote.send(order, list(order.rows))

    def _due_times_s(self) -> list[float]:
        tracks = self.tracks.values()
        looks = [t.due_at_s for t in tracks if needs_look(t, self._wanted) or self._takes_record(t)]
        held = (at_s for at_s, track in self._held_back() if track.contact is not LOST)
        looks += islice(held, 1)
        if self._refused():
            looks.append(self._clock.now_s() + RETRY_PAUSE_S)
        if self._lost_after_s and self._wanted.live:
            silent = [t for t in tracks if t.silent and needs_look(t, self._wanted)]
            looks += [self._lost_at_s(track) for track in silent]
        if self.mover and (at_s := self.mover.due_s(self._clock.now_s())) is not None:
            looks.append(at_s)
        return looks + [t.read_due_s for t in tracks if t.waits_to_read]

    def _needs_look(self, track: Track) -> bool:
        """Say whether to ask an instance; one that is silent also while something is to move."""
        if needs_look(track, self._wanted) or self._takes_record(track):
            return True
        if self.mover is None or track.looking or not (track.silent and self._wanted.live):
            return False
        return self.mover.due_s(self._clock.now_s()) is not None

    def _takes_record(self, track: Track) -> bool:
        """Say whether to ask an instance only so that it puts successes of another on record."""
        waits = bool(self._unreported) and track.responds and not track.looking
        return waits and self._mirrors.lacks(track)

    def _send_what_is_due(self) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        self._cadence = self._fitting_cadence()
        needing = [track for track in self.tracks.values() if self._needs_look(track)]
        due = [track for track in needing if track.due_at_s <= now_s]
        fresh = [track for track in due if not track.started]
        active = sum(1 for t in self.tracks.values() if t.started and not t.over)
        fresh = fresh[: max(0, self._parallelism - active)]
        joined = [track for track in fresh if track.joined]
        waves = self._newcomers.waves(joined) if self._newcomers else []
        for some in ([track for track in fresh if not track.joined], *waves):
            if some:
                yield from self._send(self._start_order(some), some, "start")
        looks = [track for track in due if track.started and not track.looking]
        looks = whole_chunks(looks, self._cadence)
        everybody = self._cadence.few and len(looks) == len(needing)
        if looks and (everybody or gathered(looks, self._cadence, now_s, idle=not self._flights)):
            order = look_order(self.job_id, looks, self._wanted, self._window_s, self._mirrors)
            yield from self._send(order, looks, "look")
        yield from self._join(now_s)
        yield from self._move(now_s)
        yield from self._fetch()

    def _window_s(self, track: Track) -> int:
        longest_s = self._cadence.window_s
        if self.mover is None:
            return longest_s
        if self._cadence.few and self._mirrors.lacks(track):
            # A success waits to be reported until this instance has it on record.
            return 1
        return self.mover.window_s(track, self._clock.now_s(), longest_s)

    def _join(self, now_s: float) -> Iterator[Happening]:
        """Let instances take part that have come since, where something waits."""
        if self._newcomers is None or not waiting_tasks(self.tracks):
            return
        for host in self._newcomers(self.tracks):
            self.tracks[host.instance_id] = Track(
                host, started=False, joined=True, heard_at_s=now_s
            )
            self._parallelism += 1
            yield Joined(host)

    def _move(self, now_s: float) -> Iterator[Happening]:
        if any(kind == "queue" for _, kind, _ in self._flights):
            return
        if self._wanted.live and holds_back(self.tracks.values()):
            self._prove_claims()
            yield from self._order(release_order(self.job_id, self.tracks.values()))
        elif self.mover is not None:
            yield from self.mover.notice_lost(now_s)
            yield from self._order(self.mover.order(now_s))

    def _order(self, order: Order | None) -> Iterator[Happening]:
        if order:
            sent = self._remote.send(order, list(order.rows))
            self._flights += [(flight, "queue", {}) for flight in sent.flights]
            for reply in sent.refused:
                yield from self._take_moved(reply)

    def _fitting_cadence(self) -> Cadence:
        followed = sum(not track.over for track in self.tracks.values())
        return Cadence(-(-followed // CHUNK))

    def _send(self, order: Order, tracks: Sequence[Track], kind: str) -> Iterator[Happening]:
        for track in tracks:
            track.looking = True
            track.started = True
        try:
            sent = self._remote.send(order, [track.host.instance_id for track in tracks])
        except AwsRefused as refusal:
            for track in tracks:
                track.started = kind != "start" or not refusal.had_no_effect
            raise
        self._flights += [(flight, kind, {}) for flight in sent.flights]
        for reply in sent.refused:
            yield from self._take(reply, kind, [])

    def _look_once(self) -> Iterator[Happening]:
        soonest_s = min(flight.next_poll_s for flight, _, _ in self._flights)
        due_s = [t.due_at_s for t in self.tracks.values() if self._needs_look(t) and t.started]
        now_s = self._clock.now_s()
        send_s = min(due_s) + self._cadence.gather_s if due_s else None
        if send_s is not None and send_s < soonest_s:
            self._clock.sleep(max(0.02, send_s - now_s))
            return
        self._clock.sleep(soonest_s - now_s)
        now_s = self._clock.now_s()
        ready = [each for each in self._flights if each[0].next_poll_s <= now_s]
        ready.sort(key=lambda each: each[0].next_poll_s)
        # Where calls are scarce, sends that are due have their turn after every poll.
        for flight, kind, asked in ready if self._cadence.few else ready[:1]:
            replies = self._remote.poll(flight, flights=len(self._flights))
            if replies and kind == "bulk":
                self._patience.round_trip_s = self._clock.now_s() - flight.sent_at_s
            for reply in replies:
                if kind == "queue":
                    yield from self._take_moved(reply)
                else:
                    yield from self._take(reply, kind, asked.get(reply.instance_id, []))
            yield from self._asked_again(flight, kind, asked)
        yield Looked()
        self._flights = [each for each in self._flights if each[0].waiting]

    def _asked_again(
        self, flight: Flight, kind: str, asked: dict[str, list[Piece]]
    ) -> Iterator[Happening]:
        """Report instances that were asked again, unless EC2 shows that they have ended."""
        self._flights += [(each, kind, asked) for each in flight.again]
        keys = [key for each in flight.again for key in sorted(each.waiting)]
        flight.again = []
        now_s = self._clock.now_s()
        for track in [self.tracks[key] for key in keys]:
            if track.gone:
                self._forget(track)
            elif fate := self._presence.fate(track, self.tracks):
                yield from self._give_up(track, fate.why, fate.contact)
            elif told := track.report_silence(now_s, "asked again"):
                yield told

    # --- what is asked -------------------------------------------------------------------------

    def _start_order(self, tracks: Sequence[Track]) -> Order:
        if self._newcomers and tracks[0].joined:
            order = self._newcomers.order(tracks[0].host.instance_id)
        elif self._start is None:
            raise ValueError("nothing to start: every track is started")
        else:
            order = self._start()
        window_s = self._cadence.first_window_s if self._wanted.live else 0
        rows = {t.host.instance_id: row(t, self._wanted, window_s) for t in tracks}
        return replace(order, rows=rows, window_s=window_s)

    def _fetch(self) -> Iterator[Happening]:
        """Ask for bulk: events that did not fit, and pieces of logs, a few requests at a time."""
        for lane in range(LANES):
            now_s = self._clock.now_s()
            free = [
                track
                for track in self.tracks.values()
                if not (track.gone or track.silent)
                and track.lanes <= lane
                and track.read_due_s <= now_s
            ]
            yield from self._send_bulk(*read_rows(free))

    def _send_bulk(
        self, rows: dict[str, str], asked: dict[str, list[Piece]]
    ) -> Iterator[Happening]:
        ids = list(rows)
        for at in range(0, len(ids), CHUNK):
            order = Order(
                Call("observe", (self.job_id,), 0),
                rows,
                large=True,
                comment=f"pmr read {self.job_id}",
            )
            for key in ids[at : at + CHUNK]:
                self.tracks[key].lanes += 1
            sent = self._remote.send(order, ids[at : at + CHUNK])
            self._flights += [(flight, "bulk", asked) for flight in sent.flights]
            for reply in sent.refused:
                yield from self._take(reply, "bulk", asked[reply.instance_id])

    # --- what is answered ----------------------------------------------------------------------

    def _take(self, reply: Reply, kind: str, asked: list[Piece]) -> Iterator[Happening]:
        track = self.tracks[reply.instance_id]
        now_s = self._clock.now_s()
        if kind == "bulk":
            track.lanes -= 1
        else:
            track.looking = False
            track.due_at_s = now_s
            self._mirrors.heard(reply, kind)
        if reply.answer is None:
            yield from self._failed(track, reply, kind, asked)
            return
        yield from self._take_answer(track, reply, reply.answer, kind, asked)

    def _take_answer(
        self, track: Track, reply: Reply, answer: Answer, kind: str, asked: list[Piece]
    ) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        refusal = answer.facts.get("refused", "")
        if CONTACT_OF.get(refusal) is Contact.SILENT:
            # The next one may come in time.
            again = track.failures + 1 < MOST_FAILURES
            refused = Reply(reply.instance_id, None, REFUSALS[refusal], delivered=again)
            yield from self._failed(track, refused, kind, asked)
            return
        yield from self._heard(track, answer, now_s, bulk=kind == "bulk")
        if refusal:
            if not (kind == "look" and track.may_still_come(refusal, now_s)):
                contact = CONTACT_OF.get(refusal, Contact.REFUSED)
                yield from self._give_up(track, refusal_words(refusal), contact)
            return
        if kind != "bulk":
            track.looked = True
            track.waits = "waits" in answer.facts
            track.due_at_s += settles_s(answer)
            if answer.facts.get("window") == "busy":
                track.due_at_s = now_s + self._cadence.busy_s
        yield from self._take_events(track, answer)
        yield from receive_logs(track, answer, asked, self._wanted)
        yield from self._patience.reads(self.tracks.values())
        if track.promises_only(answer):
            track.failures = MOST_FAILURES
            yield from self._unresponsive(track, REFUSALS["empty"], now_s)
        elif track.lost_with_runner:
            # Nothing more will happen there, but what has happened can be read.
            yield from self._give_up(track, REFUSALS["runner-lost"], Contact.ENDED)
        elif why := track.stalled(answer.facts.get("runner", ""), now_s):
            yield from self._give_up(track, REFUSALS[why], CONTACT_OF[why])

    def _take_moved(self, reply: Reply) -> Iterator[Happening]:
        # What did not move is planned again, from what the ledgers say.
        if reply.answer is None:
            # Whose tasks have all ended is not looked at: only so it is noticed that it is gone.
            track = self.tracks[reply.instance_id]
            self._mirrors.heard(reply, "queue")
            yield from self._failed(track, reply, "queue", [])
            if self.mover:
                self.mover.wait(self._clock.now_s() + RETRY_PAUSE_S * track.failures)
            return
        now_s = self._clock.now_s()
        yield from self._heard(self.tracks[reply.instance_id], reply.answer, now_s, bulk=True)
        # A job that was cancelled does not go on: nobody has to wait for that.
        self.tracks[reply.instance_id].waits = "waits" in reply.answer.facts
        self._mirrors.heard(reply, "queue")
        if self.mover and reply.answer.facts.get("refused") == "cancelled":
            self.mover.stop()
        elif reply.answer.facts.get("refused", "sealed") == "sealed":
            yield from self._take_events(self.tracks[reply.instance_id], reply.answer)
            if self.mover:
                self.mover.answered(self.tracks[reply.instance_id], reply.answer)

    def _take_events(self, track: Track, answer: Answer) -> Iterator[Happening]:
        if answer.events is None:
            return
        for status in track.log.read(answer.events):
            yield from self._report(TaskChanged(track.host, status))
            self._mirrors.note(track, status)
            again = self.mover and self.mover.note(track, status, self._clock.now_s())
            if again := again or track.again(status):
                yield again
            begin_reading(track, status, self._wanted)
        yield from track.notice()
        track.see_how_far(answer)

    def _report(self, change: TaskChanged) -> Iterator[TaskChanged]:
        """Yield what happened to a task; a success later, if another instance can record it.

        A client that counts the instance as lost later reads the success there, and runs no other
        attempt.
        """
        status, key = change.status, change.host.instance_id
        success = status.state is TaskState.SUCCEEDED and self._wanted.live
        if success and self._mirrors.has_holder(key):
            place = (key, status.task, status.attempt)
            self._unreported[place] = (change, self._clock.now_s())
        else:
            yield change

    def _report_successes(self, *, last: bool = False) -> Iterator[TaskChanged | Looked]:
        """Yield the successes that are on record, and those that were held back for long."""
        recorded, self._mirrors.on_record = self._mirrors.on_record, []
        places = [(key, status.task, status.attempt) for key, status in recorded]
        now_s = self._clock.now_s()
        for place, (at_s, track) in zip(self._unreported, self._held_back(), strict=True):
            # It is decided for all clients alike which ends of a lost instance count.
            decides = track.contact is LOST and self.mover and not self.mover.stopped
            index = track.host.host_index
            due = index in self.mover.decided if decides and self.mover else at_s <= now_s
            if last or due:
                places.append(place)
        for place in places:
            change, _ = self._unreported.pop(place, (None, 0.0))
            # An end that was read too late to be recorded is taken back: its task runs again.
            if change and place[1:] in self.tracks[place[0]].log.tasks:
                yield change
        if places:
            yield Looked()

    def _refused(self) -> list[Track]:
        """Return who has successes that nobody records: another client counts it as lost."""
        if not self._mirrors.refused:
            return []
        keys = {key for key, *_ in self._unreported} & self._mirrors.refused.keys()
        return [self.tracks[key] for key in keys if not self.tracks[key].gone]

    def _check_refused(self) -> Iterator[Happening]:
        for track in self._refused():
            # Where it has no task left, nothing else would ask EC2 about it.
            if fate := self._presence.fate(track, self.tracks):
                yield from self._give_up(track, fate.why, fate.contact)

    def _held_back(self) -> Iterator[tuple[float, Track]]:
        """Yield until when each success is held back, the first one first, and its instance."""
        for (key, *_), (_, at_s) in self._unreported.items():
            yield at_s + ON_RECORD_S, self.tracks[key]

    # --- what goes wrong -----------------------------------------------------------------------

    def _failed(
        self, track: Track, reply: Reply, kind: str, asked: list[Piece]
    ) -> Iterator[Happening]:
        track.failures += 1
        track.put_back(asked)
        if kind == "start" and not track.looked:
            # The same start may be sent again: the job's id makes it one start.
            track.started = False
        never_came = kind == "start" and track.never_came(delivered=reply.delivered)
        hopeless = track.failures >= MOST_FAILURES or never_came or reply.final
        now_s = self._clock.now_s()
        absent = (hopeless or not reply.delivered) and not reply.final
        fate = self._presence.fate(track, self.tracks) if absent else None
        refused = never_came if reply.final else not reply.delivered and self.mover is None
        if fate:
            # What never arrived does not wait there.
            missing = fate.contact is Contact.STOPPED and not track.looked
            contact = Contact.REFUSED if missing else fate.contact
            yield from self._give_up(track, fate.why, contact)
        elif kind == "start" and hopeless and refused:
            yield from self._give_up(track, reply.problem, Contact.REFUSED)
        elif hopeless or track.silent:
            yield from self._unresponsive(track, reply.problem, now_s)
        else:
            track.retry(now_s, bulk=kind == "bulk")
            track.heard_at_s = min(track.heard_at_s, now_s - self._cadence.silence_s)

    def _unresponsive(self, track: Track, why: str, now_s: float) -> Iterator[Happening]:
        """Leave an instance alone for a while that does not respond; what it has stays there."""
        told = track.fall_silent(now_s, why)
        if not self._wanted.live:
            if told:
                yield HostProblem(track.host, why)
            return
        if told:
            yield told
        if not track.looking:
            track.retry(now_s, bulk=False)

    def _heard(
        self, track: Track, answer: Answer, now_s: float, *, bulk: bool
    ) -> Iterator[Responsive]:
        if track.told_silence_s:
            yield Responsive(track.host, now_s - (track.answered_at_s or now_s))
        track.told_silence_s = 0.0
        if track.silent:
            track.reopen()
        track.hear(answer, now_s, bulk=bulk)

    def _give_up(self, track: Track, why: str, contact: Contact) -> Iterator[Happening]:
        track.looking = False
        if not (track.gone or (contact is Contact.ENDED and track.problem)):
            reported = track.problem and not track.silent
            track.contact, track.problem = contact, why
            if not reported:
                yield HostProblem(track.host, why)
        if track.gone:
            self._forget(track)
        yield from unread(track)

    def _check_silence(self) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        most_s = self._cadence.silence_s
        for track in [one for one in self.tracks.values() if one.silent_s(now_s) > most_s]:
            if fate := self._presence.fate(track, self.tracks):
                yield from self._give_up(track, fate.why, fate.contact)
            elif track.silent or track.silent_s(now_s) > most_s + SILENT_S:
                yield from self._unresponsive(track, "", now_s)

    def _lost_at_s(self, track: Track) -> float:
        """Return when an instance without a response counts as lost."""
        return (track.answered_at_s or 0.0) + self._lost_after_s

    def _check_lost(self) -> Iterator[Happening]:
        """Count instances as lost that have not responded for as long as the user said."""
        if not (self._lost_after_s and self._wanted.live):
            return
        now_s = self._clock.now_s()
        for track in list(self.tracks.values()):
            owes = track.silent or track.silent_s(now_s) > self._cadence.silence_s
            if owes and now_s >= self._lost_at_s(track):
                silent_s = now_s - (track.answered_at_s or now_s)
                why = f"no response for {readable_s(silent_s)}; it counts as lost"
                yield from self._give_up(track, why, Contact.LOST)

    def _forget(self, track: Track) -> None:
        """Wait no longer for what an instance was asked that has gone."""
        key = track.host.instance_id
        for flight, _, _ in self._flights:
            for each in (flight, *flight.again):
                each.waiting.discard(key)
        self._flights = [each for each in self._flights if each[0].waiting]
        self._mirrors.answered(key, taken=False)


def _is_done(track: Track) -> bool:
    """Say whether all that an instance can say of the job is known."""
    if track.gone:
        return True
    read = all(cursor.complete for cursor in track.cursors.values())
    return track.looked and track.all_ended and not track.behind and read

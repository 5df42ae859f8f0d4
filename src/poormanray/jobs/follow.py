"""Following a job: one loop that sends, looks and reads, and yields what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.cadence import SILENCE_S, Cadence
from poormanray.jobs.logs import (
    LEAST_BYTES,
    LogCursor,
    Piece,
)
from poormanray.jobs.looks import (
    gathered,
    look_order,
    needs_look,
    read_rows,
    reads_at_once,
    row,
    whole_chunks,
)
from poormanray.jobs.moving import Mover, Turns
from poormanray.jobs.presence import Presence, States
from poormanray.jobs.track import (
    REFUSALS,
    Backlog,
    Happening,
    HostProblem,
    Looked,
    Slowed,
    TaskChanged,
    Track,
    Wanted,
    backlog,
    log_happening,
)
from poormanray.remote import CHUNK, Flight, Order, Remote, Reply
from poormanray.shell import Call

if TYPE_CHECKING:
    from poormanray.waiting import Clock

# The agent runs five commands at once and shares them with others: one look that waits, and at
# most this many that fetch bulk.
LANES = 3
MOST_FAILURES = 4
# A reader is told of a wait that is longer than this, and of throttling that lasts so long.
LONG_READ_S = 20.0
LONG_THROTTLING_S = 60.0


class Follower:
    """Follows the instances of one job.

    `start` makes the order that starts the job on instances whose track is not `started`;
    `parallelism` is how many of those may run at a time. With `turns` it moves waiting tasks
    to where they run soonest, and gives those that fail further turns. After `timeout_s`
    seconds (0: never) it stops watching, and `gave_up_waiting` is set.
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
    ) -> None:
        self.job_id = job_id
        self.tracks = {track.host.instance_id: track for track in tracks}
        self._wanted = wanted
        self._remote = remote
        self._clock = clock
        self._presence = Presence(states, clock, SILENCE_S / 2)
        self._start = start
        self._mover = None if turns is None else Mover(job_id, self.tracks, turns)
        self._parallelism = parallelism or len(tracks)
        self._flights: list[tuple[Flight, str, dict[str, list[Piece]]]] = []
        self._told_s = LONG_READ_S / 2
        self._told_throttling = False
        self._quiet_until_s = 0.0
        self._round_trip_s = 0.0
        self._until_s = clock.now_s() + timeout_s if timeout_s else float("inf")
        self.gave_up_waiting = False
        self._cadence = self._fitting_cadence()
        for track in tracks:
            track.heard_at_s = clock.now_s()

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> Iterator[Happening]:
        """Yield what happens until there is nothing more to wait for."""
        while True:
            if self._clock.now_s() >= self._until_s:
                self.gave_up_waiting = True
                return
            yield from self._send_what_is_due()
            if self._flights:
                yield from self._look_once()
                yield from self._check_silence()
            elif (quiet_s := self._quiet_until_s - self._clock.now_s()) > 0:
                self._clock.sleep(quiet_s)
            elif not (due_s := self._due_times_s()):
                return
            else:
                self._clock.sleep(max(0.05, min(due_s) - self._clock.now_s()))

    def _due_times_s(self) -> list[float]:
        tracks = self.tracks.values()
        looks = [t.due_at_s for t in tracks if needs_look(t, self._wanted)]
        if self._mover and (at_s := self._mover.due_s(self._clock.now_s())) is not None:
            looks.append(at_s)
        return looks + [t.read_due_s for t in tracks if t.waits_to_read]

    def _send_what_is_due(self) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        if now_s < self._quiet_until_s:
            return
        self._cadence = self._fitting_cadence()
        needing = [track for track in self.tracks.values() if needs_look(track, self._wanted)]
        due = [track for track in needing if track.due_at_s <= now_s]
        fresh = [track for track in due if not track.started]
        active = sum(1 for t in self.tracks.values() if t.started and not self._over(t))
        fresh = fresh[: max(0, self._parallelism - active)]
        if fresh:
            yield from self._send(self._start_order(fresh), fresh, "start")
        looks = [track for track in due if track.started and not track.looking]
        looks = whole_chunks(looks, self._cadence)
        everybody = self._cadence.few and len(looks) == len(needing)
        if looks and (everybody or gathered(looks, self._cadence, now_s, idle=not self._flights)):
            order = look_order(self.job_id, looks, self._wanted, self._window_s)
            yield from self._send(order, looks, "look")
        yield from self._move(now_s)
        yield from self._fetch()

    def _window_s(self, track: Track) -> int:
        longest_s = self._cadence.window_s
        if self._mover is None:
            return longest_s
        return self._mover.window_s(track, self._clock.now_s(), longest_s)

    def _move(self, now_s: float) -> Iterator[Happening]:
        if self._mover is None or any(kind == "queue" for _, kind, _ in self._flights):
            return
        yield from self._mover.notice_lost()
        if order := self._mover.order(now_s):
            sent = self._remote.send(order, list(order.rows))
            self._flights += [(flight, "queue", {}) for flight in sent.flights]
            self._hush(bool(sent.postponed))

    def _fitting_cadence(self) -> Cadence:
        followed = sum(not self._over(track) for track in self.tracks.values())
        return Cadence(-(-followed // CHUNK))

    def _over(self, track: Track) -> bool:
        return bool(track.problem) or track.all_ended

    def _send(self, order: Order, tracks: Sequence[Track], kind: str) -> Iterator[Happening]:
        for track in tracks:
            track.looking = True
            track.started = True
        sent = self._remote.send(order, [track.host.instance_id for track in tracks])
        self._flights += [(flight, kind, {}) for flight in sent.flights]
        for key in sent.postponed:
            track = self.tracks[key]
            track.looking = False
            track.started = kind != "start"
        self._hush(bool(sent.postponed))
        for reply in sent.refused:
            yield from self._take(reply, kind, [])

    def _hush(self, throttled: bool) -> None:  # noqa: FBT001 (its one fact)
        if throttled:
            self._quiet_until_s = self._clock.now_s() + self._remote.pause_s()

    def _look_once(self) -> Iterator[Happening]:
        soonest_s = min(flight.next_poll_s for flight, _, _ in self._flights)
        due_s = [
            t.due_at_s for t in self.tracks.values() if needs_look(t, self._wanted) and t.started
        ]
        now_s = self._clock.now_s()
        send_s = max(min(due_s) + self._cadence.gather_s, self._quiet_until_s) if due_s else None
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
                self._round_trip_s = self._clock.now_s() - flight.sent_at_s
            for reply in replies:
                if kind == "queue":
                    yield from self._take_moved(reply)
                else:
                    yield from self._take(reply, kind, asked.get(reply.instance_id, []))
        yield from self._tell_throttling()
        yield Looked()
        self._flights = [each for each in self._flights if each[0].waiting]

    # --- what is asked -------------------------------------------------------------------------

    def _start_order(self, tracks: Sequence[Track]) -> Order:
        if self._start is None:
            raise ValueError("nothing to start: every track is started")
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
                if not track.gone and track.lanes <= lane and track.read_due_s <= now_s
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
            for key in sent.postponed:
                self.tracks[key].lanes -= 1
                self.tracks[key].put_back(asked[key])
            self._hush(bool(sent.postponed))
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
        if reply.answer is None:
            yield from self._failed(track, reply, kind, asked)
            return
        track.hear(now_s, bulk=kind == "bulk")
        if refusal := reply.answer.facts.get("refused", ""):
            if not (kind == "look" and track.may_still_come(refusal, now_s)):
                yield from self._give_up(track, REFUSALS.get(refusal, refusal[:99]))
            return
        if kind != "bulk":
            track.looked = True
            if reply.answer.facts.get("window") == "busy":
                track.due_at_s = now_s + self._cadence.busy_s
        yield from self._take_events(track, reply.answer)
        yield from self._take_logs(track, reply.answer, asked)
        if track.promises_only(reply.answer):
            yield from self._give_up(track, REFUSALS["empty"])
        if track.lost_with_runner:
            # Nothing more will happen there, but what has happened can be read.
            yield from self._give_up(track, REFUSALS["runner-lost"], gone=False)
        elif track.stalled(reply.answer.facts.get("runner", ""), now_s):
            yield from self._give_up(track, REFUSALS["stalled"])

    def _take_moved(self, reply: Reply) -> Iterator[Happening]:
        # What did not move is planned again, from what the ledgers say.
        if reply.answer is None:
            return
        if self._mover and reply.answer.facts.get("refused") == "cancelled":
            self._mover.stop()
        elif "refused" not in reply.answer.facts:
            yield from self._take_events(self.tracks[reply.instance_id], reply.answer)

    def _take_events(self, track: Track, answer: Answer) -> Iterator[Happening]:
        if answer.events is None:
            return
        for status in track.log.feed(answer.events.offset, answer.events.data):
            yield TaskChanged(track.host, status)
            if self._mover and (again := self._mover.note(track, status, self._clock.now_s())):
                yield again
            wanted = self._wanted.logs
            if wanted and wanted(status.task) and status.key not in track.cursors:
                cursor = track.cursors[status.key] = LogCursor(status.key)
                if not self._wanted.live or status.state.ended or self._wanted.from_end_bytes:
                    # It is read in bulk, together with others.
                    cursor.todo.append(Piece(status.key, -self._wanted.from_end_bytes))
        # A torn last line is read, and not folded; and who gets nothing need not ask again.
        got = answer.events
        told = answer.facts.get("events", "")
        track.behind = bool(got.data) and told.isdecimal() and int(told[:18]) > got.end

    def _take_logs(self, track: Track, answer: Answer, asked: list[Piece]) -> Iterator[Happening]:
        pieces = {piece.name: piece for piece in asked}
        raw = 0
        if reads_at_once(track, self._wanted):
            first = f"{track.host.tasks[0]}.1"
            track.cursors.setdefault(first, LogCursor(first))
        for record in answer.records:
            # The names of logs become names of files: only those that were asked for count.
            cursor = track.cursors.get(record.name)
            if cursor is None:
                continue
            raw += len(record.data) if isinstance(record, Chunk) else 0
            for item in cursor.receive(record, pieces.get(record.name)):
                yield log_happening(track.host, item)
            status = track.by_key(record.name)
            ended = status is not None and status.state.ended
            cursor.final = ended or track.log.runner_lost
        for piece in asked:
            track.cursors[piece.name].asked -= 1
        if raw > LEAST_BYTES:
            track.ratio = max(1.0, 0.95 * raw / answer.packed_bytes)
        yield from self._tell_backlog()

    def _tell_backlog(self) -> Iterator[Happening]:
        # The first bulk tells how well the logs compress and how long a round trip takes. A wait
        # is told of again each time that it has doubled, as logs grow while they are read.
        if not self._round_trip_s:
            return
        size, round_trips = backlog(self.tracks.values(), LANES)
        if (seconds := round_trips * self._round_trip_s) > 2 * self._told_s:
            self._told_s = seconds
            yield Backlog(size, seconds)

    def _tell_throttling(self) -> Iterator[Happening]:
        seconds = self._remote.throttled_s()
        if seconds > LONG_THROTTLING_S and not self._told_throttling:
            self._told_throttling = True
            yield Slowed(seconds)

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
        hopeless = track.failures >= MOST_FAILURES or never_came
        asks_ec2 = hopeless or not reply.delivered
        why = self._presence.ended_words(track, self.tracks) if asks_ec2 else ""
        if hopeless or why:
            # What never arrived does not wait there.
            track.suspended &= track.looked
            yield from self._give_up(track, why or reply.problem)
            return
        track.retry(self._clock.now_s(), bulk=kind == "bulk")
        track.heard_at_s = min(track.heard_at_s, self._clock.now_s() - self._cadence.silence_s)

    def _give_up(self, track: Track, why: str, *, gone: bool = True) -> Iterator[Happening]:
        track.looking = False
        track.gone = track.gone or gone
        if not track.problem:
            track.problem = why
            yield HostProblem(track.host, why)

    def _check_silence(self) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        silent = [
            track
            for track in self.tracks.values()
            if not track.problem
            and (track.looking or track.lanes)
            and now_s - track.heard_at_s > self._cadence.silence_s
        ]
        for track in silent:
            if why := self._presence.ended_words(track, self.tracks):
                self._forget(track)
                yield from self._give_up(track, why)

    def _forget(self, track: Track) -> None:
        for flight, _, _ in self._flights:
            flight.waiting.discard(track.host.instance_id)
        self._flights = [each for each in self._flights if each[0].waiting]

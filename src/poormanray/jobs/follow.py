"""Following a job: one loop that sends, looks and reads, and yields what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.logs import (
    ANSWER_BYTES,
    LEAST_BYTES,
    Gap,
    LogCursor,
    Piece,
    Text,
    pick,
)
from poormanray.jobs.presence import Presence, States
from poormanray.jobs.track import (
    REFUSALS,
    Backlog,
    Happening,
    HostProblem,
    LogGap,
    LogText,
    Looked,
    TaskChanged,
    Track,
    Wanted,
    backlog,
)
from poormanray.manifest import Host
from poormanray.remote import CHUNK, Flight, Order, Remote, Reply
from poormanray.shell import LARGE_ANSWER_CHARS, SMALL_ANSWER_CHARS, Call

if TYPE_CHECKING:
    from poormanray.waiting import Clock

# The agent runs five commands at once and shares them with others: one look that waits, and at
# most this many that fetch bulk.
LANES = 3
# Short, because a look that waits holds one of the agent's five workers.
FIRST_WINDOW_S = 5
WINDOW_S = 8
BUSY_S = 0.5  # until the next look where another client waits, so that ours is answered at once
# Instances that want a look at nearly the same moment share a send.
GATHER_S = 0.3
# How long an instance may be silent before EC2 is asked whether it still exists.
SILENCE_S = 25.0
MOST_FAILURES = 4
# A log request names its log in about a dozen characters; a send has room for this many.
MOST_PIECES = 60
# A reader is told of a wait that is longer than this.
LONG_READ_S = 20.0


class Follower:
    """Follows the instances of one job.

    `start` makes the order that starts the job on instances whose track is not `started`;
    `parallelism` is how many of those may run at a time. After `timeout_s` seconds (0: never)
    it stops watching, and `gave_up_waiting` is set.
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
    ) -> None:
        self.job_id = job_id
        self.tracks = {track.host.instance_id: track for track in tracks}
        self._wanted = wanted
        self._remote = remote
        self._clock = clock
        self._presence = Presence(states, clock, SILENCE_S / 2)
        self._start = start
        self._parallelism = parallelism or len(tracks)
        self._flights: list[tuple[Flight, str, dict[str, list[Piece]]]] = []
        self._told_s = LONG_READ_S / 2
        self._round_trip_s = 0.0
        self._until_s = clock.now_s() + timeout_s if timeout_s else float("inf")
        self.gave_up_waiting = False
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
            elif not (due_s := self._due_times_s()):
                return
            else:
                self._clock.sleep(max(0.05, min(due_s) - self._clock.now_s()))

    def _due_times_s(self) -> list[float]:
        tracks = self.tracks.values()
        looks = [t.due_at_s for t in tracks if self._needs_look(t)]
        return looks + [t.read_due_s for t in tracks if t.waits_to_read]

    def _needs_look(self, track: Track) -> bool:
        if track.gone or track.looking:
            return False
        if not track.started or not track.looked or track.behind:
            return True
        if not self._wanted.live:
            return False
        if any(not cursor.caught_up for cursor in track.cursors.values()):
            # What is being fetched in bulk says by itself when there is more.
            return not track.all_ended
        finished = track.all_ended and all(c.complete for c in track.cursors.values())
        return not finished and not (track.log.runner_lost and self._read_all(track))

    @staticmethod
    def _read_all(track: Track) -> bool:
        return all(c.final and c.caught_up for c in track.cursors.values())

    def _send_what_is_due(self) -> Iterator[Happening]:
        now_s = self._clock.now_s()
        needing = [track for track in self.tracks.values() if self._needs_look(track)]
        due = [track for track in needing if track.due_at_s <= now_s]
        fresh = [track for track in due if not track.started]
        active = sum(1 for t in self.tracks.values() if t.started and not self._over(t))
        fresh = fresh[: max(0, self._parallelism - active)]
        if fresh:
            yield from self._send(self._start_order(fresh), fresh, "start")
        # Wait a little for the others, unless everybody is here already.
        looks = [track for track in due if track.started and not track.looking]
        if looks and (
            len(looks) == len(needing) or min(t.due_at_s for t in looks) <= now_s - GATHER_S
        ):
            yield from self._send(self._look_order(looks), looks, "look")
        yield from self._fetch()

    def _over(self, track: Track) -> bool:
        return bool(track.problem) or track.all_ended

    def _send(self, order: Order, tracks: Sequence[Track], kind: str) -> Iterator[Happening]:
        for track in tracks:
            track.looking = True
            track.started = True
        sent = self._remote.send(order, [track.host.instance_id for track in tracks])
        self._flights += [(flight, kind, {}) for flight in sent.flights]
        for reply in sent.refused:
            yield from self._take(reply, kind, [])

    def _look_once(self) -> Iterator[Happening]:
        soonest_s = min(flight.next_poll_s for flight, _, _ in self._flights)
        gather_s = [
            t.due_at_s + GATHER_S for t in self.tracks.values() if self._needs_look(t) and t.started
        ]
        now_s = self._clock.now_s()
        if gather_s and min(gather_s) < soonest_s:
            self._clock.sleep(max(0.02, min(gather_s) - now_s))
            return
        self._clock.sleep(soonest_s - now_s)
        now_s = self._clock.now_s()
        for flight, kind, asked in list(self._flights):
            if flight.next_poll_s > now_s:
                continue
            replies = self._remote.poll(flight, flights=len(self._flights))
            if replies and kind == "bulk":
                self._round_trip_s = self._clock.now_s() - flight.sent_at_s
            for reply in replies:
                yield from self._take(reply, kind, asked.get(reply.instance_id, []))
        yield Looked()
        self._flights = [each for each in self._flights if each[0].waiting]

    # --- what is asked -------------------------------------------------------------------------

    def _start_order(self, tracks: Sequence[Track]) -> Order:
        if self._start is None:
            raise ValueError("nothing to start: every track is started")
        order = self._start()
        window_s = FIRST_WINDOW_S if self._wanted.live else 0
        rows = {t.host.instance_id: self._row(t, window_s) for t in tracks}
        return replace(order, rows=rows, window_s=window_s)

    def _look_order(self, tracks: Sequence[Track]) -> Order:
        rows = {}
        longest_s = 0
        for track in tracks:
            waits = self._wanted.live and not track.all_ended and not track.behind
            window_s = WINDOW_S if waits else 0
            longest_s = max(longest_s, window_s)
            rows[track.host.instance_id] = self._row(track, window_s)
        return Order(
            Call("observe", (self.job_id,), 0),
            rows,
            longest_s,
            large=any(track.behind for track in tracks),
            comment=f"pmr observe {self.job_id}",
        )

    def _row(self, track: Track, window_s: int) -> str:
        specs = [
            f"{cursor.name}:{cursor.frontier}"
            for cursor in track.cursors.values()
            if cursor.caught_up and not cursor.complete
        ][:MOST_PIECES]
        if not track.cursors and self._reads_at_once(track):
            specs = [f"{track.host.tasks[0]}.1:0"]
        budget = LARGE_ANSWER_CHARS if track.behind else SMALL_ANSWER_CHARS
        wake = int(self._wanted.wake_on_events)
        return f"{track.log.offset} {window_s} {wake} {budget} {','.join(specs)}".rstrip()

    def _reads_at_once(self, track: Track) -> bool:
        """Say whether the log to read is known before any event: an instance's only task."""
        wanted = self._wanted
        if wanted.logs is None or not wanted.live or wanted.from_end_bytes:
            return False
        return len(track.host.tasks) == 1 and wanted.logs(track.host.tasks[0])

    def _fetch(self) -> Iterator[Happening]:
        """Ask for bulk: events that did not fit, and pieces of logs, a few requests at a time."""
        for lane in range(LANES):
            rows: dict[str, str] = {}
            asked: dict[str, list[Piece]] = {}
            for track in self.tracks.values():
                if track.gone or track.lanes > lane or track.read_due_s > self._clock.now_s():
                    continue
                pieces = pick(track.cursors.values(), int(track.ratio * ANSWER_BYTES), MOST_PIECES)
                if not pieces:
                    continue
                key = track.host.instance_id
                asked[key] = pieces
                specs = ",".join(piece.spec for piece in asked[key])
                rows[key] = f"- 0 0 {LARGE_ANSWER_CHARS} {specs}"
                track.lanes += 1
            yield from self._send_bulk(rows, asked)

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
                track.due_at_s = now_s + BUSY_S
        yield from self._take_events(track, reply.answer)
        yield from self._take_logs(track, reply.answer, asked)
        if track.promises_only(reply.answer):
            yield from self._give_up(track, REFUSALS["empty"])
        if track.lost_with_runner:
            # Nothing more will happen there, but what has happened can be read.
            yield from self._give_up(track, REFUSALS["runner-lost"], gone=False)
        elif track.stalled(reply.answer.facts.get("runner", ""), now_s):
            yield from self._give_up(track, REFUSALS["stalled"])

    def _take_events(self, track: Track, answer: Answer) -> Iterator[Happening]:
        if answer.events is None:
            return
        for status in track.log.feed(answer.events.offset, answer.events.data):
            yield TaskChanged(track.host, status)
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
        if self._reads_at_once(track):
            first = f"{track.host.tasks[0]}.1"
            track.cursors.setdefault(first, LogCursor(first))
        for record in answer.records:
            # The names of logs become names of files: only those that were asked for count.
            cursor = track.cursors.get(record.name)
            if cursor is None:
                continue
            raw += len(record.data) if isinstance(record, Chunk) else 0
            for item in cursor.receive(record, pieces.get(record.name)):
                yield self._log_event(track.host, item)
            status = track.by_key(record.name)
            ended = status is not None and status.state.ended
            cursor.final = ended or track.log.runner_lost
        for piece in asked:
            track.cursors[piece.name].asked -= 1
        if raw > LEAST_BYTES:
            track.ratio = max(1.0, 0.95 * raw / answer.packed_bytes)
        yield from self._tell_backlog()

    @staticmethod
    def _log_event(host: Host, item: Text | Gap) -> Happening:
        if isinstance(item, Text):
            return LogText(host, item.name, item.data)
        return LogGap(host, item.name, item.missing_bytes, item.why)

    def _tell_backlog(self) -> Iterator[Happening]:
        # The first bulk tells how well the logs compress and how long a round trip takes. A wait
        # is told of again each time that it has doubled, as logs grow while they are read.
        if not self._round_trip_s:
            return
        size, round_trips = backlog(self.tracks.values(), LANES)
        if (seconds := round_trips * self._round_trip_s) > 2 * self._told_s:
            self._told_s = seconds
            yield Backlog(size, seconds)

    # --- what goes wrong -----------------------------------------------------------------------

    def _failed(
        self, track: Track, reply: Reply, kind: str, asked: list[Piece]
    ) -> Iterator[Happening]:
        track.failures += 1
        for piece in asked:
            track.cursors[piece.name].put_back(piece)
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
        track.heard_at_s = min(track.heard_at_s, self._clock.now_s() - SILENCE_S)

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
            and now_s - track.heard_at_s > SILENCE_S
        ]
        for track in silent:
            if why := self._presence.ended_words(track, self.tracks):
                self._forget(track)
                yield from self._give_up(track, why)

    def _forget(self, track: Track) -> None:
        for flight, _, _ in self._flights:
            flight.waiting.discard(track.host.instance_id)
        self._flights = [each for each in self._flights if each[0].waiting]

"""Moving waiting tasks between the instances of a job, and giving failed or lost ones another turn.

What moves is derived from what the ledgers say: an attempt that one instance has given away and
none has adopted is brought to where it was given, by whichever client comes first.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.mirror import (
    MIRROR,
    Backup,
    Mirrors,
    Move,
    arbiter_of,
    backup_of,
    decode_hosts,
    encode_hosts,
    encode_moves,
)
from poormanray.jobs.track import Again, Contact, Track
from poormanray.jobs.trust import Holders, vouch
from poormanray.ledger import TaskState, TaskStatus, encode_keys
from poormanray.remote import Order
from poormanray.schedule import Load, moves
from poormanray.shell import Call

Key = tuple[int, int]
# An instance that will have nothing to do so soon gets tasks before that: two sends take a while.
HORIZON_S = 7.0
# No tasks are moved more often than this, beyond what has to be.
EVERY_S = 1.5
# Attempts that one order moves from or to an instance: a send has room for so many on fifty.
MOST_KEYS = 40
# The wait before a second attempt, which doubles with each further one, and the longest.
BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0
# A task's expected time counts as so many that were seen, until an instance has ended some.
PRIOR_TASKS = 3
# What an instance counts as, in slots, all of whose slots are held back.
HELD_SLOT = 0.1
# Who has owed an answer for so long, beyond the longest window, has no part in moves.
SILENT_S = 60.0
# Other clients have so long to put on record what only they have of a lost instance; and the
# longest wait for what this one has.
GRACE_S, LONGEST_GRACE_S = 20.0, 60.0
UNCLOSED = sys.maxsize
# A look comes so long before an instance has nothing to do.
AHEAD_S = 5.0


@dataclass(slots=True)
class Pace:
    """How long the tasks of an instance take."""

    seconds: float = 0.0
    count: int = 0

    def add(self, status: TaskStatus) -> None:
        """Take in an attempt that has ended."""
        if status.took_s is not None:
            self.seconds += status.took_s
            self.count += 1

    def mean_s(self, prior_s: float) -> float:
        """Return the expected time of a task, in seconds."""
        return (self.seconds + PRIOR_TASKS * prior_s) / (self.count + PRIOR_TASKS)


@dataclass(frozen=True, slots=True)
class Turns:
    """How often tasks may run: `retries` more times where they fail.

    `again` are attempts to begin with, and the instances that had the ones before; `revived` are
    instances whose runner died and whose queue goes on; `undecided` are attempts of lost instances
    that get another unless their end is on record. Each undoes a cancel. `left` are attempts that
    get no other, though their instance is lost. With `reassign`, what waits on a stopped
    instance runs elsewhere. Without `trust_backups`, what only a backup has as ended runs again.
    """

    retries: int = 0
    again: Mapping[Key, str] = field(default_factory=dict)
    revived: frozenset[str] = frozenset()
    left: frozenset[Key] = frozenset()
    undecided: frozenset[Key] = frozenset()
    reassign: bool = False
    trust_backups: bool = True


@dataclass(slots=True)
class Loss:
    """An instance that is lost: since when, and who has closed its records of it.

    `by` are the bytes of events that each of these had then, by instance id.
    """

    since_s: float
    by: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Mover:
    """Decides what moves."""

    job_id: str
    tracks: Mapping[str, Track]
    turns: Turns = Turns()
    all_tasks: Pace = field(default_factory=Pace)
    paces: dict[str, Pace] = field(default_factory=dict)
    # Attempts that wait for their back-off: until when, and where the one before them failed.
    waiting: dict[Key, tuple[float, str]] = field(default_factory=dict)
    # Attempts after those that lost instances had, and who is to adopt them.
    orphans: dict[Key, str] = field(default_factory=dict)
    # Lost instances by host index, and those of them whose tasks have been taken over.
    losses: dict[int, Loss] = field(default_factory=dict)
    decided: set[int] = field(default_factory=set)
    # What instances have on record, and whose records they have closed, by instance id.
    books: dict[str, Backup] = field(default_factory=dict)
    closed_by: dict[str, set[int]] = field(default_factory=dict)
    # When it was found that records of an instance are closed, by host index.
    foreign: dict[int, float] = field(default_factory=dict)
    # Moves, and which instance has each of them on record.
    records: dict[Move, str] = field(default_factory=dict)
    mirrors: Mirrors | None = None
    by_index: dict[int, Track] = field(default_factory=dict)
    homes: dict[str, set[int]] = field(default_factory=dict)
    revived: set[str] = field(default_factory=set)
    # Instances where the job was cancelled before it went on; a later cancel counts.
    undo: set[str] = field(default_factory=set)
    stopped: bool = False
    next_s: float = 0.0

    def __post_init__(self) -> None:
        """Begin with the turns that were asked for."""
        begins = bool(self.turns.again or self.turns.revived or self.turns.undecided)
        self.undo = {key for key, track in self.tracks.items() if begins and track.log.cancelled}
        self.waiting = {key: (0.0, where) for key, where in self.turns.again.items()}
        self.revived = set(self.turns.revived)

    def stop(self) -> None:
        """Move nothing any more: the job has been cancelled."""
        self.stopped = True

    def wait(self, until_s: float) -> None:
        """Move nothing before that time: an order has come to nothing."""
        self.next_s = max(self.next_s, until_s)

    # --- what happens --------------------------------------------------------------------------

    def note(self, track: Track, status: TaskStatus, now_s: float) -> Again | None:
        """Take in that an attempt has started or ended; say if it gets another turn."""
        if not status.state.ended:
            return None
        pace = self.paces.setdefault(track.host.instance_id, Pace())
        for each in (pace, self.all_tasks):
            each.add(status)
        failed = status.state not in (TaskState.SUCCEEDED, TaskState.CANCELLED)
        if not failed or status.attempt > self.turns.retries or self._superseded(status):
            return None
        key = (status.task, status.attempt + 1)
        wait_s = min(BACK_OFF_S * 2 ** (status.attempt - 1), LONGEST_BACK_OFF_S)
        self.waiting[key] = (now_s + wait_s, track.host.instance_id)
        return Again((key,), status.reason or f"exit code {status.exit_code}")

    def _superseded(self, status: TaskStatus) -> bool:
        """Say whether some instance has a later attempt already."""
        return any(
            (other := track.log.status(status.task)) and other.attempt > status.attempt
            for track in self.tracks.values()
        )

    def notice_lost(self, now_s: float) -> Iterator[Again]:
        """Give what lost instances had its next attempt, once all others have closed their records.

        From then on no client can add to what is on record of them, so that all decide alike.
        """
        lost = [track for track in self.tracks.values() if self._gone(track)]
        for track in lost:
            self.losses.setdefault(track.host.host_index, Loss(now_s))
        fresh = [one for one in lost if one.host.host_index not in self.decided]
        if self.stopped or not fresh or not self._all_closed(now_s):
            return
        self.decided.update(one.host.host_index for one in fresh)
        for track in fresh:
            self._forget_unrecorded(track)
        vouch(self.tracks.values(), self.books, trust_ends=self.turns.trust_backups)
        following = tuple(self._following(fresh))
        self.orphans.update({key: self.orphans.get(key, "") for key in following})
        if following:
            names = ", ".join(one.host.name for one in fresh)
            yield Again(following, f"{names} {'are' if len(fresh) > 1 else 'is'} lost")

    def answered(self, track: Track, answer: Answer) -> None:
        """Take in what an instance has on record of others, and whose records it has closed."""
        key = track.host.instance_id
        closed = decode_hosts(answer.facts.get("sealed", ""))
        self.closed_by[key] = closed
        for index in closed:
            self.foreign.setdefault(index, track.heard_at_s)
        book = self.books.setdefault(key, Backup())
        for record in answer.records:
            if isinstance(record, Chunk) and record.name == MIRROR:
                book.feed(record.offset, record.data, record.size)
        for move in book.moves & self.records.keys():
            if self._witness(move) is track:
                self.records[move] = key
        self._yield_to(track, book)
        if book.whole and "refused" not in answer.facts:
            told = answer.facts.get("events", "")
            size = int(told[:18]) if told.isdecimal() else track.log.offset
            for index in closed & self.losses.keys():
                self.losses[index].by[key] = size

    def _yield_to(self, track: Track, book: Backup) -> None:
        """Take over the choice of an adopter that another client has put on record before."""
        for (home, key), target in book.taken.items():
            there = self._at(target)
            if key in self.orphans and there is not None and self._arbiter(key) is track:
                self.orphans[key] = there.host.instance_id
                self.records[Move(home, key, target, lost=True)] = track.host.instance_id

    def _all_closed(self, now_s: float) -> bool:
        """Say whether every instance that is left has closed its records of all that are lost."""
        others = [track for track in self.tracks.values() if not self._gone(track)]
        fenced = self._fenced(now_s)
        return bool(others) and all(
            index in fenced
            and all(one.log.offset >= loss.by.get(one.host.instance_id, UNCLOSED) for one in others)
            for index, loss in self.losses.items()
            if index not in self.decided
        )

    def _forget_unrecorded(self, track: Track) -> None:
        """Drop the ends that no backup has taken: no other client can have them."""
        if self.mirrors is not None:
            refused = self.mirrors.give_up(track.host.instance_id)
            track.log.forget((one.task, one.attempt) for one in refused)

    def _following(self, lost: Sequence[Track]) -> Iterator[Key]:
        """Yield the attempts that follow those which went with lost instances, each once.

        All instances are asked for a task: another one may have, or have had, a later attempt.
        """
        claims: dict[int, list[tuple[int, bool]]] = {}
        for track in lost:
            had = {*track.log.open, *(task for task, _ in {*track.log.given, *track.assigned})}
            claims.update({task: [] for task in had if task not in claims})
            claims.update({key[0]: [] for key in self._on_way_to(track) if key[0] not in claims})
        for task, attempt, stays in self._claims(claims.keys()):
            claims[task].append((attempt, stays))
        for task in sorted(claims):
            newest = max((attempt for attempt, _ in claims[task]), default=0)
            stays = any(there for attempt, there in claims[task] if attempt == newest)
            if newest and not stays and (task, newest) not in self.turns.left:
                yield task, newest + 1

    def _claims(self, tasks: Set[int]) -> Iterator[tuple[int, int, bool]]:
        """Yield who has or had tasks: the attempt, and whether it stays or has ended there."""
        holders = Holders(self.tracks.values())
        for track in self.tracks.values():
            gone = self._gone(track)
            for key, index in track.log.given.items():
                target = self._at(index)
                if key[0] in tasks and holders.holds(track, key):
                    stays = not gone and target is not None and not self._gone(target)
                    # Whoever has had it speaks for itself.
                    yield *key, stays and target is not None and not target.log.knows(key)
            for task in track.tasks & tasks:
                # Nothing starts beside what one that is there claims, proved or not.
                status = holders.status(track, task) if gone else track.log.status(task)
                if status is None:
                    continue
                attempt, ended = status.attempt, status.state.ended
                key = (task, attempt)
                if gone and not ended and not holders.on_record(track, key):
                    # A turn that it had itself: nobody else can have seen it begin.
                    attempt -= 1
                yield task, attempt, not gone or ended

    def _on_way_to(self, track: Track) -> Iterator[Key]:
        """Yield what others have given to an instance, whether it has adopted that or not."""
        for other in self.tracks.values():
            for key, index in other.log.given.items():
                if index == track.host.host_index and not self._gone(other):
                    yield key

    # --- what is to be done --------------------------------------------------------------------

    def due_s(self, now_s: float) -> float | None:
        """Return when something is to be moved, if nothing else happens; None for nothing."""
        if not self._able():
            return None
        due = [at_s for at_s, at in self.waiting.values() if not self._rests(at)]
        if (
            self.revived
            or any(not self._rests(at) for at in self.orphans.values())
            or any(target.responds for _, _, target in self._unsettled())
        ):
            due.append(now_s)
        if self._may_close():
            due += [
                max(now_s, self.losses.get(track.host.host_index, Loss(now_s)).since_s + GRACE_S)
                for track in self.tracks.values()
                if self._gone(track) and self._is_undecided(track)
            ]
        return max(min(due), self.next_s) if due else None

    def _is_undecided(self, track: Track) -> bool:
        """Say whether a lost instance had tasks that nobody has taken over yet."""
        if track.host.host_index in self.decided:
            return False
        on_way = any(
            (target := self._at(index)) is None or not target.log.knows(key)
            for key, index in track.log.given.items()
        )
        had = track.log.open or track.assigned or next(self._on_way_to(track), None)
        refused = self.mirrors and self.mirrors.refused.get(track.host.instance_id)
        return on_way or bool(had or refused)

    def _may_close(self) -> bool:
        """Say whether all that are left can close their records, those that are silent in time."""
        others = [track for track in self.tracks.values() if not self._gone(track)]
        return bool(others) and not any(track.suspended for track in others)

    def order(self, now_s: float) -> Order | None:
        """Return what is to be moved now, in one order for all instances that it concerns."""
        if now_s < self.next_s or not self._able():
            return None
        adopts, gives = self._must_move(now_s)
        if not (adopts or gives) or self._leaves_any():
            gives = {**self._balanced(now_s), **gives}
        records = self._to_record(gives)
        fenced = self._fenced(now_s)
        rows = {}
        for key in {**adopts, **gives, **records, **dict.fromkeys(self._to_close(fenced))}:
            track = self.tracks[key]
            if self._silent(track, now_s) or not track.responds:
                continue
            words = [encode_moves(records.get(key, ()))]
            if self.mirrors is not None and (key in records or track.all_ended):
                words.append(self.mirrors.word_for(track, "queue"))
            paper = Paper(
                encode_hosts(fenced | self.closed_by.get(key, set())),
                ";".join(filter(None, words)),
                f"{MIRROR}:{self.books[key].offset if key in self.books else 0}",
            )
            rows[key] = queue_row(
                track, adopts.get(key), gives.get(key, {}), paper, undo_cancel=self._undoes(key)
            )
        if not rows:
            self.next_s = now_s + EVERY_S
            return None
        self.next_s = now_s + EVERY_S
        self.revived.clear()
        return Order(Call("queue", (self.job_id,), 0), rows, comment=f"pmr queue {self.job_id}")

    def window_s(self, track: Track, now_s: float, longest_s: int) -> int:
        """Return how long a look may wait, so that an instance is seen before it runs dry."""
        dry_s = self._load(track, now_s).dry_s
        return int(min(longest_s, max(1.0, dry_s - AHEAD_S)))

    def _must_move(
        self, now_s: float
    ) -> tuple[dict[str, list[Key]], dict[str, dict[int, list[Key]]]]:
        # An order with nothing to adopt starts a runner where something waits.
        adopts: dict[str, list[Key]] = {key: [] for key in self.revived}
        gives: dict[str, dict[int, list[Key]]] = {}
        self._assign_orphans()
        unsettled = self._settling()
        adopted = [
            (key, at)
            for key, at in self.orphans.items()
            if at and self.tracks[at].looked and not self._rests(at) and self._is_agreed(key, at)
        ]
        for key, where in [*unsettled, *adopted]:
            if len(adopts.setdefault(where, [])) < MOST_KEYS:
                adopts[where].append(key)
        self._begin_waiting(now_s, adopts, gives)
        return {k: keys for k, keys in adopts.items() if keys or k in self.revived}, gives

    def _settling(self) -> list[tuple[Key, str]]:
        """Return what has been given to instances that are to adopt it now: it is on record."""
        found = []
        for key, source, target in self._unsettled():
            move = Move(source.host.host_index, key, target.host.host_index)
            self.records.setdefault(move, "")
            # Records of the source are closed there: others count it as lost, and have decided.
            closed = self.closed_by.get(target.host.instance_id, set())
            late = source.host.host_index in closed and not self._is_back(source)
            if target.responds and self._on_record(move) and not late:
                found.append((key, target.host.instance_id))
        return found

    def _is_back(self, track: Track) -> bool:
        """Say whether an instance responded after others were found to count it as lost."""
        found_s = self.foreign.get(track.host.host_index)
        return found_s is not None and track.responds and track.heard_at_s > found_s

    def _begin_waiting(
        self,
        now_s: float,
        adopts: dict[str, list[Key]],
        gives: dict[str, dict[int, list[Key]]],
    ) -> None:
        """Queue attempts whose back-off is over where the ones before them were, and move them."""
        given: Counter[str] = Counter()
        holders = Holders(self.tracks.values()) if self.decided else None
        for key, (due_s, source) in list(self.waiting.items()):
            there = self.tracks[source]
            if there.log.knows(key):
                del self.waiting[key]
            elif self._gone(there) and there.host.host_index in self.decided:
                del self.waiting[key]
                before = there.log.tasks.get((key[0], key[1] - 1))
                # Without an end on record it was decided with all else that is lost.
                ended = before is not None and before.state.ended
                if holders and ended and not holders.has(key, but=there):
                    self.orphans[key] = ""
            elif not there.responds:
                continue
            elif due_s <= now_s and len(adopts.setdefault(source, [])) < MOST_KEYS:
                adopts[source].append(key)
                if target := self._freest(now_s, {source}, given):
                    given[target.host.instance_id] += 1
                    gives.setdefault(source, {}).setdefault(target.host.host_index, []).append(key)

    def _assign_orphans(self) -> None:
        """Choose who adopts what a lost instance had; forget what has been adopted."""
        for key, chosen in list(self.orphans.items()):
            if chosen and self.tracks[chosen].log.knows(key):
                self.tracks[chosen].assigned.add(key)
                del self.orphans[key]
            elif not chosen or self._gone(self.tracks[chosen]):
                self.orphans[key] = self._adopter(key)

    def _adopter(self, key: Key) -> str:
        """Return who is to have an attempt, "" for nobody yet: not who holds the record of that.

        Clients that choose others yield to the record. A spot notice does not count: from there
        an attempt moves on.
        """

        def draw(instance_id: str) -> bytes:
            return hashlib.sha256(f"{self.job_id} {key} {instance_id}".encode()).digest()

        able = [at for at, track in self.tracks.items() if track.looked and self._takes(track)]
        arbiter = self._arbiter(key)
        others = [at for at in able if arbiter is None or at != arbiter.host.instance_id]
        alone = sum(not self._gone(track) for track in self.tracks.values()) == 1
        return max(others or (able if alone else []), key=draw, default="")

    def _at(self, host_index: int) -> Track | None:
        """Return the instance with a host index."""
        if len(self.by_index) != len(self.tracks):
            self.by_index = {one.host.host_index: one for one in self.tracks.values()}
        return self.by_index.get(host_index)

    def _home(self, task: int) -> Track | None:
        """Return where the manifest has a task."""
        if len(self.homes) != len(self.tracks):
            self.homes = {at: {*track.host.tasks} for at, track in self.tracks.items()}
        return next((self.tracks[at] for at, tasks in self.homes.items() if task in tasks), None)

    def _arbiter(self, key: Key) -> Track | None:
        """Return who has on record who adopts what a lost instance had; the first word counts.

        It is the one that holds the backup of the task's place in the manifest, for all clients.
        """
        home = self._home(key[0])
        return home and arbiter_of(home, self.tracks.values())

    def _witness(self, move: Move) -> Track | None:
        """Return who is to have a move on record."""
        if move.lost:
            return self._arbiter(move.key)
        source = self._at(move.source)
        return source and backup_of(source, self.tracks.values(), but=move.target)

    def _is_agreed(self, key: Key, adopter: str) -> bool:
        """Say whether it is on record who adopts what a lost instance had."""
        home, arbiter = self._home(key[0]), self._arbiter(key)
        if home is None or arbiter is None:
            return False
        move = Move(home.host.host_index, key, self.tracks[adopter].host.host_index, lost=True)
        return self.records.get(move) == arbiter.host.instance_id

    def _on_record(self, move: Move) -> bool:
        """Say whether another instance has a move on record, that its target may start."""
        there = self.records.get(move, "")
        return bool(there) and not self.tracks[there].gone

    def _to_record(self, gives: Mapping[str, Mapping[int, list[Key]]]) -> dict[str, list[Move]]:
        """Return what is to be put on record with an order, by who records it."""
        for at, some in gives.items():
            source = self.tracks[at].host.host_index
            for target, keys in some.items():
                self.records.update(dict.fromkeys((Move(source, k, target) for k in keys), ""))
        for key, at in self.orphans.items():
            if (home := self._home(key[0])) and at:
                target = self.tracks[at].host.host_index
                self.records.setdefault(Move(home.host.host_index, key, target, lost=True), "")
        found: dict[str, list[Move]] = {}
        for move, there in list(self.records.items()):
            giver = self._at(move.source)
            if not move.lost and (giver is None or giver.gone):
                # Its records are closed.
                del self.records[move]
            elif not there or self.tracks[there].gone:
                self._add_record(found, move)
        return found

    def _add_record(self, found: dict[str, list[Move]], move: Move) -> None:
        witness = self._witness(move)
        if witness is not None and witness.responds and witness.looked:
            some = found.setdefault(witness.host.instance_id, [])
            if len(some) < MOST_KEYS:
                some.append(move)

    def _fenced(self, now_s: float) -> set[int]:
        """Return the lost instances whose records may be closed: other clients had time to add."""
        found = set()
        for index, loss in self.losses.items():
            track = self._at(index)
            late = now_s >= loss.since_s + LONGEST_GRACE_S
            waits = self.mirrors and track and self.mirrors.unsaid(track.host.instance_id)
            if now_s >= loss.since_s + GRACE_S and (late or not waits):
                found.add(index)
        return found

    def _to_close(self, fenced: set[int]) -> Iterator[str]:
        """Yield who has not closed its records of all lost instances yet."""
        for key, track in self.tracks.items():
            if track.responds and track.looked:
                losses = (self.losses[one] for one in fenced if one not in self.decided)
                if any(key not in loss.by for loss in losses):
                    yield key

    def _unsettled(self) -> Iterator[tuple[Key, Track, Track]]:
        """Yield what was given to an instance that has not adopted it yet."""
        by_index = {track.host.host_index: track for track in self.tracks.values()}
        for source in self.tracks.values():
            for key, index in source.log.given.items() if not self._gone(source) else ():
                target = by_index.get(index)
                if target is not None and not target.log.knows(key) and not self._replaced(key):
                    yield key, source, target

    def _replaced(self, key: Key) -> bool:
        """Say whether an attempt that nobody has had a later one."""
        task, attempt = key
        following = (task, attempt + 1)
        return following in self.turns.again or any(
            track.log.knows(following) for track in self.tracks.values()
        )

    def _balanced(self, now_s: float) -> dict[str, dict[int, list[Key]]]:
        tracks = [
            one
            for one in self.tracks.values()
            if one.responds and one.looked and not self._silent(one, now_s)
        ]
        gives: dict[str, dict[int, list[Key]]] = {}
        taken: dict[str, int] = {}
        for move in moves([self._load(one, now_s) for one in tracks], HORIZON_S):
            source, target = tracks[move.source], tracks[move.target]
            room = MOST_KEYS - taken.get(source.host.instance_id, 0)
            keys = _last_waiting(source, target, min(move.count, room), gives)
            if keys:
                there = gives.setdefault(source.host.instance_id, {})
                there[target.host.host_index] = keys
                taken[source.host.instance_id] = MOST_KEYS - room + len(keys)
        return gives

    # --- what is known of the instances --------------------------------------------------------

    def _gone(self, track: Track) -> bool:
        """Say whether what an instance had runs elsewhere: it is lost, or somebody wants so."""
        if track.suspended:
            return self.turns.reassign
        return track.contact in (Contact.LOST, Contact.REFUSED)

    def _rests(self, instance_id: str) -> bool:
        """Say whether an instance is stopped or silent, and what it has stays there."""
        track = self.tracks.get(instance_id)
        return track is not None and not track.responds and not self._gone(track)

    def _leaves_any(self) -> bool:
        """Say whether an instance that EC2 takes back has tasks: those cannot wait any longer."""
        return any(one.log.interrupted and one.log.open for one in self._working())

    def _silent(self, track: Track, now_s: float) -> bool:
        """Say whether an instance owes an answer for long: an order with it would hold up all."""
        return track.looking and now_s - track.heard_at_s > SILENT_S

    def _able(self) -> bool:
        return not self.stopped and bool(self._working())

    def _working(self) -> list[Track]:
        return [one for one in self.tracks.values() if one.looked and self._takes(one)]

    def _takes(self, track: Track) -> bool:
        """Say whether an instance takes tasks; a cancel may have reached only some of them."""
        cancelled = track.log.cancelled and not self._undoes(track.host.instance_id)
        return not track.problem and not cancelled

    def _undoes(self, instance_id: str) -> bool:
        """Say whether an order undoes the cancel of an instance: once, as it then tells."""
        if instance_id in self.undo and not self.tracks[instance_id].log.cancelled:
            self.undo.discard(instance_id)
        return instance_id in self.undo

    def _freest(self, now_s: float, but: set[str], given: Mapping[str, int]) -> Track | None:
        """Return who would begin a task soonest, with what is `given` to it at the same time."""
        others = [
            one
            for one in self._working()
            if one.host.instance_id not in but and not self._silent(one, now_s)
        ]
        loads = [(self._load(one, now_s), one) for one in others]
        able = [pair for pair in loads if pair[0].rate]
        if not able:
            return None

        def begins_s(load: Load, track: Track) -> float:
            more = given.get(track.host.instance_id, 0)
            return (load.waiting + load.running + more) / load.rate

        return min(able, key=lambda pair: begins_s(*pair))[1]

    def _load(self, track: Track, now_s: float) -> Load:
        running = sum(
            (status := track.log.tasks.get(key)) is not None and status.state is TaskState.RUNNING
            for key in track.log.open.items()
        )
        waiting = len(track.log.open) - running
        slots = track.log.slots or 1
        if not self._takes(track) or track.log.interrupted:
            return Load(waiting, running, 0.0)
        prior_s = self.all_tasks.mean_s(1.0)
        mean_s = self.paces.get(track.host.instance_id, Pace()).mean_s(prior_s)
        # What is held back may go on at any moment: it is slow, and not out of the race.
        rate = max(slots - len(track.log.held), HELD_SLOT) / max(mean_s, 0.02)
        # What was seen is old by now: it has gone on.
        gone_on = int((now_s - track.heard_at_s) * rate)
        return Load(max(0, waiting - gone_on), min(slots, running or slots), rate)


def _last_waiting(
    source: Track, target: Track, count: int, gives: Mapping[str, Mapping[int, list[Key]]]
) -> list[Key]:
    """Return what would wait longest at the source and has not been at the target.

    It is in the order of the queue: what was asked for first starts first, wherever it is.
    """
    leaving = {key for keys in gives.get(source.host.instance_id, {}).values() for key in keys}
    found: list[Key] = []
    for key in reversed(source.log.open.items()):
        if len(found) >= count:
            break
        if key not in source.log.tasks and key not in leaving and key not in target.log.given:
            found.append(key)
    return found[::-1]


@dataclass(frozen=True, slots=True)
class Paper:
    """What an order says of records: `lost` are the host indices whose records are closed.

    An instance that has closed those of others does nothing (`*`: that does not matter).
    `records` is what it records, `reads` what it returns.
    """

    lost: str = "*"
    records: str = ""
    reads: str = ""


def queue_row(
    track: Track,
    adopts: list[Key] | None,
    gives: Mapping[int, list[Key]],
    paper: Paper = Paper(),
    *,
    undo_cancel: bool = False,
) -> str:
    """Return an instance's row of a `queue` order: what it adopts, and gives to which hosts.

    Nothing to adopt (an empty list) lets it go on with what waits there; None leaves it as it is.
    """
    words = ",".join(
        f"{index}:{encode_keys(keys).replace(',', '/')}" for index, keys in gives.items()
    )
    brought = "-" if adopts is None else encode_keys(adopts) or "+"
    undone = " resume" if undo_cancel else ""
    rest = f"{paper.lost or '-'} {paper.records or '-'} {paper.reads or '-'}{undone}"
    return f"{track.log.offset} {brought} {words or '-'} {rest}"

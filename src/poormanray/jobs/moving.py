"""Moving waiting tasks between the instances of a job, and giving failed or lost ones another turn.

What moves is derived from what the ledgers say: an attempt that one instance has given away and
none has adopted is brought to where it was given, by whichever client comes first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from poormanray.jobs.track import Again, Contact, Track
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
    instances whose runner died and whose queue goes on. Both undo a cancel. `left` are attempts
    that get no other, though their instance is lost. With `reassign`, what waits on a stopped
    instance runs elsewhere.
    """

    retries: int = 0
    again: Mapping[Key, str] = field(default_factory=dict)
    revived: frozenset[str] = frozenset()
    left: frozenset[Key] = frozenset()
    reassign: bool = False


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
    # Attempts after those that a lost instance had, and who was asked to adopt them.
    orphans: dict[Key, str] = field(default_factory=dict)
    # Attempts that were lost with an instance and have a next one.
    replaced: set[Key] = field(default_factory=set)
    revived: set[str] = field(default_factory=set)
    # Instances where the job was cancelled before it went on; a later cancel counts.
    undo: set[str] = field(default_factory=set)
    stopped: bool = False
    next_s: float = 0.0

    def __post_init__(self) -> None:
        """Begin with the turns that were asked for."""
        begins = bool(self.turns.again or self.turns.revived)
        self.undo = {key for key, track in self.tracks.items() if begins and track.log.cancelled}
        self.waiting = {key: (0.0, where) for key, where in self.turns.again.items()}
        self.revived = set(self.turns.revived)
        self.replaced = set(self.turns.left)

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

    def notice_lost(self) -> Iterator[Again]:
        """Take over what instances had that have left EC2."""
        for key, track in self.tracks.items():
            if not self._gone(track):
                continue
            had = [*track.log.open.items(), *(k for k, at in self._unsettled() if at is track)]
            had += [k for k, at in self.orphans.items() if at == key]
            lost = [one for one in dict.fromkeys(had) if one not in self.replaced]
            self.replaced.update(lost)
            for one in lost:
                self.orphans.pop(one, None)
            following = tuple((task, attempt + 1) for task, attempt in lost)
            self.orphans.update(dict.fromkeys(following, ""))
            if following:
                yield Again(following, f"{track.host.name} is lost")

    # --- what is to be done --------------------------------------------------------------------

    def due_s(self, now_s: float) -> float | None:
        """Return when something is to be moved, if nothing else happens; None for nothing."""
        if not self._able():
            return None
        due = [at_s for at_s, at in self.waiting.values() if not self._rests(at)]
        if (
            self.revived
            or any(not self._rests(at) for at in self.orphans.values())
            or any(target.responds for _, target in self._unsettled())
        ):
            due.append(now_s)
        return max(min(due), self.next_s) if due else None

    def order(self, now_s: float) -> Order | None:
        """Return what is to be moved now, in one order for all instances that it concerns."""
        if now_s < self.next_s or not self._able():
            return None
        adopts, gives = self._must_move(now_s)
        if not (adopts or gives) or self._leaves_any():
            gives = {**self._balanced(now_s), **gives}
        rows = {
            key: queue_row(self.tracks[key], adopts.get(key), gives.get(key, {}), self._undoes(key))
            for key in {**adopts, **gives}
            if not self._silent(self.tracks[key], now_s)
        }
        if not rows:
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
        unsettled = [(k, at.host.instance_id) for k, at in self._unsettled() if at.responds]
        adopted = [
            (key, at)
            for key, at in self.orphans.items()
            if self.tracks[at].looked and not self._rests(at)
        ]
        for key, where in [*unsettled, *adopted]:
            if len(adopts.setdefault(where, [])) < MOST_KEYS:
                adopts[where].append(key)
        given: Counter[str] = Counter()
        for key, (due_s, source) in list(self.waiting.items()):
            there = self.tracks[source]
            if there.log.knows(key):
                del self.waiting[key]
            elif self._gone(there):
                del self.waiting[key]
                self.orphans[key] = ""
            elif not there.responds:
                continue
            elif due_s <= now_s and len(adopts.setdefault(source, [])) < MOST_KEYS:
                adopts[source].append(key)
                if target := self._freest(now_s, {source}, given):
                    given[target.host.instance_id] += 1
                    gives.setdefault(source, {}).setdefault(target.host.host_index, []).append(key)
        return {k: keys for k, keys in adopts.items() if keys or k in self.revived}, gives

    def _assign_orphans(self) -> None:
        """Choose who adopts what a lost instance had; forget what has been adopted."""
        for key, chosen in list(self.orphans.items()):
            if chosen and self.tracks[chosen].log.knows(key):
                del self.orphans[key]
            elif not chosen or self._gone(self.tracks[chosen]):
                self.orphans[key] = self._adopter(key)

    def _adopter(self, key: Key) -> str:
        """Return who is to have an attempt, by what every client knows: so all choose the same.

        One that was cut off may have sent its order just before. A spot notice does not count:
        not all have heard of it, and from there an attempt moves on.
        """

        def draw(instance_id: str) -> bytes:
            return hashlib.sha256(f"{self.job_id} {key} {instance_id}".encode()).digest()

        return max((at for at, track in self.tracks.items() if self._takes(track)), key=draw)

    def _unsettled(self) -> Iterator[tuple[Key, Track]]:
        """Yield what was given to an instance that has not adopted it yet."""
        by_index = {track.host.host_index: track for track in self.tracks.values()}
        for source in self.tracks.values():
            for key, index in source.log.given.items():
                target = by_index.get(index)
                if target is not None and not target.log.knows(key) and not self._replaced(key):
                    yield key, target

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


def queue_row(
    track: Track,
    adopts: list[Key] | None,
    gives: Mapping[int, list[Key]],
    undo_cancel: bool = False,  # noqa: FBT001, FBT002 (a word of the row)
) -> str:
    """Return an instance's row of a `queue` order: what it adopts, and gives to which hosts.

    Nothing to adopt (an empty list) lets it go on with what waits there; None leaves it as it is.
    """
    words = ",".join(
        f"{index}:{encode_keys(keys).replace(',', '/')}" for index, keys in gives.items()
    )
    brought = "-" if adopts is None else encode_keys(adopts) or "+"
    undone = " resume" if undo_cancel else ""
    return f"{track.log.offset} {brought} {words or '-'}{undone}"

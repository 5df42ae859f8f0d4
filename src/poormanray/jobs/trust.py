"""Whose word counts for which attempt of a task. Pure.

Root of an instance is trusted for the tasks that the instance ran, for nothing else. An instance
holds an attempt

- that the manifest gives it, or that follows one which it held itself (a retry in its place);
- that another instance which held it has given to it, by that instance's own ledger;
- that a third instance has on record as assigned to it, where the one that held it has departed.

What an instance says of other attempts is no end of a task. How attempts of an instance that has
departed ended is the word of its backup: the next one in the order of the manifest that is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from poormanray.jobs.mirror import Backup, Move, backup_of
from poormanray.jobs.track import Contact, Track
from poormanray.ledger import TaskState, TaskStatus

Key = tuple[int, int]


def vouch(
    tracks: Collection[Track], books: Mapping[str, Backup], *, trust_ends: bool = True
) -> None:
    """Let tracks have what others have on record of them.

    For instances that have departed, it counts how their attempts ended (with `trust_ends`), by the
    backup that was chosen for each, and where their attempts went, by any but whoever got them.
    """
    by_index = {track.host.host_index: track for track in tracks}
    for track in tracks:
        holder = backup_of(track, tracks) if track.gone else None
        if holder and trust_ends and holder.host.instance_id in books:
            track.log.learn(books[holder.host.instance_id].ends.get(track.host.host_index, ()))
    for instance_id, book in books.items():
        for move in book.moves:
            source, target = by_index.get(move.source), by_index.get(move.target)
            if source is None or target is None or not (move.lost or source.gone):
                continue
            # Of two that agree at most one lies: any third instance will do.
            third = instance_id != target.host.instance_id
            if third or _speaks_for_itself(target, move, tracks):
                target.assigned.add(move.key)


def _speaks_for_itself(target: Track, move: Move, tracks: Collection[Track]) -> bool:
    """Say whether the only record of a move may be its target's: no other instance could hold it.

    That is so where all others have departed; or in a job of two instances, where the other one was
    stopped for a while, if that one has not ended the attempt before.
    """
    others = [track for track in tracks if track is not target]
    if len(others) == 1 and move.lost:
        before = others[0].log.tasks.get((move.key[0], move.key[1] - 1))
        return before is None or not before.state.ended or before.state is TaskState.LOST
    return all(track.gone for track in others)


def unproved(tracks: Collection[Track]) -> bool:
    """Say whether some instance claims an attempt that the ledgers alone do not give it."""
    holders = Holders(tracks)
    return any(not holders.holds(track, key) for track in tracks for key in track.log.adopted)


class Holders:
    """Says which attempts instances hold on more than their own word."""

    def __init__(self, tracks: Iterable[Track]) -> None:
        self._tracks = list(tracks)
        self._spread = {id(track): frozenset(track.host.tasks) for track in self._tracks}
        self._givers: dict[tuple[int, Key], list[Track]] = {}
        for track in self._tracks:
            for key, index in track.log.given.items():
                self._givers.setdefault((index, key), []).append(track)
        self._seen: dict[tuple[int, Key], bool] = {}

    def holds(self, track: Track, key: Key) -> bool:
        """Say whether an instance holds an attempt, or held it until it gave it away."""
        task, attempt = key
        if attempt == 1 and task in self._spread[id(track)]:
            return True
        place = (id(track), key)
        if place not in self._seen:
            # Two that give an attempt to each other prove nothing.
            self._seen[place] = False
            self._seen[place] = self._proved(track, key)
        return self._seen[place]

    def _proved(self, track: Track, key: Key) -> bool:
        task, attempt = key
        if key in track.assigned:
            return True
        before = (task, attempt - 1)
        if attempt > 1 and before not in track.log.given and self._had(track, before):
            return True
        givers = self._givers.get((track.host.host_index, key), ())
        return any(giver is not track and self.holds(giver, key) for giver in givers)

    def _had(self, track: Track, key: Key) -> bool:
        known = key in track.log.tasks or track.log.open.get(key[0]) is not None
        return (known or key in track.log.adopted) and self.holds(track, key)

    def status(self, track: Track, task: int) -> TaskStatus | None:
        """Return the newest attempt of a task that an instance holds; None where it has none."""
        newest = track.log.status(task)
        if newest is None or self.holds(track, (newest.task, newest.attempt)):
            return newest
        held = [
            status
            for key, status in track.log.tasks.items()
            if key[0] == task and self.holds(track, key)
        ]
        if held:
            return max(held, key=lambda status: status.attempt)
        if task in self._spread[id(track)] and (task, 1) not in track.log.given:
            return TaskStatus(task, 1, TaskState.PENDING)
        return None

    def on_record(self, track: Track, key: Key) -> bool:
        """Say whether an attempt is an instance's by the word of another, or by the manifest."""
        return (
            (key[1] == 1 and key[0] in self._spread[id(track)])
            or key in track.assigned
            or any(not one.gone for one in self._givers.get((track.host.host_index, key), ()))
        )

    def has(self, key: Key, *, but: Track) -> bool:
        """Say whether another instance that is there claims an attempt, or a later one.

        Proved or not: nothing is to start beside it.
        """
        task, attempt = key
        for track in self._tracks:
            if track is but or track.contact in (Contact.LOST, Contact.REFUSED):
                continue
            status = track.log.status(task)
            if status and status.attempt >= attempt:
                return True
        return False

"""Which tasks of a job run again, and what is needed for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from poormanray.jobs.moving import Turns
from poormanray.jobs.outcome import Outcome
from poormanray.jobs.track import Contact, Track
from poormanray.ledger import TaskState

FAILED = frozenset({TaskState.FAILED, TaskState.TIMEOUT})
LOST = frozenset({TaskState.LOST})
# All that ended without success.
UNSUCCESSFUL = FAILED | LOST | {TaskState.CANCELLED}


def chosen(
    found: Iterable[Outcome], states: Collection[TaskState], tasks: Collection[int] = ()
) -> list[Outcome]:
    """Return the tasks that run again: those in such a state, of the given ones if there are any.

    A task that waits or runs has its turn already.
    """
    return [one for one in found if one.state in states and (not tasks or one.task in tasks)]


def turns(
    again: Iterable[Outcome],
    tracks: Collection[Track],
    found: Iterable[Outcome],
    *,
    retries: int = 0,
    reassign: bool = False,
) -> Turns:
    """Return the turns that give each outcome's task its next attempt, and none to the others.

    `found` are the outcomes of all tasks. Attempts that were open on a lost instance get no next
    one here: another client may have read their ends, so the mover decides once all instances have
    closed their records of the lost one. With `reassign`, tasks that wait on stopped instances
    according to `found` run elsewhere.
    """
    again, found = list(again), list(found)
    by_id = {track.host.instance_id: track for track in tracks}
    following: dict[tuple[int, int], str] = {}
    undecided = set()
    for one in again:
        if (track := by_id.get(one.host.instance_id)) is None:
            continue
        if _is_open(one, track):
            undecided.add((one.task, one.status.attempt))
        else:
            following[one.task, one.status.attempt + 1] = one.host.instance_id
    waits = {(one.task, one.status.attempt) for one in found if reassign and not one.state.ended}
    lost = {one.task for one in found if one.state in LOST} - {one.task for one in again}
    gone = [
        key
        for track in tracks
        if track.gone
        for key in track.log.open.items()
        if not (track.suspended and key in waits)
    ]
    return Turns(
        retries,
        following,
        frozenset(
            track.host.instance_id
            for track in tracks
            if (track.log.runner_lost or track.contact is Contact.ENDED)
            and track.log.open
            and not track.gone
        ),
        frozenset(key for key in gone if key[0] in lost),
        frozenset(undecided),
        reassign,
    )


def _is_open(outcome: Outcome, track: Track) -> bool:
    """Say whether a task is LOST only because its instance is, without an end on record."""
    status = track.log.tasks.get((outcome.task, outcome.status.attempt))
    ended = status is not None and status.state.ended
    return track.contact in (Contact.LOST, Contact.REFUSED) and not ended


def revived(tracks: Iterable[Track]) -> list[Track]:
    """Return tracks to follow on from, for those that can be asked: their runners start again."""
    fresh = []
    for track in tracks:
        if not track.gone:
            if not track.silent:
                track.reopen()
            track.log.runner_lost = False
        track.looking = False
        fresh.append(track)
    return fresh


@dataclass(frozen=True, slots=True)
class Changes:
    """How a program differs from the one that a job has: tasks, by their names."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return bool(self.changed or self.added or self.removed)

    def words(self) -> str:
        """Return what differs, of many names only the first."""
        parts = (("changed", self.changed), ("new", self.added), ("gone", self.removed))
        return "; ".join(
            f"{what}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" * (len(names) > 3))  # noqa: PLR2004 (a few names)
            for what, names in parts
            if names
        )


def changes(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> Changes:
    """Compare the keys of tasks by the tasks' names; several tasks may have one name."""
    return Changes(
        tuple(name for name in after if name in before and [*before[name]] != [*after[name]]),
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
    )

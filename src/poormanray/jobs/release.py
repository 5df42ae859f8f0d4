"""Letting instances go on with their queues after a reboot. Pure.

While one was down, what waited there may have been given to others: they know it as a later
attempt. So it is taken from its queue before its runner starts again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from poormanray.jobs.moving import Key, queue_row
from poormanray.jobs.track import Track
from poormanray.jobs.trust import Holders
from poormanray.ledger import TaskStatus
from poormanray.remote import Order
from poormanray.shell import Call

# Attempts that one order takes from an instance: a send has room for so many on fifty.
MOST_KEYS = 40


def holds_back(tracks: Iterable[Track]) -> bool:
    """Say whether some instance waits for whoever watches to let it go on."""
    return any(track.waits and not track.problem for track in tracks)


def release_order(job_id: str, tracks: Collection[Track]) -> Order | None:
    """Return the order that lets instances go on, or first takes from them what others have.

    None while some instance that can tell has not told yet what it has.
    """
    # One that does not respond may have taken over what waits elsewhere.
    if any(track.silent or not (track.looked or track.problem) for track in tracks):
        return None
    rows: dict[str, str] = {}
    for track in tracks:
        if not track.waits or track.problem:
            continue
        taken = _taken_over(track, tracks)
        gives: dict[int, list[Key]] = {}
        for key, host_index in taken[:MOST_KEYS]:
            gives.setdefault(host_index, []).append(key)
        adopts: list[Key] | None = None if len(taken) > MOST_KEYS else []
        rows[track.host.instance_id] = queue_row(track, adopts, gives)
    if not rows:
        return None
    return Order(Call("queue", (job_id,), 0), rows, comment=f"pmr queue {job_id}")


def _taken_over(track: Track, tracks: Iterable[Track]) -> list[tuple[Key, int]]:
    """Return the waiting attempts that others have, or a later one of them, and who does."""
    found: dict[Key, int] = {}
    holders = Holders(tracks)
    for other in tracks:
        if other is track:
            continue
        for key in track.log.open.items():
            task, attempt = key
            status = holders.status(other, task)
            # Of two that wait alike, neither gives way to the other.
            if status and (status.attempt > attempt or (key == _key(status) and not other.waits)):
                found[key] = other.host.host_index
    return [(key, index) for key, index in found.items() if key not in track.log.tasks]


def _key(status: TaskStatus) -> Key:
    return status.task, status.attempt

"""What is known of a job's instances that cannot be asked: from what the others remember."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import Known, read_files
from poormanray.jobs.mirror import MIRROR, Backup
from poormanray.jobs.presence import Fate
from poormanray.jobs.track import Contact, Track
from poormanray.jobs.trust import unproved, vouch
from poormanray.manifest import Host
from poormanray.model import instance_name


def recall(
    fleet: Fleet, known: Known, tracks: Sequence[Track], *, trust_backups: bool = True
) -> None:
    """Let tracks have what other instances have on record of them, where that is needed.

    Without `trust_backups`, how attempts of departed instances ended is not taken from there.
    """
    if not (any(track.gone for track in tracks) or unproved(tracks)):
        return
    prove(fleet, known.summary.job_id, sorted(known.holders), tracks, trust_ends=trust_backups)


def prove(
    fleet: Fleet,
    job_id: str,
    instance_ids: Sequence[str],
    tracks: Collection[Track],
    *,
    trust_ends: bool = True,
) -> None:
    """Read what instances have on record of others, and let tracks have it."""
    books = {}
    for key, data in read_files(fleet, job_id, MIRROR, instance_ids).items():
        books[key] = Backup()
        books[key].feed(0, data, len(data))
    vouch(tracks, books, trust_ends=trust_ends)


def absent(
    fleet: Fleet, known: Known, tracks: Iterable[Track], *, trust_backups: bool = True
) -> list[Track]:
    """Return tracks for instances that were given tasks and have no ledger to tell of them.

    They joined the job after it was submitted, and have gone since; others may remember them.
    """
    tracks = list(tracks)
    there = {track.host.host_index for track in tracks}
    given = {index for track in tracks for index in track.log.given.values()} - there
    resting = {one.host_index: one.instance_id for one, _ in fleet.left_out}
    found = []
    for index in sorted(given):
        instance_id = resting.get(index, f"host-{index}")
        host = Host(index, instance_id, instance_name(fleet.cluster, index), ())
        # No instance of the cluster, ended or not, has this number.
        fate = Fate(Contact.LOST, "it is gone (terminated)")
        if index in resting:
            fate = fleet.fates([instance_id])[instance_id]
        found.append(Track(host, problem=fate.why, contact=fate.contact))
    if found or unproved(tracks):
        recall(fleet, known, tracks + found, trust_backups=trust_backups)
    return found

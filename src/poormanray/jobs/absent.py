"""What is known of a job's instances that cannot be asked: from what the others remember."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from poormanray.jobs import mirror
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import MIRROR, Known, read_files
from poormanray.jobs.presence import Fate
from poormanray.jobs.track import Contact, Track
from poormanray.manifest import Host
from poormanray.model import instance_name


def recall(fleet: Fleet, known: Known, tracks: Sequence[Track]) -> None:
    """Let tracks of instances that are gone know what others were told to remember of them."""
    if not any(track.gone for track in tracks):
        return
    job_id = known.summary.job_id
    for data in read_files(fleet, job_id, MIRROR, sorted(known.holders)).values():
        mirror.learn(tracks, mirror.decode(data))


def absent(fleet: Fleet, known: Known, tracks: Iterable[Track]) -> list[Track]:
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
    recall(fleet, known, found)
    return found

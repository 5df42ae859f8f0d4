"""Letting instances take part in a map that came to the cluster after it was submitted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from poormanray import cluster
from poormanray.errors import NotFound, Outage
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import CONTENT, ENV, MANIFEST, META, Known, read_files
from poormanray.jobs.submit import Parcel, pack_sections, upload
from poormanray.manifest import Host, Job, encode_sections, with_hosts
from poormanray.model import InstanceState, Selection
from poormanray.remote import Order

Sections = list[tuple[str, bytes]]


@dataclass(slots=True)
class Joiner:
    """Finds newcomers, and has the order that starts a job on them.

    `sections` are asked for when there are newcomers: they are all that a job is, and may have
    to be read from an instance. Nobody joins a job with a limit of tasks at once over the cluster.
    """

    fleet: Fleet
    job: Job
    sections: Callable[[], Sections | None]
    deliver_timeout_s: int
    parcel: Parcel | None = None
    whole: Sections | None = None
    hosts: list[Host] = field(default_factory=list)

    def __call__(self, there: Collection[str]) -> Sequence[Host]:
        """Return instances that are ready and not `there`; their content has been sent."""
        if any(host.slot_cap for host in self.job.hosts):
            return ()
        found = self._ready(there)
        if not found:
            return ()
        self.whole = self.whole or self.sections()
        if self.whole is None:
            return ()
        self.hosts += found
        sections = [
            (name, with_hosts(data, self.hosts) if name == "manifest" else data)
            for name, data in self.whole
        ]
        self.parcel = pack_sections(replace(self.job, hosts=tuple(found)), sections)
        problems = upload(
            self.fleet,
            self.parcel,
            on_part=lambda _done, _count: None,
            deliver_timeout_s=self.deliver_timeout_s,
        )
        return [host for host in found if host.instance_id not in problems]

    def _ready(self, there: Collection[str]) -> list[Host]:
        try:
            running = cluster.find(
                self.fleet.aws, Selection(self.job.cluster), states=[InstanceState.RUNNING]
            )
            others = [one for one in running if one.instance_id not in there]
            ready = cluster.reachable(self.fleet.aws, others).ready if others else ()
        except (NotFound, Outage):
            return []  # it is asked again
        return [Host(one.host_index, one.instance_id, one.name, ()) for one in ready]

    def order(self) -> Order:
        """Return the order that starts the job on newcomers; the follower fills in the rest."""
        if self.parcel is None:
            raise ValueError("nobody has joined")
        return self.parcel.order(self.deliver_timeout_s)


def of_job(fleet: Fleet, job: Job, deliver_timeout_s: int) -> Joiner:
    """Return a joiner for a job that is at hand."""
    return Joiner(fleet, job, lambda: encode_sections(job), deliver_timeout_s)


def of_ledger(fleet: Fleet, known: Known, deliver_timeout_s: int) -> Joiner:
    """Return a joiner for a job that only its instances have."""
    summary = known.summary
    job = Job(
        summary.job_id,
        summary.kind,
        summary.cluster,
        "",
        known.manifest.hosts,
        tasks=(),
        scripts=(),
    )
    return Joiner(fleet, job, lambda: _sections_of(fleet, known), deliver_timeout_s)


def _sections_of(fleet: Fleet, known: Known) -> Sections | None:
    """Read all that a job is from one of its instances; None where none tells."""
    files = (("meta", META), ("manifest", MANIFEST), ("env", ENV), ("content", CONTENT))
    for key in sorted(known.holders):
        sections: Sections = []
        for name, file in files:
            found = read_files(fleet, known.summary.job_id, file, [key])
            sections += [(name, data) for data in found.values()]
        if len(sections) == len(files):
            return sections
    return None

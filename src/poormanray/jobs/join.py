"""Letting instances take part in a map that came to the cluster after it was submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from poormanray import cluster
from poormanray.errors import JobConflict, NotFound, NotReached, Outage
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import (
    CONTENT,
    ENV,
    MANIFEST,
    META,
    Known,
    check_majority,
    read_files,
)
from poormanray.jobs.submit import Parcel, pack_sections, upload
from poormanray.jobs.track import Track
from poormanray.manifest import (
    Host,
    Job,
    encode_sections,
    first_manifest,
    manifest_digest,
    section_digest,
    with_hosts,
)
from poormanray.model import InstanceState, Selection
from poormanray.remote import Order

Sections = list[tuple[str, bytes]]


# How often the cluster is looked at for instances that have come since.
LOOK_EVERY_S = 15.0
# An instance that the content did not reach is sent to again after a pause, which doubles.
BACK_OFF_S, LONGEST_BACK_OFF_S = 60.0, 900.0


def _in_a_thread(work: Callable[[], None]) -> None:
    # A daemon: whoever has nothing more to wait for does not wait for this.
    threading.Thread(target=work, name="joiner", daemon=True).start()


@dataclass(slots=True)
class Joiner:
    """Finds newcomers and sends them a job's content, beside the one who asks for them.

    `sections` are asked for when there are newcomers: they are all that a job is, and may have
    to be read from an instance. Nobody joins a job with a limit of tasks at once over the cluster.
    Each wave of newcomers has content of its own, as the manifest names who came before.
    """

    fleet: Fleet
    job: Job
    sections: Callable[[], Sections | None]
    deliver_timeout_s: int
    beside: Callable[[Callable[[], None]], None] = _in_a_thread
    whole: Sections | None = None
    # By instance id: the hosts that the content has reached, and what it was.
    hosts: dict[str, Host] = field(default_factory=dict)
    parcels: dict[str, Parcel] = field(default_factory=dict)
    # By instance id: how often the content did not reach it, and when it is sent again.
    failures: dict[str, tuple[int, float]] = field(default_factory=dict)
    arrived: list[Host] = field(default_factory=list)
    problem: Exception | None = None
    busy: bool = False
    look_s: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, there: Collection[str]) -> Sequence[Host]:
        """Return instances that are not `there` and that the content has reached; at once.

        Raises:
            PmrError: the content could not be read or sent for a reason that does not pass.
        """
        if any(host.slot_cap for host in self.job.hosts):
            return ()
        now_s = self.fleet.aws.clock.now_s()
        with self.lock:
            if self.problem is not None:
                raise self.problem
            arrived, self.arrived = self.arrived, []
            if self.look_s is None:
                self.look_s = now_s + LOOK_EVERY_S
            due = not self.busy and now_s >= self.look_s
            if due:
                self.busy, self.look_s = True, now_s + LOOK_EVERY_S
        if due:
            known = {*there, *(host.instance_id for host in arrived)}
            self.beside(partial(self._serve, known))
        return arrived

    def _serve(self, known: Collection[str]) -> None:
        """Look for newcomers, and send them the content."""
        arrived: list[Host] = []
        try:
            if found := self._due(self._ready(known)):
                arrived = self._send(found)
        except Exception as error:  # noqa: BLE001 (raised in the thread of whoever asks)
            self.problem = error
        finally:
            with self.lock:
                self.arrived += arrived
                self.busy = False

    def _due(self, found: Sequence[Host]) -> list[Host]:
        now_s = self.fleet.aws.clock.now_s()
        return [one for one in found if self.failures.get(one.instance_id, (0, 0.0))[1] <= now_s]

    def _send(self, found: Sequence[Host]) -> list[Host]:
        """Send the content to newcomers; return those that have got it."""
        self.whole = self.whole or self.sections()
        if self.whole is None:
            return []
        everyone = [*self.hosts.values(), *found]
        sections = [
            (name, with_hosts(data, everyone) if name == "manifest" else data)
            for name, data in self.whole
        ]
        parcel = pack_sections(replace(self.job, hosts=tuple(found)), sections)
        problems = upload(
            self.fleet,
            parcel,
            on_part=lambda _done, _count: None,
            deliver_timeout_s=self.deliver_timeout_s,
        )
        now_s = self.fleet.aws.clock.now_s()
        for host in found:
            key = host.instance_id
            if key in problems:
                count = self.failures.get(key, (0, 0.0))[0] + 1
                wait_s = min(BACK_OFF_S * 2 ** (count - 1), LONGEST_BACK_OFF_S)
                self.failures[key] = (count, now_s + wait_s)
            else:
                self.failures.pop(key, None)
                self.hosts[key], self.parcels[key] = host, parcel
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
        return [Host(one.host_index, one.instance_id, one.name, (), joined=True) for one in ready]

    def waves(self, tracks: Iterable[Track]) -> list[list[Track]]:
        """Return newcomers by the content that was sent to them: each wave has an order."""
        by_parcel: dict[int, list[Track]] = {}
        for track in tracks:
            by_parcel.setdefault(id(self.parcels[track.host.instance_id]), []).append(track)
        return list(by_parcel.values())

    def order(self, instance_id: str) -> Order:
        """Return the order that starts the job on a newcomer and those of the same wave."""
        return self.parcels[instance_id].order(self.deliver_timeout_s)


def of_job(fleet: Fleet, job: Job, deliver_timeout_s: int) -> Joiner:
    """Return a joiner for a job that is at hand."""
    return Joiner(fleet, job, lambda: encode_sections(job), deliver_timeout_s)


def of_ledger(
    fleet: Fleet, known: Known, deliver_timeout_s: int, on_mismatch: Callable[[str, str], None]
) -> Joiner | None:
    """Return a joiner for a job that only its instances have; None where no majority has it.

    `on_mismatch` is called, in the joiner's thread, with the id of an instance whose copy is not
    what the manifest says, and with why; another is read then.
    """
    try:
        check_majority(fleet, known)
    except JobConflict:
        return None
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
    return Joiner(fleet, job, lambda: _sections_of(fleet, known, on_mismatch), deliver_timeout_s)


def _sections_of(
    fleet: Fleet, known: Known, on_mismatch: Callable[[str, str], None]
) -> Sections | None:
    """Read all that a job is from one of its instances; None where none returns it.

    Raises:
        NotReached: no copy is the one that the job was submitted with.
    """
    files = (("meta", META), ("manifest", MANIFEST), ("env", ENV), ("content", CONTENT))
    wrong: list[str] = []
    for key in sorted(known.holders):
        sections: Sections = []
        for name, file in files:
            found = read_files(fleet, known.summary.job_id, file, [key])
            sections += [(name, data) for data in found.values()]
        if len(sections) < len(files):
            continue
        if name := mismatch(known, sections):
            wrong.append(key)
            on_mismatch(key, f"its {name} is not the one that the job was submitted with")
            continue
        return [(n, first_manifest(data) if n == "manifest" else data) for n, data in sections]
    if wrong:
        raise NotReached(
            f"no instance has the content that job {known.summary.job_id} was submitted with: it "
            f"differs on {', '.join(wrong)}",
            "submit the job again, as a job of its own",
        )
    return None


def mismatch(known: Known, sections: Sections) -> str:
    """Return the name of a section that differs from its digest, "" where none does."""
    digests = {**known.manifest.digests, "manifest": known.digest}
    for name, data in sections:
        digest = manifest_digest(data) if name == "manifest" else section_digest(name, data)
        if digests.get(name) != digest:
            return name
    return ""

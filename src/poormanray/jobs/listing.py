"""Which jobs there are, and what a job's ledger says of it: asked of the instances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from poormanray.envelope import Answer, Chunk
from poormanray.errors import NotFound, NotReached
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.logs import LogCursor, Text
from poormanray.ledger import is_job_id
from poormanray.manifest import JobSummary, Manifest, decode_manifest, decode_meta
from poormanray.remote import EVERYONE, Order
from poormanray.shell import LARGE_ANSWER_CHARS, SMALL_ANSWER_CHARS, Call

MOST_JOBS = 100
META, MANIFEST = "@meta", "@manifest"


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as the instances that answered know it: its summary, and their counts added up."""

    summary: JobSummary
    counts: Mapping[str, int]
    hosts_seen: int
    running: bool

    @property
    def state(self) -> str:
        """Return one word for where the job stands."""
        if self.running:
            return "RUNNING"
        counts = self.counts
        if counts["succeeded"] + counts["failed"] < counts["queued"]:
            return "STALLED"
        if self.hosts_seen < self.summary.host_count:
            return "PARTLY KNOWN"
        return "FAILED" if counts["failed"] else "SUCCEEDED"


@dataclass(slots=True)
class _Sum:
    summary: JobSummary
    counts: dict[str, int] = field(default_factory=dict)
    runners: list[str] = field(default_factory=list)


def list_jobs(fleet: Fleet, *, most: int = MOST_JOBS) -> tuple[list[Listed], dict[str, str]]:
    """Return the jobs of a cluster, newest first, and why some instances did not answer."""
    found: dict[str, _Sum] = {}
    problems: dict[str, str] = {}
    order = Order(Call("jobs", (str(most),), 0), {}, large=False, comment="pmr jobs")
    for reply in fleet.remote.ask(order, fleet.ready_ids):
        if reply.answer is None:
            problems[reply.instance_id] = reply.problem
            continue
        for job_id, data in reply.answer.jobs:
            summary = decode_meta(data)
            entry = found.setdefault(job_id, _Sum(summary))
            entry.runners.append(summary.runner)
            for key, count in summary.counts.items():
                entry.counts[key] = entry.counts.get(key, 0) + count
    listed = [
        Listed(
            summary=entry.summary,
            counts=entry.counts,
            hosts_seen=len(entry.runners),
            running=any(runner in ("running", "new") for runner in entry.runners),
        )
        for _, entry in sorted(found.items(), reverse=True)
    ]
    return listed, problems


def resolve(fleet: Fleet, reference: str) -> str:
    """Return the id of the job that a reference means: an id, `last`, or a job's name.

    Raises:
        NotFound: there is no such job.
    """
    if is_job_id(reference):
        return reference
    listed, _ = list_jobs(fleet)
    for job in listed:
        if reference in ("last", job.summary.name):
            return job.summary.job_id
    what = "no job" if reference == "last" else f"no job named {reference}"
    raise NotFound(
        f"cluster {fleet.cluster} has {what}", f"pmr jobs -n {fleet.cluster} lists its jobs"
    )


@dataclass(frozen=True, slots=True)
class Known:
    """A job's summary and manifest, and who of its instances has its ledger."""

    summary: JobSummary
    manifest: Manifest
    holders: frozenset[str]
    problems: Mapping[str, str]


def load(fleet: Fleet, job_id: str) -> Known:
    """Read what a job is from the ledgers of the instances that can answer.

    Raises:
        NotFound: none of them knows the job.
        NotReached: none of them answered.
    """
    row = f"- 0 0 {SMALL_ANSWER_CHARS} {META}:0,{MANIFEST}:0"
    order = Order(Call("observe", (job_id,), 0), {EVERYONE: row}, comment=f"pmr status {job_id}")
    answers: dict[str, Answer] = {}
    problems: dict[str, str] = {}
    for reply in fleet.remote.ask(order, fleet.ready_ids):
        if reply.answer is None:
            problems[reply.instance_id] = reply.problem
        elif "refused" not in reply.answer.facts:
            answers[reply.instance_id] = reply.answer
    if not answers:
        if problems:
            instance_id, why = next(iter(problems.items()))
            raise NotReached(
                f"no instance told of job {job_id}: {instance_id}: {why}",
                f"pmr list -n {fleet.cluster} shows their states; then try again",
            )
        raise NotFound(
            f"cluster {fleet.cluster} has no job {job_id}",
            f"pmr jobs -n {fleet.cluster} lists its jobs",
        )
    instance_id, answer = next(iter(answers.items()))
    summary = decode_meta(_whole(fleet, job_id, instance_id, answer, META))
    try:
        manifest = decode_manifest(_whole(fleet, job_id, instance_id, answer, MANIFEST))
    except ValueError as error:
        raise NotReached(
            f"{instance_id} holds a damaged manifest of job {job_id}: {error}",
            f"pmr jobs -n {fleet.cluster} lists the cluster's jobs",
        ) from error
    return Known(summary, manifest, frozenset(answers), problems)


def _whole(fleet: Fleet, job_id: str, instance_id: str, answer: Answer, name: str) -> bytes:
    """Return a whole ledger file: what the first answer has, and the rest in large ones."""
    cursor = LogCursor(name)
    data = bytearray()
    asked = False
    while True:
        before = len(data)
        for record in answer.records:
            if isinstance(record, Chunk) and record.name == name:
                cursor.todo.clear()
                items = cursor.receive(record)
                data += b"".join(item.data for item in items if isinstance(item, Text))
        if cursor.size and cursor.delivered >= cursor.size:
            return bytes(data)
        if asked and len(data) == before:
            raise NotReached(f"{instance_id} tells no more of job {job_id}", "try again")
        asked = True
        row = f"- 0 0 {LARGE_ANSWER_CHARS} {name}:{cursor.delivered}"
        order = Order(Call("observe", (job_id,), 0), {instance_id: row}, large=True)
        (reply,) = fleet.remote.ask(order, [instance_id])
        if reply.answer is None:
            raise NotReached(
                f"{instance_id} stopped telling of job {job_id}: {reply.problem}", "try again"
            )
        answer = reply.answer

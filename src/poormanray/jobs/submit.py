"""Submitting a job: its plan, its bundle, and the order that starts it."""

from __future__ import annotations

import getpass
import gzip
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from poormanray.errors import JobConflict, NotFound, NotReached, UsageProblem
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import job_conflict, load, meant
from poormanray.manifest import (
    SHORT_DIGITS,
    HelperFile,
    Host,
    Identity,
    Job,
    Rules,
    Task,
    chosen_word,
    content_digest,
    encode_sections,
    identity_of,
    read_identity,
)
from poormanray.model import Instance
from poormanray.remote import CHUNK, EVERYONE, POLLS_PER_S, Order, Reply
from poormanray.schedule import slot_caps, spread
from poormanray.shell import SEND_LIMIT_CHARS, SMALL_ANSWER_CHARS, Bundle, Call, render

# Bytes of a part that one send carries beside the shell library, base64-encoded.
PART_BYTES = 33_000
PARTS_TOGETHER = 4
MOST_TRIES = 3
# Of a job's instances that an error names, and of a digest.
MOST_NAMED, SHOWN_DIGITS = 4, 8
# What a job may come to, compressed, without a bucket: more than this is hours of sends.
MOST_BUNDLE_BYTES = 64 << 20
# From a send to the poll that finds its last answer. What is told while parts are sent is measured;
# what is told before that is this, and more where polls have to share their pace.
ROUND_TRIP_S = 3.0
# How fast an instance fetches at worst, for the time that it gets; and how long it may take to
# find that there is no way to the bucket (curl's timeouts in shell/verbs.sh), to say so itself.
SLOWEST_BYTES_PER_S = 1 << 20
WAY_S = 60


@dataclass(frozen=True, slots=True)
class Work:
    """What a user wants done: scripts, tasks that run them, and how.

    Without tasks, each instance runs the one script (`run`); else the tasks are spread (`map`).
    """

    kind: str
    scripts: tuple[bytes, ...]
    tasks: tuple[Task, ...] = ()
    name: str = ""
    slots: str = "1"
    at_once: int = 0
    timeout_s: float = 0.0
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    helper_files: tuple[HelperFile, ...] = ()
    compat: str = ""
    rules: Rules = field(default_factory=Rules)


def submitter() -> str:
    """Return who submits: the user's name and the machine's."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def plan(
    work: Work,
    instances: Sequence[Instance],
    *,
    cluster: str,
    region: str,
    job_id: str,
    chosen: Sequence[str] = (),
) -> Job:
    """Decide who runs what; `chosen` are the ids of the instances that the user named, if any."""
    tasks = work.tasks or tuple(
        Task(number, instance.name, 0) for number, instance in enumerate(instances)
    )
    count = min(len(instances), len(tasks), work.at_once or len(tasks)) or 1
    shares = spread([task.number for task in tasks], count)
    caps = slot_caps(work.at_once, count)
    hosts = tuple(
        Host(instance.host_index, instance.instance_id, instance.name, tuple(share), cap)
        for instance, share, cap in zip(instances, shares, caps, strict=False)
    )
    return Job(
        job_id=job_id,
        kind=work.kind,
        cluster=cluster,
        region=region,
        hosts=hosts,
        tasks=tasks,
        scripts=work.scripts,
        name=work.name,
        submitter=submitter(),
        slots=work.slots,
        timeout_s=work.timeout_s,
        user=work.user,
        env=work.env,
        helper_files=work.helper_files,
        compat=work.compat,
        rules=work.rules,
        chosen=tuple(sorted(chosen)),
    )


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job made ready to send: inline in the start, or as parts that go before it.

    `by_bucket`: it is to be fetched from a bucket instead. What is too large to travel without
    one has no parts.
    """

    job: Job
    data: bytes
    start: Bundle
    identity: Identity
    parts: tuple[Bundle, ...] = ()
    by_bucket: bool = False

    def order(self, deliver_timeout_s: int, source: str = "") -> Order:
        """Return the order that starts the job; the follower fills in rows and window.

        `source` is where an instance fetches the content that did not come in parts.
        """
        words = (self.job.job_id, *self.identity.words)
        call = Call("start", words, 0, bundle=replace(self.start, source=source))
        return Order(
            call,
            {},
            comment=f"pmr {self.job.kind} {self.job.job_id}",
            deliver_timeout_s=deliver_timeout_s,
            work_s=WAY_S + len(self.data) // SLOWEST_BYTES_PER_S if source else 0,
        )


def pack(job: Job, *, bucket: bool = False) -> Parcel:
    """Compress a job; what one send cannot carry goes through a bucket, or in parts.

    Raises:
        UsageProblem: it is too large to travel without a bucket.
    """
    return pack_sections(job, encode_sections(job), bucket=bucket)


def pack_sections(
    job: Job, sections: Sequence[tuple[str, bytes]], *, bucket: bool = False
) -> Parcel:
    """Compress the sections of a job, as `pack` does.

    Raises:
        UsageProblem: they are too large to travel without a bucket.
    """
    data = gzip.compress(b"".join(part for _, part in sections), 9, mtime=0)
    sizes = tuple((name, len(part)) for name, part in sections)
    digest = hashlib.sha256(data).hexdigest()
    inline = Bundle(data, digest, sizes)
    identity = identity_of(sections)
    if len(data) <= PART_BYTES:
        rows = {f"i-{number:017x}": "0 00 0 0000 0000.1:0" for number in range(50)}
        call = Call("start", (job.job_id, *identity.words), 0, rows, inline)
        if len(render(call)) <= SEND_LIMIT_CHARS:
            return Parcel(job, data, inline, identity)
    start = Bundle(b"", digest, sizes, -(-len(data) // PART_BYTES))
    if len(data) <= MOST_BUNDLE_BYTES:
        slices = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
        parts = tuple(Bundle(part, hashlib.sha256(part).hexdigest()) for part in slices)
        return Parcel(job, data, start, identity, parts, bucket)
    if not bucket:
        raise UsageProblem(
            f"the job is {len(data) >> 20} MB compressed; at most {MOST_BUNDLE_BYTES >> 20} MB "
            "can travel through SSM",
            "name a bucket for it with --bucket, or put large inputs where the instances can "
            "read them, and map over their names",
        )
    return Parcel(job, data, start, identity, by_bucket=True)


def sending_s(parts: int, instances: int, round_trip_s: float = ROUND_TRIP_S) -> float:
    """Return how many seconds it takes to send so many parts to so many instances."""
    flights = min(parts, PARTS_TOGETHER) * -(-instances // CHUNK)
    return -(-parts // PARTS_TOGETHER) * max(round_trip_s, flights / POLLS_PER_S)


def upload(
    fleet: Fleet,
    parcel: Parcel,
    *,
    on_part: Callable[[int, int], None],
    deliver_timeout_s: int,
    only: Sequence[str] | None = None,
) -> dict[str, str]:
    """Send the parts of a large job to its instances; return why some did not get them all.

    `on_part` is told how many of how many parts are there; `only` are ids, where not all of the
    job's instances are to get them. Sending a part again is harmless.
    """
    ids = [host.instance_id for host in parcel.job.hosts] if only is None else list(only)
    problems: dict[str, str] = {}
    missing = {number: set(ids) for number in range(len(parcel.parts))}
    for _ in range(MOST_TRIES):
        for number, reply in _put(fleet, parcel, missing, problems, deliver_timeout_s):
            if reply.answer is not None and "stored" in reply.answer.facts:
                missing[number].discard(reply.instance_id)
                if not missing[number] - problems.keys():
                    done = sum(not left - problems.keys() for left in missing.values())
                    on_part(done, len(missing))
            elif not reply.delivered or reply.silent:
                problems.setdefault(reply.instance_id, reply.problem)
        missing = {number: left - problems.keys() for number, left in missing.items()}
    for left in missing.values():
        for key in left:
            problems.setdefault(key, "the job's parts did not arrive")
    return problems


def _put(
    fleet: Fleet,
    parcel: Parcel,
    missing: Mapping[int, set[str]],
    problems: Mapping[str, str],
    deliver_timeout_s: int,
) -> Iterator[tuple[int, Reply]]:
    """Send each part to those that miss it, and yield the replies with the part's number.

    Nothing goes to an instance any more once it has a problem.
    """
    numbers: list[int] = []

    def orders() -> Iterator[tuple[Order, list[str]]]:
        for number, left in missing.items():
            words = (parcel.job.job_id, str(number), parcel.start.digest[:SHORT_DIGITS])
            call = Call("put", words, 0, bundle=parcel.parts[number])
            comment = f"pmr put {parcel.job.job_id} {number}"
            if ids := sorted(left - problems.keys()):
                numbers.append(number)
                yield Order(call, {}, comment=comment, deliver_timeout_s=deliver_timeout_s), ids

    for at, reply in fleet.remote.ask_all(orders(), together=PARTS_TOGETHER):
        yield numbers[at], reply


def resumed(fleet: Fleet, job: Job, deliver_timeout_s: int) -> Job:
    """Return a job as its ledgers have it, if there are any: who runs what was decided then.

    `fleet` is the whole cluster: the job may have been submitted to others of its instances.

    Raises:
        JobConflict: its id stands for another job, or for this one on other instances.
        NotReached: some instances did not answer, and the others do not have the job.
    """
    try:
        known = load(fleet, job.job_id, deliver_timeout_s=deliver_timeout_s)
    except NotFound:
        return job
    summary, digest = known.summary, content_digest(job)
    if known.others:
        held = dict.fromkeys(known.holders, known.digest)
        raise job_conflict(fleet.cluster, job.job_id, {**held, **known.others})
    tasks = job.tasks
    if job.kind == "run":
        # One script, for as many tasks as it had instances then.
        names = known.manifest.task_names
        tasks = tuple(Task(number, names[number], 0) for number in sorted(names))
    before = replace(
        job,
        hosts=known.manifest.hosts,
        tasks=tasks,
        created_at=summary.created_at,
        submitter=summary.submitter,
    )
    if summary.digest != digest:
        raise _conflict(before, "other content or options", summary.digest, digest)
    chosen = chosen_word(job.chosen)
    if summary.chosen != chosen:
        raise _conflict(before, "other instances", summary.chosen, chosen)
    manifest = identity_of(encode_sections(before)).manifest
    if known.digest not in ("", manifest):
        raise _conflict(before, "other content or options", known.digest, manifest)
    return before


def _conflict(before: Job, what: str, there: str, sent: str) -> JobConflict:
    names = [host.name for host in before.hosts[:MOST_NAMED]]
    more = f" and {len(before.hosts) - MOST_NAMED} more" * (len(before.hosts) > MOST_NAMED)
    return JobConflict(
        f"job {before.job_id} was submitted before with {what}, to {', '.join(names)}{more} "
        f"(digest {there[:SHOWN_DIGITS]}, this one has {sent[:SHOWN_DIGITS]}); nothing was started",
        f"leave out --job-id to submit this as a job of its own; "
        f"pmr status {before.job_id} -n {before.cluster} shows the other",
    )


def held_elsewhere(fleet: Fleet, job: Job, identity: Identity) -> dict[str, str]:
    """Ask the cluster's other instances for the job's id; return who has another job under it.

    The values are the digests of their manifests. Whoever does not answer is left out.
    """
    own = {host.instance_id for host in job.hosts}
    order = Order(
        Call("which", (meant(job.job_id), job.cluster), 0),
        {EVERYONE: f"- 0 0 {SMALL_ANSWER_CHARS}"},
        comment=f"pmr which {job.job_id}",
    )
    found = {}
    for reply in fleet.remote.ask(order, [key for key in fleet.ready_ids if key not in own]):
        facts = reply.answer.facts if reply.answer else {}
        if facts.get("job") == job.job_id:
            found[reply.instance_id] = read_identity(facts.get("identity", "")).manifest
    return {key: digest for key, digest in found.items() if digest != identity.manifest}


def without(job: Job, problems: Mapping[str, str]) -> Job:
    """Return the job for the instances that have no problem, its tasks spread again.

    Raises:
        NotReached: none is left.
    """
    hosts = [host for host in job.hosts if host.instance_id not in problems]
    if not hosts:
        why = next(iter(problems.values()))
        raise NotReached(f"the job reached no instance: {why}", f"pmr list -n {job.cluster}")
    shares = spread([task.number for task in job.tasks], len(hosts))
    return replace(
        job,
        hosts=tuple(
            replace(host, tasks=tuple(tasks)) for host, tasks in zip(hosts, shares, strict=True)
        ),
    )

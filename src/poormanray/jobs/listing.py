"""Which jobs there are, and what a job's ledger says of it: asked of the instances."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from poormanray.envelope import Answer, Chunk
from poormanray.errors import JobConflict, NotFound, NotReached, UsageProblem
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.logs import LogCursor, Text
from poormanray.ledger import is_job_id, job_time_s
from poormanray.manifest import (
    Host,
    JobSummary,
    Manifest,
    decode_manifest,
    decode_meta,
    first_manifest,
    manifest_digest,
    read_identity,
    section_digest,
    sound_summary,
)
from poormanray.model import Instance
from poormanray.remote import CHUNK, DELIVER_TIMEOUT_S, EVERYONE, Order, unable
from poormanray.shell import LARGE_ANSWER_CHARS, SMALL_ANSWER_CHARS, Call

MOST_JOBS = 100
MOST_TRIES = 3
META, MANIFEST = "@meta", "@manifest"
ENV, CONTENT = "@env", "@content"
# What a job's manifest may come to; as much as all of its content (see submit.py).
MOST_FILE_BYTES = 64 << 20
# A large answer that does not end a file brings at least this much of it.
LEAST_PROGRESS_BYTES = 1024
DAMAGED = "its answer is damaged"
_WHAT_IT_IS = f"{META}:0,{MANIFEST}:0"
# What a job is, or as much of that as fits.
_WHOLE_ROW = f"- 0 0 {SMALL_ANSWER_CHARS} {_WHAT_IT_IS}"


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
        succeeded, failed, queued = (
            self.counts.get(key, 0) for key in ("succeeded", "failed", "queued")
        )
        if succeeded + failed < queued:
            return "STALLED"
        if self.hosts_seen < self.summary.host_count or queued < self.summary.task_count:
            return "PARTLY KNOWN"
        return "FAILED" if failed else "SUCCEEDED"


@dataclass(slots=True)
class _Sum:
    counts: dict[str, int] = field(default_factory=dict)
    runners: list[str] = field(default_factory=list)
    summaries: Counter[JobSummary] = field(default_factory=Counter)

    @property
    def summary(self) -> JobSummary:
        """Return what most instances say that the job is."""
        return self.summaries.most_common(1)[0][0]

    def add(self, told: JobSummary) -> None:
        self.runners.append(told.runner)
        self.summaries[told.plain] += 1
        for key, count in told.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count


def list_jobs(fleet: Fleet, *, most: int = MOST_JOBS) -> tuple[list[Listed], dict[str, str]]:
    """Return the jobs of a cluster, newest first, and why some instances did not answer."""
    found: dict[str, _Sum] = {}
    problems: dict[str, str] = {}
    order = Order(Call("jobs", (str(most),), 0), {}, large=False, comment="pmr jobs")
    for reply in fleet.remote.ask(order, fleet.ready_ids):
        if reply.answer is None:
            problems[reply.instance_id] = reply.problem
            continue
        try:
            summaries = [sound_summary(job_id, data) for job_id, data in reply.answer.jobs]
        except ValueError as error:
            problems[reply.instance_id] = f"{DAMAGED}: {error}"
            continue
        for key, words in reply.answer.facts.items():
            if why := key.startswith("foreign.") and unable(f"format {key[8:]} {words}"):
                problems[reply.instance_id] = why
        for summary in summaries:
            if summary.cluster == fleet.cluster:
                found.setdefault(summary.job_id, _Sum()).add(summary)
    listed = [
        Listed(
            summary=entry.summary,
            counts=entry.counts,
            hosts_seen=len(entry.runners),
            running=any(runner in ("running", "new", "unsettled") for runner in entry.runners),
        )
        for _, entry in sorted(found.items(), reverse=True)
    ]
    return listed, problems


def resolve(fleet: Fleet, reference: str) -> str:
    """Return the id of the job that a reference means: an id, `last`, or a job's name.

    Raises:
        NotFound: there is no such job.
        NotReached: no instance answered.
    """
    job_id = id_in(reference)
    try:
        return find(fleet, reference).summary.job_id
    except (NotFound, NotReached):
        if not job_id:
            raise
        return job_id


def id_in(reference: str) -> str:
    """Return the id that a reference is, by itself or as `id:ID`; "" for any other."""
    word = reference.removeprefix("id:")
    return word if is_job_id(word) else ""


def name_in(reference: str) -> str:
    """Return the name that a reference is if it is no id, by itself or as `name:NAME`."""
    return reference.removeprefix("name:")


def _or_named(
    fleet: Fleet, reference: str, missing: NotFound, look: Callable[[Fleet, str], Known]
) -> Known:
    """Return the job whose name looks like an id, where there is none of that id.

    Raises:
        NotFound: there is none.
    """
    if is_job_id(reference):
        with suppress(NotFound, NotReached):
            return look(fleet, f"name:{reference}")
    raise missing


def find(fleet: Fleet, reference: str) -> Known:
    """Read what the job is that a reference means (an id, `last`, or a job's name).

    A name that looks like an id is found where no job has that id; `name:NAME` is always a name,
    and `id:ID` always an id.

    Raises:
        NotFound: there is no such job.
        NotReached: no instance answered.
    """
    if job_id := id_in(reference):
        try:
            return load(fleet, job_id)
        except NotFound as missing:
            return _or_named(fleet, reference, missing, find)
    return _meant(fleet, reference, *_which(fleet, reference))


def find_with_events(fleet: Fleet, reference: str) -> Known:
    """Read what a job is, as `find` does, and what has happened to its tasks, in one round trip.

    What does not fit an answer is left to whoever follows the job.

    Raises:
        NotFound: there is no such job.
        NotReached: no instance answered.
    """
    # A large answer costs a call for each instance, but not another round trip.
    budget = LARGE_ANSWER_CHARS if len(fleet.ready_ids) <= CHUNK else SMALL_ANSWER_CHARS
    # One says what the job is, too: that does not fit a small answer.
    rows = dict.fromkeys(fleet.ready_ids[:1], f"0 0 0 {LARGE_ANSWER_CHARS} {_WHAT_IT_IS}")
    order = Order(
        Call("ends", (meant(reference), fleet.cluster), 0),
        {EVERYONE: f"0 0 0 {budget}", **rows},
        comment=f"pmr status {id_in(reference)}".rstrip(),
        prompt=True,
    )
    try:
        found, problems = _which(fleet, reference, order)
    except NotFound as missing:
        return _or_named(fleet, reference, missing, find_with_events)
    known = _meant(fleet, reference, found, problems, rows)
    answers = found[known.summary.job_id]
    told = {key: answer for key, answer in answers.items() if key in known.holders}
    return replace(known, told=told)


def _meant(
    fleet: Fleet,
    reference: str,
    found: Mapping[str, dict[str, Answer]],
    problems: dict[str, str],
    tellers: Collection[str] = (),
) -> Known:
    """Return the newest job that is meant; which name it has is what most of its instances say.

    Raises:
        NotFound: there is none.
        NotReached: no instance returned a sound description of it.
    """
    by_id = bool(id_in(reference))
    for job_id in sorted(found, reverse=True):
        answers = found[job_id]
        if by_id or len(answers) == len(fleet.ready):
            try:
                known = _first_sound(fleet, job_id, answers, dict(problems), tellers)
            except (NotFound, NotReached):
                if not tellers:
                    raise
                known = load(fleet, job_id)
        else:
            # Those that hold it under another name, or have a newer one, have not described it.
            known = load(fleet, job_id)
            damaged = {k: why for k, why in problems.items() if why.startswith(DAMAGED)}
            holders = known.holders - damaged.keys()
            known = replace(known, holders=holders, problems={**known.problems, **damaged})
        if by_id or reference == "last" or known.summary.name == name_in(reference):
            return known
    raise _no_job(fleet, reference)


def _which(
    fleet: Fleet, reference: str, order: Order | None = None
) -> tuple[dict[str, dict[str, Answer]], dict[str, str]]:
    """Return the jobs that may be meant: who described each, and why some described none.

    With an `order`, what the job is need not be in every answer.
    """
    whole = order is None
    order = order or Order(
        Call("which", (meant(reference), fleet.cluster), 0),
        {EVERYONE: _WHOLE_ROW},
        comment="pmr jobs",
    )
    answers, problems = _ask_for_job(fleet, order)
    found: dict[str, dict[str, Answer]] = {}
    for instance_id, answer in answers.items():
        try:
            job_id = _told_job(answer, reference, fleet.cluster, whole=whole)
        except ValueError as error:
            problems[instance_id] = f"{DAMAGED}: {error}"
            continue
        if job_id:
            found.setdefault(job_id, {})[instance_id] = answer
    if found:
        return found, problems
    if problems and (id_in(reference) or len(problems) == len(fleet.ready_ids)):
        raise _nobody_tells(fleet, f"which job {reference!r} is", problems)
    raise _no_job(fleet, reference)


def _no_job(fleet: Fleet, reference: str) -> NotFound:
    what = "no job" if reference == "last" else f"no job named {name_in(reference)}"
    if job_id := id_in(reference):
        what = f"no job {job_id}"
    return NotFound(
        f"cluster {fleet.cluster} has {what}", f"pmr jobs -n {fleet.cluster} lists its jobs"
    )


def _told_job(answer: Answer, reference: str, cluster: str, *, whole: bool) -> str:
    """Return the job that an answer tells of, "" if it is not what was meant.

    With `whole` it must say what the job is, too.

    Raises:
        ValueError: it is damaged.
    """
    job_id = answer.facts.get("job", "")
    if not is_job_id(job_id):
        raise ValueError("it does not say which job it means")
    if not whole:
        return "" if id_in(reference) not in ("", job_id) else job_id
    for record in answer.records:
        if isinstance(record, Chunk) and record.name == META and record.offset == 0:
            summary = sound_summary(job_id, record.data)
            named = reference == "last" or name_in(reference) == summary.name
            same = summary.cluster == cluster and named
            return job_id if same else ""
    raise ValueError("it does not say what the job is")


def meant(reference: str) -> str:
    """Return a reference as the instances understand it.

    Raises:
        UsageProblem: it is empty: that would mean each job without a name.
    """
    if not reference.strip():
        raise UsageProblem("the name of the job is empty", "give its id, its name or `last`")
    if reference == "last":
        return reference
    if job_id := id_in(reference):
        return f"id:{job_id}"
    name = name_in(reference)
    if not name.strip():
        raise UsageProblem(f"{reference!r} names no job", "give its id, its name or `last`")
    return "name:" + base64.b64encode(os.fsencode(name)).decode("ascii")


@dataclass(frozen=True, slots=True)
class Known:
    """A job's summary and manifest, and who of its instances has its ledger.

    `told` is what holders have told of their events with it, where that was asked for. `digest` is
    that of the manifest which most instances hold; `others` hold another, by instance id.
    """

    summary: JobSummary
    manifest: Manifest
    holders: frozenset[str]
    problems: Mapping[str, str]
    told: Mapping[str, Answer] = field(default_factory=dict)
    digest: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


def load(fleet: Fleet, job_id: str, *, deliver_timeout_s: int = DELIVER_TIMEOUT_S) -> Known:
    """Read what a job is from the ledgers of the instances that can answer.

    An instance has `deliver_timeout_s` seconds to take the question.

    Raises:
        NotFound: none of them knows the job.
        NotReached: none of them answered.
    """
    order = Order(
        Call("observe", (job_id,), 0),
        {EVERYONE: _WHOLE_ROW},
        comment=f"pmr status {job_id}",
        deliver_timeout_s=deliver_timeout_s,
    )
    answers, problems = _ask_for_job(fleet, order)
    if not answers:
        if problems:
            raise _nobody_tells(fleet, f"of job {job_id}", problems)
        raise _no_job(fleet, job_id)
    return _first_sound(fleet, job_id, answers, problems)


def _nobody_tells(fleet: Fleet, what: str, problems: Mapping[str, str]) -> NotReached:
    instance_id, why = next(iter(problems.items()))
    return NotReached(
        f"no instance told {what}: {instance_id}: {why}",
        f"pmr list -n {fleet.cluster} shows their states; then try again",
    )


def _first_sound(
    fleet: Fleet,
    job_id: str,
    answers: dict[str, Answer],
    problems: dict[str, str],
    tellers: Collection[str] = (),
) -> Known:
    """Return the job as most of its instances have it, from the first whose copy is sound.

    `tellers` are the only ones that are asked for it; none: all.

    Raises:
        NotFound: it is a job of another cluster.
        NotReached: not one of them tells sound things.
        JobConflict: as many instances have one manifest as another.
    """
    digest, others = held_by_most(fleet, job_id, answers)
    foreign = ""
    tried = {key: f"it has another job under this id ({others[key][:8]})" for key in others}
    for instance_id in tellers or answers:
        if instance_id not in answers or instance_id in others:
            continue
        try:
            answer = answers[instance_id]
            meta = _whole(fleet, job_id, instance_id, answer, META)
            summary = sound_summary(job_id, meta)
            if summary.cluster != fleet.cluster:
                # An instance that has come from another cluster kept its ledgers.
                foreign = summary.cluster
                tried[instance_id] = f"it knows the job as one of cluster {foreign}"
                continue
            data = _whole(fleet, job_id, instance_id, answer, MANIFEST)
            manifest = verified_manifest(meta, data, digest)
        except ValueError as error:
            tried[instance_id] = f"{DAMAGED}: {error}"
        else:
            problems = problems | tried
            holders = frozenset(answers.keys() - problems)
            manifest = with_joined(fleet, manifest, holders)
            return Known(summary, manifest, holders, problems, digest=digest, others=others)
    if foreign:
        raise NotFound(
            f"cluster {fleet.cluster} has no job {job_id}: it is one of cluster {foreign}",
            f"pmr jobs -n {fleet.cluster} lists its jobs",
        )
    instance_id, why = next(iter(tried.items()), ("", "none was asked"))
    raise NotReached(
        f"no instance tells sound things of job {job_id}: {instance_id}: {why}",
        f"pmr jobs -n {fleet.cluster} lists the cluster's jobs",
    )


def held_by_most(
    fleet: Fleet, job_id: str, answers: Mapping[str, Answer]
) -> tuple[str, dict[str, str]]:
    """Return the digest of the manifest that most instances hold, and who holds another.

    Raises:
        JobConflict: as many hold another one.
    """
    held = {
        key: read_identity(answer.facts.get("identity", "")).manifest
        for key, answer in answers.items()
    }
    counts = Counter(held.values()).most_common(2)
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        raise job_conflict(fleet.cluster, job_id, held)
    digest = counts[0][0]
    return digest, {key: other for key, other in held.items() if other != digest}


def job_conflict(cluster: str, job_id: str, held: Mapping[str, str]) -> JobConflict:
    """Return the error of a job id that stands for several jobs: which instance has which."""
    return JobConflict(
        f"job {job_id} is not the same on all instances, by the digests of its manifest: "
        f"{_digest_words(held)}",
        f"pmr cancel {job_id} -n {cluster} ends it on all of them",
    )


def check_majority(fleet: Fleet, known: Known) -> None:
    """Refuse a job's content from its instances unless more than half of them hold one manifest.

    An instance of the cluster that does not answer and was there before the job counts as one of
    them: what it would say is not known.

    Raises:
        JobConflict: there is no majority.
    """
    silent = [one for one, _ in fleet.left_out if _may_have(one, known.summary.job_id)]
    silent += [one for one in fleet.ready if one.instance_id in known.problems]
    first = {host.instance_id for host in known.manifest.hosts if not host.joined}
    everyone = first | known.holders | known.others.keys() | {one.instance_id for one in silent}
    if known.digest and 2 * len(known.holders) > len(everyone):
        return
    held = {**dict.fromkeys(known.holders, known.digest), **known.others}
    raise JobConflict(
        f"{len(known.holders)} of {len(everyone)} instances vouch for the content of job "
        f"{known.summary.job_id}, which is no majority; digests of its manifest: "
        f"{_digest_words({**dict.fromkeys(everyone, ''), **held})}",
        f"pmr list -n {fleet.cluster} shows which of them cannot be asked; then try again",
    )


def _may_have(instance: Instance, job_id: str) -> bool:
    launched_at = instance.launched_at
    return launched_at is None or launched_at.timestamp() <= job_time_s(job_id)


def _digest_words(held: Mapping[str, str]) -> str:
    by_digest: dict[str, list[str]] = {}
    for key, digest in sorted(held.items()):
        by_digest.setdefault(digest[:8] or "none", []).append(key)
    return "; ".join(f"{digest} on {', '.join(ids)}" for digest, ids in by_digest.items())


def verified_manifest(meta: bytes, manifest: bytes, digest: str) -> Manifest:
    """Read a job's manifest if it has this digest and the meta is its own.

    Without a digest (a ledger that has none) nothing is compared. No instance's word counts on
    which others have joined.

    Raises:
        ValueError: the manifest or the meta is damaged, or is another one.
    """
    found = decode_manifest(first_manifest(manifest), decode_meta(meta).task_count)
    if digest and manifest_digest(manifest) != digest:
        raise ValueError("its manifest is not the one that the job was submitted with")
    if digest and section_digest("meta", meta) != found.digests.get("meta"):
        raise ValueError("its meta is not the one that the job was submitted with")
    return found


def chosen_hosts(known: Known, words: Sequence[str]) -> list[Host]:
    """Return the instances of a job that are named, by id or name; all of them where none is.

    Raises:
        NotFound: the job has no such instance.
    """
    job_id, cluster = known.summary.job_id, known.summary.cluster
    hint = f"pmr status {job_id} -n {cluster} lists its instances"
    return _chosen(known.manifest.hosts, words, job_id, hint)


def possible_hosts(fleet: Fleet, job_id: str, words: Sequence[str]) -> list[Host]:
    """Return the instances that may have a job, also those that cannot be asked now.

    For a job of which no instance's description counts; otherwise as `chosen_hosts`.
    """
    away = [one for one, _ in fleet.left_out if _may_have(one, job_id)]
    some = [Host(one.host_index, one.instance_id, one.name, ()) for one in (*fleet.ready, *away)]
    hint = f"pmr list -n {fleet.cluster} shows the instances of the cluster"
    return _chosen(some, words, job_id, hint)


def _chosen(hosts: Sequence[Host], words: Sequence[str], job_id: str, hint: str) -> list[Host]:
    there = {word for host in hosts for word in (host.instance_id, host.name)}
    if missing := [word for word in words if word not in there]:
        raise NotFound(f"job {job_id} has no instance {', '.join(missing)}", hint)
    return [one for one in hosts if not words or {one.instance_id, one.name} & {*words}]


def with_joined(fleet: Fleet, manifest: Manifest, holders: Collection[str]) -> Manifest:
    """Return the manifest with the instances that have joined the job: they have its ledger."""
    there = {host.instance_id for host in manifest.hosts}
    joined = tuple(
        Host(one.host_index, one.instance_id, one.name, (), joined=True)
        for one in fleet.ready
        if one.instance_id in holders and one.instance_id not in there
    )
    return replace(manifest, hosts=(*manifest.hosts, *joined))


def read_files(
    fleet: Fleet, job_id: str, name: str, instance_ids: Sequence[str]
) -> dict[str, bytes]:
    """Return a file of a job's ledger as instances have it; those that fail at it are left out."""
    row = f"- 0 0 {SMALL_ANSWER_CHARS} {name}:0"
    order = Order(Call("observe", (job_id,), 0), {EVERYONE: row}, comment=f"pmr read {job_id}")
    found = {}
    for reply in list(fleet.remote.ask(order, instance_ids)):
        if reply.answer is None or "refused" in reply.answer.facts:
            continue
        with suppress(ValueError, NotReached):
            key = reply.instance_id
            found[key] = _whole(fleet, job_id, key, reply.answer, name)
    return found


def _ask_for_job(fleet: Fleet, order: Order) -> tuple[dict[str, Answer], dict[str, str]]:
    """Return what those say that know a job, and why some said nothing."""
    answers: dict[str, Answer] = {}
    problems: dict[str, str] = {}
    asked: Sequence[str] = fleet.ready_ids
    for _ in range(MOST_TRIES):
        again = []
        for reply in fleet.remote.ask(order, asked):
            problems.pop(reply.instance_id, None)
            if reply.answer is None:
                problems[reply.instance_id] = reply.problem
                # What took the question and failed at it may fare better now.
                tried = reply.delivered and not reply.silent
                again += [reply.instance_id] if tried else []
            elif "refused" not in reply.answer.facts:
                answers[reply.instance_id] = reply.answer
        if not (asked := again):
            break
    return answers, problems


def _whole(fleet: Fleet, job_id: str, instance_id: str, answer: Answer, name: str) -> bytes:
    """Return a whole ledger file: what the first answer has, and the rest in large ones."""
    cursor = LogCursor(name)
    data = bytearray()
    asked = found = False
    while True:
        before = len(data)
        for record in answer.records:
            if isinstance(record, Chunk) and record.name == name:
                found = True
                cursor.todo.clear()
                items = cursor.receive(record)
                data += b"".join(item.data for item in items if isinstance(item, Text))
        if found and cursor.delivered >= cursor.size:
            return bytes(data)
        if len(data) > MOST_FILE_BYTES or (asked and len(data) - before < LEAST_PROGRESS_BYTES):
            raise ValueError("it promises more than it brings")
        asked = True
        row = f"- 0 0 {LARGE_ANSWER_CHARS} {name}:{cursor.delivered}"
        order = Order(Call("observe", (job_id,), 0), {instance_id: row}, large=True)
        (reply,) = fleet.remote.ask(order, [instance_id])
        if reply.answer is None:
            raise NotReached(
                f"{instance_id} stopped telling of job {job_id}: {reply.problem}", "try again"
            )
        answer = reply.answer

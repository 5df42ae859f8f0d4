"""How far a job is: one question to each instance, or, where that is not enough, a closer look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import Known, find_with_events, id_in, meant, name_in
from poormanray.jobs.outcome import Outcome, outcomes
from poormanray.jobs.summary import MOST_SHOWN, Overview, Share, merged, read_share
from poormanray.jobs.survey import looked_over
from poormanray.jobs.track import Track
from poormanray.manifest import JobSummary, read_identity
from poormanray.remote import Order
from poormanray.shell import Call

# Of the slowest and of the failed tasks each instance names at least, and at most, so many.
LEAST_NAMED, MOST_NAMED = 2, 10
Look = Callable[[Known], list[Track]]


@dataclass(frozen=True, slots=True)
class Closely:
    """A job as a look at every task shows it."""

    overview: Overview
    found: Sequence[Outcome]


@dataclass(slots=True)
class _Answers:
    """What instances told of the newest job that any of them names.

    `kinds` is what they say the job is: more than one, and some of them lie.
    """

    job_id: str = ""
    summary: JobSummary | None = None
    shares: list[Share] = field(default_factory=list)
    kinds: set[tuple[str, JobSummary]] = field(default_factory=set)

    def add(self, digest: str, summary: JobSummary, share: Share) -> None:
        """Take in one; those that name an older job have nothing of the newest."""
        if summary.job_id > self.job_id:
            self.job_id, self.summary, self.shares = summary.job_id, summary, []
            self.kinds.clear()
        if summary.job_id == self.job_id:
            self.shares.append(share)
            # Who submitted it, and when, may differ where it was submitted twice.
            self.kinds.add((digest, replace(summary.plain, submitter="", created_at=0)))

    @property
    def last_lines(self) -> Mapping[tuple[int, int], str]:
        """Return the last lines of logs that were told."""
        return {
            (one.status.task, one.status.attempt): one.last_line
            for share in self.shares
            for one in share.failed
        }


def glance(fleet: Fleet, reference: str, look: Look) -> Overview:
    """Return how far a job is (by id, name or `last`), with one send for every 50 instances.

    Where an instance of the job cannot be asked, or the answers do not add up, `look` looks at
    every task.

    Raises:
        NotFound: there is no such job.
        NotReached: no instance answered.
    """
    answers = _ask(fleet, reference)
    summary = answers.summary
    # By name or as the newest, a job is what most of its instances say: all have to be heard.
    heard = id_in(reference) or len(answers.shares) == len(fleet.ready)
    if (
        summary is not None
        and summary.cluster == fleet.cluster
        and (heard and len(answers.kinds) == 1)
        and (overview := merged(summary, answers.shares)) is not None
    ):
        return overview
    known = find_with_events(fleet, answers.job_id or reference)
    by_name = reference != "last" and not id_in(reference)
    if by_name and known.summary.name != name_in(reference):
        known = find_with_events(fleet, reference)
    return _closely(fleet, known, look, answers.last_lines).overview


def closely(fleet: Fleet, reference: str, look: Look) -> Closely:
    """Return how far a job is, and every task of it.

    Raises:
        NotFound: there is no such job.
        NotReached: no instance answered.
    """
    return _closely(fleet, find_with_events(fleet, reference), look, {})


def _closely(
    fleet: Fleet, known: Known, look: Look, lines: Mapping[tuple[int, int], str]
) -> Closely:
    tracks = look(known)
    found = outcomes(tracks, known.manifest.task_names)
    now_s = fleet.aws.ssm().server_time_s()
    return Closely(looked_over(known.summary, tracks, found, now_s=now_s, lines=lines), found)


def _ask(fleet: Fleet, reference: str) -> _Answers:
    names = {one.instance_id: one.name for one in fleet.ready}
    index_of = {one.instance_id: one.host_index for one in fleet.ready}
    most = min(max(MOST_SHOWN // len(names), LEAST_NAMED), MOST_NAMED)
    words = (meant(reference), fleet.cluster, str(most))
    order = Order(Call("summary", words, 0), {}, comment="pmr status", patient=True)
    answers = _Answers()
    shares = []
    for reply in fleet.remote.ask(order, list(names)):
        if reply.answer is None:
            continue
        key, digest = reply.instance_id, read_identity(reply.answer.facts.get("identity", ""))
        for job_id, data in reply.answer.jobs:
            # Who does not tell sound things is missing, and is looked at more closely.
            with suppress(ValueError):
                summary, share = read_share(key, names[key], job_id, data)
                shares.append((digest.manifest, summary, replace(share, host_index=index_of[key])))
    for told in sorted(shares, key=lambda one: one[2].name):
        answers.add(*told)
    return answers

"""`--after JOB[:any]`: nothing starts before an earlier job of the cluster has succeeded."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import click

from poormanray.cli.jobs import follower_for, tracks_for
from poormanray.cli.logs import ask_again
from poormanray.cli.options import App
from poormanray.cli.watching import Watcher, ending
from poormanray.errors import (
    AwsRefused,
    CredentialsEnded,
    EarlierFailed,
    ExitCode,
    NotReached,
    PmrError,
    interruption,
)
from poormanray.jobs.fleet import Fleet, muster
from poormanray.jobs.listing import Known, find
from poormanray.jobs.moving import BACK_OFF_S, LONGEST_BACK_OFF_S
from poormanray.jobs.outcome import Outcome, outcomes, unclaimed, verdict
from poormanray.jobs.track import HostProblem, Looked, TaskChanged, Track, Wanted
from poormanray.ledger import TaskState, TaskStatus, ended_counts
from poormanray.manifest import JobSummary
from poormanray.model import InstanceState, Selection

_ANY = ":any"
# Who watches the earlier job gives a failed task its next attempt so long after its back-off, and
# what was lost so long after the loss.
TURN_COMES_S, LOST_COMES_S = 6.0, 30.0


@dataclass(frozen=True, slots=True)
class Earlier:
    """A job to wait for, by id, name or `last`: for its success, or `however` it ends."""

    job: str
    however: bool = False


def parse_earlier(text: str) -> Earlier:
    """Read `JOB` or `JOB:any`.

    Raises:
        ValueError: it names no job.
    """
    job = text.removesuffix(_ANY)
    if not job.strip():
        raise ValueError(f"{text!r} names no job")
    return Earlier(job, job != text)


def read_earlier(
    _ctx: click.Context, _param: click.Parameter, texts: Sequence[str]
) -> tuple[Earlier, ...]:
    """Read each `--after`."""
    try:
        return tuple(parse_earlier(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def typed_again(words: Sequence[str], ids: Mapping[str, str]) -> list[str]:
    """Return the words of a command line with the ids of the jobs that its --after mean now."""
    again, follows, ours = [], False, True
    for word in words:
        ours = ours and word != "--"
        option, equals, value = word.partition("=")
        if ours and follows:
            again.append(_by_id(word, ids))
        elif ours and equals and option == "--after":
            again.append(f"--after={_by_id(value, ids)}")
        else:
            again.append(word)
        follows = ours and word == "--after" and not follows
    return again


def _by_id(text: str, ids: Mapping[str, str]) -> str:
    job = text.removesuffix(_ANY)
    return ids.get(job, job) + text[len(job) :]


def turn_comes_s(status: TaskStatus, now_s: float) -> float:
    """Return for how long from now on a task without success may still get another turn.

    `now_s` is its instance's own time, as that of its events is.
    """
    if status.state in (TaskState.SUCCEEDED, TaskState.CANCELLED) or not status.state.ended:
        return 0.0
    longest_s = LOST_COMES_S
    if status.state is not TaskState.LOST:
        back_off_s = min(BACK_OFF_S * 2 ** min(status.attempt - 1, 9), LONGEST_BACK_OFF_S)
        longest_s = back_off_s + TURN_COMES_S
    age_s = now_s - status.ended_at if status.ended_at is not None else 0.0
    return max(0.0, longest_s - max(0.0, age_s))


def obstacle(
    job: JobSummary, found: Sequence[Outcome], *, however: bool, silent: Collection[str]
) -> PmrError | None:
    """Return why nothing starts after a job that came to this; None if all is well.

    `silent` are instances that run and do not answer: what they had may not have ended.
    """
    unknown = [
        one
        for one in found
        if not one.state.ended or (one.state is TaskState.LOST and one.host.instance_id in silent)
    ]
    look = f"pmr status {job.job_id} -n {job.cluster} shows more"
    if missing := job.task_count - len(found) + unclaimed(found):
        return NotReached(
            f"nothing was started: how job {job.job_id} ends is not known: no instance has "
            f"{missing} of its {job.task_count} tasks",
            look,
        )
    sound = verdict(found, job.task_count).code == ExitCode.OK
    if sound or (however and not unknown):
        return None
    counts = ended_counts(one.status for one in found)
    words = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    bad = [one for one in found if one.state is not TaskState.SUCCEEDED]
    lost = [one for one in bad if one.state is TaskState.LOST]
    worst = (unknown or lost or bad)[0]
    how = worst.why or ending(worst.status)
    told = f"({words}): task {worst.task} ({worst.name}) {how}"
    if unknown:
        if any(one.why.startswith("suspended") for one in unknown):
            look = f"pmr resume -n {job.cluster} starts what is stopped"
        return NotReached(
            f"nothing was started: how job {job.job_id} ends is not known {told}", look
        )
    anyway = f"{look}; --after {job.job_id}{_ANY} starts all the same"
    if lost:
        return NotReached(f"nothing was started: job {job.job_id} lost tasks {told}", anyway)
    return EarlierFailed(f"nothing was started: job {job.job_id} did not succeed {told}", anyway)


@dataclass(slots=True)
class _Awaited:
    """An earlier job, and what has been seen of it."""

    app: App
    fleet: Fleet
    known: Known
    however: bool
    tracks: list[Track] = field(default_factory=list)
    done: set[int] = field(default_factory=set)

    def renew(self) -> None:
        """Forget what was seen: it is read anew."""
        self.tracks = tracks_for(self.fleet, self.known)
        ask_again(self.tracks, self.fleet)

    def follow(self, *, live: bool) -> None:
        """Watch the job to its end, or only look once."""
        out, summary = self.app.out, self.known.summary
        watcher = Watcher(out, quiet=True)
        follower = follower_for(self.app, self.fleet, self.known, Wanted(live=live), self.tracks)
        for happening in follower.run():
            if isinstance(happening, TaskChanged):
                task = happening.status.task
                (self.done.add if happening.status.state.ended else self.done.discard)(task)
            elif isinstance(happening, HostProblem):
                watcher.show(happening)
            elif live and isinstance(happening, Looked) and not out.json:
                count = f"{len(self.done)}/{summary.task_count}"
                out.progress(f"waiting for job {summary.job_id}: {count} done")
        out.progress("")

    def found(self) -> list[Outcome]:
        return outcomes(self.tracks, self.known.manifest.task_names)

    def settle(self) -> None:
        """Watch the job to its end; a task without success may have another turn before it."""
        self.follow(live=True)
        waited: set[tuple[int, int]] = set()
        while True:
            found = self.found()
            clocks_s = {track.host.instance_id: track.clock_s for track in self.tracks}
            due_s = {
                (one.task, one.status.attempt): turn_comes_s(
                    one.status, clocks_s.get(one.host.instance_id, 0.0)
                )
                for one in found
            }
            pause_s = max((s for key, s in due_s.items() if key not in waited), default=0.0)
            if not pause_s or not all(one.state.ended for one in found):
                return
            waited.update(due_s)
            self.app.aws.clock.sleep(pause_s)
            self.renew()
            self.follow(live=True)

    def check(self) -> None:
        """Refuse to start anything after a job without success.

        Raises:
            EarlierFailed: it has failed, or was cancelled.
            NotReached: some of it was lost, or it is not known how it ends.
        """
        summary, found = self.known.summary, self.found()
        counts = ended_counts(one.status for one in found)
        error = obstacle(summary, found, however=self.however, silent=self._silent())
        self.app.out.event(
            {
                "event": "earlier",
                "job": summary.job_id,
                "counts": {state.value: count for state, count in counts.items()},
                "starts": error is None,
            }
        )
        if error is not None:
            raise error

    def _silent(self) -> set[str]:
        mute = {track.host.instance_id for track in self.tracks if track.silent or track.suspended}
        if not mute:
            return mute
        # What ran on one that is stopped has ended with it.
        up = (InstanceState.PENDING, InstanceState.RUNNING)
        return {k for k, (state, _) in self.fleet.states(sorted(mute)).items() if state in up}


def wait_for(app: App, cluster: str, earlier: Sequence[Earlier]) -> ExitCode | None:
    """Wait until the earlier jobs of a cluster have succeeded, or ended where that is enough.

    Returns a code if that was interrupted, after saying what to type.

    Raises:
        NotFound: there is no such job.
        EarlierFailed: one has failed, or was cancelled.
        NotReached: some of one was lost, or it is not known how it ends.
    """
    ids: dict[str, str] = {}
    try:
        awaited = list(_awaited(app, cluster, earlier, ids))
        # What has ended without success need not wait for the others.
        for one in sorted(awaited, key=lambda one: len(one.done) < one.known.summary.task_count):
            one.settle()
            one.check()
    except KeyboardInterrupt as error:
        why, code = interruption(error)
        _untold(app, why, ids)
        return code
    except AwsRefused as error:
        again = _untold(app, "lost sight", ids)
        if isinstance(error, CredentialsEnded):
            error.hint = f"log in again, then: {again}"
        raise
    return None


def _awaited(
    app: App, cluster: str, earlier: Iterable[Earlier], ids: dict[str, str]
) -> Iterator[_Awaited]:
    """Find the jobs, and look at each; `ids` takes in which job each reference means."""
    fleet = muster(
        app.aws,
        Selection(cluster),
        on_left_out=lambda one, why: app.out.note(f"[{one.name}] cannot be asked: {why}"),
    )
    known = []
    for one in earlier:
        known.append(find(fleet, one.job))
        ids[one.job] = known[-1].summary.job_id
    for one, job in zip(earlier, known, strict=True):
        awaited = _Awaited(app, fleet, job, one.however)
        awaited.renew()
        awaited.follow(live=False)
        app.out.event(
            {"event": "waiting", "job": job.summary.job_id, "tasks": job.summary.task_count}
        )
        yield awaited


def _untold(app: App, why: str, ids: Mapping[str, str]) -> str:
    again = shlex.join(["pmr", *typed_again(sys.argv[1:], ids)])
    app.out.progress("")
    app.out.note(f"{why}: nothing was started; to wait again:")
    app.out.note(f"  {again}")
    app.out.event({"event": "not_started", "why": why, "again": again})
    return again

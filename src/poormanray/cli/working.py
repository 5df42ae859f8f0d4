"""What `run` and `map` share: their options, and the road from work to its outcome."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from poormanray.cli.inputs import Program, Say, environment, helper_files
from poormanray.cli.options import COUNT, DURATION, KEY_VALUE, TIME_LIMIT, Percent
from poormanray.cli.sending import Sending, bucket_advice, bucket_option, way_row, way_words
from poormanray.cli.watching import (
    Watcher,
    WayBack,
    count_words,
    readable_bytes,
    summary_event,
    watched,
    why_unwatched,
)
from poormanray.errors import ExitCode, JobConflict, PmrError, UsageProblem
from poormanray.jobs.absent import prove
from poormanray.jobs.cancel import cancel, unconfirmed
from poormanray.jobs.fleet import muster
from poormanray.jobs.follow import Follower
from poormanray.jobs.halt import Halt, halting
from poormanray.jobs.join import of_job
from poormanray.jobs.moving import Turns
from poormanray.jobs.outcome import Outcome, Verdict, outcomes, tracks_of, verdict
from poormanray.jobs.presence import Fate
from poormanray.jobs.submit import (
    MOST_NAMED,
    Work,
    held_elsewhere,
    plan,
    resumed,
    without,
)
from poormanray.jobs.track import Contact, Happening, HostProblem, Looked, Wanted, is_conflict
from poormanray.ledger import is_job_id, new_job_id
from poormanray.manifest import Manifest
from poormanray.model import Instance, Selection

if TYPE_CHECKING:
    from poormanray.cli.options import App

Decorated = Callable[..., Any]
# What is still to be done when a job has ended; it may change what that comes to.
Then = Callable[[Sequence[Outcome], Verdict], Verdict]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a job is submitted and watched, as the words of the command line say."""

    detach: bool = False
    parallelism: int = 0
    deliver_timeout_s: int = 120
    wait_timeout_s: float = 0.0
    lost_after_s: float = 0.0
    job_id: str = ""
    turns: Turns | None = None
    bucket: str = ""


def _user(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    # It becomes a line of the ledger, so it must look like what useradd takes.
    if value and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", value):
        raise click.BadParameter(f"{value!r} is no name of a user")
    return value


lost_after_option = click.option(
    "--lost-after",
    type=DURATION,
    help="Count an instance as lost that does not respond for this long (default: never).",
)
_JOB_OPTIONS = (
    click.option(
        "-u",
        "--instance-username",
        "user",
        default="",
        callback=_user,
        help="Run as this user (default: ec2-user, else the image's own).",
    ),
    click.option(
        "-T",
        "--timeout",
        type=TIME_LIMIT,
        help="End a task after this long; 200%: after twice the median time (map only).",
    ),
    click.option(
        "--deliver-timeout",
        type=DURATION,
        default="2m",
        show_default=True,
        help="Give up on an instance that does not pick the job up.",
    ),
    click.option(
        "--wait-timeout", type=DURATION, help="Stop watching after this long; the job goes on."
    ),
    lost_after_option,
    click.option(
        "--env",
        multiple=True,
        type=KEY_VALUE,
        help="Variable for the tasks; public: SSM keeps it for 30 days.",
    ),
    click.option(
        "--files",
        multiple=True,
        metavar="PATH",
        help="File or folder to put into each task's folder; repeatable.",
    ),
    bucket_option,
    click.option("--job-name", default="", help="A name for the job."),
    click.option(
        "--job-id",
        default="",
        metavar="ID",
        help="Submit again what was cut off: same content, same instances; nothing starts twice.",
    ),
)


@dataclass(frozen=True, slots=True)
class JobWords:
    """What the options say that every command which makes a job has."""

    user: str
    timeout: float | Percent | None
    deliver_timeout: float
    wait_timeout: float | None
    lost_after: float | None
    env: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    job_name: str
    job_id: str
    bucket: str = ""

    def work(
        self, kind: str, program: Program, say: Say, *, slots: str = "1", at_once: int = 0
    ) -> Work:
        """Return what is to be done: a program, run as the options say.

        `say` is called with a line for what is left out of the helper files.

        Raises:
            UsageProblem: a helper file cannot be read, or a variable cannot be set; or the time
                limit is a part of the median, and the work is no map.
        """
        if kind != "map" and isinstance(self.timeout, Percent):
            raise UsageProblem(
                f"--timeout {self.timeout} is of the median of many tasks, and this is one for "
                "each instance",
                "say a time such as --timeout 30m",
            )
        return Work(
            kind,
            program.scripts,
            program.tasks,
            name=self.job_name,
            slots=slots,
            at_once=at_once,
            timeout_s=seconds_of(self.timeout),
            user=self.user,
            env=environment(self.env),
            helper_files=helper_files(self.files, say),
        )

    def manner(
        self, *, detach: bool, parallelism: int | None = None, turns: Turns | None = None
    ) -> Manner:
        """Return how the job is submitted and watched."""
        return Manner(
            detach,
            parallelism or 0,
            int(self.deliver_timeout),
            self.wait_timeout or 0.0,
            self.lost_after or 0.0,
            self.job_id,
            turns,
            self.bucket,
        )


def seconds_of(limit: float | Percent | None) -> float:
    """Return a time limit in seconds, 0 where there is none that is known beforehand."""
    return limit if isinstance(limit, float) else 0.0


def job_options(command: Decorated) -> Decorated:
    """Add the options that every command which makes a job has; it gets `asked`, a JobWords."""

    @functools.wraps(command)
    def with_asked(*args: object, **words: object) -> object:
        asked: dict[str, Any] = {field.name: words.pop(field.name) for field in fields(JobWords)}
        return command(*args, asked=JobWords(**asked), **words)

    decorated: Decorated = with_asked
    for option in reversed(_JOB_OPTIONS):
        decorated = option(decorated)
    return decorated


def parallelism_option(command: Decorated) -> Decorated:
    """Add `-j/--parallelism`: how many instances at a time."""
    return click.option(
        "-j", "--parallelism", type=COUNT, default=None, help="Instances at a time (default: all)."
    )(command)


class Submission:
    """One job on its way: submitted, followed, and summed up."""

    def __init__(self, app: App, work: Work, selection: Selection, manner: Manner) -> None:
        if manner.job_id and not is_job_id(manner.job_id):
            raise UsageProblem(
                f"{manner.job_id!r} is not a job id",
                f"{app.command_line('jobs', '-n', selection.cluster)} lists them",
            )
        self.app = app
        self.manner = manner
        # Who names instances wants no others.
        self.chosen = bool(selection.instance_ids)
        self.fleet = muster(app.aws, selection, on_left_out=self._left_out)
        asked = [*self.fleet.ready, *(one for one, _ in self.fleet.left_out)]
        # Ids tell which job is the newest: all clients take their time from one clock.
        now_s = app.aws.ssm().server_time_s()
        planned = plan(
            work,
            self.fleet.ready,
            cluster=selection.cluster,
            region=app.aws.region,
            job_id=manner.job_id or new_job_id(now_s),
            chosen=[one.instance_id for one in asked] if self.chosen else (),
        )
        self.job = replace(planned, created_at=int(now_s))
        self.whole = self.fleet
        if manner.job_id:
            # It may be the id of a job on any instance of the cluster.
            if self.chosen:
                self.whole = muster(app.aws, Selection(selection.cluster))
            self.job = resumed(self.whole, self.job, manner.deliver_timeout_s)
        self.problems = self.fleet.fates(host.instance_id for host in self.job.hosts)
        self.again = app.command_line("logs", "-f", self.job.job_id, "-n", selection.cluster)

    def _left_out(self, instance: Instance, why: str) -> None:
        self.app.out.note(f"[{instance.name}] left out: {why}")
        self.app.out.event(
            {
                "event": "left_out",
                "instance": instance.instance_id,
                "name": instance.name,
                "why": why,
            }
        )

    def follower(self, wanted: Wanted) -> Follower:
        """Make the job ready to start, sending large content ahead, and return its follower."""
        # The id is known before anything is sent: whoever is cut off can come back with it.
        self.sending = self._packed()
        try:
            self._announce(self.sending)
            self._send_ahead()
        except (KeyboardInterrupt, PmrError) as error:
            WayBack.tell_not_started(self.app.out, self.job.job_id, why_unwatched(error))
            raise
        manner = self.manner
        moves = None if manner.detach else manner.turns
        # Who joins later gets the content in parts.
        joins = moves and not self.chosen and not self.sending.only_by_bucket
        joiner = of_job(self.fleet, self.job, manner.deliver_timeout_s)
        tracks = [
            replace(track, started=False)
            for track in tracks_of(Manifest(self.job.hosts, {}), self.problems)
        ]
        return Follower(
            self.job.job_id,
            tracks,
            replace(wanted, live=not manner.detach),
            remote=self.fleet.remote,
            clock=self.app.aws.clock,
            states=self.fleet.states,
            start=self.sending.order,
            parallelism=manner.parallelism,
            timeout_s=manner.wait_timeout_s,
            turns=moves,
            newcomers=joiner if joins else None,
            lost_after_s=manner.lost_after_s,
            prove=partial(prove, self.fleet, self.job.job_id, self.fleet.ready_ids, tracks),
        )

    def _packed(self) -> Sending:
        manner = self.manner
        return Sending(
            self.app,
            self.fleet,
            self.job,
            bucket=manner.bucket,
            deliver_timeout_s=manner.deliver_timeout_s,
        )

    def _announce(self, sending: Sending) -> None:
        job, out, parcel = self.job, self.app.out, sending.parcel
        tasks = f", {len(job.tasks)} tasks" if job.kind == "map" else ""
        way = f", {way_words(parcel, sending.bucket)}" if parcel.start.parts else ""
        out.note(
            f"job {job.job_id}: {len(job.hosts)} instances{tasks}, "
            f"{readable_bytes(len(parcel.data))} to send{way}"
        )
        if advice := bucket_advice(parcel):
            out.note(advice)
        out.event(
            {
                "event": "submitted",
                "job": job.job_id,
                "kind": job.kind,
                "cluster": job.cluster,
                "instances": len(job.hosts),
                "tasks": len(job.tasks),
                "content": way_row(parcel),
            }
        )

    def _send_ahead(self) -> None:
        failed = self.sending.go_ahead()
        if failed and not self.manner.job_id and self.job.kind == "map":
            # Nothing is committed yet: the others take over what those would have run.
            for instance_id, why in failed.items():
                self.app.out.note(f"[{instance_id}] left out: {why}")
            self.job = without(self.job, failed)
            self.sending = self._packed()
            self._send_ahead()
        else:
            self.problems |= {key: Fate(Contact.REFUSED, why) for key, why in failed.items()}

    def watch(
        self, follower: Follower, watcher: Watcher, halt: Halt | None = None
    ) -> ExitCode | None:
        """Show the job until it ends; return a code if it was not seen to its end."""
        resume = self.app.command_line("resume", "-n", self.job.cluster)
        words = ("map", "--resume", self.job.job_id, "--reassign", "-n", self.job.cluster)
        reassign = self.app.command_line(*words) if self.job.kind == "map" else ""
        back = WayBack(self.job.job_id, self.again, follower.tracks.values(), resume, reassign)
        happenings = (
            self._alone(follower) if self.manner.job_id else self.sending.attended(follower)
        )
        if halt is not None:
            stop = partial(self._stop, halt, follower)
            happenings = halting(happenings, halt, len(self.job.tasks), stop)
        code = watched(self.app.out, happenings, watcher, back)
        if code is None and follower.gave_up_waiting:
            back.tell(self.app.out, "stopped watching")
            unseen = Verdict(ExitCode.NOT_REACHED)
            self.app.out.event(summary_event(self.job.job_id, self._found(follower), unseen))
            return ExitCode.NOT_REACHED
        if code is None:
            back.tell_stopped(self.app.out)
        return code

    def _alone(self, follower: Follower) -> Iterator[Happening]:
        """Yield what happens while the job's id stands for no other job.

        Raises:
            JobConflict: it does; what this submission has started is cancelled.
        """
        tracks = follower.tracks.values()
        refused: list[HostProblem] = []
        asked = False
        for happening in self.sending.attended(follower):
            if isinstance(happening, HostProblem) and is_conflict(happening.why):
                refused.append(happening)
                if follower.mover:
                    # Its tasks are another job's now: they run nowhere else.
                    follower.mover.stop()
                continue
            yield happening
            if not isinstance(happening, Looked):
                continue
            if refused and all(t.looked or t.problem for t in tracks if t.started):
                break
            if not asked and any(track.looked for track in tracks):
                asked = True
                self._refuse_other(follower)
        if refused:
            words = "; ".join(f"[{one.host.name}] {one.why}" for one in refused[:MOST_NAMED])
            raise self._conflict(follower, words)
        # What was submitted at the same moment to others may have come there only now.
        self._refuse_other(follower)

    def _refuse_other(self, follower: Follower) -> None:
        identity = self.sending.parcel.identity
        there = held_elsewhere(self.whole, self.job, identity)
        for track in follower.tracks.values():
            there.pop(track.host.instance_id, None)
        if there:
            words = ", ".join(f"{key} has {digest[:8]}" for key, digest in there.items())
            raise self._conflict(
                follower,
                f"it was also submitted to other instances: by the digests of its manifest, {words}"
                f", and this one has {identity.manifest[:8]}",
            )

    def _conflict(self, follower: Follower, words: str) -> JobConflict:
        """Cancel what this submission has started; return the error that says why."""
        tracks = follower.tracks.values()
        hosts = [t.host for t in tracks if t.looked and not t.problem and not t.all_ended]
        done = cancel(self.fleet, self.job.job_id, hosts) if hosts else []
        missed = [one.host.name for one in done if one.problem]
        what = "nothing of this submission was started"
        if hosts:
            what = "what this submission had started is cancelled"
        elif any(track.looked and not track.problem for track in tracks):
            what = "what this submission had started has ended"
        if missed:
            what = f"this submission could not be cancelled on {', '.join(missed)}"
        status = self.app.command_line("status", self.job.job_id, "-n", self.job.cluster)
        return JobConflict(
            f"job {self.job.job_id} stands for two submissions: {words}; {what}",
            f"leave out --job-id to submit this as a job of its own; {status} shows the other",
        )

    def _stop(self, halt: Halt, follower: Follower) -> tuple[str, ...]:
        hosts = [track.host for track in follower.tracks.values() if not track.problem]
        done = cancel(self.fleet, self.job.job_id, hosts, running=halt.now)
        return unconfirmed(done, follower.tracks.values())

    def conclude(
        self, follower: Follower, *, own_code: bool, left_out: int = 0, then: Then | None = None
    ) -> int:
        """Sum the job up: what failed, in words and JSON, and the exit code; `then` before that."""
        found = self._found(follower)
        expected = len(self.job.tasks)
        reached = verdict(found, expected, left_out=left_out, own_code=own_code)
        words = count_words(found)
        if reached.code or self.job.kind == "map":
            self.app.out.note(f"job {self.job.job_id}: {words}")
        reached = then(found, reached) if then else reached
        self.app.out.event(summary_event(self.job.job_id, found, reached))
        return reached.code

    def _found(self, follower: Follower) -> list[Outcome]:
        return outcomes(follower.tracks.values(), self.job.task_names)

    def detached(self, follower: Follower) -> int:
        """Sum up a job that was only started."""
        problems = [track for track in follower.tracks.values() if track.problem]
        out = self.app.out
        out.event(
            {
                "event": "summary",
                "job": self.job.job_id,
                "detached": True,
                "started": len(follower.tracks) - len(problems),
                "not_started": len(problems),
            }
        )
        out.line(self.job.job_id)
        out.note(f"detached; to watch it: {self.again}")
        return ExitCode.NOT_REACHED if problems else ExitCode.OK

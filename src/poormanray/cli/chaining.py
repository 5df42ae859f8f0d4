"""What comes before and after a job: `--after JOB`, and `--on-done CMD`."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from poormanray.cli.after import Earlier, read_earlier, wait_for
from poormanray.cli.options import App
from poormanray.cli.output import Aside
from poormanray.cli.watching import Watcher
from poormanray.cli.working import Manner, Submission, Then
from poormanray.errors import (
    INTERRUPTIONS,
    ExitCode,
    NotReached,
    PmrError,
    Signalled,
    UsageProblem,
    interruption,
)
from poormanray.jobs.fleet import muster
from poormanray.jobs.outcome import Outcome, Verdict
from poormanray.jobs.submit import Work
from poormanray.jobs.track import Wanted
from poormanray.ledger import TaskState, ended_counts
from poormanray.model import Selection
from poormanray.shell import words_script

Decorated = Callable[..., Any]

_OPTIONS = (
    click.option(
        "--after",
        multiple=True,
        metavar="JOB[:any]",
        callback=read_earlier,
        help="Wait here, attached, and start once that job has succeeded (:any: ended); "
        "repeatable.",
    ),
    click.option(
        "--on-done",
        default="",
        metavar="CMD",
        help="When the job has ended, run this here (sh; PMR_JOB_ID, PMR_EXIT_CODE, "
        "PMR_SUCCEEDED, PMR_FAILED, PMR_LOST); not with -d.",
    ),
    click.option(
        "--on-instance", is_flag=True, help="Run the --on-done on one instance of the job."
    ),
)


@dataclass(frozen=True, slots=True)
class Chain:
    """What the options say of before and after: wait for jobs, and run a command at the end."""

    after: tuple[Earlier, ...] = ()
    on_done: str = ""
    on_instance: bool = False

    def check(self, *, detach: bool) -> None:
        """Refuse what nobody would be there for.

        Raises:
            UsageProblem: nobody watches, or there is nothing to run on an instance.
        """
        if self.on_instance and not self.on_done:
            raise UsageProblem("--on-instance says where, but not what", "add --on-done CMD")
        for word, given in (("--after", self.after), ("--on-done", self.on_done)):
            if detach and given:
                raise UsageProblem(f"{word} needs a client that watches", "leave out -d")

    def wait(self, app: App, cluster: str) -> ExitCode | None:
        """Wait for the jobs before this one; return a code if it is not to start."""
        return wait_for(app, cluster, self.after) if self.after else None

    def skipped(self, app: App) -> None:
        """Say that the command at the end was not run, as nobody saw the job end."""
        if self.on_done:
            app.out.note(f"--on-done was not run, as the job was not seen to end: {self.on_done}")

    def watched(self, app: App, watch: Callable[[], ExitCode | None]) -> ExitCode | None:
        """Return what `watch` does; where that did not see the job end, say what is not done."""
        try:
            code = watch()
        except PmrError:
            self.skipped(app)
            raise
        if code is not None:
            self.skipped(app)
        return code

    def then(self, ending: Ending) -> Then | None:
        """Return what is to be done when the job has ended."""
        return functools.partial(_done, self, ending) if self.on_done else None


@dataclass(frozen=True, slots=True)
class Ending:
    """Whose end it is: a job of a cluster; `user` and `env` are those of its tasks."""

    app: App
    cluster: str
    job_id: str
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def chain_options(command: Decorated) -> Decorated:
    """Add `--after`, `--on-done` and `--on-instance` to a command; it gets `chain`, a Chain."""

    @functools.wraps(command)
    def with_chain(*args: object, **words: Any) -> object:  # noqa: ANN401 (the command's own)
        names = ("after", "on_done", "on_instance")
        return command(*args, chain=Chain(*(words.pop(name) for name in names)), **words)

    decorated: Decorated = with_chain
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def facts_of(
    job_id: str, cluster: str, found: Sequence[Outcome], reached: Verdict
) -> dict[str, str]:
    """Return what the command at the end is told of a job, as variables.

    PMR_FAILED counts all that ended without success and is not lost: timeouts and cancels too.
    """
    counts = ended_counts(outcome.status for outcome in found)
    good, lost = counts[TaskState.SUCCEEDED], counts[TaskState.LOST]
    return {
        "PMR_JOB_ID": job_id,
        "PMR_CLUSTER": cluster,
        "PMR_EXIT_CODE": str(int(reached.code)),
        "PMR_SUCCEEDED": str(good),
        "PMR_FAILED": str(len(found) - good - lost),
        "PMR_LOST": str(lost),
    }


def instance_for(found: Sequence[Outcome], ready: Collection[str]) -> str:
    """Return the id of the instance for the command at the end: a `ready` one that lost nothing.

    Raises:
        NotReached: there is none.
    """
    bad = {one.host.instance_id for one in found if one.state is TaskState.LOST}
    those = (one.host.instance_id for one in found)
    ids = [key for key in those if key in ready and key not in bad]
    if not ids:
        raise NotReached("no instance of the job is left", "leave out --on-instance")
    return ids[0]


def _done(chain: Chain, ending: Ending, found: Sequence[Outcome], reached: Verdict) -> Verdict:
    """Run the command at the end; where it fails, what had succeeded has not."""
    out = ending.app.out
    if not all(one.state.ended for one in found):
        chain.skipped(ending.app)
        return reached
    facts = facts_of(ending.job_id, ending.cluster, found, reached)
    event: dict[str, object] = {"event": "on_done", "command": chain.on_done}
    try:
        if chain.on_instance:
            ready = muster(ending.app.aws, Selection(ending.cluster)).ready_ids
            chosen = instance_for(found, ready)
            code, where = _on_instance(chain.on_done, ending, facts, chosen)
            event.update(where)
        else:
            code = _here(chain.on_done, {**ending.app.environment(), **facts})
    except KeyboardInterrupt as error:
        why, code = interruption(error)
        out.note(f"{why}: --on-done was not seen to end: {chain.on_done}")
        return Verdict(code)
    except PmrError as error:
        code = int(error.exit_code)
        out.note(f"--on-done: {error.message}")
        out.note(f"  next: {error.hint}")
    out.event({**event, "exit_code": code})
    if code:
        out.note(f"--on-done failed with exit code {code}: {chain.on_done}")
    return Verdict(ExitCode.WORK_FAILED) if code and not reached.code else reached


def _here(command: str, variables: Mapping[str, str]) -> int:
    """Run a command line on this machine, all that it writes to stderr; return its exit code.

    Death by signal n is 128 + n, as a shell has it.
    """
    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        env={**os.environ, **variables},
        check=False,
    )
    return 128 - ended.returncode if ended.returncode < 0 else ended.returncode


def _on_instance(
    command: str, ending: Ending, variables: Mapping[str, str], instance_id: str
) -> tuple[int, dict[str, object]]:
    """Run a command line on an instance as a job of its own; return its exit code, and where."""
    words = ["env", *(f"{key}={value}" for key, value in variables.items()), "sh", "-c", command]
    # Its lines are no part of what the job has to say.
    app = copy.copy(ending.app)
    app.out = Aside()
    work = Work(
        "run",
        (words_script(words),),
        name=f"{ending.job_id}-done",
        user=ending.user,
        env=ending.env,
    )
    submission = Submission(app, work, Selection(ending.cluster, (instance_id,)), Manner())
    follower = submission.follower(Wanted(logs=lambda _task: True))
    code = submission.watch(follower, Watcher(app.out))
    if code in INTERRUPTIONS:
        raise Signalled(code)
    ended = submission.conclude(follower, own_code=True) if code is None else code
    return ended, {"job": submission.job.job_id, "instance": instance_id}

"""`pmr retry` and `pmr map --resume`: tasks of a job that was submitted before run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from poormanray.cli.chaining import Chain, Ending
from poormanray.cli.headers import MOST_RETRIES
from poormanray.cli.inputs import Program
from poormanray.cli.jobs import follower_for, job_argument, known_job, left_s, looked_at
from poormanray.cli.mapping import MapWatcher, Progress
from poormanray.cli.options import DURATION, App, Command, aws_options, cluster_option
from poormanray.cli.planned import show_again
from poormanray.cli.watching import WayBack, count_words, summary_event, watched
from poormanray.cli.working import Then, lost_after_option
from poormanray.entries import parse_array
from poormanray.errors import ExitCode, UsageProblem
from poormanray.jobs import again
from poormanray.jobs.cancel import cancel, unconfirmed
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.halt import Halt, halting, parse_halt
from poormanray.jobs.join import of_ledger
from poormanray.jobs.listing import Known, check_majority
from poormanray.jobs.outcome import Outcome, Verdict, outcomes, verdict
from poormanray.jobs.track import Track, Wanted
from poormanray.ledger import TaskState
from poormanray.manifest import script_digest, task_key
from poormanray.remote import DELIVER_TIMEOUT_S

if TYPE_CHECKING:
    from poormanray.jobs.follow import Follower

retries_option = click.option(
    "--retries",
    type=click.IntRange(0, MOST_RETRIES),
    help="More turns for a task that fails, on another instance where there is one.",
)

reassign_option = click.option(
    "--reassign",
    is_flag=True,
    help="Tasks on instances that are stopped or do not respond run elsewhere.",
)


def _halt(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Halt | None:
    try:
        return None if value is None else parse_halt(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


trust_backups_option = click.option(
    "--no-trust-backups",
    "trust_backups",
    is_flag=True,
    default=True,
    flag_value=False,
    help="Run again what only a backup has as ended, as its instance has departed.",
)

halt_option = click.option(
    "--halt",
    callback=_halt,
    metavar="WHEN",
    help="Stop at failures: now,fail=1 ends what runs; soon,fail=10% lets it end.",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as its instances tell of it when something is to run again.

    `began_s` is when they were asked first.
    """

    fleet: Fleet
    known: Known
    tracks: Sequence[Track]
    found: Sequence[Outcome]
    began_s: float


def seen(app: App, name: str, job: str, *, trust_backups: bool = True) -> Seen:
    """Find a map's job, and look at it once; without `trust_backups`, at its instances only.

    Raises:
        NotFound: there is no such job.
        UsageProblem: it is no map.
    """
    began_s = app.aws.clock.now_s()
    fleet, known = known_job(app, name, job, events=True)
    if known.summary.kind != "map":
        raise UsageProblem(
            f"job {known.summary.job_id} is a {known.summary.kind}, not a map",
            "type its command again; it becomes a job of its own",
        )
    tracks = looked_at(app, fleet, known, trust_backups=trust_backups)
    found = outcomes(tracks, known.manifest.task_names)
    return Seen(fleet, known, tracks, found, began_s)


@dataclass(frozen=True, slots=True)
class Onward:
    """How a job goes on, and how it is watched.

    `fixed` are words of the command line that a job which is there already cannot follow.
    """

    retries: int = 0
    wait_timeout_s: float = 0.0
    lost_after_s: float = 0.0
    halt: Halt | None = None
    chain: Chain = Chain()  # noqa: RUF009 (it is frozen)
    dry_run: bool = False
    reassign: bool = False
    trust_backups: bool = True
    fixed: tuple[str, ...] = ()


def go_on(app: App, before: Seen, chosen: Sequence[Outcome], onward: Onward) -> int:
    """Give the chosen tasks another turn, and watch the job until it ends."""
    waiting = sum(not one.state.ended for one in before.found)
    if onward.dry_run:
        return show_again(app.out, before.known.summary.job_id, chosen, waiting)
    if not chosen and not waiting:
        return _nothing(app, before, onward)
    again_words = "1 task runs" if len(chosen) == 1 else f"{len(chosen)} tasks run"
    job_id = before.known.summary.job_id
    app.out.note(f"job {job_id}: {again_words} again, {waiting} not ended yet")
    turns = again.turns(
        chosen, before.tracks, before.found, retries=onward.retries, reassign=onward.reassign
    )
    turns = replace(turns, trust_backups=onward.trust_backups)
    names = {one.instance_id: one.name for one in before.fleet.ready}

    def differs(instance_id: str, why: str) -> None:
        app.out.note(f"[{names[instance_id]}] {why}; another instance is read")

    follower = follower_for(
        app,
        before.fleet,
        before.known,
        Wanted(),
        again.revived(before.tracks),
        timeout_s=left_s(app, onward.wait_timeout_s, before.began_s),
        lost_after_s=onward.lost_after_s,
        turns=turns,
        newcomers=of_ledger(before.fleet, before.known, DELIVER_TIMEOUT_S, differs),
    )
    count = len(chosen) + waiting
    watch = partial(_watch, app, before, follower, count, onward.halt)
    code = onward.chain.watched(app, watch)
    if code is not None:
        return code
    found = outcomes(follower.tracks.values(), before.known.manifest.task_names)
    if follower.gave_up_waiting:
        onward.chain.skipped(app)
        return _told(app, job_id, found, Verdict(ExitCode.NOT_REACHED))
    then = onward.chain.then(Ending(app, before.fleet.cluster, job_id))
    return _told(app, job_id, found, verdict(found, before.known.summary.task_count), then)


def _watch(
    app: App, before: Seen, follower: Follower, count: int, halt: Halt | None
) -> ExitCode | None:
    """Show the job until it ends; what counts for a halt are the `count` tasks that have a turn."""
    job_id, cluster = before.known.summary.job_id, before.fleet.cluster
    back = WayBack(
        job_id,
        app.command_line("map", "--resume", job_id, "-n", cluster),
        follower.tracks.values(),
        app.command_line("resume", "-n", cluster),
        app.command_line("map", "--resume", job_id, "--reassign", "-n", cluster),
    )
    happenings = follower.run()
    if halt is not None:
        happenings = halting(happenings, halt, count, partial(_stop, before, follower, halt))
    progress = Progress(app.aws.clock, count)
    names = before.known.manifest.task_names
    watcher = MapWatcher(app.out, names=names, progress=progress)
    code = watched(app.out, happenings, watcher, back)
    if code is not None:
        return code
    if follower.gave_up_waiting:
        back.tell(app.out, "stopped watching")
    else:
        back.tell_stopped(app.out)
    return None


def _stop(before: Seen, follower: Follower, halt: Halt) -> tuple[str, ...]:
    if follower.mover:
        # Further turns would undo the cancel.
        follower.mover.stop()
    hosts = [track.host for track in follower.tracks.values() if not track.gone]
    done = cancel(before.fleet, follower.job_id, hosts, running=halt.now)
    return unconfirmed(done, follower.tracks.values())


def resume(
    app: App,
    name: str,
    job: str,
    program: Program | None,
    *,
    changed: bool,
    onward: Onward,
) -> int | Program:
    """Go on with a map: what has not ended goes on, and all without success runs again.

    A program that was given must be the job's own. With `changed` it may differ: then what is to
    run as a job of its own is returned, without the tasks that succeeded as they are.

    Raises:
        UsageProblem: the program is another, or an option asks for what the job cannot follow.
    """
    before = seen(app, name, job, trust_backups=onward.trust_backups)
    job_id = before.known.summary.job_id
    if program is not None:
        differs = _changes(before.known, program)
        if differs and not changed:
            raise UsageProblem(
                f"job {job_id} was submitted with other content ({differs.words()})",
                "--changed runs what is new, changed or did not succeed, as a job of its own",
            )
        if differs:
            return _rest(before, program)
    refuse(onward.fixed, job_id, "nothing has changed, so ")
    chosen = again.chosen(before.found, again.UNSUCCESSFUL)
    return go_on(app, before, chosen, onward)


def join(app: App, name: str, job: str, onward: Onward) -> int:
    """Watch a map, and let the cluster's other instances take part in what waits."""
    before = seen(app, name, job, trust_backups=onward.trust_backups)
    if not onward.dry_run and all(one.state.ended for one in before.found):
        summary = before.known.summary
        return _told(app, summary.job_id, before.found, verdict(before.found, summary.task_count))
    check_majority(before.fleet, before.known)
    return go_on(app, before, (), onward)


def refuse(fixed: Sequence[str], job: str, why: str = "") -> None:
    """Refuse options that a job which goes on itself cannot follow; `why` it does.

    Raises:
        UsageProblem: there are such options.
    """
    if "--detach" in fixed:
        raise UsageProblem(
            f"{why}job {job} goes on itself, and -d needs a job of its own: further turns need a "
            "client that watches",
            "leave out -d",
        )
    if fixed:
        words = " and ".join([", ".join(fixed[:-1]), fixed[-1]] if fixed[1:] else fixed)
        raise UsageProblem(
            f"{why}job {job} goes on as it was submitted: {words} cannot be chosen any more",
            f"leave out {words}, or submit it as a job of its own",
        )


def _keys(program: Program) -> dict[int, str]:
    digests = [script_digest(script) for script in program.scripts]
    return {task.number: task_key(digests[task.script], task.entry) for task in program.tasks}


def _changes(known: Known, program: Program) -> again.Changes:
    keys = _keys(program)
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for number, name in known.manifest.task_names.items():
        before.setdefault(name, []).append(known.manifest.task_keys.get(number, ""))
    for task in program.tasks:
        after.setdefault(task.name, []).append(keys[task.number])
    return again.changes(before, after)


def _rest(before: Seen, program: Program) -> Program:
    """Return the program without what has succeeded, keyed by script and entry."""
    known = before.known.manifest.task_keys
    good = [one for one in before.found if one.state is TaskState.SUCCEEDED]
    # Several tasks may run the same: their names tell them apart.
    done = {(one.name, known.get(one.task)) for one in good}
    keys = _keys(program)
    rest = tuple(t for t in program.tasks if (t.name, keys[t.number]) not in done)
    if not rest:
        raise UsageProblem(
            f"nothing is left to run: job {before.known.summary.job_id} has done it all",
            "leave out --resume to run it as a job of its own",
        )
    return Program(program.scripts, rest, program.shown)


def _nothing(app: App, before: Seen, onward: Onward) -> int:
    """Say that there is nothing to do: that is no failure, whatever else became of the job."""
    job_id = before.known.summary.job_id
    app.out.note(f"job {job_id}: nothing to do, no task runs again")
    then = onward.chain.then(Ending(app, before.fleet.cluster, job_id))
    return _told(app, job_id, before.found, Verdict(ExitCode.OK), then)


def _told(
    app: App, job_id: str, found: Sequence[Outcome], reached: Verdict, then: Then | None = None
) -> int:
    app.out.note(f"job {job_id}: {count_words(found)}")
    reached = then(found, reached) if then else reached
    app.out.event(summary_event(job_id, found, reached))
    return reached.code


def _numbers(words: Sequence[str], known: Known) -> frozenset[int]:
    try:
        numbers = frozenset(number for word in words for number in parse_array(word).ids)
    except ValueError as error:
        raise UsageProblem(f"tasks: {error}", "pmr retry JOB 3 5-9") from error
    if unknown := sorted(numbers - known.manifest.task_names.keys()):
        raise UsageProblem(
            f"job {known.summary.job_id} has no task {unknown[0]}",
            f"pmr status {known.summary.job_id} -n {known.summary.cluster} lists them",
        )
    return numbers


@click.command(cls=Command)
@cluster_option
@click.option("--failed", is_flag=True, help="What failed or ran out of time.")
@click.option("--lost", is_flag=True, help="What was lost with its instance or its runner.")
@retries_option
@reassign_option
@trust_backups_option
@halt_option
@click.option("--wait-timeout", type=DURATION, help="Stop watching after this long.")
@lost_after_option
@job_argument
@click.argument("tasks", nargs=-1, metavar="[TASKS]...")
@aws_options
def retry(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    failed: bool,
    lost: bool,
    retries: int | None,
    reassign: bool,
    trust_backups: bool,
    halt: Halt | None,
    wait_timeout: float | None,
    lost_after: float | None,
    job: str,
    tasks: tuple[str, ...],
) -> int:
    """Run tasks of a map again: all without success, or those that are named.

    TASKS are ids such as 3, 5-9 or 1,4; named, they run again also if they succeeded. Scripts
    and entries are those that the job was submitted with; logs of earlier attempts stay.
    """
    before = seen(app, name, job, trust_backups=trust_backups)
    numbers = _numbers(tasks, before.known)
    states = (again.FAILED if failed else frozenset()) | (again.LOST if lost else frozenset())
    if not states:
        states = again.UNSUCCESSFUL | ({TaskState.SUCCEEDED} if numbers else frozenset())
    chosen = again.chosen(before.found, states, numbers)
    how = Onward(
        retries or 0,
        wait_timeout or 0.0,
        lost_after or 0.0,
        halt,
        reassign=reassign,
        trust_backups=trust_backups,
    )
    return go_on(app, before, chosen, how)

"""`pmr jobs`, `pmr cancel`: which jobs there are, and their end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from poormanray.cli.options import (
    DURATION,
    SIZE,
    App,
    Command,
    aws_options,
    cluster_option,
    instance_option,
    yes_option,
)
from poormanray.cli.prune import WEEK_S, Chosen, prune_jobs
from poormanray.cli.watching import iso
from poormanray.errors import ExitCode, JobConflict, NotFound, UsageProblem
from poormanray.jobs.absent import absent, prove, recall
from poormanray.jobs.cancel import Cancelled
from poormanray.jobs.cancel import cancel as cancel_on
from poormanray.jobs.fleet import Fleet, muster
from poormanray.jobs.follow import Follower
from poormanray.jobs.join import Joiner
from poormanray.jobs.listing import (
    Known,
    Listed,
    chosen_hosts,
    find,
    find_with_events,
    id_in,
    list_jobs,
    possible_hosts,
    resolve,
)
from poormanray.jobs.moving import Turns
from poormanray.jobs.outcome import tracks_of
from poormanray.jobs.presence import Fate
from poormanray.jobs.track import Contact, Track, Wanted
from poormanray.model import Selection, readable_s

if TYPE_CHECKING:
    from poormanray.envelope import Answer

job_argument = click.argument("job", default="last")


def fleet_of(app: App, name: str, told: set[str] | None = None) -> Fleet:
    """Find the instances of a cluster, and say which of them cannot be asked, if not `told` yet."""
    fleet = muster(app.aws, Selection(name))
    for one, why in fleet.left_out:
        if one.name not in (told or ()):
            app.out.note(f"[{one.name}] cannot be asked: {why}")
        if told is not None:
            told.add(one.name)
    return fleet


def known_job(app: App, name: str, job: str, *, events: bool = False) -> tuple[Fleet, Known]:
    """Find a job of a cluster, by id, name or `last`; with `events`, also what has happened."""
    fleet = fleet_of(app, name)
    return fleet, find_with_events(fleet, job) if events else find(fleet, job)


def job_id_of(app: App, name: str, job: str) -> str:
    """Return the id of the job that an id, a name or `last` means now."""
    return resolve(muster(app.aws, Selection(name)), job)


def tracks_for(fleet: Fleet, known: Known, *, trust_backups: bool = True) -> list[Track]:
    """Return a track for each instance of the job, with why it cannot be asked, if so."""
    ids = [host.instance_id for host in known.manifest.hosts]
    never = Fate(Contact.REFUSED, "the job never reached it")
    fates = {key: never for key in ids if key not in known.holders}
    fates |= {key: Fate(Contact.SILENT, why) for key, why in known.problems.items()}
    fates |= fleet.fates(ids)
    tracks = tracks_of(known.manifest, fates)
    recall(fleet, known, tracks, trust_backups=trust_backups)
    return tracks


def follower_for(  # noqa: PLR0913 (what it is made of)
    app: App,
    fleet: Fleet,
    known: Known,
    wanted: Wanted,
    tracks: Sequence[Track] | None = None,
    *,
    timeout_s: float = 0.0,
    turns: Turns | None = None,
    newcomers: Joiner | None = None,
    lost_after_s: float = 0.0,
    told: Mapping[str, Answer] | None = None,
) -> Follower:
    """Return a follower of a job that was submitted before, on all its instances or some."""
    followed = tracks_for(fleet, known) if tracks is None else tracks
    return Follower(
        known.summary.job_id,
        followed,
        wanted,
        remote=fleet.remote,
        clock=app.aws.clock,
        states=fleet.states,
        timeout_s=timeout_s,
        turns=turns,
        newcomers=newcomers,
        told=known.told if tracks is None else told,
        lost_after_s=lost_after_s,
        prove=partial(prove, fleet, known.summary.job_id, sorted(known.holders), followed),
    )


def left_s(app: App, timeout_s: float, began_s: float) -> float:
    """Return what is left for a follower of a command's `--wait-timeout`; 0 is no timeout."""
    left = began_s + timeout_s - app.aws.clock.now_s()
    return max(left, 0.001) if timeout_s else 0.0


def looked_at(app: App, fleet: Fleet, known: Known, *, trust_backups: bool = True) -> list[Track]:
    """Look once at every instance of a job, and return what each tells of it."""
    tracks = tracks_for(fleet, known, trust_backups=trust_backups)
    follower = follower_for(app, fleet, known, Wanted(live=False), tracks, told=known.told)
    for _ in follower.run():
        pass
    tracks = list(follower.tracks.values())
    return tracks + absent(fleet, known, tracks, trust_backups=trust_backups)


@click.command(cls=Command)
@cluster_option
@click.option("--prune", is_flag=True, help="Remove what old jobs left on the instances, and ask.")
@click.option("--older", type=DURATION, help="Prune: unchanged for so long.  [default: 7d]")
@click.option("--larger", type=SIZE, help="Prune: takes at least so much of an instance's disk.")
@click.option("--job", help="Prune: only this job, however old.")
@click.option("--dry-run", is_flag=True, help="Prune: show what would be removed.")
@yes_option
@aws_options
def jobs(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    prune: bool,
    older: float | None,
    larger: int | None,
    job: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """List the jobs of a cluster, newest first, as its instances know them.

    With --prune, remove the ledgers, logs and folders of old ones; never of one that may go on.
    """
    if prune:
        chosen = Chosen(WEEK_S if older is None and job is None else older or 0.0, larger or 0, job)
        return prune_jobs(app, name, chosen, dry_run=dry_run, yes=yes)
    if dry_run or yes or (older, larger, job) != (None, None, None):
        raise UsageProblem(
            "--older, --larger, --job, --dry-run and --yes are about --prune",
            app.command_line("jobs", "--prune", "-n", name),
        )
    return _list(app, name)


def _list(app: App, name: str) -> int:
    fleet = muster(app.aws, Selection(name))
    listed, problems = list_jobs(fleet)
    for instance_id, why in problems.items():
        app.out.note(f"[{instance_id}] cannot be asked: {why}")
    app.out.document([_job_row(job) for job in listed])
    if not listed:
        app.out.note(f"cluster {name} has no jobs")
    else:
        app.out.table(
            ("JOB", "KIND", "NAME", "STATE", "TASKS", "OK", "FAILED", "INSTANCES", "AGE", "BY"),
            [_job_cells(job) for job in listed],
            spare=("BY", "KIND", "INSTANCES", "AGE"),
        )
    return ExitCode.NOT_REACHED if problems else ExitCode.OK


def _job_row(job: Listed) -> dict[str, object]:
    summary = job.summary
    return {
        "job": summary.job_id,
        "kind": summary.kind,
        "name": summary.name,
        "state": job.state,
        "submitter": summary.submitter,
        "created_at": iso(summary.created_at),
        "tasks": summary.task_count,
        "instances": summary.host_count,
        "instances_seen": job.hosts_seen,
        "counts": dict(job.counts),
    }


def _job_cells(job: Listed) -> Sequence[str]:
    summary, counts = job.summary, job.counts
    return (
        summary.job_id,
        summary.kind,
        summary.name,
        job.state,
        str(summary.task_count),
        str(counts.get("succeeded", 0)),
        str(counts.get("failed", 0)),
        f"{job.hosts_seen}/{summary.host_count}",
        readable_s(max(0.0, time.time() - summary.created_at)),
        summary.submitter,
    )


@click.command(cls=Command)
@cluster_option
@instance_option
@click.option("--task", type=click.IntRange(min=0), help="Only this task.")
@job_argument
@aws_options
def cancel(
    app: App, *, name: str, instance_ids: tuple[str, ...], task: int | None, job: str
) -> int:
    """End a job: its tasks get TERM, and KILL five seconds later; what waits will not start."""
    fleet = fleet_of(app, name)
    try:
        known = find(fleet, job)
    except JobConflict:
        if not (job_id := id_in(job)):
            raise
        return _cancel_all(app, fleet, job_id, task, instance_ids)
    hosts = list(chosen_hosts(known, instance_ids))
    # A task may have moved since: whoever does not have it has nothing to end.
    if not hosts or (task is not None and task not in known.manifest.task_names):
        raise NotFound(
            f"job {known.summary.job_id} has no such task or instance",
            app.command_line("status", known.summary.job_id, "-n", name),
        )
    job_id = known.summary.job_id
    return _show_cancelled(app, name, job_id, task, cancel_on(fleet, job_id, hosts, task=task))


def _cancel_all(app: App, fleet: Fleet, job_id: str, task: int | None, words: Sequence[str]) -> int:
    """End every job that has this id: of several, no instance's word on the others counts."""
    hosts = possible_hosts(fleet, job_id, words)
    done = cancel_on(fleet, job_id, hosts, task=task)
    there = [one for one in done if not one.absent]
    return _show_cancelled(app, fleet.cluster, job_id, task, there)


def _show_cancelled(
    app: App, name: str, job_id: str, task: int | None, done: Sequence[Cancelled]
) -> int:
    out = app.out
    for one in done:
        if one.problem:
            out.note(f"[{one.host.name}] not cancelled, its tasks may run on: {one.problem}")
        elif one.absent:
            out.note(f"[{one.host.name}] nothing to cancel there: {one.absent}")
        elif one.survivors:
            out.note(f"[{one.host.name}] {one.survivors} processes would not end")
    count = sum(one.tasks for one in done)
    missed = sum(1 for one in done if one.problem)
    survivors = sum(one.survivors for one in done)
    what = f"job {job_id}" if task is None else f"task {task} of job {job_id}"
    if count:
        asked = sum(1 for one in done if not (one.problem or one.absent))
        out.line(f"{what}: {count} tasks cancelled on {asked} instances")
    elif not missed:
        out.line(f"{what} had ended already: nothing to cancel")
    out.document(
        {
            "job": job_id,
            "task": task,
            "tasks_cancelled": count,
            "instances_missed": missed,
            "missed": [one.host.name for one in done if one.problem],
            "survivors": survivors,
        }
    )
    left = [one.host.name for one in done if one.problem or one.survivors]
    if left:
        words = ["cancel", job_id, "-n", name, *(["--task", str(task)] if task is not None else [])]
        again = app.command_line(*words, *(word for one in left for word in ("-i", one)))
        out.note(f"  next: {again}")
    return ExitCode.NOT_REACHED if missed or survivors else ExitCode.OK

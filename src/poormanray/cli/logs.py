"""`pmr logs`: what tasks wrote, once or as they write it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import click

from poormanray.cli.jobs import follower_for, job_argument, known_job, left_s, tracks_for
from poormanray.cli.options import (
    COUNT,
    DURATION,
    App,
    Command,
    aws_options,
    cluster_option,
    instance_option,
)
from poormanray.cli.watching import Watcher, WayBack, summary_event, watched
from poormanray.errors import ExitCode, NotFound
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.follow import Follower
from poormanray.jobs.listing import Known, chosen_hosts
from poormanray.jobs.outcome import Verdict, outcomes, verdict
from poormanray.jobs.tail import read_tail
from poormanray.jobs.track import LogText, Track, Wanted

# What a job is has to be read before it can be followed, however short the user's timeout is.
LEAST_S = 10.0


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is asked for: tasks of a job, on all of its instances or some. Tasks may have moved."""

    fleet: Fleet
    known: Known
    tasks: frozenset[int]
    instance_ids: tuple[str, ...]

    def tracks(self) -> list[Track]:
        chosen = {one.instance_id for one in chosen_hosts(self.known, self.instance_ids)}
        tracks = tracks_for(self.fleet, self.known)
        return [track for track in tracks if track.host.instance_id in chosen]

    def expected(self, tracks: Iterable[Track]) -> dict[int, str]:
        """Return the names of the tasks that are to be shown; of some instances, those they had."""
        names = self.known.manifest.task_names
        had = {task for track in tracks for task in track.tasks}
        chosen = self.tasks & had if self.instance_ids else self.tasks
        return {task: names[task] for task in chosen}


def _choice(
    app: App, fleet: Fleet, known: Known, task: int | None, instance_ids: tuple[str, ...]
) -> _Choice:
    tasks = frozenset(known.manifest.task_names)
    choice = _Choice(fleet, known, tasks if task is None else tasks & {task}, instance_ids)
    chosen_hosts(known, instance_ids)
    if not choice.tasks:
        raise NotFound(
            f"job {known.summary.job_id} has no task {task}",
            f"{app.command_line('status', known.summary.job_id, '-n', fleet.cluster)} lists them",
        )
    return choice


def _only(follow: bool, task: int | None, instance_ids: tuple[str, ...]) -> list[str]:  # noqa: FBT001 (a flag of the command line)
    """Return the words that choose what is shown, as they were given."""
    words = ["-f"] if follow else []
    words += [word for one in instance_ids for word in ("-i", one)]
    return words if task is None else [*words, "--task", str(task)]


def _way_back(app: App, name: str, follower: Follower, only: list[str]) -> WayBack:
    again = app.command_line("logs", *only, follower.job_id, "-n", name)
    resume = app.command_line("resume", "-n", name)
    return WayBack(follower.job_id, again, follower.tracks.values(), resume)


def _show_tail(app: App, choice: _Choice, lines: int, watcher: Watcher) -> list[Track]:
    """Print the last lines of each log; return the tracks, from which following can go on."""

    def follow(from_end_bytes: int) -> Follower:
        wanted = Wanted(choice.tasks.__contains__, live=False, from_end_bytes=from_end_bytes)
        return follower_for(app, choice.fleet, choice.known, wanted, choice.tracks())

    tracks, tails = read_tail(follow, lines)
    for host, key, data in tails:
        watcher.show(LogText(host, key, data))
    return tracks


def ask_again(tracks: list[Track], fleet: Fleet) -> None:
    """Let those be followed that did not tell of the job when it was read, but can be asked.

    Their agents may be back, or the job's start may have been on its way.
    """
    absent = fleet.fates(track.host.instance_id for track in tracks)
    for track in tracks:
        if track.host.instance_id not in absent:
            track.reopen()


@click.command(cls=Command)
@cluster_option
@instance_option
@click.option("--task", type=click.IntRange(min=0), help="Only this task.")
@click.option("--tail", type=COUNT, metavar="LINES", help="Only the last lines of each log.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--wait-timeout", type=DURATION, help="Stop following after this long.")
@click.option(
    "--no-prefix", is_flag=True, help="Show output as it is, without [name] before lines."
)
@job_argument
@aws_options
def logs(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    instance_ids: tuple[str, ...],
    task: int | None,
    tail: int | None,
    follow: bool,
    wait_timeout: float | None,
    no_prefix: bool,
    job: str,
) -> int:
    """Print what a job's tasks wrote; with -f go on until it has ended.

    With -f the exit code tells what the job came to, as `run` and `map` do.
    """
    clock, timeout_s = app.aws.clock, wait_timeout or 0.0
    began_s = clock.now_s()
    until_s = began_s + max(timeout_s, LEAST_S) if follow and timeout_s else float("inf")
    with clock.until(until_s):
        fleet, known = known_job(app, name, job)
        choice = _choice(app, fleet, known, task, instance_ids)
        tracks = choice.tracks()
    watcher = Watcher(
        app.out,
        prefix=not no_prefix and len(choice.tasks) > 1,
        by_task=known.summary.kind == "map",
        quiet=not follow,
        names=known.manifest.task_names,
    )
    if tail is not None:
        tracks = _show_tail(app, choice, tail, watcher)
        if not follow:
            watcher.finish()
            return _read(tracks, choice)
    if follow:
        ask_again(tracks, fleet)
    wanted = Wanted(
        choice.tasks.__contains__,
        live=follow,
        wake_on_events=follow and known.summary.kind == "map",
    )
    timeout_s = left_s(app, timeout_s, began_s)
    follower = follower_for(app, fleet, known, wanted, tracks, timeout_s=timeout_s)
    back = _way_back(app, name, follower, _only(follow, task, instance_ids))
    code = watched(app.out, follower.run(), watcher, back)
    if code is not None:
        return code
    if not follow:
        return _read(follower.tracks.values(), choice)
    if follower.gave_up_waiting:
        back.tell(app.out, "stopped following")
    else:
        back.tell_stopped(app.out)
    return _concluded(app, choice, follower)


def _read(tracks: Collection[Track], choice: _Choice) -> ExitCode:
    """Return the exit code of logs that were read once: what could not be asked is missing."""
    expected = choice.expected(tracks)
    missing = any(
        (track.gone or track.silent) and track.tasks & expected.keys() for track in tracks
    )
    complete = {task for track in tracks for task in track.tasks} >= expected.keys()
    return ExitCode.OK if complete and not missing else ExitCode.NOT_REACHED


def _concluded(app: App, choice: _Choice, follower: Follower) -> int:
    known, tracks = choice.known, follower.tracks.values()
    expected = choice.expected(tracks)
    found = outcomes(tracks, expected)
    alone = known.summary.kind == "run" and len(tracks) == 1
    unseen = Verdict(ExitCode.NOT_REACHED)
    seen = verdict(found, len(expected), own_code=alone)
    reached = unseen if follower.gave_up_waiting else seen
    app.out.event(summary_event(known.summary.job_id, found, reached))
    return reached.code

"""`pmr map`: a directory of scripts, spread over the instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from poormanray.cli.inputs import collect_scripts
from poormanray.cli.options import (
    App,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    ssh_key_option,
)
from poormanray.cli.watching import Watcher, readable_s
from poormanray.cli.working import JobWords, Submission, job_options
from poormanray.errors import UsageProblem
from poormanray.jobs.track import Happening, Looked, TaskChanged, Wanted
from poormanray.ledger import TaskState
from poormanray.model import Selection

if TYPE_CHECKING:
    from poormanray.waiting import Clock


@dataclass(slots=True)
class Progress:
    """Counts a map's tasks, and tells how far they are."""

    clock: Clock
    total: int
    states: dict[int, TaskState] = field(default_factory=dict)
    began_s: float = 0.0

    def note(self, change: TaskChanged) -> None:
        """Take in that a task started or ended."""
        self.states[change.status.task] = change.status.state
        self.began_s = self.began_s or self.clock.now_s()

    def text(self) -> str:
        """Return one line: done, failed, running, rate, time left."""
        states = list(self.states.values())
        ended = sum(1 for state in states if state.ended)
        failed = sum(1 for state in states if state.ended and state is not TaskState.SUCCEEDED)
        running = states.count(TaskState.RUNNING)
        words = f"{ended}/{self.total} done, {failed} failed, {running} running"
        seconds = (self.clock.now_s() - self.began_s) / self.clock.scale
        if ended and seconds > 1:
            rate = ended / seconds
            words += f", {rate:.1f}/s"
            if ended < self.total:
                words += f", about {readable_s((self.total - ended) / rate)} left"
        return words


@dataclass(slots=True)
class MapWatcher(Watcher):
    """Shows a map: what failed, and how far it is."""

    progress: Progress | None = None

    def show(self, happening: Happening) -> None:
        """Print one thing that happened, and the progress if it has changed."""
        Watcher.show(self, happening)
        if not self.progress:
            return
        if isinstance(happening, TaskChanged):
            self.progress.note(happening)
        elif isinstance(happening, Looked) and self.progress.states and not self.out.json:
            self.out.progress(self.progress.text())

    def finish(self) -> None:
        """Take the progress away."""
        Watcher.finish(self)
        self.out.progress("")


def _slots(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value == "auto" or (value.isascii() and value.isdecimal() and 0 < int(value) <= 1024):  # noqa: PLR2004 (sane)
        return value
    raise click.BadParameter(f"{value!r} is neither a number from 1 to 1024 nor `auto`")


@click.command("map")
@cluster_option
@instance_option
@click.option(
    "-s", "--script", "folders", multiple=True, metavar="DIR", help="Directory of scripts."
)
@click.option(
    "--slots",
    default="1",
    callback=_slots,
    show_default=True,
    help="Tasks at a time on each instance; `auto`: one for each CPU.",
)
@detach_option
@job_options
@ssh_key_option
@click.argument("directories", nargs=-1, metavar="[DIR]...")
@aws_options
def map_(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    instance_ids: tuple[str, ...],
    folders: tuple[str, ...],
    slots: str,
    detach: bool,
    asked: JobWords,
    directories: tuple[str, ...],
) -> int:
    """Spread a directory of scripts over the instances: each script is a task."""
    if not folders + directories:
        raise UsageProblem("say which directory of scripts to map", "pmr map -n NAME DIR")
    work = asked.work("map", collect_scripts(folders + directories), slots=slots)
    manner = asked.manner(detach=detach)
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    follower = submission.follower(Wanted())
    progress = None if detach else Progress(app.aws.clock, len(work.scripts))
    code = submission.watch(follower, MapWatcher(app.out, progress=progress))
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    return submission.conclude(follower, own_code=False)

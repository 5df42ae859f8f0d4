"""`pmr map`: a directory of scripts, spread over the instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from poormanray.cli.elements import Elements, Sources
from poormanray.cli.elements import program as program_of
from poormanray.cli.inputs import Program, collect_scripts
from poormanray.cli.options import (
    App,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    ssh_key_option,
)
from poormanray.cli.planned import show_plan
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


def _program(
    elements: Elements | None,
    command: str | None,
    scripts: tuple[str, ...],
    words: tuple[str, ...],
) -> Program:
    """Return what the tasks run: scripts of directories, or one command for each entry."""
    if elements is not None:
        if len(scripts) > 1:
            raise UsageProblem("-s twice: each entry gets one script", "leave one out")
        script = scripts[0] if scripts else None
        return program_of(elements, command=command, script=script, words=words)
    if command:
        raise UsageProblem(
            "-c says what to run, but not for what",
            "add --array, --each-line, --from-json or ::: ENTRY...",
        )
    if not scripts + words:
        raise UsageProblem("say which directory of scripts to map", "pmr map -n NAME DIR")
    return collect_scripts(scripts + words)


@click.command("map")
@cluster_option
@instance_option
@click.option("-c", "--command", help="Command line for each entry; `{}` is the entry.")
@click.option(
    "-s",
    "--script",
    "scripts",
    multiple=True,
    metavar="PATH",
    help="Directory of scripts; over entries: the script that each of them gets.",
)
@click.option("--array", metavar="IDS", help="Map over numbers: 0-99, 1-7:2, 1,3,9 or 0-99%8.")
@click.option("--each-line", metavar="FILE", help="Map over the lines of a file (`-`: stdin).")
@click.option("--from-json", metavar="FILE", help="Map over a JSON list or JSON Lines.")
@click.option(
    "--slots",
    default="1",
    callback=_slots,
    show_default=True,
    help="Tasks at a time on each instance; `auto`: one for each CPU.",
)
@detach_option
@job_options
@click.option("--dry-run", is_flag=True, help="Show the tasks and their spread; send nothing.")
@ssh_key_option
@click.argument("words", nargs=-1, metavar="[DIR]... | [-- CMD {}] [::: ENTRY...]")
@aws_options
def map_(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    instance_ids: tuple[str, ...],
    command: str | None,
    scripts: tuple[str, ...],
    array: str | None,
    each_line: str | None,
    from_json: str | None,
    slots: str,
    detach: bool,
    asked: JobWords,
    dry_run: bool,
    words: tuple[str, ...],
) -> int:
    """Spread tasks over the instances: a directory of scripts, or one command for many entries."""
    elements, before = Sources(array, each_line, from_json).read(words)
    program = _program(elements, command, scripts, before)
    at_once = elements.at_once if elements else 0
    work = asked.work("map", program, slots=slots, at_once=at_once)
    manner = asked.manner(detach=detach)
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    if dry_run:
        return show_plan(app.out, submission.job)
    follower = submission.follower(Wanted())
    progress = None if detach else Progress(app.aws.clock, len(work.tasks))
    code = submission.watch(follower, MapWatcher(app.out, progress=progress))
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    return submission.conclude(follower, own_code=False)

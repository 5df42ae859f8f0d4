"""`pmr map`: a directory of scripts, spread over the instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poormanray.cli.options import (
    App,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    ssh_key_option,
)
from poormanray.cli.watching import Watcher, readable_s
from poormanray.cli.working import (
    Manner,
    Submission,
    environment,
    helper_files,
    job_options,
    read_file,
)
from poormanray.errors import UsageProblem
from poormanray.jobs.submit import Work
from poormanray.jobs.track import Happening, Looked, TaskChanged, Wanted
from poormanray.ledger import TaskState
from poormanray.model import Selection
from poormanray.shell import as_program

if TYPE_CHECKING:
    from poormanray.waiting import Clock

_BACKUPS = ("~", ".bak", ".orig", ".swp", ".swo", ".tmp", ".rej")


def is_script(path: Path, top: Path) -> bool:
    """Say whether a file of a directory is a script: not hidden, and no editor's backup."""
    parts = path.relative_to(top).parts
    if any(part.startswith(".") for part in parts):
        return False
    name = parts[-1]
    return not (name.endswith(_BACKUPS) or (name.startswith("#") and name.endswith("#")))


def collect_scripts(folders: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
    """Read the scripts of directories, sorted by name; a name is the path below its directory.

    Raises:
        UsageProblem: a directory is missing or has no script, or two scripts have one name.
    """
    found: dict[str, tuple[Path, bytes]] = {}
    for word in folders:
        top = Path(word)
        if not top.is_dir():
            kind = "is not a directory" if top.exists() else "does not exist"
            raise UsageProblem(f"{word} {kind}: map takes a directory of scripts", "check the path")
        paths = sorted(p for p in top.rglob("*") if p.is_file() and is_script(p, top))
        if not paths:
            raise UsageProblem(
                f"{word} has no scripts (hidden files and backups do not count)",
                "put one script for each task into it",
            )
        for path in paths:
            name = str(path.relative_to(top))
            if name in found:
                raise UsageProblem(
                    f"two scripts are named {name!r}: {found[name][0]} and {path}",
                    "rename one, or map over the folder that holds both",
                )
            found[name] = (path, as_program(read_file(path)))
    return tuple((name, data) for name, (_, data) in sorted(found.items()))


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
    user: str,
    timeout: float | None,
    deliver_timeout: float,
    wait_timeout: float | None,
    env: tuple[tuple[str, str], ...],
    files: tuple[str, ...],
    job_name: str,
    job_id: str,
    directories: tuple[str, ...],
) -> int:
    """Spread a directory of scripts over the instances: each script is a task."""
    if not folders + directories:
        raise UsageProblem("say which directory of scripts to map", "pmr map -n NAME DIR")
    work = Work(
        "map",
        collect_scripts(folders + directories),
        name=job_name,
        slots=slots,
        timeout_s=timeout or 0.0,
        user=user,
        env=environment(env),
        helper_files=helper_files(files),
    )
    manner = Manner(detach, 0, int(deliver_timeout), wait_timeout or 0.0, job_id)
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    follower = submission.follower(Wanted(wake_on_events=False))
    progress = None if detach else Progress(app.aws.clock, len(work.scripts))
    code = submission.watch(follower, MapWatcher(app.out, progress=progress))
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    return submission.conclude(follower, own_code=False)

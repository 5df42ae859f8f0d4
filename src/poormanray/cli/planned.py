"""What `--dry-run` tells: who would run what, and how it would travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from poormanray.cli.sending import bucket_advice, way_row, way_words
from poormanray.cli.watching import ending, readable_bytes
from poormanray.errors import ExitCode
from poormanray.jobs.outcome import Outcome
from poormanray.jobs.submit import pack

if TYPE_CHECKING:
    from poormanray.cli.output import Output
    from poormanray.manifest import Job, Task

# Tasks of an instance that are named, and those that would run again.
SHOWN, SHOWN_AGAIN = 3, 20
# Of a command, in characters; --json has all of it.
LONGEST_COMMAND = 2_000


def show_plan(
    out: Output, job: Job, bucket: str, shown: Callable[[Task], str] | None = None
) -> ExitCode:
    """Print a job's tasks, their spread, its payload and its first commands; send nothing.

    `shown` returns the command of a task with its entry in place.

    Raises:
        UsageProblem: it is too large to travel.
    """
    parcel = pack(job, bucket=bool(bucket))
    size, way = len(parcel.data), way_words(parcel, bucket)
    names = job.task_names
    out.line(f"{len(job.tasks)} tasks on {len(job.hosts)} instances; nothing was sent")
    out.line(f"content: {readable_bytes(size)} compressed, {way}")
    if advice := bucket_advice(parcel):
        out.line(advice)
    out.line("")
    rows = [
        (host.name, str(len(host.tasks)), ", ".join(names[number] for number in host.tasks[:SHOWN]))
        for host in job.hosts
    ]
    out.table(("INSTANCE", "TASKS", "THE FIRST"), rows)
    first = [(task.number, shown(task)) for task in job.tasks[:SHOWN]] if shown else []
    _show_commands(out, first)
    out.document(
        {
            "tasks": [
                {"task": number, "name": names[number], "instance": host.instance_id}
                for host in job.hosts
                for number in host.tasks
            ],
            "commands": [{"task": number, "command": text} for number, text in first],
            **way_row(parcel),
        }
    )
    return ExitCode.OK


def _show_commands(out: Output, commands: Sequence[tuple[int, str]]) -> None:
    if commands:
        out.line("")
        out.line("The first commands, as they will run:")
    for number, text in commands:
        cut = text if len(text) <= LONGEST_COMMAND else f"{text[:LONGEST_COMMAND]} …"
        head = f"task {number}: "
        for line in cut.split("\n"):
            out.line(head + line)
            head = " " * len(head)


def show_again(out: Output, job_id: str, chosen: Sequence[Outcome], waiting: int) -> ExitCode:
    """Print which tasks of a job would run again; nothing is sent that starts one."""
    words = "1 task" if len(chosen) == 1 else f"{len(chosen)} tasks"
    out.line(f"job {job_id}: {words} would run again, {waiting} not ended yet; nothing was started")
    if chosen:
        rows = [
            (str(one.task), one.name, str(one.status.attempt + 1), one.why or ending(one.status))
            for one in chosen[:SHOWN_AGAIN]
        ]
        columns = ("TASK", "SCRIPT", "ATTEMPT", "HOW THE LAST ONE ENDED")
        out.table(columns, rows, spare=("ATTEMPT",))
    if len(chosen) > SHOWN_AGAIN:
        out.line(f"and {len(chosen) - SHOWN_AGAIN} more (--json lists all)")
    out.document(
        {
            "job": job_id,
            "again": [
                {"task": one.task, "name": one.name, "attempt": one.status.attempt + 1}
                for one in chosen
            ],
            "waiting": waiting,
        }
    )
    return ExitCode.OK

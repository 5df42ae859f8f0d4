"""What `--dry-run` tells: who would run what, and how it would travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poormanray.cli.sending import bucket_advice, way_row, way_words
from poormanray.cli.watching import ending, readable_bytes
from poormanray.errors import ExitCode
from poormanray.jobs.outcome import Outcome
from poormanray.jobs.submit import pack

if TYPE_CHECKING:
    from poormanray.cli.output import Output
    from poormanray.manifest import Job

# Tasks of an instance that are named, and those that would run again.
SHOWN, SHOWN_AGAIN = 3, 20


def show_plan(out: Output, job: Job, bucket: str) -> ExitCode:
    """Print a job's tasks, their spread and its payload; send nothing.

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
    out.document(
        {
            "tasks": [
                {"task": number, "name": names[number], "instance": host.instance_id}
                for host in job.hosts
                for number in host.tasks
            ],
            **way_row(parcel),
        }
    )
    return ExitCode.OK


def show_again(out: Output, job_id: str, chosen: Sequence[Outcome], waiting: int) -> ExitCode:
    """Print which tasks of a job would run again; nothing is sent that starts one."""
    words = "1 task" if len(chosen) == 1 else f"{len(chosen)} tasks"
    out.line(f"job {job_id}: {words} would run again, {waiting} not ended yet; nothing was started")
    if chosen:
        rows = [
            (str(one.task), one.name, str(one.status.attempt + 1), one.why or ending(one.status))
            for one in chosen[:SHOWN_AGAIN]
        ]
        out.table(("TASK", "SCRIPT", "ATTEMPT", "HOW THE LAST ONE ENDED"), rows)
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

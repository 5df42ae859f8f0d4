"""What `--dry-run` tells: who would run what, and how it would travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poormanray.cli.watching import readable_bytes
from poormanray.errors import ExitCode
from poormanray.jobs.submit import pack

if TYPE_CHECKING:
    from poormanray.cli.output import Output
    from poormanray.manifest import Job

# Tasks of an instance that are named.
SHOWN = 3


def show_plan(out: Output, job: Job) -> ExitCode:
    """Print a job's tasks, their spread and its payload; send nothing.

    Raises:
        UsageProblem: it is too large to travel.
    """
    parcel = pack(job)
    size = len(parcel.data)
    way = f"{len(parcel.parts)} sends of content, then the start" if parcel.parts else "inline"
    names = job.task_names
    out.line(f"{len(job.tasks)} tasks on {len(job.hosts)} instances; nothing was sent")
    out.line(f"content: {readable_bytes(size)} compressed, {way}")
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
            "bytes": size,
            "parts": len(parcel.parts),
        }
    )
    return ExitCode.OK

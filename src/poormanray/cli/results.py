"""`pmr results`: every log of a job, and a job log, in a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from poormanray.cli.jobs import follower_for, job_argument, known_job
from poormanray.cli.options import App, Command, aws_options, cluster_option
from poormanray.cli.output import json_line, writing
from poormanray.cli.outputs import Got, Wish, gather, outputs_option
from poormanray.cli.sending import bucket_option
from poormanray.cli.watching import Watcher, WayBack, outcome_row, readable_bytes, watched
from poormanray.errors import ExitCode, Signalled
from poormanray.jobs.absent import absent
from poormanray.jobs.outcome import Outcome, outcomes, unclaimed
from poormanray.jobs.results import Collection, aside, claim, fresh, joblog
from poormanray.jobs.track import Happening, Wanted
from poormanray.ledger import TaskState


def _folder(word: str) -> Path:
    """Return the folder of `-o`, made if it was not there; refuse it before anything is asked."""
    folder = Path(word)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with aside(folder):
            pass
    return folder


def _saved(happenings: Iterator[Happening], folder: Path) -> Iterator[Happening]:
    with writing(folder):
        yield from happenings


@click.command(cls=Command)
@cluster_option
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder for the results.")
@outputs_option
@bucket_option
@job_argument
@aws_options
def results(app: App, *, name: str, output: str, pattern: str | None, bucket: str, job: str) -> int:
    """Collect every log of a job as <task>.log, and what became of each task.

    joblog.tsv has GNU parallel's columns; results.jsonl has a line of JSON for each task. With
    --outputs, what a task wrote into PMR_OUTPUT_DIR comes as outputs/<task>/<path>. A folder takes
    the results of one job.
    """
    folder = _folder(output)
    fleet, known = known_job(app, name, job, events=True)
    with writing(folder):
        claim(folder, known.summary.job_id)
    follower = follower_for(app, fleet, known, Wanted(lambda _task: True, live=False))
    globs = ("--outputs", pattern) if pattern else ()
    again = app.command_line("results", known.summary.job_id, "-n", name, "-o", output, *globs)
    back = WayBack(known.summary.job_id, again, follower.tracks.values(), collects=True)
    with writing(folder), aside(folder) as beside:
        collection = Collection(beside)
        happenings = _saved(collection.collect(follower), folder)
        code = watched(app.out, happenings, Watcher(app.out, quiet=True), back)
        if code is not None:
            raise Signalled(code)
        tracks = [*follower.tracks.values(), *absent(fleet, known, follower.tracks.values())]
        found = outcomes(tracks, known.manifest.task_names)
        rows = _write(beside, collection, found)
    summary = _told(app, folder, collection, rows)
    got = Got()
    if pattern:
        with writing(folder):
            wish = Wish(known.summary.job_id, pattern, bucket, folder, again)
            got = gather(app, fleet, found, wish)
    app.out.event({"event": "summary", "job": known.summary.job_id, **summary, **got.summary()})
    if got.error:
        raise got.error
    unread = unclaimed(found) or any(track.problem for track in tracks)
    return ExitCode.NOT_REACHED if unread or got.missed else ExitCode.OK


def _write(
    folder: Path, collection: Collection, found: Sequence[Outcome]
) -> list[dict[str, object]]:
    """Write what became of each task, and return the rows of that."""
    rows = [{**outcome_row(one), **collection.log_row(one.status.key)} for one in found]
    files = {
        "joblog.tsv": joblog(found, collection.sizes).encode("utf-8", "surrogateescape"),
        "results.jsonl": b"".join(b"%s\n" % json_line(row).encode() for row in rows),
    }
    for file, data in files.items():
        fresh(folder / file).write_bytes(data)
    return rows


def _told(
    app: App, folder: Path, collection: Collection, rows: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Say what there is now; return that for JSON."""
    total = sum(collection.sizes.values())
    app.out.line(
        f"{len(collection.sizes)} logs, {readable_bytes(total)}, "
        f"joblog.tsv and results.jsonl in {folder}"
    )
    if missing := sum(row["state"] in (TaskState.PENDING, TaskState.RUNNING) for row in rows):
        app.out.note(f"{missing} tasks have not ended yet; type it again later")
    return {
        "folder": folder,
        "logs": len(collection.sizes),
        "bytes": total,
        "tasks": rows,
    }

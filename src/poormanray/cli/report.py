"""`pmr report`: a job as one file to open, keep or pass on."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click

from poormanray.cli.jobs import follower_for, job_argument, known_job, looked_at
from poormanray.cli.options import App, Command, aws_options, cluster_option
from poormanray.cli.output import one_line, writing
from poormanray.errors import ExitCode
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.listing import Known
from poormanray.jobs.logs import told_last_lines
from poormanray.jobs.outcome import Outcome, outcomes, unclaimed
from poormanray.jobs.report import bars, gantt_svg, report_csv, report_html
from poormanray.jobs.results import aside
from poormanray.jobs.track import LogText, Track, Wanted
from poormanray.ledger import TaskState

KINDS = (".html", ".svg", ".csv")
# Of the log of a task that failed, and how many tasks are asked for theirs.
TAIL_BYTES, MOST_TAILS = 400, 500
LONGEST_LINE = 300


def _file(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Path | None:
    if value is None or Path(value).suffix in KINDS:
        return None if value is None else Path(value)
    raise click.BadParameter(f"{value!r} ends in none of {', '.join(KINDS)}")


@click.command(cls=Command)
@cluster_option
@click.option(
    "-o",
    "--output",
    "file",
    callback=_file,
    metavar="FILE",
    help="A page (.html), its picture of slots over time (.svg), or a table (.csv).",
)
@job_argument
@aws_options
def report(app: App, *, name: str, file: Path | None, job: str) -> int:
    """Write a job as one page that opens offline: slots over time, durations, what failed."""
    # A place that cannot be written is refused before anything is asked.
    with writing(file or Path()), aside((file or Path()).parent):
        if file and file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
    fleet, known = known_job(app, name, job, events=True)
    tracks = looked_at(app, fleet, known)
    found = outcomes(tracks, known.manifest.task_names)
    target = file or Path(f"report-{known.summary.job_id}.html")
    text = _text(app, target.suffix, fleet, known, tracks, found)
    with writing(target), aside(target.parent) as beside:
        (beside / target.name).write_bytes(text.encode("utf-8", "replace"))
    app.out.line(f"{len(found)} tasks of job {known.summary.job_id} in {target}")
    app.out.document({"job": known.summary.job_id, "file": str(target), "tasks": len(found)})
    unread = unclaimed(found) or any(track.problem for track in tracks)
    return ExitCode.NOT_REACHED if unread else ExitCode.OK


def _text(
    app: App,
    kind: str,
    fleet: Fleet,
    known: Known,
    tracks: Sequence[Track],
    found: Sequence[Outcome],
) -> str:
    if kind == ".csv":
        return report_csv(found)
    if kind == ".svg":
        return gantt_svg(bars(found))
    summary = known.summary
    named = f" {summary.name!r}" if summary.name else ""
    failed = [one for one in found if one.state in (TaskState.FAILED, TaskState.TIMEOUT)]
    return report_html(
        f"{summary.kind} {summary.job_id}{named} on {summary.cluster}",
        found,
        slots={track.host.name: track.log.slots for track in tracks},
        last_lines=last_lines(app, fleet, known, failed[:MOST_TAILS]),
    )


def last_lines(app: App, fleet: Fleet, known: Known, failed: Sequence[Outcome]) -> dict[int, str]:
    """Return the last line that each of these tasks has written, where it wrote any."""
    told = {key: told_last_lines(answer) for key, answer in known.told.items()}
    tails: dict[str, bytes] = defaultdict(bytes)
    for one in failed:
        # Nobody tells of what ran elsewhere.
        of_host = told.get(one.host.instance_id, {})
        if one.status.key in of_host:
            tails[one.status.key] = of_host[one.status.key]
    left = frozenset(one.task for one in failed if one.status.key not in tails)
    if left:
        wanted = Wanted(left.__contains__, live=False, from_end_bytes=TAIL_BYTES)
        for happening in follower_for(app, fleet, known, wanted).run():
            if isinstance(happening, LogText):
                tails[happening.key] += happening.data
    newest: dict[int, str] = {}
    for one in failed:
        lines = tails[one.status.key].decode("utf-8", "replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        if words:
            newest[one.task] = one_line(words[-1][-LONGEST_LINE:])
    return newest

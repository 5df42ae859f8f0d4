"""`pmr status`: how far a job is, on one screen; once, or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from poormanray.cli.jobs import fleet_of, job_argument, looked_at
from poormanray.cli.options import (
    DURATION,
    App,
    Command,
    aws_options,
    cluster_option,
    is_duration,
)
from poormanray.cli.watching import ending, iso, outcome_row, spot_notice, why_unwatched
from poormanray.errors import CredentialsEnded, ExitCode, PmrError, interruption
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.overview import closely, glance
from poormanray.ledger import TaskState
from poormanray.model import readable_s
from poormanray.remote import CHUNK, POLLS_PER_S

if TYPE_CHECKING:
    from poormanray.cli.output import Output
    from poormanray.jobs.listing import Known
    from poormanray.jobs.outcome import Outcome
    from poormanray.jobs.summary import Failed, Overview, Share
    from poormanray.jobs.track import Track

EVERY = "5s"
# Calls that one look costs for each send.
CALLS_EACH = 4
# Where a terminal is low, this much of each table stays.
LEAST_ROWS = 3
HEAD_LINES = 4


class _Status(Command):
    """Takes `--watch` without a value too, and then leaves the next word alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give `--watch` its usual value where the word that follows is no time."""
        words = [
            f"--watch={EVERY}" if word == "--watch" and _no_value(args[at + 1 : at + 2]) else word
            for at, word in enumerate(args)
        ]
        return super().parse_args(ctx, words)


def _no_value(after: Sequence[str]) -> bool:
    """Say whether what follows is no time; an empty word is one that a variable lacks."""
    return not is_duration(after) and (not after or bool(after[0].strip()))


@dataclass(frozen=True, slots=True)
class _View:
    """What is shown: a job, and each task of it if that was asked for."""

    overview: Overview
    found: Sequence[Outcome] | None = None

    @property
    def document(self) -> dict[str, object]:
        tasks = {} if self.found is None else {"tasks": (outcome_row(one) for one in self.found)}
        return {**_document(self.overview), **tasks}

    def show(self, out: Output, *, watch: bool = False) -> None:
        show(out, self.overview, (out.height or 0) - int(watch) if out.is_terminal else None)
        if self.found is not None:
            out.line("")
            out.table(
                ("TASK", "SCRIPT", "INSTANCE", "ATTEMPT", "STATE", "SECONDS", "WHY"),
                [_task_cells(one) for one in self.found],
                spare=("ATTEMPT", "SECONDS"),
            )


@click.command(cls=_Status)
@cluster_option
@click.option("--tasks", is_flag=True, help="List every task.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=DURATION,
    help="Look again and again, until the job has ended.  [default: every 5s]",
)
@job_argument
@aws_options
def status(app: App, *, name: str, tasks: bool, watch: float | None, job: str) -> int:
    """Show how far a job is: its instances, its slowest tasks, and what failed.

    The instances count for themselves: the slowest and the last few that failed are named. Where
    an instance cannot be asked, or with --tasks, every task is looked at.
    """
    if watch is not None:
        return _watch(app, name, job, watch, tasks=tasks)
    view = _look(app, fleet_of(app, name), job, tasks=tasks)
    app.out.document(view.document)
    view.show(app.out)
    return _judged(app, view)


def _judged(app: App, view: _View) -> ExitCode:
    """Return the exit code of a job that was shown: tasks that no instance has are lost."""
    if count := view.overview.unclaimed:
        app.out.note(f"no instance of the job has {count} of its {view.overview.total} tasks: LOST")
        return ExitCode.NOT_REACHED
    return ExitCode.OK


def _look(app: App, fleet: Fleet, job: str, *, tasks: bool) -> _View:
    def look(known: Known) -> list[Track]:
        return looked_at(app, fleet, known)

    if tasks:
        close = closely(fleet, job, look)
        return _View(close.overview, close.found)
    return _View(glance(fleet, job, look))


def _watch(app: App, name: str, job: str, every_s: float, *, tasks: bool) -> int:
    """Show a job until it has ended: one job, whatever is submitted meanwhile."""
    before = ""
    begun = False
    told: set[str] = set()

    def again() -> str:
        return app.command_line("status", job, "--watch", "-n", name)

    try:
        while True:
            fleet = fleet_of(app, name, told)
            view = _look(app, fleet, job, tasks=tasks)
            job, begun = view.overview.summary.job_id, True
            now = _change(view.overview)
            app.out.event(view.document)
            if app.out.is_terminal and not app.out.json:
                app.out.page(lambda view=view: view.show(app.out, watch=True))  # type: ignore[misc]
            elif now != before:
                app.out.line(f"job {job}: {now}{_pace(view.overview)}")
            before = now
            if view.overview.ended:
                return _judged(app, view)
            chunks = -(-len(fleet.ready) // CHUNK)
            app.aws.clock.sleep(max(every_s, CALLS_EACH * chunks / POLLS_PER_S))
    except KeyboardInterrupt as error:
        why, code = interruption(error)
        _tell_unwatched(app, why, again())
        return code
    except PmrError as error:
        if begun:
            _tell_unwatched(app, why_unwatched(error), again())
        if isinstance(error, CredentialsEnded):
            error.hint = f"log in again, then: {again()}"
        raise


def _tell_unwatched(app: App, why: str, again: str) -> None:
    app.out.note(f"{why}: the job goes on; to go on watching:")
    app.out.note(f"  {again}")


# --- in words ----------------------------------------------------------------------------------


def _change(overview: Overview) -> str:
    """Return what is said anew when it changes."""
    return ", ".join(f"{n} {state.value.lower()}" for state, n in overview.counts.items() if n)


def _pace(overview: Overview) -> str:
    """Return how fast it goes, and how long it will take or has taken; "" if nobody can know."""
    words = []
    if overview.rate is not None:
        words.append(f"{_amount(overview.rate)} tasks/s")
    if overview.utilisation is not None:
        words.append(f"slots {overview.utilisation:.0%} busy")
    if overview.mean_s is not None:
        words.append(f"{_amount(overview.mean_s)} s a task")
    if overview.ended and overview.span_s:
        words.append(f"took {readable_s(overview.span_s)}")
    elif overview.eta_s is not None:
        words.append(f"about {readable_s(overview.eta_s)} left")
    return "".join(f"; {word}" for word in words)


def _amount(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"  # noqa: PLR2004 (three digits say enough)


def show(out: Output, overview: Overview, height: int | None) -> None:
    """Print how far a job is; where there is a height, in fewer lines than that."""
    summary = overview.summary
    title = f" {summary.name!r}" if summary.name else ""
    age = readable_s(max(0.0, time.time() - summary.created_at))
    out.line(
        f"job {summary.job_id}{title}: {summary.kind} on {len(overview.shares)} instances, "
        f"submitted {age} ago by {summary.submitter}"
    )
    out.line(f"{overview.total} tasks: {_change(overview)}")
    if count := overview.confirmed_by_backup:
        out.line(f"{count} confirmed: backup (their instance has departed, and their logs with it)")
    if pace := _pace(overview):
        out.line(pace.removeprefix("; "))
    hosts, slowest, failed = _rows(overview, height)
    out.line("")
    _show_instances(out, overview, hosts)
    if slowest and len(overview.slowest) > 1:
        out.line("")
        out.table(
            ("SLOWEST TASKS", "SCRIPT", "INSTANCE", "SECONDS"),
            [
                (str(one.task), one.name, one.host_name, f"{one.seconds:.2f}")
                for one in overview.slowest[:slowest]
            ],
            compact=True,
        )
    if failed:
        out.line("")
        out.table(
            ("FAILED", "SCRIPT", "INSTANCE", "HOW IT ENDED", "LAST LINE"),
            [_failed_cells(one) for one in overview.failed[:failed]],
            compact=True,
        )
    if more := overview.failures - failed:
        out.line(f"and {more} more that failed (--tasks lists all)")


def _rows(overview: Overview, height: int | None) -> tuple[int, int, int]:
    """Return how many instances, slowest and failed tasks are shown, so that all is one screen."""
    hosts, slowest, failed = len(overview.shares), len(overview.slowest), len(overview.failed)
    if height is None:
        return hosts, slowest, failed
    # Each table has a blank line and a head, and two of them a line that says how much is left out.
    left = max(0, height - HEAD_LINES - 2 * 3 - 2)
    slowest = min(slowest, max(LEAST_ROWS, left - hosts - failed))
    failed = min(failed, max(LEAST_ROWS, left - hosts - slowest))
    hosts = min(hosts, max(LEAST_ROWS, left - slowest - failed))
    return hosts, slowest, failed


def _show_instances(out: Output, overview: Overview, most: int) -> None:
    shares: Sequence[Share] = overview.shares
    if most < len(shares):
        worst = sorted(shares, key=lambda one: _remarkable(overview, one), reverse=True)[:most]
        shares = [one for one in shares if one in worst]
    out.table(
        ("INSTANCE", "SLOTS", "DONE", "FAILED", "RUNNING", "PENDING", "MEAN S", "SKEW", "NOTE"),
        [_instance_cells(overview, one) for one in shares],
        compact=True,
    )
    if more := len(overview.shares) - len(shares):
        out.line(f"and {more} more instances with less to tell (--json lists all)")


def _remarkable(overview: Overview, share: Share) -> tuple[bool, int, float]:
    return bool(share.problem), _bad(share.counts), overview.skew(share) or 0.0


def _bad(counts: Mapping[TaskState, int]) -> int:
    return sum(n for s, n in counts.items() if s.ended and s is not TaskState.SUCCEEDED)


def _instance_cells(overview: Overview, share: Share) -> Sequence[str]:
    skew = overview.skew(share)
    return (
        share.name,
        str(share.slots or "-"),
        str(share.counts[TaskState.SUCCEEDED]),
        str(_bad(share.counts)),
        str(share.counts[TaskState.RUNNING]),
        str(share.counts[TaskState.PENDING]),
        "-" if share.mean_s is None else f"{share.mean_s:.2f}",
        "-" if skew is None else f"{skew:.2f}",
        "; ".join(_notes(share)),
    )


def _notes(share: Share) -> Iterator[str]:
    if share.problem:
        yield share.problem
    elif share.waits:
        yield "it was rebooted; its queue goes on with pmr map --resume"
    elif share.detached_by == "setsid":
        yield "screen is missing there; the runner is detached with setsid"
    if share.interrupted and not share.problem:
        yield spot_notice(*share.interrupted)
    if share.held and not share.problem:
        yield ", ".join(f"slots held back: {count} by {why}" for why, count in share.held.items())
    if share.damaged_lines:
        yield f"{share.damaged_lines} lines of its ledger are damaged"


def _failed_cells(one: Failed) -> Sequence[str]:
    how = one.why or ending(one.status).removeprefix("failed with ")
    return str(one.status.task), one.name, one.host_name, how, one.last_line


def _task_cells(one: Outcome) -> Sequence[str]:
    status = one.status
    took = ""
    if status.started_at is not None and status.ended_at is not None:
        took = f"{status.ended_at - status.started_at:.2f}"
    why = one.why or (ending(status) if status.state is TaskState.FAILED else "")
    return (
        str(one.task),
        one.name,
        one.host.name,
        str(status.attempt),
        status.state.value,
        took,
        why,
    )


# --- as JSON -----------------------------------------------------------------------------------


def _document(overview: Overview) -> dict[str, object]:
    summary = overview.summary
    return {
        "job": summary.job_id,
        "kind": summary.kind,
        "name": summary.name,
        "submitter": summary.submitter,
        "created_at": iso(summary.created_at),
        "ended": overview.ended,
        "confirmed_by_backup": overview.confirmed_by_backup,
        "counts": _count_words(overview.counts),
        "first_start": iso(overview.first_s or None),
        "last_end": iso(overview.last_s or None) if overview.ended else None,
        "tasks_per_s": _rounded(overview.rate),
        "mean_s": _rounded(overview.mean_s),
        "utilisation": _rounded(overview.utilisation),
        "eta_s": _rounded(overview.eta_s),
        "instances": [_instance_row(overview, one) for one in overview.shares],
        "slowest": [
            {
                "task": one.task,
                "task_name": one.name,
                "attempt": one.attempt,
                "instance": one.instance_id,
                "name": one.host_name,
                "duration_s": _rounded(one.seconds),
            }
            for one in overview.slowest
        ],
        "failed": [_failed_row(one) for one in overview.failed],
    }


def _count_words(counts: Mapping[TaskState, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _instance_row(overview: Overview, share: Share) -> dict[str, object]:
    return {
        "instance": share.instance_id,
        "name": share.name,
        "slots": share.slots,
        "detached_by": share.detached_by,
        "damaged_lines": share.damaged_lines,
        "problem": share.problem,
        "interrupted": share.interrupted
        and dict(zip(("action", "at"), share.interrupted, strict=True)),
        "held": sum(share.held.values()),
        "counts": _count_words(share.counts),
        "mean_s": _rounded(share.mean_s),
        "skew": _rounded(overview.skew(share)),
    }


def _failed_row(one: Failed) -> dict[str, object]:
    status = one.status
    return {
        "task": status.task,
        "task_name": one.name,
        "attempt": status.attempt,
        "instance": one.instance_id,
        "name": one.host_name,
        "state": status.state,
        "exit_code": status.exit_code,
        "reason": one.why,
        "ended_at": iso(status.ended_at),
        "last_line": one.last_line,
    }

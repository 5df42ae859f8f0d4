"""`pmr jobs --prune`: removing what old jobs left on the instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poormanray.cli.options import App
from poormanray.cli.watching import readable_bytes
from poormanray.errors import ExitCode
from poormanray.jobs.fleet import Fleet, muster
from poormanray.jobs.listing import resolve
from poormanray.jobs.prune import Old, Part, Plan, look_over, remove
from poormanray.model import Selection, readable_s

WEEK_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which jobs: unchanged for so long, so large on an instance, or only this one."""

    older_s: float
    larger_bytes: int
    job: str | None


def prune_jobs(app: App, name: str, chosen: Chosen, *, dry_run: bool, yes: bool) -> int:
    """Show what would go, ask, and remove it."""
    fleet = muster(app.aws, Selection(name))
    job_id = None if chosen.job is None else resolve(fleet, chosen.job)
    plan = look_over(fleet, older_s=chosen.older_s, larger_bytes=chosen.larger_bytes, job_id=job_id)
    names = {one.instance_id: one.name for one in fleet.ready}
    _tell_missing(app, fleet, plan.problems, names)
    if job_id is not None:
        for one in plan.stays:
            app.out.note(f"job {one.job_id} stays: {one.why}")
    elif plan.stays:
        app.out.note(f"{len(plan.stays)} of the jobs may go on, and stay")
    gone: list[Part] = []
    missed: Mapping[str, str] = {}
    if not plan.goes:
        app.out.note(f"nothing to remove on {len(names)} instances")
    else:
        _show(app, plan)
        if not (dry_run or yes or app.out.confirm(_question(plan))):
            app.out.note("nothing was removed")
            return ExitCode.WORK_FAILED
        if not dry_run:
            gone, missed = remove(fleet, plan)
            _tell_missing(app, fleet, missed, names)
            _show_freed(app, gone, names)
    app.out.document(_document(plan, gone, names, dry_run=dry_run))
    if plan.problems or missed:
        return ExitCode.NOT_REACHED
    stayed = any(part.why for part in gone) or (job_id is not None and plan.stays)
    return ExitCode.WORK_FAILED if stayed else ExitCode.OK


def _tell_missing(
    app: App, fleet: Fleet, problems: Mapping[str, str], names: Mapping[str, str]
) -> None:
    for instance, why in fleet.left_out:
        app.out.note(f"[{instance.name}] cannot be asked: {why}")
    for instance_id, why in problems.items():
        app.out.note(f"[{names.get(instance_id, instance_id)}] did not answer: {why}")


def _show(app: App, plan: Plan) -> None:
    app.out.table(
        ("JOB", "INSTANCES", "UNCHANGED FOR", "SIZE"),
        [
            (
                one.job_id,
                str(len(one.parts)),
                readable_s(one.age_s),
                readable_bytes(one.size_bytes),
            )
            for one in plan.goes
        ],
    )
    if plan.more:
        app.out.note("there are more than one answer has room for: type it again afterwards")


def _question(plan: Plan) -> str:
    size = readable_bytes(sum(one.size_bytes for one in plan.goes))
    count = len(plan.goes)
    what = "what this job" if count == 1 else f"what these {count} jobs"
    return f"Remove {what} left ({size}), logs too, for good?"


def _freed(gone: Sequence[Part]) -> dict[str, int]:
    freed: dict[str, int] = {}
    for part in gone:
        if not part.why:
            freed[part.instance_id] = freed.get(part.instance_id, 0) + part.size_bytes
    return freed


def _show_freed(app: App, gone: Sequence[Part], names: Mapping[str, str]) -> None:
    for part in gone:
        if part.why:
            app.out.note(f"[{names[part.instance_id]}] job {part.job_id} stays: {part.why}")
    freed = _freed(gone)
    app.out.table(
        ("INSTANCE", "JOBS", "FREED"),
        [
            (
                names[key],
                str(sum(part.instance_id == key and not part.why for part in gone)),
                readable_bytes(size),
            )
            for key, size in sorted(freed.items(), key=lambda pair: names[pair[0]])
        ],
    )


def _row(one: Old) -> dict[str, object]:
    return {
        "job": one.job_id,
        "instances": [part.instance_id for part in one.parts],
        "bytes": one.size_bytes,
        "unchanged_s": one.age_s,
    }


def _document(
    plan: Plan, gone: Sequence[Part], names: Mapping[str, str], *, dry_run: bool
) -> dict[str, object]:
    freed = _freed(gone)
    return {
        "dry_run": dry_run,
        "jobs": [_row(one) for one in plan.goes],
        "kept": [{"job": one.job_id, "why": one.why} for one in plan.stays],
        "more": plan.more,
        "removed": sorted({part.job_id for part in gone if not part.why}),
        "freed_bytes": sum(freed.values()),
        "instances": [
            {"instance": key, "name": name, "freed_bytes": freed.get(key, 0)}
            for key, name in names.items()
        ],
    }

"""How far a job is, from a look at every task of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from poormanray.jobs.outcome import BETWEEN, Outcome, by_backup, unclaimed
from poormanray.jobs.summary import (
    BAD,
    MOST_SLOWEST,
    Failed,
    Overview,
    Share,
    Slow,
    longest,
    newest,
    picked,
)
from poormanray.jobs.track import Track
from poormanray.ledger import TaskState, ended_counts
from poormanray.manifest import JobSummary


def looked_over(
    summary: JobSummary,
    tracks: Iterable[Track],
    found: Sequence[Outcome],
    *,
    now_s: float,
    lines: Mapping[tuple[int, int], str] | None = None,
) -> Overview:
    """Return the same from a look at every task; `lines` are the last lines of logs, if known."""
    by_host: dict[str, list[Outcome]] = {}
    for outcome in found:
        by_host.setdefault(outcome.host.instance_id, []).append(outcome)
    shares = [
        _share_of(track, by_host.get(track.host.instance_id, []), now_s, lines or {})
        for track in tracks
    ]
    counts = ended_counts(outcome.status for outcome in found)
    rest = (unclaimed(found), by_backup(found))
    return Overview(summary, tuple(shares), counts, *picked(shares), *rest)


def _share_of(
    track: Track, own: Sequence[Outcome], now_s: float, lines: Mapping[tuple[int, int], str]
) -> Share:
    statuses = track.log.tasks.values()
    coded = (status for status in statuses if status.exit_code is not None)
    ended = [
        (status.started_at, status.ended_at)
        for status in coded
        if status.started_at is not None and status.ended_at is not None
    ]
    # Its own clock says how long its tasks have run: no two clocks agree.
    now_s = track.clock_s or now_s
    running = [one.status.started_at for one in own if one.state is TaskState.RUNNING]
    return Share(
        track.host.instance_id,
        track.host.name,
        ended_counts(one.status for one in own),
        slots=track.log.slots,
        detached_by=track.log.detached_by,
        damaged_lines=track.log.damaged_lines,
        cancelled=track.log.cancelled,
        first_s=min((s.started_at for s in statuses if s.started_at is not None), default=0.0),
        last_s=max((end for _, end in ended), default=0.0),
        now_s=now_s,
        ran=len(ended),
        busy_s=sum(_micros(began, end) for began, end in ended) / 1e6,
        under_s=sum(max(0.0, now_s - began) for began in running if began is not None),
        problem=track.problem,
        held=Counter(track.log.held.values()),
        interrupted=track.log.interrupted,
        waits=track.waits,
        joined=track.joined,
        slowest=longest(_slow_of(own), MOST_SLOWEST),
        failed=newest(_failed_of(own, lines)),
    )


def _slow_of(own: Iterable[Outcome]) -> Iterator[Slow]:
    for one in own:
        began, end = one.status.started_at, one.status.ended_at
        if one.status.exit_code is not None and began is not None and end is not None:
            host = (one.host.name, one.host.instance_id)
            took_s = _micros(began, end) / 1e6
            yield Slow(one.task, one.status.attempt, one.name, *host, took_s)


def _micros(began_s: float, end_s: float) -> int:
    """Return how long something took, without what fractions of the epoch lose: as in shell."""
    return max(0, round((end_s - began_s) * 1e6))


def _failed_of(own: Iterable[Outcome], lines: Mapping[tuple[int, int], str]) -> Iterator[Failed]:
    for one in own:
        if one.state in BAD and one.why != BETWEEN:
            host = (one.host.name, one.host.instance_id)
            last_line = lines.get((one.task, one.status.attempt), "")
            yield Failed(one.status, one.name, *host, why=one.why, last_line=last_line)

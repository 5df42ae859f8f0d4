"""Tracks and ledgers of jobs, as tests need them."""

from __future__ import annotations

from collections.abc import Iterable

from poormanray.events import checksum
from poormanray.jobs.outcome import Outcome, outcomes
from poormanray.jobs.track import Track


def outcomes_of(tracks: Iterable[Track]) -> list[Outcome]:
    """Return the outcomes of a job that has just the tasks some instance has, had or gave away."""
    tracks = list(tracks)
    had = {task for track in tracks for task in track.tasks}
    given = {task for track in tracks for task, _ in track.log.given}
    return outcomes(tracks, {task: str(task) for task in had | given})


def line(text: str) -> bytes:
    """Return an event, or a record of a backup, as shell/ledger.sh writes it."""
    return f"{text} {checksum(text)}\n".encode()

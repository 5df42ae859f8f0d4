"""What a job came to: one outcome for each task, and the exit code of it all. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from poormanray.errors import ExitCode
from poormanray.jobs.mirror import REASON as MIRRORED
from poormanray.jobs.presence import Fate
from poormanray.jobs.track import Track
from poormanray.jobs.trust import Holders
from poormanray.ledger import TaskState, TaskStatus, reason_text
from poormanray.manifest import Host, Manifest
from poormanray.model import NO_INDEX

# Of a task that one instance has given away, and no other is known to have.
BETWEEN = "on its way to another instance"
WENT_TO_LOST = "it was given to an instance that is gone"
# Of a task of the job that no instance has in its ledger, and where such a task is.
UNCLAIMED = "no instance of the job has it"
NOWHERE = Host(NO_INDEX, "", "-", ())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task; `why` explains anything but a plain end."""

    task: int
    name: str
    host: Host
    status: TaskStatus
    why: str = ""

    @property
    def state(self) -> TaskState:
        """Return the task's state."""
        return self.status.state

    @property
    def confirmed(self) -> str:
        """Return whose word an end is: the instance's own, or only its backup's; "" for no end."""
        if not self.state.ended:
            return ""
        return "backup" if self.status.reason == MIRRORED else "instance"


def outcomes(tracks: Iterable[Track], names: Mapping[int, str]) -> list[Outcome]:
    """Return the outcome of each task of the job exactly once, by task; `names` are those of all.

    A task that no instance has is LOST, and one that the job does not have is left out. A task
    that was not seen to end on an instance that is lost is LOST, whatever came before. On one that
    is stopped that holds for what was running; what waits there goes on after a start.
    """
    none = (-1, False, False, False, False, False)
    newest = {task: (none, _unclaimed(task, name)) for task, name in names.items()}
    tracks = list(tracks)
    holders = Holders(tracks)
    for track in tracks:
        for outcome in _of_instance(track, names, tracks, holders):
            rank = _rank(outcome, track)
            if outcome.task in newest and rank > newest[outcome.task][0]:
                newest[outcome.task] = (rank, outcome)
    return [outcome for _, (_, outcome) in sorted(newest.items())]


def _unclaimed(task: int, name: str) -> Outcome:
    return Outcome(task, name, NOWHERE, TaskStatus(task, 1, TaskState.LOST), UNCLAIMED)


def by_backup(found: Iterable[Outcome]) -> int:
    """Return how many tasks are known to have ended by a backup's word alone."""
    return sum(outcome.confirmed == "backup" for outcome in found)


def unclaimed(found: Iterable[Outcome]) -> int:
    """Return how many tasks of a job no instance has."""
    return sum(outcome.host == NOWHERE for outcome in found)


def _rank(outcome: Outcome, track: Track) -> tuple[int, bool, bool, bool, bool, bool]:
    """Return what makes one instance's word on a task newer than another's.

    Of two that say they ran the same attempt one lies: a success is not believed then. A lost
    instance that had not begun an attempt, as far as was read, may have given it away since.
    """
    key = (outcome.task, outcome.status.attempt)
    # Who was to have it from the start may have given it away since it was last heard.
    between = outcome.why in (BETWEEN, WENT_TO_LOST)
    began = key in track.log.tasks
    bad = began and outcome.state.ended and outcome.state is not TaskState.SUCCEEDED
    knows = track.log.knows(key)
    return outcome.status.attempt, not between, knows, bad, began, not track.gone


def _of_instance(
    track: Track, names: Mapping[int, str], tracks: Iterable[Track], holders: Holders
) -> Iterator[Outcome]:
    for task in track.tasks:
        name = names.get(task, str(task))
        status = holders.status(track, task)
        if status is None:
            continue
        why = reason_text(status.reason)
        if track.suspended and status.state is TaskState.PENDING:
            why = f"suspended: {track.problem}"
        elif track.silent and not status.state.ended:
            why = track.problem
        elif track.problem and not status.state.ended:
            status, why = replace(status, state=TaskState.LOST), track.problem
        yield Outcome(task, name, track.host, status, why)
    if not track.log.given:
        return
    # Whoever has adopted it knows better.
    targets = {one.host.host_index: one for one in tracks}
    for (task, attempt), index in track.log.given.items():
        if not holders.holds(track, (task, attempt)):
            continue
        target = targets.get(index)
        state, why = _underway(track, target)
        # It may have run there, and that went with the instance.
        host = target.host if target is not None and why == WENT_TO_LOST else track.host
        status = TaskStatus(task, attempt, state)
        yield Outcome(task, names.get(task, str(task)), host, status, why)


def _underway(source: Track, target: Track | None) -> tuple[TaskState, str]:
    """Return what is known of a task that one instance gave away and none has adopted."""
    if target is not None and target.gone and not target.suspended:
        return TaskState.LOST, WENT_TO_LOST
    # After a cancel nobody will adopt it; the cancel may have reached only one of them.
    cancelled = source.log.cancelled or (target is not None and target.log.cancelled)
    return TaskState.CANCELLED if cancelled else TaskState.PENDING, BETWEEN


@dataclass(frozen=True, slots=True)
class Verdict:
    """A job's exit code, and whether it is its only task's own."""

    code: int
    of_task: bool = False


def verdict(
    found: Sequence[Outcome], expected: int, *, left_out: int = 0, own_code: bool = False
) -> Verdict:
    """Return the exit code for a job of `expected` tasks, from their outcomes.

    `own_code`: a `run` on one instance passes the task's own code on. What was lost, never
    reached, not seen to end or has no outcome at all weighs more than what failed.
    """
    missing = left_out or not expected or len({outcome.task for outcome in found}) != expected
    if own_code and len(found) == 1 and not missing:
        (only,) = found
        if only.state is TaskState.FAILED and only.status.exit_code is not None:
            return Verdict(only.status.exit_code, of_task=True)
    states = {outcome.state for outcome in found}
    if missing or TaskState.LOST in states or not all(state.ended for state in states):
        return Verdict(ExitCode.NOT_REACHED)
    failures = states - {TaskState.SUCCEEDED}
    if failures == {TaskState.TIMEOUT}:
        return Verdict(ExitCode.TIMED_OUT)
    return Verdict(ExitCode.WORK_FAILED if failures else ExitCode.OK)


def tracks_of(manifest: Manifest, problem_of: Mapping[str, Fate]) -> list[Track]:
    """Return tracks for a job that was started before; `problem_of` says who cannot answer."""
    fates = (problem_of.get(host.instance_id) for host in manifest.hosts)
    return [
        Track(host, problem=fate.why, contact=fate.contact) if fate else Track(host)
        for host, fate in zip(manifest.hosts, fates, strict=True)
    ]

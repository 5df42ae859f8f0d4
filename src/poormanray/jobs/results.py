"""Collecting what a job's tasks wrote: one log file for each task, and a job log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from poormanray.jobs.follow import Follower
from poormanray.jobs.outcome import Outcome
from poormanray.jobs.track import Happening, LogGap, LogText
from poormanray.ledger import TaskState

# The columns of GNU parallel's --joblog.
JOBLOG_COLUMNS = (
    "Seq",
    "Host",
    "Starttime",
    "JobRuntime",
    "Send",
    "Receive",
    "Exitval",
    "Signal",
    "Command",
)
# GNU parallel reads unsigned numbers only: what is LOST has this for an exit code.
LOST_EXITVAL = 255


@dataclass(slots=True)
class Collection:
    """Where results go, and how many bytes of each log are there."""

    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    gaps: list[LogGap] = field(default_factory=list)

    def path(self, key: str) -> Path:
        """Return the file for an attempt's log: `<task>.log`, `<task>.<attempt>.log` after it."""
        task, _, attempt = key.partition(".")
        return self.folder / (f"{task}.log" if attempt == "1" else f"{task}.{attempt}.log")

    def collect(self, follower: Follower) -> Iterator[Happening]:
        """Write logs as they arrive; yield everything else that happens."""
        begun: set[str] = set()
        for happening in follower.run():
            if isinstance(happening, LogText):
                self.write(happening, first=happening.key not in begun)
                begun.add(happening.key)
                continue
            if isinstance(happening, LogGap):
                self.gaps.append(happening)
            yield happening
        for track in follower.tracks.values():
            for key in track.cursors.keys() - begun:
                fresh(self.path(key)).touch()

    def write(self, text: LogText, *, first: bool) -> None:
        """Write a part of a log; the `first` one begins its file anew."""
        if first:
            self.sizes[text.key] = 0
            fresh(self.path(text.key)).write_bytes(text.data)
        else:
            with self.path(text.key).open("ab") as file:
                file.write(text.data)
        self.sizes[text.key] += len(text.data)


def fresh(path: Path) -> Path:
    """Return a path at which nothing lies: a link that lay there is removed, not followed."""
    path.unlink(missing_ok=True)
    return path


def joblog(found: Sequence[Outcome], sizes: Mapping[str, int]) -> str:
    """Return the job log of the tasks that have ended, in GNU parallel's columns.

    `found` are all tasks of the job: the place of each, from 1, is its Seq, whatever its id is.

    A shell reports death by signal n as 128 + n, and a task may exit with that code as well: such
    an Exitval stays as it is, with n as its Signal, so that it never looks like a success.
    """
    lines = ["\t".join(JOBLOG_COLUMNS)]
    for seq, outcome in enumerate(found, start=1):
        status = outcome.status
        if not status.state.ended:
            continue
        began = status.started_at or 0.0
        # The instance's clock may have been set back meanwhile.
        took = max(0.0, (status.ended_at or began) - began)
        code = status.exit_code
        if code is None:
            code = 0 if status.state is TaskState.SUCCEEDED else LOST_EXITVAL
        if status.state is not TaskState.SUCCEEDED and code == 0:
            code = LOST_EXITVAL
        lines.append(
            "\t".join(
                (
                    str(seq),
                    outcome.host.name,
                    f"{began:.3f}",
                    f"{took:10.3f}",
                    "0",
                    str(sizes.get(status.key, 0)),
                    str(code),
                    str(status.signal),
                    " ".join(outcome.name.split()) or "-",
                )
            )
        )
    return "\n".join(lines) + "\n"

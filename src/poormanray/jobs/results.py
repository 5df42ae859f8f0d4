"""Collecting what a job's tasks wrote: one log file for each task, and a job log."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from poormanray.errors import UsageProblem
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
# The name of the job whose results a folder holds, and what they are called there.
_MARK, _LONGEST_MARK = ".pmr-job", 100
_RESULT = re.compile(r"[0-9]+(\.[0-9]+)?\.log|joblog\.tsv|results\.jsonl|outputs")
# GNU parallel reads unsigned numbers only: what is LOST has this for an exit code.
LOST_EXITVAL = 255


@dataclass(slots=True)
class Collection:
    """Where results go, and how many bytes of each log are there, and how many are missing."""

    folder: Path
    sizes: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    _ends: dict[str, bytes] = field(default_factory=dict)

    def path(self, key: str) -> Path:
        """Return the file for an attempt's log: `<task>.log`, `<task>.<attempt>.log` after it."""
        task, _, attempt = key.partition(".")
        return self.folder / (f"{task}.log" if attempt == "1" else f"{task}.{attempt}.log")

    def log_row(self, key: str) -> dict[str, object]:
        """Return the bytes of an attempt's log in its file, and those known to be missing."""
        size = self.sizes.get(key, 0) if key in self._ends else None
        return {"log_bytes": size, "missing_bytes": self.missing.get(key, 0)}

    def collect(self, follower: Follower) -> Iterator[Happening]:
        """Write logs as they arrive; yield everything else that happens."""
        for happening in follower.run():
            if isinstance(happening, LogText):
                self.write(happening)
                continue
            yield self._gap(happening) if isinstance(happening, LogGap) else happening
        for track in follower.tracks.values():
            for key in track.cursors.keys() - self._ends.keys():
                fresh(self.path(key)).touch()
                self._ends[key] = b""
            for gap in (gap for cursor in track.cursors.values() for gap in cursor.cut_off()):
                yield self._gap(LogGap(track.host, gap.name, gap.missing_bytes, gap.why))

    def _gap(self, gap: LogGap) -> LogGap:
        self._write(gap.key, gap.mark_after(self._ends.get(gap.key, b"")))
        self.missing[gap.key] = self.missing.get(gap.key, 0) + gap.missing_bytes
        return gap

    def write(self, text: LogText) -> None:
        """Write a part of a log; the first one begins its file anew."""
        self._write(text.key, text.data)
        self.sizes[text.key] += len(text.data)

    def _write(self, key: str, data: bytes) -> None:
        if key not in self._ends:
            self.sizes[key] = 0
            fresh(self.path(key)).touch()
        with self.path(key).open("ab") as file:
            file.write(data)
        self._ends[key] = data[-1:]


def claim(folder: Path, job_id: str) -> None:
    """Record that a folder holds the results of a job.

    Raises:
        UsageProblem: it holds those of another job, or files that they would replace.
        OSError: this machine cannot write it.
    """
    mark = folder / _MARK
    theirs = sorted(one.name for one in folder.iterdir() if _RESULT.fullmatch(one.name))
    if theirs and not mark.exists():
        raise _taken(folder, job_id, f"{theirs[0]}, which the results of job {job_id} may replace")
    try:
        with mark.open("x") as file:
            file.write(f"{job_id}\n")
    except FileExistsError:
        with mark.open("rb") as known:
            other = known.read(_LONGEST_MARK).decode("utf-8", "replace").strip()
        if other != job_id:
            what = f"the results of job {other or '?'}, and these are of job {job_id}"
            raise _taken(folder, job_id, what) from None


def _taken(folder: Path, job_id: str, what: str) -> UsageProblem:
    other = f"{folder}-{job_id}" if folder.name else f"results-{job_id}"
    return UsageProblem(f"{folder} holds {what}", f"choose another folder: -o {shlex.quote(other)}")


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside what is to be written; what is in it then goes to `folder`.

    Each file takes its place at once, when the block has ended well; else nothing in `folder`
    changes. A link that lies in a file's place is replaced, not followed.

    Raises:
        OSError: something cannot be written.
    """
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=".pmr-", ignore_cleanup_errors=True
    ) as name:
        beside = Path(name)
        yield beside
        files = [path for path in beside.iterdir() if path.is_file()]
        for path in files:
            # A file system that writes later says only now that it has no room.
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for path in sorted(files):
            path.replace(folder / path.name)


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
        took = status.took_s or 0.0
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

"""Showing a job while it is followed: lines with prefixes, or events as JSON Lines."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from poormanray.cli.output import harmless, one_line
from poormanray.errors import (
    CredentialsEnded,
    ExitCode,
    JobConflict,
    PmrError,
    ReaderGone,
    Unwritable,
    interruption,
)
from poormanray.jobs.outcome import by_backup
from poormanray.jobs.track import (
    Again,
    Backlog,
    Contact,
    Halted,
    Happening,
    HostProblem,
    Interrupted,
    Joined,
    LogGap,
    LogText,
    Looked,
    Responsive,
    TaskChanged,
    Track,
    Unresponsive,
)
from poormanray.ledger import TaskState, TaskStatus, ended_counts, reason_text
from poormanray.model import readable_s

if TYPE_CHECKING:
    from poormanray.cli.output import Output
    from poormanray.jobs.outcome import Outcome, Verdict

# A line without an end is shown in pieces of this size.
LONGEST_LINE = 1 << 20
# How often a line is shown that a task writes anew over itself.
REDRAWN_S = 1.0
MIB = 1 << 20


def iso(epoch_s: float | None) -> str | None:
    """Return a time as ISO 8601 UTC."""
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def readable_bytes(count: int) -> str:
    """Return an amount of data in words."""
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / 1024:.1f} KiB"


def unfinished_bytes(data: bytes) -> int:
    """Return how many bytes at the end of `data` begin a UTF-8 character that goes on after it."""
    for back, byte in enumerate(reversed(data[-3:]), start=1):
        if byte & 0xC0 != 0x80:  # noqa: PLR2004 (not a byte that continues a character)
            length = 2 if 0xC2 <= byte < 0xE0 else 3 if byte & 0xF0 == 0xE0 else 4  # noqa: PLR2004
            return back if 0xC2 <= byte < 0xF5 and back < length else 0  # noqa: PLR2004
    return 0


@dataclass(slots=True)
class Watcher:
    """Prints what a follower yields.

    `prefix` puts `[name]` before every line; `by_task` makes that `[name task]`. `quiet` says
    nothing of tasks that end (they are counted by somebody else). `names` are those of the tasks,
    where a failure is to name the script or the entry.

    A line that a task writes anew over itself (a progress bar, with a carriage return each time) is
    shown as it then stands, at most every REDRAWN_S seconds, before it has its end.
    """

    out: Output
    prefix: bool = True
    by_task: bool = False
    quiet: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    now_s: Callable[[], float] = time.monotonic
    partial: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    unfinished: dict[tuple[str, str], LogText] = field(default_factory=dict)
    shown: dict[tuple[str, str], bytes] = field(default_factory=dict)
    redrawn: dict[tuple[str, str], bytes] = field(default_factory=dict)
    redrawn_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def show(self, happening: Happening) -> None:
        """Print one thing that happened."""
        match happening:
            case LogText():
                self._text(happening)
            case LogGap():
                self._gap(happening)
            case TaskChanged():
                self._task(happening)
            case HostProblem():
                self.out.note(f"[{happening.host.name}] {happening.why}")
                self.out.event(
                    {
                        "event": "instance_problem",
                        "instance": happening.host.instance_id,
                        "name": happening.host.name,
                        "why": happening.why,
                    }
                )
            case Joined() | Interrupted() | Unresponsive() | Responsive():
                self._instance(happening)
            case Again():
                self._again(happening)
            case Looked():
                self._redraw()
            case Halted():
                self._halted(happening)
            case Backlog():
                self.out.note(
                    f"{readable_bytes(happening.size_bytes)} of logs to read: "
                    f"about {readable_s(happening.seconds)}"
                )

    def _contact(self, change: Unresponsive | Responsive) -> None:
        host, seconds = change.host, round(change.seconds, 1)
        which = {"instance": host.instance_id, "name": host.name, "seconds": seconds}
        if isinstance(change, Responsive):
            self.out.note(f"[{host.name}] responds again, after {readable_s(change.seconds)}")
            self.out.event({"event": "response", **which})
            return
        why = f" ({change.why})" if change.why else ""
        count = "1 task stays" if change.tasks == 1 else f"{change.tasks} tasks stay"
        stay = f"; its {count} there" if change.tasks else ""
        self.out.note(f"[{host.name}] no response for {readable_s(change.seconds)}{why}{stay}")
        self.out.event({"event": "no_response", **which, "tasks": change.tasks, "why": change.why})

    def _again(self, again: Again) -> None:
        tasks = [{"task": task, "attempt": attempt} for task, attempt in again.keys]
        self.out.event({"event": "again", "tasks": tasks, "why": again.why})
        (task, attempt), *more = again.keys
        what = f"{len(again.keys)} tasks run" if more else f"task {task} runs"
        turn = "" if more else f", attempt {attempt}"
        self.out.note(f"{again.why}: {what} again{turn}")

    def _instance(self, change: Joined | Interrupted | Unresponsive | Responsive) -> None:
        if isinstance(change, Unresponsive | Responsive):
            self._contact(change)
            return
        host = change.host
        which = {"instance": host.instance_id, "name": host.name}
        if isinstance(change, Joined):
            self.out.note(f"[{host.name}] joins the job")
            self.out.event({"event": "joined", **which})
            return
        words = spot_notice(change.action, change.at)
        self.out.note(f"[{host.name}] {words}: nothing starts there")
        notice = {"action": change.action, "at": change.at}
        self.out.event({"event": "interrupted", **which, **notice})

    def _halted(self, halted: Halted) -> None:
        what = "what runs is ended" if halted.now else "what runs goes on to its end"
        failed = "1 task" if halted.failed == 1 else f"{halted.failed} tasks"
        self.out.note(f"halt: {failed} failed; nothing more starts, {what}")
        for name in halted.missed:
            self.out.note(f"[{name}] could not be told: it goes on")
        self.out.event(
            {
                "event": "halt",
                "failed": halted.failed,
                "now": halted.now,
                "missed": list(halted.missed),
            }
        )

    def finish(self) -> None:
        """Print what is left of lines and characters that never ended."""
        for text in self.unfinished.values():
            self._show(text)
        self.unfinished.clear()
        for place, held in self.partial.items():
            if held:
                self._whole_line(place, bytes(held))
        self.partial.clear()

    def _text(self, text: LogText) -> None:
        if not self.out.json and (self.prefix or not self.out.is_terminal):
            self._show(text)
            return
        # What is decoded piece by piece must not be cut inside a character.
        place = (text.host.name, text.key)
        held = self.unfinished.pop(place, None)
        data = held.data + text.data if held else text.data
        upto = len(data) - unfinished_bytes(data)
        if upto < len(data):
            self.unfinished[place] = replace(text, data=data[upto:])
        if upto:
            self._show(replace(text, data=data[:upto]))

    def _show(self, text: LogText) -> None:
        if self.out.json:
            self.out.event(_output_event(text))
            return
        self.shown[text.host.name, text.key] = text.data[-1:]
        if not self.prefix:
            if self.out.is_terminal:
                data = b"\n".join(_overwritten(line) for line in text.data.split(b"\n"))
                shown = harmless(data.decode("utf-8", "replace"))
                self.out.raw(shown.encode("utf-8", "replace"))
            else:
                self.out.raw(text.data)
            return
        place = (text.host.name, text.key)
        held = self.partial.setdefault(place, bytearray())
        held += text.data
        *lines, rest = bytes(held).split(b"\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        for line in lines:
            self._whole_line(place, line)
        self.partial[place] = bytearray(rest)
        if b"\r" not in rest:
            self.redrawn_s.pop(place, None)
        else:
            self.redrawn_s.setdefault(place, self.now_s())
            self._redraw()

    def _redraw(self) -> None:
        """Show how each line stands that is written anew and has had no end for some time."""
        now_s = self.now_s()
        for place in [one for one, at_s in self.redrawn_s.items() if now_s - at_s >= REDRAWN_S]:
            held = bytes(self.partial.get(place, b""))
            if b"\r" not in held:
                continue
            if stands := _overwritten(held):
                self._line(*place, stands)
                self.redrawn[place], self.redrawn_s[place] = stands, now_s
            # What stands behind the last carriage return may still grow.
            self.partial[place] = bytearray(held.rpartition(b"\r")[2])

    def _whole_line(self, place: tuple[str, str], line: bytes) -> None:
        before = self.redrawn.pop(place, None)
        if before is None:
            self._line(*place, line)
        elif (stands := _overwritten(line)) not in (b"", before):
            self._line(*place, stands)

    def _line(self, name: str, key: str, line: bytes) -> None:
        label = f"{name} {key.partition('.')[0]}" if self.by_task else name
        if self.out.is_terminal:
            line = _overwritten(line)
            line = harmless(line.decode("utf-8", "replace")).encode()
        self.out.raw(f"[{one_line(label)}] ".encode() + line + b"\n")

    def _gap(self, gap: LogGap) -> None:
        place = (gap.host.name, gap.key)
        if before := self.unfinished.pop(place, None):
            self._show(before)
        if held := self.partial.pop(place, None):
            # What follows the gap is no part of the line before it.
            self._line(*place, bytes(held))
        if (before_it := self.shown.get(place)) is not None:
            # Nobody shall take what follows for a part of what came before.
            if self.prefix:
                self._line(*place, gap.mark_after(b"").rstrip(b"\n"))
            else:
                self.out.raw(gap.mark_after(before_it))
            self.shown[place] = b"\n"
        size = f"{readable_bytes(gap.missing_bytes)} of its output are missing: "
        told = (size if gap.missing_bytes else "") + gap.why
        task, _, attempt = gap.key.partition(".")
        self.out.note(f"[{gap.host.name}] task {task}: {told}")
        self.out.event(
            {
                "event": "output_gap",
                "instance": gap.host.instance_id,
                "task": int(task),
                "attempt": int(attempt),
                "missing_bytes": gap.missing_bytes,
                "why": gap.why,
            }
        )

    def _task(self, change: TaskChanged) -> None:
        status = change.status
        self.out.event(
            {
                "event": "task",
                "task": status.task,
                "attempt": status.attempt,
                "instance": change.host.instance_id,
                "name": change.host.name,
                "state": status.state,
                "exit_code": status.exit_code,
                "started_at": iso(status.started_at),
                "ended_at": iso(status.ended_at),
            }
        )
        if self.quiet or not status.state.ended or status.state is TaskState.SUCCEEDED:
            return
        name = self.names.get(status.task, "")
        script = f" ({name})" if name not in ("", change.host.name, str(status.task)) else ""
        self.out.note(f"[{change.host.name}] task {status.task}{script} {ending(status)}")


def _overwritten(line: bytes) -> bytes:
    """Return how a line stands on a terminal after its carriage returns: what was written last."""
    parts = [part for part in line.split(b"\r") if part]
    return parts[-1] if parts else b""


def spot_notice(action: str, at: str) -> str:
    """Return what EC2 has announced to do to a spot instance, in words."""
    return f"a spot notice: EC2 will {action} it" + (f" at {at}" if at != "-" else "")


def ending(status: TaskStatus) -> str:
    """Return how a task ended, in words."""
    if status.state is TaskState.SUCCEEDED:
        return "succeeded"
    if status.state is TaskState.FAILED:
        signal = f" (signal {status.signal})" if status.signal else ""
        return f"failed with exit code {status.exit_code}{signal}"
    return f"{status.state.value}: {reason_text(status.reason)}".rstrip(": ")


def _output_event(text: LogText) -> dict[str, object]:
    event: dict[str, object] = {
        "event": "output",
        "instance": text.host.instance_id,
        "name": text.host.name,
        "task": int(text.key.partition(".")[0]),
        "attempt": int(text.key.partition(".")[2]),
    }
    try:
        event["text"] = text.data.decode("utf-8")
    except UnicodeDecodeError:
        event["base64"] = base64.b64encode(text.data).decode("ascii")
    return event


def outcome_row(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as JSON knows it: durations in seconds, times in ISO 8601 UTC."""
    status = outcome.status
    took_s = status.took_s
    return {
        "task": outcome.task,
        "task_name": outcome.name,
        "attempt": status.attempt,
        "instance": outcome.host.instance_id,
        "name": outcome.host.name,
        "state": status.state,
        "exit_code": status.exit_code,
        "reason": outcome.why,
        "confirmed": outcome.confirmed or None,
        "started_at": iso(status.started_at),
        "ended_at": iso(status.ended_at),
        "duration_s": None if took_s is None else round(took_s, 3),
    }


def count_words(found: Sequence[Outcome]) -> str:
    """Return how many tasks ended how, and how many of them only a backup confirms."""
    counts = ended_counts(outcome.status for outcome in found)
    words = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    return words + (f" ({count} confirmed: backup)" if (count := by_backup(found)) else "")


def summary_event(job_id: str, found: Sequence[Outcome], reached: Verdict) -> dict[str, object]:
    """Return the last line of a job's JSON; `code_of` says whose exit code it is."""
    return {
        "event": "summary",
        "job": job_id,
        "exit_code": reached.code,
        "code_of": "task" if reached.of_task else "pmr",
        "counts": {
            state.value: count for state, count in ended_counts(o.status for o in found).items()
        },
        "confirmed_by_backup": by_backup(found),
        "tasks": (outcome_row(outcome) for outcome in found),
    }


@dataclass(frozen=True, slots=True)
class WayBack:
    """How to go on watching a job: the command to type; `tracks` tell what was last seen of it.

    `resume` is the command that starts stopped instances again, `reassign` the one that runs
    elsewhere what instances have that do not respond. `collects`: what was cut off is no watch, but
    the collecting of what the job has written.
    """

    job_id: str
    command: str
    tracks: Collection[Track]
    resume: str = ""
    reassign: str = ""
    collects: bool = False

    def tell_stopped(self, out: Output) -> None:
        """Say what becomes of tasks on instances that are stopped, if there are any."""
        if count := sum(1 for track in self.tracks if track.suspended):
            out.note(
                f"stopped: {count} instances; what ran there is lost, what waited goes on after "
                f"{self.resume}"
            )
            out.note(f"  then: {self.command}")

    def tell_silent(self, out: Output) -> None:
        """Name each instance that does not respond, and how to run its tasks elsewhere."""
        silent = [one for one in self.tracks if one.silent and not one.all_ended]
        for track in silent:
            out.note(f"[{track.host.name}] {track.problem}: {len(track.log.open)} tasks stay there")
        if silent and self.reassign:
            out.note("  to run them elsewhere (what still runs there may then run twice):")
            out.note(f"  {self.reassign}")

    @staticmethod
    def tell_not_started(out: Output, job_id: str, why: str) -> None:
        """Say that no instance has the job, so that nothing of it runs."""
        out.note(f"{why}: this command has started nothing of job {job_id}")
        out.event({"event": "not_started", "job": job_id, "why": why})

    def tell(self, out: Output, why: str) -> None:
        """Say that nobody watches any more, what still runs, and what to type; `why` in a word."""
        if not any(track.started for track in self.tracks):
            self.tell_not_started(out, self.job_id, why)
            return
        states = Counter(
            track.status(task).state
            for track in self.tracks
            if track.contact in (Contact.OPEN, Contact.SILENT)
            for task in track.log.open
        )
        running, pending = states[TaskState.RUNNING], states[TaskState.PENDING]
        hosts = sum(1 for track in self.tracks if not track.over)
        if not any(track.looked for track in self.tracks):
            last = "no instance has told of it yet"
        elif hosts:
            last = f"as last seen, {running} running and {pending} pending on {hosts} instances"
        else:
            last = "every task has ended; its logs stay"
        what = f"goes on without a watcher ({last}); to go on watching:"
        if self.collects:
            what = "and its logs stay as they are on the instances; to collect them:"
        out.note(f"{why}: job {self.job_id} {what}")
        out.note(f"  {self.command}")
        self.tell_silent(out)
        out.event(
            {
                "event": "unwatched",
                "job": self.job_id,
                "why": why,
                "running": running,
                "pending": pending,
                "instances": hosts,
                "again": self.command,
            }
        )


def why_unwatched(error: PmrError | KeyboardInterrupt) -> str:
    """Return why nobody watches a job any more, in a few words."""
    if isinstance(error, KeyboardInterrupt):
        return interruption(error)[0]
    if isinstance(error, ReaderGone):
        return "nobody reads the output"
    return "the output cannot be written" if isinstance(error, Unwritable) else "lost sight"


def watched(
    out: Output, happenings: Iterator[Happening], watcher: Watcher, back: WayBack
) -> ExitCode | None:
    """Show everything that happens; where a signal ends that, say how to go on, and return a code.

    The code is that of the signal. An error says how to go on too, and passes.
    """
    try:
        for happening in happenings:
            watcher.show(happening)
    except KeyboardInterrupt as error:
        watcher.finish()
        back.tell(out, why_unwatched(error))
        return interruption(error)[1]
    except PmrError as error:
        watcher.finish()
        if not isinstance(error, JobConflict):
            back.tell(out, why_unwatched(error))
        if isinstance(error, CredentialsEnded):
            error.hint = f"log in again, then: {back.command}"
        raise
    watcher.finish()
    return None

"""What a follower knows of one instance, and what it tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from poormanray.envelope import Answer, Chunk, Condensed
from poormanray.jobs.logs import ANSWER_BYTES, Gap, LogCursor, Piece, Text, waiting_bytes
from poormanray.ledger import EventLog, TaskState, TaskStatus
from poormanray.manifest import Host
from poormanray.model import readable_s

# A long answer that brings less than this and says that there is more is rare: at a log's hole.
LEAST_BROUGHT_BYTES = 256
MOST_MEAGRE = 8
# Why nothing more is expected of an instance, by what it answers.
REFUSALS = {
    "runner-lost": "its runner has died; what had not started will not start",
    "stalled": "its runner has ended, and its ledger does not tell how every task ended",
    "unsettled": "its runner has died, and it cannot record what is lost (is its disk full?)",
    "never-began": "its runner does not start (is it out of disk, memory or processes?)",
    "expired": "the command reached it too late (or its clock is wrong); nothing was done",
    "digest": "the job arrived damaged; nothing was started",
    "no-curl": "it has no curl to fetch the content from the bucket with",
    "fetch": "it could not fetch the content from the bucket (can it reach S3?)",
    "unpack": "it could not store the job (is its disk full?)",
    "no-such-job": "it does not know this job",
    "empty": "its answers are damaged: they promise more than they bring",
}


class Contact(Enum):
    """Whether an instance of a job responds, and what becomes of the tasks that it has.

    OPEN: it responds, or nothing has been asked of it yet.
    SILENT: it does not respond, and EC2 does not show it as ended: its tasks stay there.
    STOPPED: EC2 has stopped it; what waits there can go on after a start.
    ENDED: it responds, and nothing more of the job starts there.
    REFUSED: nothing of the job is there.
    LOST: EC2 shows it as terminated, or no longer shows it, or the user has declared it lost.
    """

    OPEN = "open"
    SILENT = "no response"
    STOPPED = "stopped"
    ENDED = "ended"
    REFUSED = "refused"
    LOST = "lost"


# What an instance that refuses or cannot start a job can still be asked, and what it means.
CONTACT_OF = {
    "runner-lost": Contact.ENDED,
    "stalled": Contact.ENDED,
    # What it ran may run on.
    "unsettled": Contact.SILENT,
    "never-began": Contact.ENDED,
    "expired": Contact.SILENT,
    "empty": Contact.SILENT,
}
# How a start is refused of a job that is there already under the same id, before two digests:
# of what is there, and of what was sent (shell/verbs.sh: same_job).
CONFLICTS = {
    "other-content": "it has another job under this id, with other content or options",
    "other-instances": "it has this job, as it was submitted to other instances",
}


def refusal_words(refusal: str) -> str:
    """Return why an instance refused a request, in words."""
    kind, there, sent, *_ = [*refusal.split(" "), "", ""]
    if kind in CONFLICTS:
        return f"{CONFLICTS[kind]} (there {there[:8]}, sent {sent[:8]})"
    return REFUSALS.get(refusal, refusal[:99])


def is_conflict(why: str) -> bool:
    """Say whether a start was refused because another job is there under the same id."""
    return why.startswith(tuple(CONFLICTS.values()))


# A cancel puts an end on record just after it took the task, which may be the runner's last.
STALLED_S = 20.0
# Each look starts a runner where there is none; a machine that answers looks can run one by then.
NEVER_BEGAN_S = 120.0
# An instance reports a dead runner, and records what is lost 30 s later, or after its next boot.
UNSETTLED_S = 300.0
SETTLES_S = 5.0
# Between requests that fail.
RETRY_PAUSE_S = 2.0
LONGEST_READ_PAUSE_S = 30.0
# An instance that has not responded for so long is SILENT. It is asked again after this pause,
# which doubles with each further request without a response, and the longest pause.
SILENT_S = 60.0
SILENT_PAUSE_S, LONGEST_SILENT_PAUSE_S = 10.0, 300.0
# With --reassign, an instance that falls silent counts as lost after so long.
REASSIGN_S = 300.0
# Of a job that an instance does not know, before it is said that it never came there.
MOST_UNKNOWN_LOOKS = 3
# What an instance says that the time is: epoch seconds, as in its events.
_CLOCK = re.compile(r"[0-9]{1,11}\.[0-9]{3}")


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task started or ended."""

    host: Host
    status: TaskStatus


@dataclass(frozen=True, slots=True)
class LogText:
    """Bytes of a task's log, in order, each once."""

    host: Host
    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class LogGap:
    """Bytes of a task's log that are gone; `missing_bytes` is 0 where nobody can know."""

    host: Host
    key: str
    missing_bytes: int
    why: str

    def mark_after(self, before: bytes | bytearray) -> bytes:
        """Return the line that stands for the missing bytes in what is shown or saved of a log.

        `before` is what comes before it there, or the end of that.
        """
        size = f"{self.missing_bytes:,} bytes of this log are missing here: "
        line = f"[pmr: {size if self.missing_bytes else ''}{self.why}]\n".encode()
        return line if not before or before.endswith(b"\n") else b"\n" + line


_LIMITS_S = {
    "done": STALLED_S,
    "dead": STALLED_S,
    "unsettled": UNSETTLED_S,
    "new": NEVER_BEGAN_S,
}


def settles_s(answer: Answer) -> float:
    """Return how long to wait before a dead runner is looked at again, 0 where there is none."""
    told = answer.facts.get("settles", "")[:9]
    return max(1.0, min(float(told), SETTLES_S)) if told.isdecimal() else 0.0


def log_happening(host: Host, item: Text | Gap) -> LogText | LogGap:
    """Return what an instance's log has brought."""
    if isinstance(item, Text):
        return LogText(host, item.name, item.data)
    return LogGap(host, item.name, item.missing_bytes, item.why)


@dataclass(frozen=True, slots=True)
class HostProblem:
    """Nothing more is expected of an instance: it is lost, or the work never reached it."""

    host: Host
    why: str


@dataclass(frozen=True, slots=True)
class Unresponsive:
    """An instance does not respond; its tasks that have not ended, `tasks` of them, stay there."""

    host: Host
    seconds: float
    tasks: int
    why: str


@dataclass(frozen=True, slots=True)
class Responsive:
    """An instance that did not respond does so again, after so many seconds."""

    host: Host
    seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """A long log is about to be read: its size, and an honest estimate of how long that takes."""

    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Again:
    """Tasks that get another turn: the attempts (task, attempt) that follow, and why."""

    keys: tuple[tuple[int, int], ...]
    why: str


@dataclass(frozen=True, slots=True)
class Halted:
    """Too many tasks have failed: nothing more starts, and with `now` what runs is ended.

    `missed` are the names of instances that could not be told.
    """

    failed: int
    now: bool
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """An instance that was not there when the job was submitted takes part from now on."""

    host: Host


@dataclass(frozen=True, slots=True)
class Interrupted:
    """EC2 is about to take a spot instance back: what it will do, and when, in its own words.

    Nothing more starts there; what runs goes on while it can.
    """

    host: Host
    action: str
    at: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look brought has been told."""


Happening = (
    Looked
    | Again
    | Halted
    | Joined
    | TaskChanged
    | LogText
    | LogGap
    | HostProblem
    | Unresponsive
    | Responsive
    | Interrupted
    | Backlog
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a follower reads: `logs` says of which tasks; None means of none.

    `live` goes on until the job has ended; else the follower stops at what there is now.
    `wake_on_events` makes an instance answer as soon as a task starts or ends.
    """

    logs: Callable[[int], bool] | None = None
    live: bool = True
    wake_on_events: bool = False
    from_end_bytes: int = 0


@dataclass(slots=True)
class Track:
    """One instance of the job, as far as it has been followed.

    `looking`: a look that may wait is under way; `looked`: at least one has been answered;
    `behind`: its ledger has events that did not fit; `lanes`: requests for bulk under way;
    `ratio`: how well its logs compress; `meagre`: answers in a row that brought next to nothing
    of what they say there is; `omitted`: such that left out logs that were asked for;
    `problem`: why it is not OPEN; `answered_at_s`: when it last responded;
    `told_silence_s`: how long it had been silent when that was last reported;
    `joined`: it came after the job was submitted;
    `waits`: after a reboot, for a client that has seen what others took over meanwhile;
    `unknown_looks`: looks that found that it does not know the job (yet);
    `read_failures`: requests for bulk that failed in a row, which makes the next wait longer;
    `told_notice`: its spot notice has been told;
    `clock_s`: the time of its newest answer, by the clock that its events go by; 0: not told;
    `assigned`: attempts that were given to it, by more than its own word and that of their source.
    """

    host: Host
    log: EventLog = field(default_factory=EventLog)
    cursors: dict[str, LogCursor] = field(default_factory=dict)
    started: bool = True
    looking: bool = False
    looked: bool = False
    behind: bool = False
    lanes: int = 0
    ratio: float = 3.0
    failures: int = 0
    meagre: int = 0
    omitted: int = 0
    heard_at_s: float = 0.0
    due_at_s: float = 0.0
    problem: str = ""
    contact: Contact = Contact.OPEN
    answered_at_s: float | None = None
    told_silence_s: float = 0.0
    stalled_since_s: float | None = None
    waits: bool = False
    joined: bool = False
    unknown_looks: int = 0
    read_failures: int = 0
    read_due_s: float = 0.0
    told_notice: bool = False
    clock_s: float = 0.0
    assigned: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take nothing from the instance that is another's to tell."""
        self.log.expect(self.host.tasks)

    @property
    def gone(self) -> bool:
        """Say whether no request is sent to the instance any more."""
        return self.contact in (Contact.STOPPED, Contact.REFUSED, Contact.LOST)

    @property
    def suspended(self) -> bool:
        """Say whether the instance is stopped, and what waits there can go on after a start."""
        return self.contact is Contact.STOPPED

    @property
    def silent(self) -> bool:
        """Say whether the instance does not respond, and is not known to have ended."""
        return self.contact is Contact.SILENT

    @property
    def responds(self) -> bool:
        """Say whether the instance can be asked and nothing speaks against it; it may be ENDED."""
        return self.contact in (Contact.OPEN, Contact.ENDED)

    def reopen(self) -> None:
        """Take the instance for one that responds."""
        self.contact, self.problem = Contact.OPEN, ""
        self.told_silence_s = 0.0

    def fall_silent(self, now_s: float, why: str) -> Unresponsive | None:
        """Mark the instance as SILENT; return what to report, each time that the silence doubles.

        One that is given up, or only read to its end, stays as it is.
        """
        if self.contact not in (Contact.OPEN, Contact.SILENT):
            return None
        seconds = now_s - (self.heard_at_s if self.answered_at_s is None else self.answered_at_s)
        self.contact = Contact.SILENT
        self.problem = f"no response for {readable_s(max(1.0, seconds))}" + f" ({why})" * bool(why)
        return self.report_silence(now_s, why)

    def report_silence(self, now_s: float, why: str) -> Unresponsive | None:
        """Return what to report of an instance that owes an answer, if it is time to."""
        seconds = now_s - (self.heard_at_s if self.answered_at_s is None else self.answered_at_s)
        if self.told_silence_s and seconds < 2 * self.told_silence_s:
            return None
        self.told_silence_s = max(seconds, 1.0)
        return Unresponsive(self.host, seconds, len(self.log.open), why)

    def see_how_far(self, answer: Answer) -> None:
        """Take note of whether the instance has more events than an answer brought."""
        got = answer.events
        told = answer.facts.get("events", "")
        if got is None:
            return
        # A torn last line is read, and not folded; and who gets nothing need not ask again.
        more = told.isdecimal() and int(told[:18]) > got.end
        again = isinstance(got, Condensed) and self.log.offset < got.end
        self.behind = got.end > got.offset and (more or again)

    def promises_only(self, answer: Answer) -> bool:
        """Take note of how much an answer brought; say whether it is time to give up on them."""
        names = {record.name for record in answer.records}
        more = self.behind or any(self.cursors[name].todo for name in names & self.cursors.keys())
        parts: list[Chunk | Condensed] = [one for one in answer.records if isinstance(one, Chunk)]
        parts += [answer.events] if answer.events else []
        brought = sum(part.end - part.offset for part in parts)
        self.meagre = self.meagre + 1 if more and brought < LEAST_BROUGHT_BYTES else 0
        return max(self.meagre, self.omitted) > MOST_MEAGRE

    def status(self, task: int) -> TaskStatus:
        """Return the newest attempt of a task, PENDING where the ledger has none."""
        return self.log.status(task) or TaskStatus(task, 1, TaskState.PENDING)

    @property
    def tasks(self) -> set[int]:
        """Return the tasks that the instance has or had: spread to it, or adopted."""
        return self.log.own or set()

    def by_key(self, key: str) -> TaskStatus | None:
        """Return the attempt that a log's name stands for."""
        task, _, attempt = key.partition(".")
        if not (task.isdecimal() and attempt.isdecimal()):
            return None
        return self.log.tasks.get((int(task), int(attempt)))

    def stalled(self, runner: str, now_s: float) -> str:
        """Return why (of REFUSALS) tasks have had no end for long, without a runner; "" if not so.

        `runner` is what the instance says of it. So it is where the ledger cannot be written, or
        where no process can be started.
        """
        limit_s = _LIMITS_S.get(runner)
        if limit_s is None or self.waits or self.behind or self.all_ended:
            self.stalled_since_s = None
            return ""
        if self.stalled_since_s is None:
            self.stalled_since_s = now_s
        if now_s - self.stalled_since_s <= limit_s:
            return ""
        return {"new": "never-began", "unsettled": "unsettled"}.get(runner, "stalled")

    def never_came(self, *, delivered: bool) -> bool:
        """Say whether a start that failed certainly came there neither now nor before."""
        return not delivered and self.failures == 1

    @property
    def lost_with_runner(self) -> bool:
        """Say whether tasks will have no end because the runner has died, and nobody knows yet."""
        return self.log.runner_lost and not self.all_ended and self.contact is Contact.OPEN

    def retry(self, now_s: float, *, bulk: bool) -> None:
        """Let the next look, or request for bulk, wait: the longer the more have failed."""
        if self.silent:
            doubled_s = SILENT_PAUSE_S * 2 ** min(self.failures - 1, 9)
            self.due_at_s = now_s + min(doubled_s, LONGEST_SILENT_PAUSE_S)
            return
        if not bulk:
            self.due_at_s = now_s + RETRY_PAUSE_S * self.failures
            return
        self.read_failures += 1
        self.read_due_s = now_s + min(RETRY_PAUSE_S * self.read_failures, LONGEST_READ_PAUSE_S)

    def hear(self, answer: Answer, now_s: float, *, bulk: bool) -> None:
        """Take note of an answer: what has failed before is over."""
        self.heard_at_s = self.answered_at_s = now_s
        if _CLOCK.fullmatch(told := answer.facts.get("now", "")):
            self.clock_s = float(told)
        self.failures = 0
        self.read_failures = 0 if bulk else self.read_failures

    def put_back(self, pieces: Iterable[Piece]) -> None:
        """Let pieces of logs be asked for again that were not answered."""
        for piece in pieces:
            self.cursors[piece.name].put_back(piece)

    def may_still_come(self, refusal: str, now_s: float) -> bool:
        """Say whether a job that is unknown there may be on its way; plans another look if so.

        Who submitted it may have been cut off: its start and this look can wait for one agent.
        """
        if refusal != "no-such-job" or self.unknown_looks >= MOST_UNKNOWN_LOOKS:
            return False
        self.unknown_looks += 1
        self.due_at_s = now_s + RETRY_PAUSE_S * self.unknown_looks
        return True

    def silent_s(self, now_s: float) -> float:
        """Return for how long an answer has been due; 0 where none is."""
        asked = self.contact in (Contact.OPEN, Contact.SILENT)
        due = asked and (self.looking or self.lanes)
        return now_s - self.heard_at_s if due else 0.0

    def notice(self) -> Iterator[Interrupted]:
        """Yield once that EC2 takes the instance back, if so."""
        if self.log.interrupted and not self.told_notice:
            self.told_notice = True
            yield Interrupted(self.host, *self.log.interrupted)

    def again(self, status: TaskStatus) -> Again | None:
        """Say that the instance gives a task that failed another turn by itself, if so."""
        failed = status.state.ended and status.state is not TaskState.SUCCEEDED
        attempt = self.log.open.get(status.task, 0)
        if not failed or attempt <= status.attempt:
            return None
        return Again(((status.task, attempt),), status.reason or f"exit code {status.exit_code}")

    @property
    def waits_to_read(self) -> bool:
        """Say whether something is to be read in bulk that nobody has asked for yet."""
        return not (self.gone or self.silent) and any(c.todo for c in self.cursors.values())

    @property
    def over(self) -> bool:
        """Say whether nothing more is expected of the instance."""
        return self.contact not in (Contact.OPEN, Contact.SILENT) or self.all_ended

    @property
    def all_ended(self) -> bool:
        """Say whether every task that the instance has now has ended."""
        return not self.log.open


def backlog(tracks: Iterable[Track], lanes: int) -> tuple[int, float]:
    """Return how many bytes of logs wait to be read, and how many round trips that takes.

    `lanes` requests go side by side on each instance; instances do not wait for each other.
    """
    sizes = [(waiting_bytes(track.cursors.values()), track.ratio) for track in tracks]
    trips = (size / (ratio * ANSWER_BYTES * lanes) for size, ratio in sizes)
    return sum(size for size, _ in sizes), max(trips, default=0.0)

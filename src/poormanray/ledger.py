"""A job's ledger as the client sees it: its events, folded into task states."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from poormanray.envelope import Chunk, Condensed
from poormanray.events import checksum, written_out
from poormanray.schedule import whole_number

# What the ledgers of this version are (shell/ledger.sh); every other format is refused.
LEDGER_FORMAT = 2
ID_LENGTH, TIME_LENGTH = 11, 7
# The highest signal number of Linux; a shell reports death by signal n as 128 + n.
SIGNALS = 64
HIGHEST_CODE = 255
# More attempts of a task than this are nobody's honest doing.
MOST_ATTEMPTS = 1_000
LONGEST_REASON = 60
# Ends that were put on record only when somebody looked, after another boot perhaps.
UNSEEN = frozenset({"rebooted", "lost", "instance", "mirrored"})
# Epoch seconds of events, as long as honest ones can be (up to the year 5138).
_TIME = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
# What EC2 will do to a spot instance, and when.
_NOTICE = re.compile(r"[a-z-]{1,20} [0-9TZ:.-]{1,30}")
ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_job_id(now_s: float | None = None) -> str:
    """Return a job id: seven characters of time (sortable, in seconds), four of chance."""
    moment = int(time.time() if now_s is None else now_s)
    text = ""
    for _ in range(TIME_LENGTH):
        moment, digit = divmod(moment, 32)
        text = ID_ALPHABET[digit] + text
    return text + "".join(secrets.choice(ID_ALPHABET) for _ in range(4))


def job_time_s(job_id: str) -> int:
    """Return the time in a job id, in epoch seconds."""
    moment = 0
    for letter in job_id[:TIME_LENGTH]:
        moment = moment * 32 + ID_ALPHABET.index(letter)
    return moment


def is_job_id(text: str) -> bool:
    """Say whether a text can be a job id."""
    return len(text) == ID_LENGTH and all(letter in ID_ALPHABET for letter in text)


class TaskState(Enum):
    """What became of a task."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def ended(self) -> bool:
        """Say whether the task will not change any more."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Where one attempt of a task stands.

    Times are epoch seconds of the instance's boot clock: what the wall clock showed when the job
    came, and the time since. A difference of two is a duration, if they are of one boot.
    """

    task: int
    attempt: int
    state: TaskState
    exit_code: int | None = None
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    slot: int = 0

    @property
    def key(self) -> str:
        """Return the name of the attempt's log in the ledger."""
        return f"{self.task}.{self.attempt}"

    @property
    def took_s(self) -> float | None:
        """Return how long the attempt ran, in seconds; None where its end was not seen."""
        if self.started_at is None or self.ended_at is None or self.reason in UNSEEN:
            return None
        return max(0.0, round(self.ended_at - self.started_at, 6))

    @property
    def signal(self) -> int:
        """Return the signal that ended the task as a shell reports it (128 + n), or 0."""
        number = (self.exit_code or 0) - 128
        return number if 0 < number <= SIGNALS else 0


_ENDS = {
    "timeout": TaskState.TIMEOUT,
    "cancelled": TaskState.CANCELLED,
    "lost": TaskState.LOST,
    "rebooted": TaskState.LOST,
    "unstartable": TaskState.LOST,
    "no-user": TaskState.LOST,
}
REASONS = {
    "lost": "the runner on the instance died while the task ran",
    "rebooted": "the instance was stopped or rebooted while the task ran",
    "unstartable": "the instance could not start the task (is its disk full?)",
    "no-user": "the instance has no such user (see -u)",
    "timeout": "the task's time was over",
    "cancelled": "cancelled",
    "instance": "the instance is gone",
    "mirrored": "confirmed: backup; its log is gone with its instance",
}
_NO_USER = "no-user:"


def reason_text(reason: str) -> str:
    """Return the reason of a task's end in words."""
    if reason.startswith(_NO_USER):
        name = reason.removeprefix(_NO_USER)
        return f"the instance has no user {name} any more (see -u)"
    return REASONS.get(reason, reason)


@dataclass(slots=True)
class EventLog:
    """The events of one instance, folded as they arrive; any split of them folds the same.

    `held` are the slots that start nothing for now, with `load` or `memory` for why; `interrupted`
    is what EC2 will do to the spot instance, and when: nothing starts there any more.
    `offset` counts the bytes that were folded, whole lines only: read on from there. `own` are
    the tasks that the instance may tell of (None: any); what it says of others is damage.
    `doubted`: checksums of ends that it told shortly did not add up. `open`
    are the attempts that have no end yet, by task; `given` are those that went to another
    instance, with its host index; `adopted` those that came from elsewhere, or come again.
    """

    offset: int = 0
    own: set[int] | None = None
    tasks: dict[tuple[int, int], TaskStatus] = field(default_factory=dict)
    newest: dict[int, TaskStatus] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    given: dict[tuple[int, int], int] = field(default_factory=dict)
    adopted: set[tuple[int, int]] = field(default_factory=set)
    runner_lost: bool = False
    cancelled: bool = False
    slots: int = 0
    held: dict[int, str] = field(default_factory=dict)
    interrupted: tuple[str, str] | None = None
    detached_by: str = ""
    damaged_lines: int = 0
    doubted: bool = False

    def expect(self, tasks: Iterable[int]) -> None:
        """Begin with the tasks that were spread to the instance; it tells of no others."""
        self.open = dict.fromkeys(tasks, 1)
        self.own = set(self.open)

    def status(self, task: int) -> TaskStatus | None:
        """Return the newest attempt of a task; None where the instance has none any more."""
        newest, attempt = self.newest.get(task), self.open.get(task, 0)
        if attempt > (newest.attempt if newest else 0):
            return TaskStatus(task, attempt, TaskState.PENDING)
        return newest

    def learn(self, statuses: Iterable[TaskStatus]) -> None:
        """Take in how attempts have ended, as told by another instance than the one that had them.

        What the instance itself has told of them counts more.
        """
        for status in statuses:
            if self.own is not None:
                self.own.add(status.task)
            self._put(status, [])

    def forget(self, keys: Iterable[tuple[int, int]]) -> None:
        """Take back how attempts have ended: they are open again."""
        for key in keys:
            if self.tasks.pop(key, None) is None:
                continue
            task, attempt = key
            left = [status for (one, _), status in self.tasks.items() if one == task]
            self.newest.pop(task, None)
            if left:
                self.newest[task] = max(left, key=lambda status: status.attempt)
            self.open[task] = max(attempt, self.open.get(task, 0))

    def knows(self, key: tuple[int, int]) -> bool:
        """Say whether an attempt has come to the instance from elsewhere, whatever became of it."""
        return key in self.adopted or key in self.tasks or key in self.given

    def feed(self, offset: int, data: bytes) -> list[TaskStatus]:
        """Fold bytes that were read at `offset`; return the tasks that changed, in order."""
        if offset > self.offset:
            return []
        data = data[self.offset - offset :]
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        changed: list[TaskStatus] = []
        for line in whole.decode("latin-1").split("\n"):
            if line:
                self._fold(line, changed)
        return changed

    def read(self, part: Chunk | Condensed) -> list[TaskStatus]:
        """Fold a part of the events as an instance answers it; return the tasks that changed.

        Where the checksums of its ends do not add up, nothing is folded: it is `doubted`, and
        must come again, each of them tried by the instance.
        """
        if isinstance(part, Chunk):
            return self.feed(part.offset, part.data)
        changed: list[TaskStatus] = []
        if part.offset != self.offset or part.end < part.offset:
            return changed
        events, adds_up = written_out(part)
        if not (adds_up or self.doubted):
            self.doubted = True
            return changed
        self.offset = part.end
        for text in events:
            self._take(text, changed)
        return changed

    def _fold(self, line: str, changed: list[TaskStatus]) -> None:
        text, _, digest = line.rpartition(" ")
        self._take(text if digest == checksum(text) else None, changed)

    def _take(self, text: str | None, changed: list[TaskStatus]) -> None:
        """Take in an event; None stands for a damaged one."""
        if text is None:
            self.damaged_lines += 1
            return
        try:
            self._read(text, changed)
        except ValueError:
            self.damaged_lines += 1

    def _read(self, text: str, changed: list[TaskStatus]) -> None:
        match text.split(" "):
            case ["J", _, *words]:
                self._read_job(words)
            case ["A", _, keys]:
                self._adopt(decode_keys(keys))
            case ["G", _, to_host, keys]:
                self._give(decode_keys(keys), whole_number(to_host))
            case ["S", when, task, attempt, slot, *_]:
                self._put(
                    TaskStatus(
                        *self._key(task, attempt),
                        TaskState.RUNNING,
                        started_at=_seconds(when),
                        slot=whole_number(slot),
                    ),
                    changed,
                )
            case ["E", when, task, attempt, code, reason, *rest]:
                key = self._key(task, attempt)
                before = self.tasks.get(key)
                began = before.started_at if before else None
                self._put(_ended(key, _seconds(when), code, reason, rest, began), changed)

    def _read_job(self, words: list[str]) -> None:
        """Take in what happened to the job as a whole; what is not known means nothing."""
        match words:
            case ["runner-started", slots, _, detached_by, *_]:
                self.slots, self.detached_by = whole_number(slots), detached_by
                self.runner_lost = False
                self.held.clear()
                self.interrupted = None
            case ["runner-lost", *_]:
                self.runner_lost = True
                self.held.clear()
            case ["rebooted", *_]:
                # What was settled before the boot does not count: the queue goes on.
                self.runner_lost = False
                self.held.clear()
            case ["held", why, slot]:
                if whole_number(slot) >= self.slots:
                    raise ValueError("not a slot of this instance")
                self.held[whole_number(slot)] = "memory" if why == "memory" else "load"
            case ["freed", slot]:
                self.held.pop(whole_number(slot), None)
            case ["interrupted", action, at]:
                if not _NOTICE.fullmatch(f"{action} {at}"):
                    raise ValueError("not a notice of EC2's")
                self.interrupted = (action, at)
            case ["cancelled" | "resumed" as what]:
                self.cancelled = what == "cancelled"

    def _adopt(self, keys: Iterable[tuple[int, int]]) -> None:
        # Whoever brings tasks starts a runner for them.
        self.runner_lost = False
        for key in keys:
            task, attempt = key
            if self.own is not None:
                self.own.add(task)
            self.adopted.add(key)
            # What comes back to where it was is not away any more.
            self.given.pop(key, None)
            if key not in self.tasks:
                self.open[task] = max(attempt, self.open.get(task, 0))

    def _give(self, keys: Iterable[tuple[int, int]], to_host: int) -> None:
        for key in keys:
            task, attempt = key
            if self.own is not None and task not in self.own:
                raise ValueError("not a task of this instance")
            self.given[key] = to_host
            self.adopted.discard(key)
            if self.open.get(task) == attempt:
                del self.open[task]

    def _key(self, task: str, attempt: str) -> tuple[int, int]:
        key = (whole_number(task), whole_number(attempt))
        if key[1] > MOST_ATTEMPTS or (self.own is not None and key[0] not in self.own):
            raise ValueError("not a task of this instance")
        return key

    def _put(self, status: TaskStatus, changed: list[TaskStatus]) -> None:
        key = (status.task, status.attempt)
        before = self.tasks.get(key)
        # Several write to a ledger: a cancel's line may come before its task's own. An end is
        # final, whatever comes after it.
        if before is not None and before.state.ended:
            return
        self.tasks[key] = status
        newest = self.newest.get(status.task)
        if newest is None or newest.attempt <= status.attempt:
            self.newest[status.task] = status
        attempt = self.open.get(status.task, 0)
        if not status.state.ended:
            self.open[status.task] = max(attempt, status.attempt)
        elif self.open.get(status.task) == status.attempt:
            del self.open[status.task]
        changed.append(status)


def encode_keys(keys: Iterable[tuple[int, int]]) -> str:
    """Return attempts of tasks as one word."""
    return ",".join(f"{task}.{attempt}" for task, attempt in keys)


def decode_keys(text: str) -> list[tuple[int, int]]:
    """Return the attempts that `encode_keys` wrote.

    Raises:
        ValueError: the text is not one of those.
    """
    keys = []
    for word in text.split(","):
        task, _, attempt = word.partition(".")
        keys.append((whole_number(task), whole_number(attempt)))
        if keys[-1][1] > MOST_ATTEMPTS:
            raise ValueError("more attempts than a task can have")
    return keys


def _seconds(text: str) -> float:
    if not _TIME.fullmatch(text):
        raise ValueError("not a time of an event")
    return float(text)


def _ended(
    key: tuple[int, int],
    when: float,
    code: str,
    reason: str,
    rest: list[str],
    began: float | None,
) -> TaskStatus:
    exit_code = None if code == "-" else whole_number(code)
    if exit_code is not None and exit_code > HIGHEST_CODE:
        raise ValueError("no process ends with such a code")
    if reason == "exit":
        state = TaskState.SUCCEEDED if exit_code == 0 else TaskState.FAILED
        if exit_code is None:
            state, reason = TaskState.LOST, "lost"
    else:
        state = _ENDS.get(reason, TaskState.LOST)
    return TaskStatus(
        *key,
        state,
        exit_code=exit_code,
        reason="" if reason == "exit" else reason[:LONGEST_REASON],
        started_at=_seconds(rest[0]) if rest else began,
        ended_at=when,
        slot=whole_number(rest[1]) if len(rest) > 1 else 0,
    )


def ended_counts(statuses: Iterable[TaskStatus]) -> dict[TaskState, int]:
    """Count tasks by state."""
    counts = dict.fromkeys(TaskState, 0)
    for status in statuses:
        counts[status.state] += 1
    return counts

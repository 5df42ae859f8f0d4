"""How far a job is, as its instances tell it in one small answer each. Pure.

`shell/summary.sh` writes what is read here. The sums are of attempts that ended with an exit code.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from poormanray.jobs.track import REFUSALS
from poormanray.ledger import (
    HIGHEST_CODE,
    LONGEST_REASON,
    TaskState,
    TaskStatus,
    reason_text,
)
from poormanray.manifest import JobSummary, sound_summary
from poormanray.schedule import whole_number

# As many of the failed and of the slowest tasks are told of all instances together.
MOST_SHOWN = 20
MOST_SLOWEST = 5
# Longer than any line that an honest instance sends of a task (summary.sh cuts them).
LONGEST_WORD = 1_000
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NOTICE = re.compile(r"([a-z-]{1,20})/([0-9TZ:.-]{1,30})")
_HELD = ("load", "memory")
_MICROS = 1e6
_CUT = "…"


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the tasks that took longest."""

    task: int
    attempt: int
    name: str
    host_name: str
    instance_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """One of the tasks that ended without success; `last_line` is the end of its log."""

    status: TaskStatus
    name: str
    host_name: str
    instance_id: str
    why: str = ""
    last_line: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """One instance's part of a job. Times are epoch seconds by its own clock; 0: there is none.

    `ran` attempts have ended with an exit code after `busy_s` seconds altogether; those that run
    have done so for `under_s` seconds. `problem` says why nothing more is expected of it; `waits`
    and `joined` are those of a track. The manifest gives it `spread` tasks; `gave_to` counts the
    attempts that it gave away, by the host index of who was to get them. `held`
    counts slots that start nothing for now, by why; `interrupted` is a spot notice (what, when).
    """

    instance_id: str
    name: str
    counts: Mapping[TaskState, int]
    slots: int = 0
    detached_by: str = ""
    runner: str = ""
    damaged_lines: int = 0
    cancelled: bool = False
    first_s: float = 0.0
    last_s: float = 0.0
    now_s: float = 0.0
    ran: int = 0
    busy_s: float = 0.0
    under_s: float = 0.0
    problem: str = ""
    held: Mapping[str, int] = field(default_factory=dict)
    interrupted: tuple[str, str] | None = None
    waits: bool = False
    joined: bool = False
    spread: int = 0
    gave_to: Mapping[int, int] = field(default_factory=dict)
    host_index: int = -1
    slowest: tuple[Slow, ...] = ()
    failed: tuple[Failed, ...] = ()

    @property
    def mean_s(self) -> float | None:
        """Return how long its tasks take, in seconds."""
        return self.busy_s / self.ran if self.ran else None


@dataclass(frozen=True, slots=True)
class Overview:
    """How far a job is: what `pmr status` shows; `unclaimed` of its tasks have no instance.

    `confirmed_by_backup` are the tasks that have ended by a backup's word alone.
    """

    summary: JobSummary
    shares: tuple[Share, ...]
    counts: Mapping[TaskState, int]
    slowest: tuple[Slow, ...] = ()
    failed: tuple[Failed, ...] = ()
    unclaimed: int = 0
    confirmed_by_backup: int = 0

    @property
    def total(self) -> int:
        """Return how many tasks the job has."""
        return self.summary.task_count

    @property
    def failures(self) -> int:
        """Return how many tasks ended without success."""
        return sum(n for state, n in self.counts.items() if state in BAD)

    @property
    def ended(self) -> bool:
        """Say whether no task will change any more."""
        going = self.counts[TaskState.PENDING] + self.counts[TaskState.RUNNING]
        return not going and sum(self.counts.values()) == self.total

    @property
    def ran(self) -> int:
        """Return how many attempts have ended with an exit code."""
        return sum(share.ran for share in self.shares)

    @property
    def mean_s(self) -> float | None:
        """Return how long a task takes, in seconds."""
        return sum(share.busy_s for share in self.shares) / self.ran if self.ran else None

    @property
    def first_s(self) -> float:
        """Return when the first task started."""
        return min((share.first_s for share in self.shares if share.first_s), default=0.0)

    @property
    def last_s(self) -> float:
        """Return when the last task ended, or, while there are some, what time it is."""
        if self.ended:
            return max((share.last_s for share in self.shares), default=0.0)
        return max((share.now_s for share in self.shares), default=0.0)

    @property
    def span_s(self) -> float:
        """Return for how long the job has run."""
        return max(0.0, self.last_s - self.first_s) if self.first_s else 0.0

    @property
    def rate(self) -> float | None:
        """Return how many tasks have ended a second since the first start."""
        return self.ran / self.span_s if self.ran and self.span_s else None

    @property
    def utilisation(self) -> float | None:
        """Return which part of the slots' time tasks have used, 0 to 1."""
        slots = sum(share.slots for share in self.shares)
        used_s = sum(share.busy_s + share.under_s for share in self.shares)
        return min(1.0, used_s / (slots * self.span_s)) if slots and self.span_s else None

    @property
    def eta_s(self) -> float | None:
        """Return in about how many seconds all will have ended, if tasks take as long as before.

        None: all have ended, or there is nothing to tell it from.
        """
        mean_s = self.mean_s
        working = [
            one for one in self.shares if one.slots and not one.problem and one.runner != "done"
        ]
        if self.ended or mean_s is None or not working:
            return None
        left_s = self.counts[TaskState.PENDING] * mean_s
        for share in working:
            running = share.counts[TaskState.RUNNING]
            left_s += max(0.0, running * (share.mean_s or mean_s) - share.under_s)
        # Where its tasks take longer than usual, an instance does less of the rest.
        pace = sum(share.slots * mean_s / max(share.mean_s or mean_s, 1e-6) for share in working)
        return left_s / pace if pace else None

    def skew(self, share: Share) -> float | None:
        """Return how long an instance's tasks take, as a multiple of the mean of all."""
        if share.mean_s is None or not self.mean_s:
            return None
        return share.mean_s / self.mean_s


BAD = frozenset(state for state in TaskState if state.ended) - {TaskState.SUCCEEDED}


# --- what an instance answers ------------------------------------------------------------------


def read_share(instance_id: str, name: str, job_id: str, data: bytes) -> tuple[JobSummary, Share]:
    """Read what an instance answers of a job: what the job is, and the instance's share of it.

    Raises:
        ValueError: it is damaged.
    """
    summary = sound_summary(job_id, data)
    lines = data.decode("ascii", "replace").splitlines()
    words = dict(line.split("=", 1) for line in lines if "=" in line)
    counts = dict.fromkeys(TaskState, 0)
    for state in TaskState:
        counts[state] = whole_number(words.get(f"n_{state.value.lower()}", ""))
    host = (name, instance_id)
    share = Share(
        instance_id,
        name,
        counts,
        slots=whole_number(words.get("slots_now", "")),
        detached_by=words.get("detached", "")[:LONGEST_REASON],
        runner=words.get("runner", "")[:LONGEST_REASON],
        damaged_lines=whole_number(words.get("damaged", "")),
        cancelled=words.get("cancelled_job") == "1",
        first_s=_time_s(words, "first"),
        last_s=_time_s(words, "last"),
        now_s=_time_s(words, "now"),
        ran=whole_number(words.get("ran", "")),
        busy_s=max(0.0, _time_s(words, "busy")),
        under_s=max(0.0, _time_s(words, "under")),
        held=Counter(word for word in words.get("held", "").split() if word in _HELD),
        interrupted=_notice(words.get("notice", "")),
        waits=words.get("waits") == "1",
        joined=not words.get("spread", "").isdecimal(),
        spread=whole_number(words["spread"]) if words.get("spread", "").isdecimal() else 0,
        gave_to=_gave(words.get("gave", "")),
        slowest=tuple(_slow(text, host) for text in _numbered(words, "slow")),
        failed=tuple(_failed(text, host) for text in _numbered(words, "bad")),
    )
    return summary, _judged(share)


def _gave(text: str) -> dict[int, int]:
    pairs = (word.partition(":") for word in text.split(",") if word)
    return {whole_number(to): whole_number(count) for to, _, count in pairs}


def _notice(text: str) -> tuple[str, str] | None:
    found = _NOTICE.fullmatch(text)
    return (found[1], found[2]) if found else None


def _judged(share: Share) -> Share:
    """Say what nobody will start any more: the rest of a runner that has died."""
    pending = share.counts[TaskState.PENDING]
    if share.runner != "dead" or not pending:
        return share
    lost = share.counts[TaskState.LOST] + pending
    counts = {**share.counts, TaskState.PENDING: 0, TaskState.LOST: lost}
    return replace(share, counts=counts, problem=REFUSALS["runner-lost"])


def _time_s(words: Mapping[str, str], key: str) -> float:
    text = words.get(key, "")
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"its {key!r} is no number")
    return int(text) / _MICROS


def _numbered(words: Mapping[str, str], key: str) -> Iterator[str]:
    for number in range(MOST_SHOWN):
        if (text := words.get(f"{key}{number}")) is None:
            return
        yield text[:LONGEST_WORD]


def _text(word: str) -> str:
    """Return what an instance wrote in base64; where it cut the text, that is to be seen."""
    plain = base64.b64decode(word.removesuffix("~").replace("=", "") + "==").decode(
        "utf-8", "ignore" if word.endswith("~") else "replace"
    )
    return plain + _CUT * word.endswith("~")


def _slow(text: str, host: tuple[str, str]) -> Slow:
    task, attempt, micros, name, *_ = [*text.split(" "), "", "", ""]
    if not _INTEGER.fullmatch(micros):
        raise ValueError("the time of a task is no number")
    seconds = int(micros) / _MICROS
    return Slow(whole_number(task), whole_number(attempt), _name(task, name), *host, seconds)


def _failed(text: str, host: tuple[str, str]) -> Failed:
    task, attempt, state, code, reason, at, name, last, *_ = [*text.split(" "), *[""] * 8]
    exit_code = None if code == "-" else whole_number(code)
    if (exit_code or 0) > HIGHEST_CODE or not _INTEGER.fullmatch(at):
        raise ValueError("no task ends so")
    status = TaskStatus(
        whole_number(task),
        whole_number(attempt),
        TaskState(state.upper()),
        exit_code=exit_code,
        reason="" if reason == "exit" else reason[:LONGEST_REASON],
        ended_at=int(at) / _MICROS,
    )
    why = reason_text(status.reason)
    return Failed(status, _name(task, name), *host, why=why, last_line=_text(last))


def _name(task: str, word: str) -> str:
    return task if word in ("-", "") else _text(word)


# --- all of them together ----------------------------------------------------------------------


def merged(summary: JobSummary, shares: Sequence[Share]) -> Overview | None:
    """Put the shares of all instances of a job together.

    None: they do not add up, so that each task has to be looked at. So it is where an instance
    of the job did not tell.
    """
    if sum(not share.joined for share in shares) != summary.host_count:
        return None
    counts = dict.fromkeys(TaskState, 0)
    for share in shares:
        for state, count in share.counts.items():
            counts[state] += count
    missing = summary.task_count - sum(counts.values())
    if not summary.task_count or not _agree(summary, shares):
        return None
    if missing > 0:
        given_to = {to for share in shares for to in share.gave_to}
        if not given_to or not given_to <= {share.host_index for share in shares}:
            # What nobody gave away has no instance at all. What was given to an instance that has
            # joined, and is gone, may be lost.
            return None
        # On their way from one instance to another; after a cancel they arrive nowhere.
        cancelled = any(share.cancelled for share in shares)
        counts[TaskState.CANCELLED if cancelled else TaskState.PENDING] += missing
    elif missing < 0:
        # Several attempts of some are about, and which one counts is for a closer look.
        return None
    return Overview(summary, tuple(shares), counts, *picked(shares))


def _agree(summary: JobSummary, shares: Sequence[Share]) -> bool:
    """Say whether no instance counts more tasks than the others say it was given.

    Else one counts tasks of others as its own, or tasks moved between two answers.
    """
    got: Counter[int] = Counter()
    for share in shares:
        got.update(share.gave_to)
    return sum(share.spread for share in shares) == summary.task_count and all(
        sum(share.counts.values())
        <= share.spread + got[share.host_index] - sum(share.gave_to.values())
        for share in shares
    )


def picked(shares: Iterable[Share]) -> tuple[tuple[Slow, ...], tuple[Failed, ...]]:
    """Return the slowest tasks of all instances, and the newest that failed."""
    shares = list(shares)
    slowest = (one for share in shares for one in share.slowest)
    failed = (one for share in shares for one in share.failed)
    return longest(slowest, MOST_SLOWEST), newest(failed)


def longest(slow: Iterable[Slow], most: int) -> tuple[Slow, ...]:
    """Return those that took longest, the slowest first; of equals, the first tasks."""
    return tuple(sorted(slow, key=lambda one: (-one.seconds, one.task))[:most])


def newest(failed: Iterable[Failed]) -> tuple[Failed, ...]:
    """Return the few that ended last, the newest first; of equals, the first tasks."""
    by = sorted(failed, key=lambda one: (-(one.status.ended_at or 0.0), one.status.task))
    return tuple(by[:MOST_SHOWN])

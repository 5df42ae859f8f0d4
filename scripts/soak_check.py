"""What must be true of a job of the soak: what was told of it, against what tasks witnessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from poormanray.ledger import REASONS

# What can take a task's end with it. An agent that is away for a while cannot.
LOSING = frozenset(
    {
        "instance-crash",
        "instance-terminate",
        "instance-stop",
        "instance-reboot",
        "instance-reclaim",
        "runner-kill",
        "disk-full",
        "pause",
    }
)
# What waits on an instance that is stopped goes on when it is started again.
STOPPING = frozenset({"instance-stop", "pause"})
# After these an instance's ledger is not there to be asked, for good or until it runs again.
ENDING = frozenset(
    {"instance-crash", "instance-terminate", "instance-stop", "instance-reclaim", "disk-full"}
)
# What keeps an instance from being asked until a client gives up.
UNREACHED = LOSING | {"agent-hibernate", "clock-skew"}
# What leaves an instance running and without a response for good.
UNRESPONSIVE = frozenset({"instance-crash", "agent-hibernate", "clock-skew"})
# What keeps an instance from an only question of a minute: agents are back after 90 s.
UNASKED = UNREACHED | {"agent-kill"}
# Where a client says that a log has a gap.
GAP = "<gap>"
# An end that was on record so long before a fault must be told.
SETTLED_S = 3.0
# The local exit codes (docs/commands.md).
FAILED, NOT_REACHED, TIMED_OUT = 1, 4, 124


@dataclass(frozen=True, slots=True)
class Told:
    """What a client said of one task."""

    task: int
    instance: str
    state: str
    exit_code: int | None
    attempt: int = 1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What one client said of a job: every task, and who was left out."""

    words: str
    exit_code: int
    tasks: tuple[Told, ...]
    left_out: tuple[str, ...] = ()
    logs: Mapping[int, str] = field(default_factory=dict)
    # It was asked for last, when all that can be healed was.
    final: bool = False
    # `run` passes the code of an only task on, and counts who was left out.
    is_run: bool = False
    counts_left_out: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """What one start of a task witnessed, on its instance and outside of the ledger."""

    task: int
    attempt: int
    instance: str
    started_at: float
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that took effect on an instance ("" is every one)."""

    kind: str
    instance: str
    at: float


@dataclass(frozen=True, slots=True)
class Job:
    """All that is known of a job apart from what clients say.

    `codes` and `texts` are what each task ends with and writes; `cancelled_at` is when a cancel
    was asked for.
    """

    job_id: str
    codes: Sequence[int]
    texts: Sequence[str]
    ran: tuple[Ran, ...]
    struck: tuple[Struck, ...] = ()
    timeout_s: float = 0.0
    cancelled_at: float | None = None

    def strikes(self, instance: str, kinds: Iterable[str]) -> list[float]:
        """Return when faults of these kinds struck an instance."""
        wanted = set(kinds)
        return [
            one.at for one in self.struck if one.kind in wanted and one.instance in ("", instance)
        ]


def code_for(view: View) -> int:
    """Return the exit code that belongs to what a view tells."""
    states = {told.state for told in view.tasks}
    left_out = view.left_out if view.counts_left_out else ()
    if view.is_run and len(view.tasks) == 1 and not left_out and states == {"FAILED"}:
        return view.tasks[0].exit_code or 0
    if left_out or states & {"LOST", "PENDING", "RUNNING"}:
        return NOT_REACHED
    bad = states - {"SUCCEEDED"}
    if bad == {"TIMEOUT"}:
        return TIMED_OUT
    return FAILED if bad else 0


def judged(job: Job, view: View) -> list[str]:
    """Return what is wrong about a view of a job."""
    wrong = _ran_twice(job, view)
    due = code_for(view)
    if view.exit_code != due:
        wrong.append(f"exit code {view.exit_code} where its outcomes make {due}")
    told = Counter(one.task for one in view.tasks)
    wrong += [f"task {task} is told {count} times" for task, count in told.items() if count != 1]
    seen = {ran.task for ran in job.ran}
    wrong += [f"task {task} ran and is not told of" for task in sorted(seen - told.keys())]
    for one in view.tasks:
        wrong += [f"task {one.task} on {one.instance}: {text}" for text in _task(job, view, one)]
    for instance in view.left_out:
        if not job.strikes(instance, UNREACHED):
            wrong.append(f"{instance} was left out, and no fault explains it")
    return [f"job {job.job_id}, {view.words}: {text}" for text in wrong]


def _ran_twice(job: Job, view: View) -> list[str]:
    """Find tasks that ran more than once, but for a new attempt after a loss that was told."""
    wrong = []
    starts = Counter((ran.task, ran.attempt) for ran in job.ran)
    for (task, attempt), count in starts.items():
        if count > 1:
            wrong.append(f"task {task} ran {count} times as attempt {attempt}")
    attempts = Counter(task for task, _ in starts)
    for task, count in attempts.items():
        told = max((one.attempt for one in view.tasks if one.task == task), default=1)
        first = min((ran for ran in job.ran if ran.task == task), key=lambda ran: ran.attempt)
        # A further attempt may have come after a view that is not the last one.
        untold = view.final and told < count
        if count > 1 and (untold or not job.strikes(first.instance, LOSING)):
            wrong.append(f"task {task} ran in {count} attempts, of which {told} are told")
    return wrong


def _task(job: Job, view: View, told: Told) -> list[str]:
    runs = [ran for ran in job.ran if (ran.task, ran.attempt) == (told.task, told.attempt)]
    if any(ran.instance != told.instance for ran in runs):
        lost = told.state == "LOST" and job.strikes(told.instance, LOSING)
        between = told.state == "PENDING" and told.reason.startswith("on its way")
        if (lost or between) and not view.final:
            # Another client has taken it from there, or brought it, since.
            return []
        return [f"it ran on {runs[0].instance}"]
    ran = runs[0] if runs else None
    match told.state:
        case "SUCCEEDED" | "FAILED":
            wrong = _ended(job, told, ran)
        case "TIMEOUT":
            wrong = _timed_out(job, ran)
        case "CANCELLED":
            wrong = _cancelled(job, ran)
        case "LOST":
            wrong = _lost(job, view, told, ran)
        case "PENDING" | "RUNNING" if _unresponsive(job, told):
            # Its instance may not respond: it is waited for as long as the client watches.
            wrong = []
        case "PENDING":
            wrong = _suspended(job, view, told)
        case state:
            wrong = [f"it is told as {state}"]
    return wrong + _log(job, view, told)


def _ended(job: Job, told: Told, ran: Ran | None) -> list[str]:
    if ran is None:
        return [f"{told.state}, and it never ran"]
    if ran.ended_at is None:
        return [f"{told.state} with {told.exit_code}, and it never came to its end"]
    due = job.codes[told.task]
    state = "FAILED" if due else "SUCCEEDED"
    if (told.state, told.exit_code) != (state, due):
        return [f"{told.state} with exit code {told.exit_code}; it ended with {due}"]
    return []


def _timed_out(job: Job, ran: Ran | None) -> list[str]:
    if not job.timeout_s:
        return ["TIMEOUT, and it has no timeout"]
    if ran and ran.ended_at and ran.ended_at - ran.started_at < job.timeout_s - 1:
        return [f"TIMEOUT, and it ended after {ran.ended_at - ran.started_at:.1f} s"]
    return []


def _cancelled(job: Job, ran: Ran | None) -> list[str]:
    if job.cancelled_at is None:
        return ["CANCELLED, and nobody cancelled it"]
    if ran and ran.ended_at and ran.ended_at < job.cancelled_at - SETTLED_S:
        return ["CANCELLED, and it had ended before"]
    return []


def _lost(job: Job, view: View, told: Told, ran: Ran | None) -> list[str]:
    strikes = job.strikes(told.instance, LOSING if view.final else UNREACHED)
    if not strikes:
        return [f"LOST ({told.reason}), and no fault explains it"]
    if (
        view.final
        and ran
        and ran.ended_at
        and ran.ended_at < min(strikes) - SETTLED_S
        and not job.strikes(told.instance, ENDING)
    ):
        return [f"LOST ({told.reason}), and it had ended long before the fault"]
    return []


def _unresponsive(job: Job, told: Told) -> bool:
    """Say whether a client stopped watching while an instance did not respond."""
    silent = told.reason.startswith("no response")
    return silent and bool(job.strikes(told.instance, UNRESPONSIVE))


def _suspended(job: Job, view: View, told: Told) -> list[str]:
    # What has run there, nobody can know before the instance is started again.
    if told.reason.startswith("suspended") and job.strikes(told.instance, STOPPING):
        return []
    if told.reason.startswith("on its way") and not view.final:
        return []
    return [f"PENDING ({told.reason}), and its instance is not stopped"]


def _log(job: Job, view: View, told: Told) -> list[str]:
    if told.task not in view.logs or job.strikes(told.instance, {"disk-full"}):
        return []
    if told.reason == REASONS["mirrored"] and job.strikes(told.instance, ENDING):
        # Another instance knows how it ended; its log is gone.
        return []
    due, got = job.texts[told.task], view.logs[told.task]
    due = due.replace("@", told.instance)
    cut = got.endswith(GAP) and job.strikes(told.instance, ENDING)
    if told.state in ("SUCCEEDED", "FAILED"):
        # What an instance took with it, a client says so of.
        fine = got == due or (cut and due.startswith(got.removesuffix(GAP)))
    else:
        # A shell whose child was ended first may say so.
        fine = due.startswith(got) or got.removeprefix(due).strip() in ("Terminated", "Killed")
    if fine:
        return []
    pairs = enumerate(zip(got, due, strict=False))
    at = next((n for n, (one, other) in pairs if one != other), min(len(got), len(due)))
    return [
        f"{told.state}, and of its log of {len(got)} characters, where {len(due)} are due, "
        f"from {at} on is wrong: {got[at : at + 80]!r} instead of {due[at : at + 80]!r}"
    ]

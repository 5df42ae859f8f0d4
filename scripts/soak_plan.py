"""What a round of the soak does: all of it drawn from its seed and number, before it begins."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

# How many times faster the clouds of the soak go.
TIME_SCALE = 3.0
REQUEST_KINDS = (
    "throttle",
    "5xx",
    "no-capacity",
    "lost-request",
    "lost-response",
    "slow",
    "clock-skew",
)
INSTANCE_KINDS = (
    "agent-stop",
    "agent-start",
    "agent-restart",
    "agent-hibernate",
    "agent-kill",
    "agent-cut-off",
    "instance-crash",
    "instance-terminate",
    "instance-stop",
    "instance-freeze",
    "instance-thaw",
    "instance-reboot",
    "instance-reclaim",
    "disk-full",
    "disk-free",
    "runner-kill",
    "screen-kill",
)
SESSIONS_END = "sessions-end"
KINDS = (*REQUEST_KINDS, SESSIONS_END, *INSTANCE_KINDS)
# Of these no round is made: nothing sent arrives while they stand, and that is told at once.
# tests/cloud/test_unkind.py and test_outages.py play them.
UNPLAYED = (
    "access-denied",
    "invalid-platform",
    "undeliverable",
    "port-closed",
    "reply-lost",
    "proxy-empty",
    "proxy-ok",
    "proxy-page",
)
# What is undone by an order of its own, and by which.
UNDONE_BY = {
    "agent-stop": "agent-start",
    "instance-freeze": "instance-thaw",
    "disk-full": "disk-free",
}
# Only a job that runs can be struck by these.
OF_RUNNERS = ("runner-kill", "screen-kill")
# So many refusals in a row, by all rules together, are repeated without a word.
MOST_STRIKES = 4
CODES = (1, 2, 3, 4, 5, 42, 70, 124, 126, 127, 130, 137, 168, 169, 194, 255)
SIGNALS = (1, 2, 6, 9, 11, 15)
TIMEOUT_S = 4
ENDLESS_S = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One order, and when it is given.

    `phase` is create, rest, job (the first) or later (the second job); it comes `at_s` seconds
    (wall) after its begin, or, `on_start`, after a task has started on the instance number
    `target`. `undo_s` later comes the order `undo`, if there is one. `harsh` faults are worse than
    what a client can outlast.
    """

    kind: str
    phase: str
    at_s: float = 0.0
    on_start: bool = False
    target: int | None = None
    words: Mapping[str, object] = field(default_factory=dict)
    undo: str = ""
    undo_s: float = 0.0
    harsh: bool = False


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """How long a task works, how many lines it writes, and how it ends."""

    seconds: float
    lines: int
    code: int
    signal: int = 0

    @property
    def told_code(self) -> int:
        """Return the exit code that a shell tells."""
        return 128 + self.signal if self.signal else self.code


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job and what happens to those who watch it.

    Its clients are killed `kills` seconds after their starts; each time somebody comes back, by
    `logs -f` or by submitting `again`. `cancel_s` and `pause_s` count from the first task's start.
    """

    kind: str
    tasks: tuple[TaskPlan, ...]
    slots: int = 1
    timeout_s: int = 0
    detach: bool = False
    own_id: str = ""
    kills: tuple[float, ...] = ()
    backs: tuple[str, ...] = ("logs",)
    cancel_s: float | None = None
    pause_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole round."""

    seed: int
    number: int
    size: int
    rest: bool
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]
    resume: bool

    @property
    def name(self) -> str:
        """Return the cluster's name."""
        return f"r{self.number:04d}"


def kinds_of(seed: int, number: int) -> tuple[str, ...]:
    """Return the kinds of faults of a round: two decks go around, so that each comes as often."""
    block, place = divmod(number, len(KINDS))
    found = []
    for deck in ("first", "second"):
        kinds = list(KINDS)
        _rng(seed, f"{deck} {block}").shuffle(kinds)
        found.append(kinds[place])
    return tuple(dict.fromkeys(found))


def plan(seed: int, number: int) -> Plan:
    """Return what the round with this number does."""
    rng = _rng(seed, number)
    kinds = list(kinds_of(seed, number))
    if _luck(rng, 0.3):
        kinds.append(rng.choice(KINDS))
    kinds = list(dict.fromkeys(kinds))
    strikes = sum(kind in INSTANCE_KINDS for kind in kinds)
    least = 1 + min(strikes, 2)
    size = rng.choice((least, least, 3, 4))
    targets = rng.sample(range(size), size)
    requests = sum(kind in REQUEST_KINDS for kind in kinds) or 1
    faults = []
    for kind in kinds:
        if kind == SESSIONS_END:
            # With keys of a session the client knows no time scale: nothing slow goes with it.
            renewed = _luck(rng, 0.5)
            at_s = rng.uniform(0.8, 3)
            words = {"renewed": renewed}
            faults.append(Fault(kind, "later", at_s, words=words, harsh=not renewed))
        elif kind in REQUEST_KINDS:
            faults.append(_request_fault(rng, kind, MOST_STRIKES // requests))
        else:
            faults.append(_instance_fault(rng, kind, targets.pop() if targets else 0))
    struck = any(fault.phase == "job" and fault.target is not None for fault in faults)
    ids = [f"1n{seed % 1000:03d}{number:04d}{place}{rng.choice('pqrstvwxyz')}" for place in (0, 1)]
    jobs = [_job(rng, ids[0], size, long=struck)]
    if SESSIONS_END in kinds or _luck(rng, 0.3):
        jobs.append(_job(rng, ids[1], size, long=SESSIONS_END in kinds))
    rest = any(fault.phase == "rest" for fault in faults) or _luck(rng, 0.15)
    return Plan(seed, number, size, rest, tuple(jobs), tuple(faults), _luck(rng, 0.5))


def _rng(seed: int, what: object) -> random.Random:
    return random.Random(f"{seed} {what}")  # noqa: S311 (must be the same again, not secret)


def _luck(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _request_fault(rng: random.Random, kind: str, most: int) -> Fault:
    if kind == "no-capacity":
        phase = rng.choice(("create", "rest"))
        return Fault(kind, phase, words={"count": rng.randint(1, most)})
    phase = rng.choices(("create", "rest", "job"), (3, 2, 7))[0]
    operations = ("ssm:*", "ssm:*", "ssm:SendCommand", "ssm:ListCommandInvocations", "ec2:*")
    operation = rng.choice(operations) if phase == "job" else rng.choice(("ec2:*", "*"))
    words: dict[str, object] = {"operation": operation, "seed": rng.randrange(2**31)}
    if kind == "clock-skew":
        harsh = phase == "job" and _luck(rng, 0.15)
        words = {"seconds": -3600 if harsh else rng.randint(-45, 3600)}
        return Fault(kind, phase, rng.uniform(0, 2) * (not harsh), words=words, harsh=harsh)
    if kind == "slow":
        words |= {"seconds": rng.uniform(2, 25), "count": rng.randint(1, 3)}
        return Fault(kind, phase, rng.uniform(0, 3) * (phase == "job"), words=words)
    if phase == "job" and _luck(rng, 0.15):
        words |= {"operation": "*", "seconds": rng.uniform(60, 150)}
        return Fault(kind, phase, rng.uniform(0, 3), words=words, harsh=True)
    words |= {"probability": rng.choice((1, 0.5)), "count": rng.randint(1, most)}
    return Fault(kind, phase, rng.uniform(0, 2) * (phase == "job"), words=words)


def _instance_fault(rng: random.Random, kind: str, target: int) -> Fault:
    """Return an order for an instance; what undoes another comes with it."""
    made_by = {undo: made for made, undo in UNDONE_BY.items()}
    undo, undo_s, words = "", 0.0, {}
    on_start = kind in OF_RUNNERS or _luck(rng, 0.5)
    at_s = rng.uniform(0, 0.8 if kind in OF_RUNNERS else 2.5)
    if kind in made_by or (kind in UNDONE_BY and _luck(rng, 0.3)):
        kind = made_by.get(kind, kind)
        undo, undo_s = UNDONE_BY[kind], rng.uniform(1, 10)
    elif kind in ("agent-stop", "instance-freeze"):
        words = {"seconds": rng.uniform(1, 40)}
    elif kind == "agent-hibernate" and _luck(rng, 0.85):
        undo, undo_s = "agent-start", rng.uniform(2, 10)
    elif kind == "agent-kill" and _luck(rng, 0.3):
        undo, undo_s = "agent-start", rng.uniform(2, 20)
    elif kind == "agent-cut-off":
        words = {"seconds": rng.uniform(1, 20)}
    elif kind == "instance-crash":
        undo = rng.choices(("instance-reboot", "instance-terminate", ""), (6, 6, 1))[0]
        undo_s = rng.uniform(2, 10)
    elif kind == "instance-reclaim":
        words = {"seconds": rng.uniform(0, 9)}
    if kind == "disk-full":
        # No job may be running when the disk is changed: it comes first.
        words = {"free": rng.choice((0, 0, 100_000, 300_000))}
        at_s, on_start, undo = -1.0, False, "disk-free"
    return Fault(kind, "job", at_s, on_start, target, words, undo, undo_s)


def _job(rng: random.Random, job_id: str, size: int, *, long: bool) -> JobPlan:
    kind = rng.choice(("run", "map"))
    count = size if kind == "run" else rng.randint(size, 5 * size)
    timeout_s = TIMEOUT_S if _luck(rng, 0.2) else 0
    least_s = 3.5 if long and kind == "run" else 0.5 if long else 0.0
    tasks = []
    for _ in range(count):
        seconds = rng.uniform(least_s, 1.5 * least_s + 1)
        if timeout_s:
            seconds = ENDLESS_S if _luck(rng, 0.3) else min(seconds, 1.0)
        signal = rng.choice(SIGNALS) if _luck(rng, 0.1) else 0
        code = rng.choice(CODES) if _luck(rng, 0.3) else 0
        tasks.append(TaskPlan(round(seconds, 2), rng.choice((0, 1, 3, 30)), code, signal))
    kills = tuple(rng.uniform(0.2, 5) for _ in range(rng.choices((0, 1, 2), (55, 35, 10))[0]))
    aside = rng.choices(("", "cancel", "pause"), (73, 20, 7))[0]
    return JobPlan(
        kind,
        tuple(tasks),
        slots=rng.choice((1, 1, 2, 4)) if kind == "map" else 1,
        timeout_s=timeout_s,
        detach=_luck(rng, 0.2),
        own_id=job_id if _luck(rng, 0.5) else "",
        kills=kills,
        backs=tuple(rng.choice(("logs", "again")) for _ in range(len(kills) + 1)),
        cancel_s=rng.uniform(0, 2) if aside == "cancel" else None,
        pause_s=rng.uniform(0, 2) if aside == "pause" else None,
    )

"""Removing what old jobs have left on the instances: ledgers, folders of tasks, unused parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from poormanray.jobs.fleet import Fleet
from poormanray.ledger import is_job_id
from poormanray.model import chunks
from poormanray.remote import EVERYONE, Order
from poormanray.shell import Call

# An answer has room for so many jobs, and a send for so many ids.
MOST_TOLD, MOST_REMOVED = 400, 200
# How long an instance may take to add up what jobs take, and to remove it.
LOOK_S, REMOVE_S = 120, 1800
_FACT = re.compile(r"([0-9]{1,18}) (-?[0-9]{1,11}) ([0-9]{1,9}) ([a-z-]{1,20})")
_WORDS = {
    "running": "it still runs",
    "settling": "its runner has died, and what that has left running is ended within a minute",
    "waiting": "tasks of it still wait",
    "format": "it is one of another version of pmr (pmr jobs names it)",
    "failed": "its files cannot be moved away",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What one instance has of a job: its bytes on the disk, and for how long nothing changed.

    `hosts` is how many instances the job has; `why` says why it must stay, if so.
    """

    job_id: str
    instance_id: str
    size_bytes: int
    age_s: int
    hosts: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Old:
    """A job that can go, or must stay (`why`)."""

    job_id: str
    parts: tuple[Part, ...]
    why: str = ""

    @property
    def size_bytes(self) -> int:
        """Return what it takes on all instances."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def age_s(self) -> int:
        """Return for how long nothing of it has changed."""
        return min(part.age_s for part in self.parts)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune would remove, what must stay, and why some instances did not tell.

    `more`: some instances have more than they could tell of at once.
    """

    goes: tuple[Old, ...]
    stays: tuple[Old, ...]
    problems: Mapping[str, str] = field(default_factory=dict)
    more: bool = False


def look_over(
    fleet: Fleet, *, older_s: float, larger_bytes: int, job_id: str | None = None
) -> Plan:
    """Ask the instances what can be removed: at least so old, and so large on one of them.

    A `job_id` limits the plan to that job; None: all jobs.
    """
    words = ("look_over", fleet.cluster, str(int(older_s)), str(larger_bytes), str(MOST_TOLD))
    parts, problems, more = _asked(fleet, words, fleet.ready_ids, LOOK_S)
    unasked = len(problems) + len(fleet.left_out)
    goes, stays = planned((p for p in parts if job_id in (None, p.job_id)), unasked=unasked)
    return Plan(goes, stays, problems, more)


def planned(parts: Iterable[Part], *, unasked: int) -> tuple[tuple[Old, ...], tuple[Old, ...]]:
    """Return which jobs can go and which must stay: what runs on one instance stays on all.

    `unasked` instances did not tell: a job that one of them may have stays too.
    """
    by_job: dict[str, list[Part]] = {}
    for part in parts:
        by_job.setdefault(part.job_id, []).append(part)
    goes: list[Old] = []
    stays: list[Old] = []
    for job_id, own in sorted(by_job.items()):
        why = next((part.why for part in own if part.why), "")
        if not why and unasked and len(own) < own[0].hosts:
            why = "an instance that may have it cannot be asked"
        (stays if why else goes).append(Old(job_id, tuple(own), why))
    return tuple(goes), tuple(stays)


def remove(fleet: Fleet, plan: Plan) -> tuple[list[Part], dict[str, str]]:
    """Remove what the plan says; return what went (or did not: `why`), and who did not answer."""
    parts: list[Part] = []
    problems: dict[str, str] = {}
    for some in chunks([one.job_id for one in plan.goes], MOST_REMOVED):
        chosen = set(some)
        ids = sorted(
            {p.instance_id for one in plan.goes if one.job_id in chosen for p in one.parts}
        )
        told, missed, _ = _asked(fleet, ("remove", *some), ids, REMOVE_S)
        parts += told
        problems |= missed
    return parts, problems


def _asked(
    fleet: Fleet, words: Sequence[str], instance_ids: Sequence[str], window_s: int
) -> tuple[list[Part], dict[str, str], bool]:
    order = Order(Call("prune", tuple(words), 0), {EVERYONE: ""}, window_s, comment="pmr prune")
    parts: list[Part] = []
    problems: dict[str, str] = {}
    more = False
    for reply in fleet.remote.ask(order, instance_ids):
        if reply.answer is None or "refused" in reply.answer.facts:
            why = reply.answer.facts["refused"] if reply.answer else reply.problem
            problems[reply.instance_id] = why
            continue
        parts += _parts(reply.instance_id, reply.answer.facts)
        more = more or reply.answer.more
    return parts, problems, more


def _parts(instance_id: str, facts: Mapping[str, str]) -> Iterator[Part]:
    for key, words in facts.items():
        kind, _, job_id = key.partition(".")
        found = _FACT.fullmatch(words)
        if kind == "job" and is_job_id(job_id) and found:
            size, age, hosts, why = found.groups()
            why = "" if why == "-" else _WORDS.get(why, why)
            yield Part(job_id, instance_id, int(size), int(age), int(hosts), why)

"""Cancelling a job, or one of its tasks, on the instances that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poormanray.jobs.fleet import Fleet
from poormanray.manifest import Host
from poormanray.remote import Order
from poormanray.shell import Call

# TERM, then KILL after this many seconds.
GRACE_S = 5


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel came to on one instance.

    `tasks` counts those that had not ended, `survivors` processes that would not end; `problem`
    says why nothing was done.
    """

    host: Host
    tasks: int = 0
    survivors: int = 0
    problem: str = ""


def _count(facts: Mapping[str, str], name: str) -> int:
    told = facts.get(name, "0")[:9]
    return int(told) if told.isdecimal() else 0


def cancel(
    fleet: Fleet,
    job_id: str,
    hosts: Sequence[Host],
    *,
    task: int | None = None,
    running: bool = True,
) -> list[Cancelled]:
    """End a job (or one task of it), and tell for each instance what came of it.

    Without `running`, what runs goes on to its end, and only what waits will not start.
    """
    grace = str(GRACE_S) if running else "-"
    words = (job_id, "-" if task is None else str(task), grace)
    order = Order(
        Call("cancel", words, 0), {}, window_s=GRACE_S * 4, comment=f"pmr cancel {job_id}"
    )
    by_id = {host.instance_id: host for host in hosts}
    ended = []
    for reply in fleet.remote.ask(order, list(by_id)):
        facts = reply.answer.facts if reply.answer else {}
        ended.append(
            Cancelled(
                by_id[reply.instance_id],
                tasks=_count(facts, "cancelled"),
                survivors=_count(facts, "survivors"),
                problem=reply.problem or facts.get("refused", ""),
            )
        )
    return ended

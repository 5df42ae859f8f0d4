"""Cancelling a job, or one of its tasks, on the instances that run it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poormanray.jobs.fleet import Fleet
from poormanray.jobs.presence import Fate, fate_of
from poormanray.jobs.track import REFUSALS, Contact, Track
from poormanray.manifest import Host
from poormanray.remote import Order
from poormanray.shell import Call

# TERM, then KILL after this many seconds.
GRACE_S = 5


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel came to on one instance.

    `tasks` counts those that had not ended, `survivors` processes that would not end; `problem`
    says why the instance has not confirmed it; `absent` is why nothing was there to cancel.
    """

    host: Host
    tasks: int = 0
    survivors: int = 0
    problem: str = ""
    absent: str = ""


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
    """End a job (or one task of it); return for each instance what came of it.

    An instance that EC2 shows as terminated has confirmed it, as has one that does not have the
    job. Without `running`, what runs goes on to its end, and only what waits will not start.
    """
    ready = set(fleet.ready_ids)
    done = _ask(fleet, job_id, [one for one in hosts if one.instance_id in ready], task, running)
    for host in hosts:
        problem = "it cannot be reached" if host.instance_id not in ready else "it did not respond"
        done.setdefault(host.instance_id, Cancelled(host, problem=problem))
    silent = [key for key, one in done.items() if one.problem]
    for key, fate in _fates(fleet, silent).items():
        host, lost = done[key].host, fate.contact is Contact.LOST
        done[key] = Cancelled(host, absent=fate.why) if lost else Cancelled(host, problem=fate.why)
    return [done[host.instance_id] for host in hosts]


def _ask(
    fleet: Fleet,
    job_id: str,
    hosts: Sequence[Host],
    task: int | None,
    running: bool,  # noqa: FBT001 (its one fact)
) -> dict[str, Cancelled]:
    grace = str(GRACE_S) if running else "-"
    words = (job_id, "-" if task is None else str(task), grace)
    order = Order(
        Call("cancel", words, 0), {}, window_s=GRACE_S * 4, comment=f"pmr cancel {job_id}"
    )
    by_id = {host.instance_id: host for host in hosts}
    ended = {}
    for reply in fleet.remote.ask(order, list(by_id)):
        facts = reply.answer.facts if reply.answer else {}
        refusal = facts.get("refused", "")[:99]
        unknown = refusal == "no-such-job"
        ended[reply.instance_id] = Cancelled(
            by_id[reply.instance_id],
            tasks=_count(facts, "cancelled"),
            survivors=_count(facts, "survivors"),
            problem=reply.problem or ("" if unknown else REFUSALS.get(refusal, refusal)),
            absent="it does not have the job" if unknown else "",
        )
    return ended


def unconfirmed(done: Iterable[Cancelled], tracks: Iterable[Track]) -> tuple[str, ...]:
    """Return the names of instances on which a followed job may run on after its cancel."""
    silent = [one.host.name for one in tracks if one.problem and one.contact is Contact.SILENT]
    missed = [one.host.name for one in done if one.problem]
    return tuple(dict.fromkeys([*missed, *silent]))


def _fates(fleet: Fleet, instance_ids: Sequence[str]) -> dict[str, Fate]:
    """Return what EC2 says of instances that have not confirmed a cancel, if anything."""
    if not instance_ids:
        return {}
    found = fleet.fates(instance_ids)
    responded = [key for key in instance_ids if key not in found]
    for key, (state, reason) in (fleet.states(responded) if responded else {}).items():
        fate = fate_of(key, state, reason)
        if fate is not None:
            found[key] = fate
    return found

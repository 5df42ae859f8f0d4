"""Who runs what: spreading tasks over instances. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What an instance says is not trusted with the client's memory.
MOST_IDS = 1_000_000
_WHOLE = re.compile("[0-9]{1,9}")


def whole_number(text: str) -> int:
    """Return the number of a task, an attempt or a host: up to nine digits and nothing else.

    Raises:
        ValueError: it is not one.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:20]!r} is no number of a job")
    return int(text)


def spread(ids: Sequence[int], host_count: int) -> list[list[int]]:
    """Deal task ids out to hosts in turn, so that neighbours go to different hosts.

    Every id is in exactly one list; the lists' lengths differ by at most one.
    """
    return [list(ids[host::host_count]) for host in range(host_count)]


def slot_caps(at_once: int, host_count: int) -> list[int]:
    """Return how many tasks each host may run at a time, so that together they run `at_once`.

    0 stands for no cap, on every host, where `at_once` is 0.
    """
    return [len(share) for share in spread(range(at_once), host_count)]


@dataclass(frozen=True, slots=True)
class Load:
    """What an instance has to do: how many tasks wait and run there, and how many it ends a second.

    A rate of 0 is that of an instance that does nothing any more.
    """

    waiting: int
    running: int
    rate: float

    @property
    def dry_s(self) -> float:
        """Return in how many seconds nothing waits there any more."""
        return self.waiting / self.rate if self.rate else float("inf")


@dataclass(frozen=True, slots=True)
class Move:
    """So many waiting tasks go from one instance to another (their places among the loads)."""

    source: int
    target: int
    count: int


def fair_shares(loads: Sequence[Load]) -> list[int]:
    """Return how many of all waiting tasks each instance should have, so that all end together.

    Together they have as many as before; an instance with a rate of 0 has none if any other works.
    """
    total = sum(load.waiting for load in loads)
    if not any(load.rate for load in loads):
        return [load.waiting for load in loads]
    low_s, high_s = 0.0, max((total + load.running + 1) / load.rate for load in loads if load.rate)
    for _ in range(50):
        middle_s = (low_s + high_s) / 2
        room = sum(max(0.0, middle_s * load.rate - load.running) for load in loads)
        low_s, high_s = (middle_s, high_s) if room < total else (low_s, middle_s)
    shares = [int(max(0.0, low_s * load.rate - load.running)) for load in loads]
    for _ in range(total - sum(shares)):
        working = [number for number, load in enumerate(loads) if load.rate]
        soonest = min(working, key=lambda at: (loads[at].running + shares[at] + 1) / loads[at].rate)
        shares[soonest] += 1
    return shares


def moves(loads: Sequence[Load], horizon_s: float) -> list[Move]:
    """Return which waiting tasks should go elsewhere.

    Nothing moves before an instance will have nothing to do within `horizon_s` seconds, or one
    that does nothing any more has tasks.
    """
    shares = fair_shares(loads)
    lacks = [share - load.waiting for share, load in zip(shares, loads, strict=True)]
    urgent = any(
        (lack > 0 and load.dry_s < horizon_s) or (lack < 0 and not load.rate)
        for lack, load in zip(lacks, loads, strict=True)
    )
    found: list[Move] = []
    if not urgent:
        return found
    givers = [at for at in range(len(loads)) if lacks[at] < 0]
    for target in sorted(
        (at for at in range(len(loads)) if lacks[at] > 0), key=lambda at: -lacks[at]
    ):
        while lacks[target] > 0 and givers:
            source = min(givers, key=lambda at: lacks[at])
            count = min(lacks[target], -lacks[source])
            found.append(Move(source, target, count))
            lacks[target] -= count
            lacks[source] += count
            if not lacks[source]:
                givers.remove(source)
    return found


def encode_ids(ids: Sequence[int]) -> str:
    """Return ids as comma-separated runs `from-to:step`, in their order."""
    runs: list[str] = []
    at = 0
    while at < len(ids):
        step = ids[at + 1] - ids[at] if at + 1 < len(ids) else 0
        end = at
        while step > 0 and end + 1 < len(ids) and ids[end + 1] - ids[end] == step:
            end += 1
        runs.append(f"{ids[at]}-{ids[end]}:{step}" if end > at else str(ids[at]))
        at = end + 1
    return ",".join(runs)


def decode_ids(text: str) -> list[int]:
    """Return the ids that `encode_ids` wrote.

    Raises:
        ValueError: the text is not one of those, or stands for more than a million ids.
    """
    ids: list[int] = []
    for run in filter(None, text.split(",")):
        bounds, _, step = run.partition(":")
        first, _, last = bounds.partition("-")
        more = range(
            whole_number(first), whole_number(last or first) + 1, whole_number(step or "1")
        )
        if len(ids) + len(more) > MOST_IDS:
            raise ValueError("more ids than a job can have")
        ids.extend(more)
    return ids

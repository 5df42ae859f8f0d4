"""Who runs what: spreading tasks over instances. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

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

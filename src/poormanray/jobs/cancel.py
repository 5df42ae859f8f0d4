"""Cancelling a job, or one of its tasks, on the instances that run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poormanray.jobs.fleet import Fleet
from poormanray.remote import Order, Reply
from poormanray.shell import Call

# TERM, then KILL after this many seconds.
GRACE_S = 5


def cancel(
    fleet: Fleet, job_id: str, instance_ids: Sequence[str], *, task: int | None = None
) -> Iterator[Reply]:
    """End a job (or one task of it); yield each instance's reply.

    The answer's fact `survivors` counts processes that would not end.
    """
    words = (job_id, "-" if task is None else str(task), str(GRACE_S))
    order = Order(
        Call("cancel", words, 0), {}, window_s=GRACE_S * 4, comment=f"pmr cancel {job_id}"
    )
    yield from fleet.remote.ask(order, instance_ids)

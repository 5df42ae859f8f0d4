"""Stopping a job when too much of it has failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from poormanray.jobs.track import Again, Halted, Happening, Looked, TaskChanged
from poormanray.ledger import TaskState

_HALT = re.compile(r"(now|soon),fail=(?:([1-9][0-9]{0,6})|([1-9][0-9]?|100)%)")
FAILURES = (TaskState.FAILED, TaskState.TIMEOUT, TaskState.LOST)


@dataclass(frozen=True, slots=True)
class Halt:
    """When a job stops: at so many failed tasks, or at such a part of all of them in percent.

    With `now`, what runs is ended; else it goes on to its end, and nothing more starts.
    """

    now: bool
    count: int = 0
    percent: int = 0

    def reached(self, failed: int, total: int) -> bool:
        """Say whether so many failed tasks are too many."""
        return failed > 0 and failed * 100 >= (self.count * 100 or self.percent * total)


def parse_halt(text: str) -> Halt:
    """Read a halt as GNU parallel's users write it: `now,fail=1`, `soon,fail=3`, `soon,fail=10%`.

    Raises:
        ValueError: it is none of those.
    """
    found = _HALT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no halt such as now,fail=1 or soon,fail=10%")
    return Halt(found[1] == "now", int(found[2] or 0), int(found[3] or 0))


@dataclass(slots=True)
class Failures:
    """Which tasks have failed for good: what gets another turn has not."""

    tasks: set[int] = field(default_factory=set)

    def note(self, happening: Happening) -> None:
        """Take in what happened."""
        if isinstance(happening, Again):
            self.tasks.difference_update(task for task, _ in happening.keys)
        elif isinstance(happening, TaskChanged):
            if happening.status.state in FAILURES:
                self.tasks.add(happening.status.task)
            elif happening.status.state is not TaskState.CANCELLED:
                self.tasks.discard(happening.status.task)


def halting(
    happenings: Iterator[Happening],
    halt: Halt,
    total: int,
    stop: Callable[[], tuple[str, ...]],
) -> Iterator[Happening]:
    """Yield what happens to a job of `total` tasks; call `stop` once when too many have failed.

    `stop` returns the names of the instances that it did not reach.
    """
    failures = Failures()
    halted = False
    for happening in happenings:
        yield happening
        failures.note(happening)
        # Failures and what gets another turn are told together, before the look ends.
        if isinstance(happening, Looked) and not halted:
            halted = halt.reached(len(failures.tasks), total)
            if halted:
                yield Halted(len(failures.tasks), now=halt.now, missed=stop())

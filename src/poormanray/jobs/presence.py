"""Whether instances that do not respond still exist: EC2 is asked, at most every so often."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poormanray.errors import Outage
from poormanray.jobs.track import Contact
from poormanray.model import InstanceState

if TYPE_CHECKING:
    from poormanray.jobs.track import Track
    from poormanray.waiting import Clock

States = Callable[[Sequence[str]], dict[str, tuple[InstanceState, str]]]
# EC2's answers are only in time consistent: an instance is lost that two answers so far apart do
# not show, asked for by its id.
APART_S = 60.0


@dataclass(frozen=True, slots=True)
class Fate:
    """How EC2 has ended an instance or stopped it."""

    contact: Contact
    why: str


def fate_of(instance_id: str, state: InstanceState, reason: str) -> Fate | None:
    """Return what EC2 has done to an instance that it shows so; None where it should respond."""
    why = f"{instance_id} is {state.value}{f' ({reason})' if reason else ''}"
    if state in (InstanceState.STOPPING, InstanceState.STOPPED):
        return Fate(Contact.STOPPED, why)
    return None if state.alive else Fate(Contact.LOST, why)


class Presence:
    """What EC2 says of the instances of a job; not asked again within `every_s` seconds."""

    def __init__(self, states: States, clock: Clock, every_s: float) -> None:
        self._states = states
        self._clock = clock
        self._every_s = every_s
        self._asked_s = float("-inf")
        self._seen: dict[str, tuple[InstanceState, str]] = {}
        # Instances that EC2 did not show at all, and when that was first so.
        self._missing: dict[str, float] = {}

    def fate(self, track: Track, all_ids: Collection[str]) -> Fate | None:
        """Return how EC2 has ended an instance or stopped it; None where it has not."""
        now_s = self._clock.now_s()
        if now_s - self._asked_s >= self._every_s:
            self._asked_s = now_s
            try:
                # SSM may answer while EC2 does not: nothing waits for it here.
                with self._clock.until(now_s):
                    self._seen = self._states(list(all_ids))
            except Outage:
                return None  # it is asked again
            for key in all_ids:
                if key in self._seen:
                    self._missing.pop(key, None)
                else:
                    self._missing.setdefault(key, now_s)
        key = track.host.instance_id
        if key in self._seen:
            return fate_of(key, *self._seen[key])
        if self._asked_s - self._missing.get(key, self._asked_s) < APART_S:
            return None
        return Fate(Contact.LOST, f"{key} is gone: EC2 does not show it any more")

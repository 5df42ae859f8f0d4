"""Whether instances that do not answer still exist: EC2 is asked, at most every so often."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from poormanray.errors import Throttled
from poormanray.model import InstanceState

if TYPE_CHECKING:
    from poormanray.jobs.track import Track
    from poormanray.waiting import Clock

States = Callable[[Sequence[str]], dict[str, tuple[InstanceState, str]]]


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

    def ended_words(self, track: Track, all_ids: Collection[str]) -> str:
        """Return how EC2 has ended an instance or stopped it, "" if not; marks it `suspended`."""
        now_s = self._clock.now_s()
        if now_s - self._asked_s >= self._every_s:
            self._asked_s = now_s
            try:
                self._seen = self._states(list(all_ids))
            except Throttled:
                return ""  # it is asked again
            for key in self._seen:
                self._missing.pop(key, None)
        key = track.host.instance_id
        if key not in self._seen and self._missing.setdefault(key, self._asked_s) == self._asked_s:
            return ""  # EC2's answers are only in time consistent: one of them is no proof
        state, reason = self._seen.get(key, (InstanceState.TERMINATED, ""))
        if state in (InstanceState.PENDING, InstanceState.RUNNING):
            return ""
        track.suspended = state in (InstanceState.STOPPING, InstanceState.STOPPED)
        return f"{key} is {state.value}{f' ({reason})' if reason else ''}"

"""The client's own pace: how often it calls each operation of a service, whatever it has to do.

Source: ssm-facts 3: SSM's rates are not published; one call a second from parallel programs has
been throttled. Other users of the account have to live on the same allowance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Calls a second of one operation. At most four fit into any second, also where the way to AWS
# squeezes two of them together by a tenth of one.
RATE = 3.5
# After a throttled answer, half of it, and half again; it comes back while calls succeed.
SLOWEST = 0.25
RECOVERY = 0.05


@dataclass(slots=True)
class Lane:
    """When the next call of one operation may go, and how many go in a second."""

    rate: float = RATE
    next_s: float = float("-inf")


@dataclass(slots=True)
class Pace:
    """Spaces calls. With `shared`, all operations together are spaced like one. Not thread-safe."""

    shared: bool = False
    lanes: dict[str, Lane] = field(default_factory=dict)

    def book(self, operation: str, now_s: float) -> float:
        """Take the next free moment for a call, and return how many seconds away it is."""
        lanes = [self._lane(operation)] + ([self._lane("")] if self.shared else [])
        at_s = max(now_s, *(lane.next_s for lane in lanes))
        for lane in lanes:
            lane.next_s = at_s + 1 / lane.rate
        return at_s - now_s

    def answered(self, operation: str, *, throttled: bool) -> None:
        """Take note of an answer: slow down where the service asks for it."""
        lane = self._lane(operation)
        if throttled:
            lane.rate = max(SLOWEST, lane.rate / 2)
        else:
            lane.rate = min(RATE, lane.rate + RECOVERY)

    def _lane(self, operation: str) -> Lane:
        return self.lanes.setdefault(operation, Lane())

"""How patiently a job is followed: the more instances, the longer each look, and the rarer."""

from __future__ import annotations

from dataclasses import dataclass

from poormanray.remote import POLLS_PER_S

# Short, because a look that waits holds one of the agent's five workers. News ends it early.
FIRST_WINDOW_S = 5
# Where sends are several, answers that come before the end of a short task cost too many more.
FIRST_WINDOW_OF_SEVERAL_S = 10
WINDOW_S = 8
LONGEST_WINDOW_S = 45
# Instances that want a look at nearly the same moment share a send.
GATHER_S = 0.3
BUSY_S = 0.5  # until the next look where another client waits, so that ours is answered at once
# How long an instance may be silent before EC2 is asked whether it still exists.
SILENCE_S = 25.0
# Up to so many sends at a time, every look goes as soon as it can.
FEW_CHUNKS = 3


@dataclass(frozen=True, slots=True)
class Cadence:
    """The waits of a follower, in seconds; `chunks` sends reach all that it still follows."""

    chunks: int

    @property
    def few(self) -> bool:
        """Say whether there is no need to hold back."""
        return self.chunks <= FEW_CHUNKS

    @property
    def window_s(self) -> int:
        """Return how long a look waits on the instance for something new."""
        # A round of looks is one send and some two polls for each chunk.
        return min(WINDOW_S + max(0, self.chunks - FEW_CHUNKS), LONGEST_WINDOW_S)

    @property
    def first_window_s(self) -> int:
        """Return the same for the look that comes with the start.

        It is not over before all have been sent to and looked at once.
        """
        if self.chunks <= 1:
            return FIRST_WINDOW_S
        return max(FIRST_WINDOW_OF_SEVERAL_S, self.window_s)

    @property
    def gather_s(self) -> float:
        """Return how long a look waits for others to share its send."""
        return GATHER_S * max(1, self.chunks - FEW_CHUNKS + 1)

    @property
    def busy_s(self) -> float:
        """Return the wait until the next look where another client is waiting."""
        return BUSY_S * max(1, self.chunks - FEW_CHUNKS + 1)

    @property
    def silence_s(self) -> float:
        """Return how long an instance may be silent before EC2 is asked about it."""
        if self.few:
            return SILENCE_S
        return SILENCE_S + self.window_s - WINDOW_S + self.chunks / POLLS_PER_S

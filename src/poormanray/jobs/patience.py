"""What a reader is told of logs that take long to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from poormanray.jobs.track import Backlog, Track, backlog

# A reader is told of a wait that is longer than this.
LONG_READ_S = 20.0


@dataclass(slots=True)
class Patience:
    """Decides what to tell; `lanes` requests for bulk go side by side on each instance."""

    lanes: int
    round_trip_s: float = 0.0
    told_s: float = LONG_READ_S / 2

    def reads(self, tracks: Iterable[Track]) -> Iterator[Backlog]:
        """Tell of logs that take long to read.

        The first bulk tells how well they compress and how long a round trip takes. A wait is
        told of again each time that it has doubled, as logs grow while they are read.
        """
        if not self.round_trip_s:
            return
        size, round_trips = backlog(tracks, self.lanes)
        if (seconds := round_trips * self.round_trip_s) > 2 * self.told_s:
            self.told_s = seconds
            yield Backlog(size, seconds)

"""The last lines of logs, without reading what comes before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from poormanray.jobs.follow import Follower
from poormanray.jobs.track import LogGap, LogText, Track
from poormanray.manifest import Host

# A first guess at how long lines are; a log of longer ones is read again, from further back.
LINE_BYTES = 160
LEAST_BYTES = 4096


def last_lines(data: bytes, count: int) -> bytes:
    """Return the last `count` lines; a last line without an end counts as one."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return b"".join([line for line in lines if line][-count:])


def read_tail(
    follow: Callable[[int], Follower], lines: int
) -> tuple[list[Track], list[tuple[Host, str, bytes]]]:
    """Read the last lines of each log, and return the tracks to follow on from.

    `follow` makes a follower that reads the given number of bytes from the end of each log.
    """
    from_end_bytes = max(LEAST_BYTES, lines * LINE_BYTES)
    while True:
        follower = follow(from_end_bytes)
        texts: dict[str, tuple[Host, bytearray]] = {}
        reach: Counter[str] = Counter()
        for happening in follower.run():
            if isinstance(happening, LogText | LogGap):
                _, held = texts.setdefault(happening.key, (happening.host, bytearray()))
                if isinstance(happening, LogText):
                    held += happening.data
                    reach[happening.key] += len(happening.data)
                else:
                    held += happening.mark_after(held)
                    reach[happening.key] += happening.missing_bytes
        short = [
            key
            for key, (_, held) in texts.items()
            if held.count(b"\n") < lines and reach[key] >= from_end_bytes
        ]
        if not short:
            tails = [(host, key, last_lines(bytes(h), lines)) for key, (host, h) in texts.items()]
            return list(follower.tracks.values()), sorted(tails, key=lambda tail: _order(tail[1]))
        from_end_bytes *= 8


def _order(key: str) -> tuple[int, ...]:
    return tuple(int(word) for word in key.split("."))

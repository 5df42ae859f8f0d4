"""The lines of a ledger's events: their checksums, and what an instance tells shortly of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

from poormanray.envelope import Condensed, checksum, checksum_number

__all__ = ["checksum", "written_out"]

# An end as shell/ends.sh tells it: the difference of its task, and perhaps attempt and code.
_SHORT_END = re.compile(r"(-?[0-9]{1,17})(?: ([0-9]+) ([0-9]+))?")
_DIFFERENCE = re.compile(r"-?[0-9]{1,17}")
_SLOT = re.compile(r"[0-9]{1,9}")


def written_out(part: Condensed) -> tuple[list[str | None], bool]:
    """Return the events that a part tells, without checksums, None for damaged ones.

    The second value is false where the ends' checksums do not add up to the part's sum.
    """
    ended, began, slots, *lines = [*part.data.decode("latin-1").split("\n"), "", ""]
    ends = _ends(ended.split(), began.split(), slots.split())
    events: list[str | None] = []
    task = total = 0
    for line in filter(None, lines):
        found = _SHORT_END.fullmatch(line)
        if line.startswith("="):
            events.append(line[1:])
        elif found and (times := next(ends, None)):
            end, start, slot = times
            task += int(found[1])
            text = f"E {end} {task} {found[2] or 1} {found[3] or 0} exit {start} {slot}"
            events.append(text)
            total += 0 if part.sum is None else checksum_number(text)
        else:
            events.append(None)
    events += [None] * sum(1 for _ in ends)
    return events, part.sum in (None, total % (1 << 32))


def _ends(
    ended: list[str], began: list[str], slots: list[str]
) -> Iterator[tuple[str, str, str] | None]:
    """Yield when each end was, when it had begun, and its slot; None where they are no numbers."""
    end_ms = 0
    slot_end_ms: dict[str, int] = {}
    for end_by, start_by, slot in zip_longest(ended, began, slots, fillvalue=""):
        if not (
            _DIFFERENCE.fullmatch(end_by)
            and _DIFFERENCE.fullmatch(start_by)
            and _SLOT.fullmatch(slot)
        ):
            yield None
            continue
        start_ms = slot_end_ms.get(slot, end_ms) + int(start_by)
        end_ms += int(end_by)
        slot_end_ms[slot] = end_ms
        yield _time(end_ms), _time(start_ms), slot


def _time(millis: int) -> str:
    return f"{millis // 1_000}.{millis % 1_000:03d}"

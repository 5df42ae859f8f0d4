"""Reading logs by byte offset: what to ask for next, and putting answers in order. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from poormanray.envelope import Answer, Chunk, Hole, Record, Shrunk

# What a large answer carries of compressed bytes (19,500 characters of base64).
ANSWER_BYTES = 14_000
LEAST_BYTES = 4096
# The name under which last lines are told.
LAST_LINES = "@last"
CAPPED = "the log had reached its cap"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a log to ask for: from `start` up to `end`, or to its end where that is None."""

    name: str
    start: int
    end: int | None = None

    @property
    def spec(self) -> str:
        """Return the words for it in a request (shell/answer.sh)."""
        return f"{self.name}:{self.start}:{0 if self.end is None else self.end - self.start}"


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes of a log, each delivered once and in order."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes of a log that cannot be had: removed by the log's cap, or cut off by the task."""

    name: str
    missing_bytes: int
    why: str


@dataclass(slots=True)
class LogCursor:
    """How far one log has been read.

    Up to `delivered` everything was handed on; up to `frontier` everything was received, is being
    asked for (`asked` requests are under way) or waits in `todo`. `hole` is what the log's cap has
    removed, as last reported; `lost_bytes` are those of it just before `delivered` that no `Gap`
    was handed on for: the hole may still grow. `overtaken`: the hole has swallowed all that was to
    be read, and what follows it is read instead. `cut`: there will never be more, and that has
    been told.
    """

    name: str
    delivered: int = 0
    frontier: int = 0
    size: int = 0
    final: bool = False
    cut: bool = False
    asked: int = 0
    todo: list[Piece] = field(default_factory=list)
    parts: dict[int, Chunk] = field(default_factory=dict)
    hole: tuple[int, int] = (0, 0)
    lost_bytes: int = 0
    overtaken: bool = False

    @property
    def caught_up(self) -> bool:
        """Say whether nothing is missing or under way of what is known to exist."""
        return not self.todo and not self.asked and self.delivered >= self.frontier

    @property
    def complete(self) -> bool:
        """Say whether the log is whole and its task has ended."""
        return self.final and self.caught_up and self.delivered >= self.size

    @property
    def left_bytes(self) -> int:
        """Return how many bytes are known to exist and have not been handed on."""
        return max(0, self.size - self.delivered - self._removed_from(self.delivered))

    def put_back(self, piece: Piece) -> None:
        """Let a piece that was asked for in vain be asked for again, before others."""
        self.asked -= 1
        self._ask_for([piece])

    def receive(self, record: Record, asked: Piece | None = None) -> list[Text | Gap]:
        """Take in one record; return what can be handed on now.

        `asked` is the piece that the record answers; None where the log's tail was asked for.
        """
        match record:
            case Shrunk():
                return self._shrink(record)
            case Hole():
                self._widen(record)
            case Chunk():
                self._add(record, asked)
        return self._hand_on()

    def cut_off(self) -> list[Gap]:
        """Return what is missing by the log's cap of a log of which nothing more will be read."""
        missing = self.lost_bytes + self._removed_from(self.delivered)
        self.lost_bytes = 0
        return [Gap(self.name, missing, CAPPED)] if missing else []

    def _add(self, record: Chunk, asked: Piece | None) -> None:
        start = record.offset
        if asked is not None and asked.start < 0:
            # It was asked for from the end: here is where that is.
            self.frontier, self.lost_bytes = start, 0
            self.delivered = self.hole[0] if start == self.hole[1] else start
        if not self._was_asked(start, asked):
            return
        if start not in self.parts or self.parts[start].end < record.end:
            self.parts[start] = record
        self.size = max(record.size, record.end)
        upto = record.size if asked is None or asked.end is None else asked.end
        upto = min(upto, record.size)
        if start == self.hole[1] >= max(upto, self.frontier) and not (self.overtaken or self.todo):
            # Once only: a task may write faster than its log can be read.
            self.overtaken, upto = not self.final, record.size
        if record.end < upto:
            self._ask_for([Piece(self.name, record.end, upto)])
        self.frontier = max(self.frontier, record.end, upto)

    def _was_asked(self, start: int, asked: Piece | None) -> bool:
        """Say whether an answer may begin there: where it was asked to, or after a hole there."""
        latest = max(self.delivered, asked.start if asked else 0)
        return start <= (self.hole[1] if self.hole[0] <= latest < self.hole[1] else latest)

    def _removed_from(self, start: int) -> int:
        """Return how many bytes from `start` on are in the hole."""
        return max(0, self.hole[1] - max(start, self.hole[0]))

    def _widen(self, record: Hole) -> None:
        """Take in how far the hole reaches: what is in it need not be asked for."""
        if self.hole[1] < record.end and record.start < record.end:
            self.hole = (record.start, record.end)
            waiting, self.todo = self.todo, []
            self._ask_for(waiting)

    def _ask_for(self, pieces: list[Piece]) -> None:
        """Put what is not in the hole of some pieces before what waits already."""
        start, end = self.hole
        outside: list[Piece] = []
        for piece in pieces:
            if piece.start < 0 or piece.end is None:
                outside.append(piece)
                continue
            sides = ((piece.start, min(piece.end, start)), (max(piece.start, end), piece.end))
            outside += [Piece(self.name, at, upto) for at, upto in sides if at < upto]
        self.todo[:0] = outside

    def _hand_on(self) -> list[Text | Gap]:
        ready: list[Text | Gap] = []
        while True:
            here = [start for start in self.parts if start <= self.delivered]
            if here:
                start = min(here)
                part = self.parts.pop(start)
                if part.end > self.delivered:
                    if self.lost_bytes:
                        # Only now it is certain that the hole has not grown any further.
                        ready.append(Gap(self.name, self.lost_bytes, CAPPED))
                        self.lost_bytes = 0
                    ready.append(Text(self.name, part.data[self.delivered - start :]))
                    self.delivered = part.end
            elif self._removed_from(self.delivered) and self.hole[0] <= self.delivered:
                # What came before the hole reached it is there all the same.
                upto = min([self.hole[1], *self.parts])
                self.lost_bytes += upto - self.delivered
                self.delivered = upto
                self.frontier = max(self.frontier, upto)
            else:
                return ready

    def _shrink(self, record: Shrunk) -> list[Text | Gap]:
        if record.offset > self.frontier:
            # Asked before the last time that the log shrank, which has been told already.
            return []
        self.parts.clear()
        self.todo.clear()
        self.hole, self.lost_bytes = (0, 0), 0
        self.delivered = self.frontier = 0
        self.size = record.size
        return [Gap(self.name, 0, "the task truncated its own output; what follows is new")]


def pick(cursors: Iterable[LogCursor], room: int, most: int) -> list[Piece]:
    """Take at most `most` pieces, together about `room` bytes, out of the cursors' lists.

    At most one piece of each log; one that is longer than the room is cut. A piece of unknown
    length counts as `LEAST_BYTES`.
    """
    taken: list[Piece] = []
    for cursor in cursors:
        if room <= 0 or len(taken) >= most:
            break
        if not cursor.todo:
            continue
        piece = cursor.todo.pop(0)
        cut = piece.start + max(room, LEAST_BYTES)
        if piece.end is not None and cut < piece.end:
            cursor.todo.insert(0, Piece(piece.name, cut, piece.end))
            piece = Piece(piece.name, piece.start, cut)
        cursor.asked += 1
        taken.append(piece)
        room -= LEAST_BYTES if piece.end is None else piece.end - piece.start
    return taken


def waiting_bytes(cursors: Iterable[LogCursor]) -> int:
    """Return how many bytes are known to exist and have not been handed on yet."""
    return sum(cursor.left_bytes for cursor in cursors)


def told_last_lines(answer: Answer) -> dict[str, bytes]:
    """Return the last lines of logs that came along with events (shell/ends.sh), by their names."""
    records = (one for one in answer.records if isinstance(one, Chunk) and one.name == LAST_LINES)
    lines = (line.partition(b" ") for one in records for line in one.data.split(b"\n") if line)
    return {key.decode("latin-1"): text for key, _, text in lines}

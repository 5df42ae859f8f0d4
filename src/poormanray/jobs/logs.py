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
    asked for (`asked` requests are under way) or waits in `todo`. `cut`: there will never be more,
    and that has been told.
    """

    name: str
    delivered: int = 0
    frontier: int = 0
    size: int = 0
    final: bool = False
    cut: bool = False
    asked: int = 0
    todo: list[Piece] = field(default_factory=list)
    parts: dict[int, Chunk | Hole] = field(default_factory=dict)

    @property
    def caught_up(self) -> bool:
        """Say whether nothing is missing or under way of what is known to exist."""
        return not self.todo and not self.asked and self.delivered >= self.frontier

    @property
    def complete(self) -> bool:
        """Say whether the log is whole and its task has ended."""
        return self.final and self.caught_up and self.delivered >= self.size

    def put_back(self, piece: Piece) -> None:
        """Let a piece that was asked for in vain be asked for again, before others."""
        self.asked -= 1
        self.todo.insert(0, piece)

    def receive(self, record: Record, asked: Piece | None = None) -> list[Text | Gap]:
        """Take in one record; return what can be handed on now.

        `asked` is the piece that the record answers; None where the log's tail was asked for.
        """
        if isinstance(record, Shrunk):
            return self._shrink(record)
        if asked is not None and asked.start < 0:
            # It was asked for from the end: here is where that is.
            self.delivered = self.frontier = record_start(record)
        start = record_start(record)
        if record.end < start or not self._was_asked(start, asked):
            return []
        # Requests that begin inside a hole are all answered from its end: the longest counts.
        if start not in self.parts or self.parts[start].end < record.end:
            self.parts[start] = record
        self.frontier = max(self.frontier, record.end)
        if isinstance(record, Chunk):
            self.size = max(record.size, record.end)
            upto = record.size if asked is None or asked.end is None else asked.end
            upto = min(upto, record.size)
            if record.end < upto:
                self.todo.insert(0, Piece(self.name, record.end, upto))
                self.frontier = max(self.frontier, upto)
        return self._hand_on()

    def _was_asked(self, start: int, asked: Piece | None) -> bool:
        """Say whether an answer may begin there: where it was asked to, or after a hole there."""
        if start <= max(self.delivered, asked.start if asked else 0):
            return True
        return any(isinstance(part, Hole) and part.end == start for part in self.parts.values())

    def _hand_on(self) -> list[Text | Gap]:
        ready: list[Text | Gap] = []
        for start in sorted(self.parts):
            if start > self.delivered:
                break
            part = self.parts.pop(start)
            if isinstance(part, Hole):
                ready.append(Gap(self.name, part.end - self.delivered, "the log's cap was reached"))
            elif part.end > self.delivered:
                ready.append(Text(self.name, part.data[self.delivered - start :]))
            self.delivered = max(self.delivered, part.end)
        return ready

    def _shrink(self, record: Shrunk) -> list[Text | Gap]:
        if record.offset > self.frontier:
            # Asked before the last time that the log shrank, which has been told already.
            return []
        self.parts.clear()
        self.todo.clear()
        self.delivered = self.frontier = 0
        self.size = record.size
        return [Gap(self.name, 0, "the task truncated its own output; what follows is new")]


def record_start(record: Chunk | Hole) -> int:
    """Return the offset at which a record begins."""
    return record.offset if isinstance(record, Chunk) else record.start


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
    """Return how many bytes are known to exist and have not been received yet."""
    return sum(max(0, cursor.size - cursor.delivered) for cursor in cursors)


def told_last_lines(answer: Answer) -> dict[str, bytes]:
    """Return the last lines of logs that came along with events (shell/ends.sh), by their names."""
    records = (one for one in answer.records if isinstance(one, Chunk) and one.name == LAST_LINES)
    lines = (line.partition(b" ") for one in records for line in one.data.split(b"\n") if line)
    return {key.decode("latin-1"): text for key, _, text in lines}

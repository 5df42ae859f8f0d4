"""Which logs are read, and what an answer brings of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.logs import LEAST_BYTES, LogCursor, Piece
from poormanray.jobs.looks import reads_at_once
from poormanray.jobs.track import Happening, LogGap, Track, Wanted, log_happening
from poormanray.ledger import TaskStatus

CUT = "its instance was gone before they were read"
MAYBE_CUT = "its instance was gone before all of its output was read"


def begin_reading(track: Track, status: TaskStatus, wanted: Wanted) -> None:
    """Read an attempt's log from now on, if it is wanted and not read yet."""
    if not (wanted.logs and wanted.logs(status.task)) or status.key in track.cursors:
        return
    cursor = track.cursors[status.key] = LogCursor(status.key)
    if not wanted.live or status.state.ended or wanted.from_end_bytes:
        # It is read in bulk, together with others.
        cursor.todo.append(Piece(status.key, -wanted.from_end_bytes))


def receive_logs(
    track: Track, answer: Answer, asked: Sequence[Piece], wanted: Wanted
) -> Iterator[Happening]:
    """Yield what an answer brings of an instance's logs; `asked` are the pieces it is for."""
    pieces = {piece.name: piece for piece in asked}
    raw = 0
    if reads_at_once(track, wanted):
        first = f"{track.host.tasks[0]}.1"
        track.cursors.setdefault(first, LogCursor(first))
    for record in answer.records:
        # The names of logs become names of files: only those that were asked for count.
        cursor = track.cursors.get(record.name)
        if cursor is None:
            continue
        raw += len(record.data) if isinstance(record, Chunk) else 0
        for item in cursor.receive(record, pieces.get(record.name)):
            yield log_happening(track.host, item)
        status = track.by_key(record.name)
        ended = status is not None and status.state.ended
        cursor.final = ended or track.log.runner_lost
    answered = {record.name for record in answer.records}
    missing = [piece for piece in asked if piece.name not in answered]
    track.put_back(missing)
    track.omitted = track.omitted + 1 if missing else 0
    for piece in asked:
        if piece.name in answered:
            track.cursors[piece.name].asked -= 1
    if raw > LEAST_BYTES:
        track.ratio = max(1.0, 0.95 * raw / answer.packed_bytes)


def unread(track: Track) -> Iterator[LogGap]:
    """Yield once what will never be read of tasks that have ended: nobody can be asked any more."""
    for key, cursor in track.cursors.items() if track.gone else ():
        status = track.by_key(key)
        if status and status.state.ended and not (cursor.complete or cursor.cut):
            cursor.cut = True
            missing = cursor.left_bytes
            for gap in cursor.cut_off():
                yield LogGap(track.host, key, gap.missing_bytes, gap.why)
            yield LogGap(track.host, key, missing, CUT if missing else MAYBE_CUT)

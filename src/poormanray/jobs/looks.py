"""What a look at an instance asks for, and whether one is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from poormanray.jobs.cadence import Cadence
from poormanray.jobs.logs import ANSWER_BYTES, Piece, pick
from poormanray.jobs.mirror import Mirrors
from poormanray.jobs.track import Contact, Track, Wanted
from poormanray.remote import CHUNK, Order
from poormanray.shell import LARGE_ANSWER_CHARS, SMALL_ANSWER_CHARS, Call

# A log request names its log in about a dozen characters; a send has room for this many.
MOST_PIECES = 60
# A large answer costs a call for each instance: where more than so many have fallen behind, small
# ones that follow each other are cheaper.
FEW = 3
# Where a job is only looked at, somebody waits for just these.
FEW_AT_ONCE = 10


def needs_look(track: Track, wanted: Wanted) -> bool:
    """Say whether an instance is to be asked what is new there."""
    if track.gone or track.looking or (track.silent and not wanted.live):
        return False
    if not track.started or not track.looked or track.behind:
        return True
    if not wanted.live:
        return False
    if not track.silent and any(not cursor.caught_up for cursor in track.cursors.values()):
        # What is being fetched in bulk says by itself when there is more.
        return not track.all_ended
    finished = track.all_ended and all(c.complete for c in track.cursors.values())
    ended = track.contact is Contact.ENDED
    return not finished and not ((track.log.runner_lost or ended) and _read_all(track))


def waiting_tasks(tracks: Mapping[str, Track]) -> int:
    """Return how many tasks wait for their turn on instances that can be asked."""
    return sum(
        key not in track.log.tasks
        for track in tracks.values()
        if not (track.gone or track.silent)
        for key in track.log.open.items()
    )


def _read_all(track: Track) -> bool:
    return all(cursor.final and cursor.caught_up for cursor in track.cursors.values())


def whole_chunks(looks: list[Track], cadence: Cadence) -> list[Track]:
    """Return whole sends of those that have waited longest, else all there are."""
    whole = len(looks) // CHUNK * CHUNK
    if cadence.few or not whole:
        return looks
    return sorted(looks, key=lambda track: track.due_at_s)[:whole]


def gathered(looks: Sequence[Track], cadence: Cadence, now_s: float, *, idle: bool) -> bool:
    """Say whether looks have waited long enough for others to share a send with."""
    if not cadence.few and (len(looks) >= CHUNK or idle):
        return True
    return min(track.due_at_s for track in looks) <= now_s - cadence.gather_s


def look_order(
    job_id: str,
    tracks: Sequence[Track],
    wanted: Wanted,
    longest_s: Callable[[Track], int],
    mirrors: Mirrors,
) -> Order:
    """Return the order that looks at instances; the longest wait of any of them is its window."""
    rows = {}
    order_s = 0
    large = 0 < sum(track.behind for track in tracks) <= (FEW if wanted.live else FEW_AT_ONCE)
    for track in tracks:
        waits = wanted.live and not track.all_ended and not track.behind
        window_s = longest_s(track) if waits else 0
        order_s = max(order_s, window_s)
        word = mirrors.word_for(track)
        rows[track.host.instance_id] = row(track, wanted, window_s, word, large=large)
    words = (f"id:{job_id}", "-", *["each"] * any(track.log.doubted for track in tracks))
    return Order(
        Call("observe", (job_id,), 0) if wanted.live else Call("ends", words, 0),
        rows,
        order_s,
        large=large,
        comment=f"pmr observe {job_id}",
    )


def last_order(job_id: str, mirrors: Mirrors) -> Order | None:
    """Return the order that leaves what has not been remembered yet where it will be."""
    rows = {
        key: row(track, Wanted(live=False), 0, word)
        for key, track in mirrors.tracks.items()
        if (word := mirrors.word_for(track))
    }
    if not rows:
        return None
    return Order(Call("observe", (job_id,), 0), rows, comment=f"pmr observe {job_id}")


def row(
    track: Track, wanted: Wanted, window_s: int, mirror: str = "", *, large: bool = False
) -> str:
    """Return what differs between instances: what was read so far, and how long to wait.

    `mirror` is what it is to remember of another one; with `large`, an instance that has more
    events than a small answer holds may give a large one.
    """
    specs = [
        f"{cursor.name}:{cursor.frontier}"
        for cursor in track.cursors.values()
        if cursor.caught_up and not cursor.complete
    ][:MOST_PIECES]
    if not track.cursors and reads_at_once(track, wanted):
        specs = [f"{track.host.tasks[0]}.1:0"]
    budget = LARGE_ANSWER_CHARS if large and track.behind else SMALL_ANSWER_CHARS
    wake = int(wanted.wake_on_events)
    names = ",".join(specs) or "-" * bool(mirror)
    return f"{track.log.offset} {window_s} {wake} {budget} {names} {mirror}".rstrip()


def read_rows(tracks: Iterable[Track]) -> tuple[dict[str, str], dict[str, list[Piece]]]:
    """Return the rows that ask for pieces of logs, and the pieces, by instance id."""
    rows: dict[str, str] = {}
    asked: dict[str, list[Piece]] = {}
    for track in tracks:
        pieces = pick(track.cursors.values(), int(track.ratio * ANSWER_BYTES), MOST_PIECES)
        if pieces:
            key = track.host.instance_id
            asked[key] = pieces
            rows[key] = f"- 0 0 {LARGE_ANSWER_CHARS} {','.join(piece.spec for piece in pieces)}"
    return rows, asked


def reads_at_once(track: Track, wanted: Wanted) -> bool:
    """Say whether the log to read is known before any event: an instance's only task."""
    if wanted.logs is None or not wanted.live or wanted.from_end_bytes:
        return False
    return len(track.host.tasks) == 1 and wanted.logs(track.host.tasks[0])

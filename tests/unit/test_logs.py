"""Whatever order and size answers have, a log's bytes are handed on in order, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.envelope import Chunk, Hole, Record, Shrunk
from poormanray.jobs.logs import (
    LEAST_BYTES,
    Gap,
    LogCursor,
    Piece,
    Text,
    pick,
    waiting_bytes,
)

NAME = "3.1"
# One draw instead of hundreds: what happens here has no use for being shrunk.
chances = st.integers(0, 1 << 32).map(Random)


@dataclass(slots=True)
class Instance:
    """One log as shell/answer.sh answers for it (see add_log and skip_hole there)."""

    log: bytes
    hole: tuple[int, int] | None = None

    def answer(self, spec: str, room: int) -> list[Record]:
        _, offset, most_word = spec.split(":")
        size, at, most = len(self.log), int(offset), int(most_word)
        records: list[Record] = []
        at = max(0, size + at) if at < 0 else at
        if at > size:
            records.append(Shrunk(NAME, at, size))
            at = 0
        left = min(size - at, most) if most else size - at
        if self.hole and at < self.hole[1]:
            start, end = self.hole
            records.append(Hole(NAME, start, end))
            if at >= start:
                left, at = max(0, at + left - end), end
            else:
                left = min(left, start - at)
        left = min(left, room)
        return [*records, Chunk(NAME, at, self.log[at : at + left], size)]


@dataclass(slots=True)
class Reader:
    """What comes of a log, put together again."""

    data: bytearray = field(default_factory=bytearray)
    gaps: list[str] = field(default_factory=list)

    def take(self, items: Iterable[Text | Gap]) -> None:
        for item in items:
            if isinstance(item, Text):
                assert item.data
                self.data += item.data
            else:
                self.gaps.append(item.why)
                self.data += b"\0" * item.missing_bytes


def expected(instance: Instance, start: int = 0) -> bytes:
    log = bytearray(instance.log)
    if instance.hole:
        log[slice(*instance.hole)] = bytes(instance.hole[1] - instance.hole[0])
    return bytes(log[start:])


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    size = draw(st.integers(0, 60_000))
    log = bytes(range(1, 252)) * (size // 251 + 1)
    hole = None
    if size > 10 and draw(st.booleans()):
        start = draw(st.integers(0, size - 2))
        hole = (start, draw(st.integers(start + 1, size)))
    return Instance(log[:size], hole)


def read_all(cursor: LogCursor, instance: Instance, reader: Reader, chance: Random) -> None:
    """Read as a follower does: looks at the end, and up to three requests for bulk at a time."""
    under_way: list[Piece] = []
    for _ in range(500):
        if cursor.caught_up and not under_way:
            if cursor.delivered == cursor.size == len(instance.log):
                return
            spec = f"{NAME}:{cursor.frontier}:0"
            for record in instance.answer(spec, chance.randint(0, 9000)):
                reader.take(cursor.receive(record))
        while len(under_way) < 3:
            if not (pieces := pick([cursor], chance.randint(1, 20_000), 5)):
                break
            under_way += pieces
        if not under_way:
            continue
        piece = under_way.pop(chance.randint(0, len(under_way) - 1))
        if chance.randint(0, 4) == 0:
            cursor.todo.insert(0, piece)
        else:
            for record in instance.answer(piece.spec, chance.randint(500, 15_000)):
                reader.take(cursor.receive(record, piece))
        cursor.asked -= 1
    raise AssertionError("it never ends")


@settings(max_examples=150, deadline=None)
@given(instance=instances(), chance=chances)
def test_every_byte_comes_once_and_in_order(instance: Instance, chance: Random) -> None:
    cursor, reader = LogCursor(NAME), Reader()
    read_all(cursor, instance, reader, chance)
    reader.take(cursor.cut_off())
    assert bytes(reader.data) == expected(instance)
    assert len(reader.gaps) == bool(instance.hole)
    assert (cursor.final, cursor.complete) == (False, False)
    cursor.final = True
    assert cursor.complete
    assert waiting_bytes([cursor]) == 0


@settings(max_examples=80, deadline=None)
@given(log=st.binary(max_size=200).map(lambda d: d * 90), chance=chances)
def test_a_log_that_grows_is_followed(log: bytes, chance: Random) -> None:
    cursor, reader = LogCursor(NAME), Reader()
    size = 0
    while True:
        instance = Instance(log[:size])
        read_all(cursor, instance, reader, chance)
        assert bytes(reader.data) == log[:size]
        if size == len(log):
            break
        size = min(len(log), size + chance.randint(1, 9000))


@settings(max_examples=80, deadline=None)
@given(instance=instances(), back=st.integers(1, 70_000), chance=chances)
def test_reading_from_the_end(instance: Instance, back: int, chance: Random) -> None:
    cursor, reader = LogCursor(NAME), Reader()
    cursor.todo.append(Piece(NAME, -back))
    read_all(cursor, instance, reader, chance)
    reader.take(cursor.cut_off())
    start = max(0, len(instance.log) - back)
    if instance.hole and instance.hole[0] <= start < instance.hole[1]:
        start = instance.hole[0]
    assert bytes(reader.data) == expected(instance, start)


def test_bytes_that_come_twice_are_handed_on_once() -> None:
    cursor, reader = LogCursor(NAME), Reader()
    for offset, data in ((0, b"abc"), (0, b"abc"), (1, b"bcde"), (5, b"f"), (2, b"cd")):
        reader.take(cursor.receive(Chunk(NAME, offset, data, 6)))
    assert bytes(reader.data) == b"abcdef"


def test_a_truncated_log_is_told_once_and_read_anew() -> None:
    cursor, reader = LogCursor(NAME), Reader()
    old = Instance(b"x" * 30_000)
    for record in old.answer(f"{NAME}:0:0", 1000):
        reader.take(cursor.receive(record))
    pieces = [pick([cursor], 5000, 1)[0] for _ in range(3)]
    new = Instance(b"y" * 700)
    for piece in pieces:
        for record in new.answer(piece.spec, 20_000):
            reader.take(cursor.receive(record, piece))
        cursor.asked -= 1
    assert bytes(reader.data) == b"x" * 1000 + b"y" * 700
    assert len(reader.gaps) == 1
    assert "truncated" in reader.gaps[0]
    assert cursor.caught_up
    assert cursor.size == 700


MIB = 1 << 20


@dataclass(slots=True)
class Capped:
    """A log whose middle its cap has removed, too large to be made; its bytes are all x."""

    size: int
    hole: tuple[int, int]
    requests: int = 0
    sent_bytes: int = 0

    def answer(self, spec: str, room: int) -> list[Record]:
        _, offset, most_word = spec.split(":")
        self.requests += 1
        at, most = int(offset), int(most_word)
        at = max(0, self.size + at) if at < 0 else at
        left = min(self.size - at, most) if most else self.size - at
        start, end = self.hole
        records: list[Record] = []
        if at < end:
            records.append(Hole(NAME, start, end))
            left, at = (
                (max(0, at + left - end), end) if at >= start else (min(left, start - at), at)
            )
        data = b"x" * min(left, room)
        self.sent_bytes += len(data)
        return [*records, Chunk(NAME, at, data, self.size)]

    def read(self, cursor: LogCursor, lanes: int = 3) -> list[Text | Gap]:
        """Read what there is as a follower does, with several requests at a time."""
        items: list[Text | Gap] = []
        while cursor.todo:
            under_way = [piece for _ in range(lanes) for piece in pick([cursor], 42_000, 60)]
            for piece in under_way:
                for record in self.answer(piece.spec, 42_000):
                    items += cursor.receive(record, piece)
                cursor.asked -= 1
        return items


@pytest.mark.parametrize("hole_mib", [246, 1023])
@pytest.mark.parametrize("part_bytes", [32 * 1024, 4 * MIB])
def test_a_capped_log_costs_what_is_left_of_it(hole_mib: int, part_bytes: int) -> None:
    end = part_bytes + hole_mib * MIB
    log = Capped(end + part_bytes, (part_bytes, end))
    cursor = LogCursor(NAME, todo=[Piece(NAME, 0)])
    items = log.read(cursor)
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [gap.missing_bytes for gap in gaps] == [hole_mib * MIB]
    assert sum(len(item.data) for item in items if isinstance(item, Text)) == 2 * part_bytes
    assert log.sent_bytes <= 2 * part_bytes + 42_000
    assert log.requests <= 2 * part_bytes / 42_000 + 4
    assert cursor.caught_up
    assert cursor.delivered == log.size


def test_an_estimate_counts_only_what_is_left() -> None:
    log = Capped(1024 * MIB, (MIB, 1023 * MIB))
    cursor = LogCursor(NAME)
    for record in log.answer(f"{NAME}:0:0", 1000):
        cursor.receive(record, Piece(NAME, 0))
    assert waiting_bytes([cursor]) == 2 * MIB - 1000


def test_a_hole_that_grows_while_it_is_read_is_one_gap() -> None:
    log = Capped(9 * MIB, (MIB, 8 * MIB))
    cursor, items = LogCursor(NAME, todo=[Piece(NAME, 0)]), list[Text | Gap]()
    for _ in range(200):
        for record in log.answer((piece := cursor.todo.pop(0)).spec, 42_000):
            items += cursor.receive(record, piece)
        if cursor.delivered == 8 * MIB:
            log.size, log.hole = 19 * MIB, (MIB, 18 * MIB)
        if not cursor.todo:
            break
    gaps = [item.missing_bytes for item in items if isinstance(item, Gap)]
    # One for the middle, and one for what the hole has overtaken since.
    assert len(gaps) <= 2
    assert sum(gaps) + sum(len(i.data) for i in items if isinstance(i, Text)) == cursor.delivered


def test_a_follower_that_the_hole_overtakes_loses_only_what_is_in_it() -> None:
    cursor, reader = LogCursor(NAME), Reader()
    log = Instance(bytes(range(256)) * 200)
    for record in log.answer(f"{NAME}:0:0", 10_000):
        reader.take(cursor.receive(record))
    log.hole = (8192, 40_960)
    read_all(cursor, log, reader, Random(1))
    assert bytes(reader.data) == log.log[:10_000] + bytes(30_960) + log.log[40_960:]
    assert len(reader.gaps) == 1


def test_what_is_missing_of_a_log_whose_instance_has_gone() -> None:
    cursor = LogCursor(NAME)
    cursor.receive(Hole(NAME, 100, 900))
    cursor.receive(Chunk(NAME, 0, b"x" * 40, 1000))
    assert cursor.left_bytes == 160
    assert [gap.missing_bytes for gap in cursor.cut_off()] == [800]
    cursor.receive(Chunk(NAME, 40, b"x" * 60, 1000), Piece(NAME, 40, 100))
    assert (cursor.delivered, cursor.left_bytes) == (900, 100)
    assert [gap.missing_bytes for gap in cursor.cut_off()] == [800]
    assert cursor.cut_off() == []


@given(
    todo=st.lists(
        st.lists(st.tuples(st.integers(0, 99_999), st.integers(1, 40_000)), max_size=3), max_size=6
    ),
    room=st.integers(-5, 50_000),
    most=st.integers(0, 6),
)
def test_picking_loses_no_byte(todo: list[list[tuple[int, int]]], room: int, most: int) -> None:
    cursors = [
        LogCursor(f"{n}.1", todo=[Piece(f"{n}.1", at, at + size) for at, size in pieces])
        for n, pieces in enumerate(todo)
    ]

    before = [piece for cursor in cursors for piece in cursor.todo]
    taken = pick(cursors, room, most)
    after = [piece for cursor in cursors for piece in cursor.todo]
    assert _joined(taken + after) == _joined(before)
    assert len(taken) <= most
    assert len({piece.name for piece in taken}) == len(taken)
    assert sum((p.end or 0) - p.start for p in taken) <= max(0, room + LEAST_BYTES)
    assert [cursor.asked for cursor in cursors] == [
        sum(piece.name == cursor.name for piece in taken) for cursor in cursors
    ]


def _joined(pieces: Iterable[Piece]) -> dict[tuple[str, int], int]:
    """Return how often each boundary begins less how often it ends: cuts cancel out."""
    edges: dict[tuple[str, int], int] = {}
    for piece in pieces:
        assert piece.end is not None
        for at, step in ((piece.start, 1), (piece.end, -1)):
            edges[piece.name, at] = edges.get((piece.name, at), 0) + step
    return {key: count for key, count in edges.items() if count}


@pytest.mark.parametrize(
    ("piece", "spec"),
    [
        (Piece(NAME, 0), "3.1:0:0"),
        (Piece(NAME, 5, 12), "3.1:5:7"),
        (Piece(NAME, -500), "3.1:-500:0"),
    ],
)
def test_a_piece_in_words(piece: Piece, spec: str) -> None:
    assert piece.spec == spec

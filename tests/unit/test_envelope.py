"""An answer is decoded whole and true, or not at all."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.envelope import (
    MOST_BODY_BYTES,
    Answer,
    Chunk,
    EnvelopeCut,
    EnvelopeError,
    Hole,
    Record,
    Shrunk,
    checksum,
    decode,
    encode,
)

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789_.", min_size=1, max_size=12)
numbers = st.integers(0, 1 << 50)
blobs = st.binary(max_size=200)
records = st.one_of(
    st.builds(Chunk, words, numbers, blobs, numbers),
    st.builds(Hole, words, numbers, numbers),
    st.builds(Shrunk, words, numbers, numbers),
)


def line_of(record: Record) -> bytes:
    match record:
        case Chunk(name, offset, data, size):
            return b"l %s %d %d %d\n%s" % (name.encode(), offset, len(data), size, data)
        case Hole(name, start, end):
            return b"h %s %d %d\n" % (name.encode(), start, end)
        case Shrunk(name, offset, size):
            return b"t %s %d %d\n" % (name.encode(), offset, size)


def sealed(packed: bytes, *, length: int | None = None, digest: str = "") -> str:
    """Return an envelope around bytes that may be no honest content."""
    text = base64.b64encode(packed).decode()
    digest = digest or hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"PMR1 0 {len(text) if length is None else length} {digest} {text}\n"


@given(
    more=st.booleans(),
    facts=st.dictionaries(words, st.text("ab c", max_size=9).map(str.strip), max_size=4),
    events=st.none() | st.tuples(numbers, blobs),
    found=st.lists(records, max_size=4),
    jobs=st.lists(st.tuples(words, blobs), max_size=3),
)
def test_what_an_instance_says_arrives(
    *,
    more: bool,
    facts: dict[str, str],
    events: tuple[int, bytes] | None,
    found: list[Record],
    jobs: list[tuple[str, bytes]],
) -> None:
    body = b"".join(b"k %s %s\n" % (k.encode(), v.encode()) for k, v in facts.items())
    body += b"".join(b"j %s %d\n%s" % (j.encode(), len(data), data) for j, data in jobs)
    if events:
        body += b"e %d %d\n%s" % (events[0], len(events[1]), events[1])
    body += b"".join(map(line_of, found))
    answer = decode(encode(body, more=more))
    assert answer.packed_bytes > 0
    assert answer == Answer(
        more,
        facts,
        Chunk("events", *events, 0) if events else None,
        tuple(found),
        tuple(jobs),
        answer.packed_bytes,
    )


SOUND = encode(b"k runner running\nl 0.1 0 5 5\nhello", more=True)
TRUTH = decode(SOUND)
MARKS = ("", "--output truncated--", "\n---Output truncated---", "\n----------ERROR-------\noops")


@pytest.mark.parametrize("mark", MARKS)
def test_a_cut_anywhere_is_noticed(mark: str) -> None:
    for at in range(len(SOUND) - 1):
        with pytest.raises(EnvelopeError) as caught:
            decode(SOUND[:at] + mark)
        assert isinstance(caught.value, EnvelopeCut) or at < len("PMR1 ")
    assert decode(SOUND[:-1] + mark) == TRUTH


@given(st.integers(0, len(SOUND) - 2), st.characters(codec="utf-8") | st.just("\ud800"))
def test_a_changed_character_never_makes_wrong_data(at: int, letter: str) -> None:
    try:
        answer = decode(SOUND[:at] + letter + SOUND[at + 1 :])
    except EnvelopeError:
        return
    # Only the flag that there is more stands outside of the checksum.
    assert answer == TRUTH or at == len("PMR1 ")


@given(st.text() | st.text().map("PMR1 ".__add__))
def test_what_is_no_envelope_is_an_error(text: str) -> None:
    with pytest.raises(EnvelopeError):
        decode(text)


@given(st.binary(max_size=300))
def test_a_well_sealed_lie_is_an_error_or_a_sound_answer(body: bytes) -> None:
    for packed in (body, gzip.compress(body)):
        try:
            answer = decode(sealed(packed))
        except EnvelopeError:
            continue
        assert all(r.offset >= 0 for r in answer.records if isinstance(r, Chunk | Shrunk))


def test_text_before_it_is_refused_and_text_after_it_ignored() -> None:
    assert decode(SOUND + "and more\n") == TRUTH
    for text in (" " + SOUND, "\n" + SOUND, "Warning: x\n" + SOUND, "PMR2" + SOUND[4:]):
        with pytest.raises(EnvelopeError, match="does not begin"):
            decode(text)


def plain(body: str, *, more: bool = False) -> str:
    """Return a body as an instance writes it that needs no process for that."""
    text = body.replace("\n", "\t")
    return f"PMRT {int(more)} {len(body)} {checksum(body)} {text}\n"


PLAIN = plain("k runner running\nl 0.1 0 5 5\nhello", more=True)


@pytest.mark.parametrize("mark", MARKS)
def test_a_plain_one_is_as_good_and_a_cut_is_noticed(mark: str) -> None:
    found = decode(PLAIN[:-1] + mark)
    assert (found.more, found.facts, found.records) == (TRUTH.more, TRUTH.facts, TRUTH.records)
    for at in range(len(PLAIN) - 1):
        with pytest.raises(EnvelopeError) as caught:
            decode(PLAIN[:at] + mark)
        assert isinstance(caught.value, EnvelopeCut) or at < len("PMRT ")


@given(st.integers(5, len(PLAIN) - 2), st.characters(codec="utf-8") | st.just("\ud800"))
def test_a_changed_character_of_a_plain_one_never_makes_wrong_data(at: int, letter: str) -> None:
    changed = PLAIN[:at] + letter + PLAIN[at + 1 :]
    # Capitals count as small letters, and what is neither letter, digit nor space as one letter.
    if at > len("PMRT ") and checksum(changed) != checksum(PLAIN):
        with pytest.raises(EnvelopeError):
            decode(changed)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    for size in (MOST_BODY_BYTES + 1, 200 << 20):
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))
        bomb += packer.compress(b"x" * (size % (1 << 20))) + packer.flush()
        with pytest.raises(EnvelopeError, match="larger than any honest one"):
            decode(sealed(bomb))


def test_content_that_is_cut_inside_is_refused() -> None:
    packed = gzip.compress(b"k a b\n" * 100)
    for at in range(len(packed) - 9):
        with pytest.raises(EnvelopeError):
            decode(sealed(packed[:at]))


@pytest.mark.parametrize("length", [0, 1, 10_000])
def test_a_forged_length_is_noticed(length: int) -> None:
    packed = gzip.compress(b"k a b\n")
    for digest in ("", "0" * 16):
        with pytest.raises(EnvelopeError):
            decode(sealed(packed, length=length, digest=digest))


def test_endless_digits_are_no_number() -> None:
    with pytest.raises(EnvelopeError):
        decode(f"PMR1 0 {'9' * 20_000} 0000 x\n")
    with pytest.raises(EnvelopeError):
        decode(encode(b"l 0.1 0 0 " + b"9" * 20_000 + b"\n", more=False))


@pytest.mark.parametrize(
    "body",
    [
        b"l 0.1 0 6 5\nhello",
        b"l 0.1 0 -1 5\nhello",
        b"l 0.1 -4 5 5\nhello",
        b"l 0.1 0 5 +5\nhello",
        b"l 0.1 0 5 5_0\nhello",
        b"l 0.1 0 5\nhello",
        b"e 0 3\nab",
        b"e -1 0\n",
        b"h 0.1 -1 5\n",
        b"t 0.1 4 -4\n",
        b"j job 9999999999999999\nx",
        b"k a b",
        b"k\n",
        b"x 1 2\n",
        b"\n",
        b"l 0.1 0 5 \xd9\xa3\nhello",
    ],
)
def test_a_record_that_does_not_add_up_is_refused(body: bytes) -> None:
    with pytest.raises(EnvelopeError):
        decode(encode(body, more=False))

"""What an instance answers: one line of ASCII, decoded into records.

The format is written in `shell/answer.sh`. Everything in it is untrusted: sizes are capped
before anything is decompressed, and a part that does not add up is an error, never data.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import itertools
import re
import zlib
from dataclasses import dataclass, field

MARK = "PMR1"
# A short body of printable characters, as it is but for its newlines.
PLAIN_MARK = "PMRT"
# What the agent puts where it cuts an output off.
CUT_MARK = "--output truncated--"
# Of an instance that lacks what an envelope takes: a line of plain text, what is wrong with it.
LACKS_MARK = "PMR0"
_LACKS = re.compile(r"PMR0 (missing(?: [a-z0-9]{1,20}){1,60}|bash [0-9]{1,3}\.[0-9]{1,3})\n?")
WORDS = 5
# A large answer is 19,500 characters; deflate cannot expand more than about 1,032 times, but an
# honest body stays below this: room for it is at most 14 bytes for each character (answer.sh).
MOST_BODY_BYTES = 1 << 20
# The jobs of an instance and the logs of one request are at most a hundred, each with a few lines.
MOST_RECORDS = 1_000
# Whatever is no digit of base 36 (nor a space between words) counts as one in a checksum.
_NO_DIGIT = re.compile(r"[^0-9a-zA-Z ]")
# No log is longer than this, and Python itself takes its time over endless digits.
_NUMBER = re.compile(r"[0-9]{1,18}")


class EnvelopeError(Exception):
    """The text is not a whole, sound envelope."""


class EnvelopeCut(EnvelopeError):
    """The text is the beginning of an envelope; a larger look may bring the rest."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a log (or of a named ledger file) from `offset`; `size` is what it has in all."""

    name: str
    offset: int
    data: bytes
    size: int

    @property
    def end(self) -> int:
        """Return the offset just past the chunk."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Hole:
    """Bytes of a log that its cap has removed: from `start` up to `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A log that is now shorter (`size`) than what had been read (`offset`)."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Condensed:
    """What the events of a ledger tell from `offset` up to `end`, shortly (shell/ends.sh).

    `sum` is that of the checksums of the ends among them; None where they were tried already.
    """

    offset: int
    end: int
    data: bytes
    sum: int | None = None


Record = Chunk | Hole | Shrunk


@dataclass(frozen=True, slots=True)
class Answer:
    """One decoded answer.

    `more` says that the instance had more to say than fitted. `packed_bytes` is the size of the
    compressed body, so that a reader can tell how well the content compresses.
    """

    more: bool
    facts: dict[str, str] = field(default_factory=dict)
    events: Chunk | Condensed | None = None
    records: tuple[Record, ...] = ()
    jobs: tuple[tuple[str, bytes], ...] = ()
    packed_bytes: int = 0


def encode(body: bytes, *, more: bool) -> str:
    """Return the envelope of a body, as an instance would write it."""
    text = base64.b64encode(gzip.compress(body)).decode("ascii")
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
    return f"{MARK} {int(more)} {len(text)} {digest} {text}\n"


def decode(output: str) -> Answer:
    """Decode the envelope in a command's output.

    The plain line of an instance that lacks something is an answer too: a refusal.

    Raises:
        EnvelopeCut: the output ends before the envelope does.
        EnvelopeError: there is no envelope, or it is damaged.
    """
    if output.startswith(LACKS_MARK) and (found := _LACKS.fullmatch(output)):
        return Answer(more=False, facts={"refused": found[1]})
    if output.startswith(PLAIN_MARK + " "):
        more, body = _plain_body(output)
        return _parse(body, more=more, packed_bytes=len(body))
    more, packed = _unwrap(output)
    return _parse(_inflate(packed), more=more, packed_bytes=len(packed))


def checksum(text: str) -> str:
    """Return the checksum of an event line, or of a plain body (shell/base.sh: checksum)."""
    return f"{checksum_number(text):08x}"


def checksum_number(text: str) -> int:
    """Return the checksum of a text as a number."""
    value = 5381
    for word in _NO_DIGIT.sub("z", text).split(" "):
        for at in range(0, len(word), 11):
            some = word[at : at + 11]
            value = ((value * 33 + len(word) - at) * 31 + int(some, 36)) % 4294967291
    return value


def _plain_body(output: str) -> tuple[bool, bytes]:
    line = output.split("\n", 1)[0]
    words = line.split(" ", WORDS - 1)
    if len(words) < WORDS or not _NUMBER.fullmatch(words[2]):
        raise EnvelopeCut("the envelope's first words are not all there")
    length, text = int(words[2]), words[4]
    body = text[:length].replace("\t", "\n")
    rest = text[length:]
    sound = len(body) == length and body.isascii() and checksum(body) == words[3]
    if sound and rest in ("", CUT_MARK):
        return words[1] == "1", body.encode("ascii")
    if len(body) < length or CUT_MARK in text:
        raise EnvelopeCut(f"less than {length} characters arrived")
    raise EnvelopeError("the envelope's checksum is wrong")


def _unwrap(output: str) -> tuple[bool, bytes]:
    if not output.startswith(MARK + " "):
        raise EnvelopeError("the output does not begin with an envelope")
    words = output.split("\n", 1)[0].split(" ")
    if len(words) < WORDS or not _NUMBER.fullmatch(words[2]):
        raise EnvelopeCut("the envelope's first words are not all there")
    # The agent's own mark of a cut ("--output truncated--") begins with what base64 has not.
    length, text = int(words[2]), words[4].partition("-")[0]
    if len(text) < length:
        raise EnvelopeCut(f"{len(text)} of {length} characters arrived")
    if len(text) > length or not text.isascii():
        raise EnvelopeError("the envelope is longer than it says, or not ASCII")
    if hashlib.sha256(text.encode("ascii")).hexdigest()[:16] != words[3]:
        raise EnvelopeError("the envelope's checksum is wrong")
    try:
        return words[1] == "1", base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise EnvelopeError("the envelope is not base64") from error


def _inflate(packed: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(packed, MOST_BODY_BYTES)
    except zlib.error as error:
        raise EnvelopeError(f"the envelope does not decompress: {error}") from error
    if not inflater.eof:
        raise EnvelopeError("the envelope's content is cut or larger than any honest one")
    return body


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def line(self) -> list[str]:
        end = self.body.find(b"\n", self.at)
        if end < 0:
            raise EnvelopeError("a record has no end of line")
        text = self.body[self.at : end].decode("ascii", "replace")
        self.at = end + 1
        return text.split(" ")

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.body):
            raise EnvelopeError("a record is longer than the envelope")
        data = self.body[self.at : self.at + count]
        self.at += count
        return data


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise EnvelopeError(f"a record's number is wrong: {text[:20]!r}")
    return int(text)


def _record(words: list[str], reader: _Reader) -> Record:
    """Return what is told of a log, or of a file of the ledger."""
    match words:
        case ["l", name, offset, count, size]:
            return Chunk(name, _number(offset), reader.take(_number(count)), _number(size))
        case ["h", name, start, end]:
            return Hole(name, _number(start), _number(end))
        case ["t", name, offset, size]:
            return Shrunk(name, _number(offset), _number(size))
    raise EnvelopeError(f"unknown record {words[0][:20]!r}")


def _parse(body: bytes, *, more: bool, packed_bytes: int) -> Answer:
    reader = _Reader(body)
    facts: dict[str, str] = {}
    events: Chunk | Condensed | None = None
    records: list[Record] = []
    jobs: list[tuple[str, bytes]] = []
    for number in itertools.count(1):
        if reader.at >= len(body):
            break
        if number > MOST_RECORDS:
            raise EnvelopeError("more records than anybody asked for")
        words = reader.line()
        match words:
            case ["k", key, *value]:
                facts[key] = " ".join(value)
            case ["e", offset, count]:
                events = Chunk("events", _number(offset), reader.take(_number(count)), 0)
            case ["c", offset, end, count, *sums]:
                events = Condensed(
                    _number(offset),
                    _number(end),
                    reader.take(_number(count)),
                    _number(sums[0]) if sums else None,
                )
            case ["j", job, count]:
                jobs.append((job, reader.take(_number(count))))
            case _:
                records.append(_record(words, reader))
    return Answer(more, facts, events, tuple(records), tuple(jobs), packed_bytes)

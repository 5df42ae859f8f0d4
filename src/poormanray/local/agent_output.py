"""What the agent makes of a script's output: cut, decoded, and sized as its JSON reply."""

from __future__ import annotations

# Source: agent-facts 4 (measured): 24,000 bytes each, marker included; exactly 24,000 is cut too.
STREAM_BYTES = 24_000
STREAM_MARK = b"--output truncated--"
# The combined field, for both streams together.
OUTPUT_BYTES = 2_500
OUTPUT_MARK = b"\n---Output truncated---"
ERROR_MARK = b"\n---Error truncated----"
ERROR_TITLE = b"\n----------ERROR-------\n"
# A reply whose JSON is longer is dropped, and the command stays InProgress.
REPLY_BYTES_MAX = 120_000
# What a reply holds besides the three texts, about.
REPLY_OWN_BYTES = 600

_TWO_BYTES = frozenset('"\\\n\r\t\b\f')
_SIX_BYTES = frozenset("<>&\u2028\u2029")


def cut_stream(data: bytes) -> str:
    """Return the head of a stream as the agent reports it; invalid UTF-8 becomes U+FFFD."""
    if len(data) >= STREAM_BYTES:
        data = data[: STREAM_BYTES - len(STREAM_MARK)] + STREAM_MARK
    return _text(data)


def combined(stdout: bytes, stderr: bytes) -> str:
    """Return both streams in one text of at most 2,500 bytes; if both are long, half each."""
    title = ERROR_TITLE if stderr else b""
    room = OUTPUT_BYTES - len(title)
    if len(stdout) + len(stderr) < room:
        return _text(stdout + title + stderr)
    half = room // 2
    if len(stdout) < half:
        out, err = stdout, _cut(stderr, room - len(stdout), ERROR_MARK)
    elif len(stderr) < half:
        out, err = _cut(stdout, room - len(stderr), OUTPUT_MARK), stderr
    else:
        out, err = _cut(stdout, half, OUTPUT_MARK), _cut(stderr, half, ERROR_MARK)
    return _text(out + title + err)


def reply_bytes(*texts: str) -> int:
    """Return about how many bytes the reply's JSON has, escaped as Go does it."""
    return REPLY_OWN_BYTES + sum(_json_bytes(text) for text in texts)


def _json_bytes(text: str) -> int:
    size = len(text.encode())
    for character in set(text):
        extra = 0
        if character in _TWO_BYTES:
            extra = 1
        elif character in _SIX_BYTES or character < " ":
            extra = 6 - len(character.encode())
        if extra:
            size += extra * text.count(character)
    return size


def _cut(data: bytes, room: int, mark: bytes) -> bytes:
    return data if len(data) <= room else data[: max(0, room - len(mark))] + mark


def _text(data: bytes) -> str:
    """Decode with one U+FFFD for each invalid byte, as Go's conversion does."""
    return data.decode("utf-8", errors="pmr-one-each")


def _one_each(error: UnicodeError) -> tuple[str, int]:
    start: int = error.start  # type: ignore[attr-defined]  # UnicodeDecodeError has it
    return "\ufffd", start + 1


def _register() -> None:
    import codecs

    codecs.register_error("pmr-one-each", _one_each)


_register()

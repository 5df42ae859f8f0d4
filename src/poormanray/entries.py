"""What a map goes over: arrays, lines, JSON, and the places of an entry in a command. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

# Slurm's own default for arrays is 1,000; a ledger folds ten times a hundred thousand.
MOST_TASKS = 1_000_000
# An event names its task in at most nine digits (ledger.py).
HIGHEST_ID = 999_999_999
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_AT_ONCE = re.compile(r"[1-9]\d{0,6}", re.ASCII)
_PLACE = re.compile(r"\{(|\.|/|//|/\.|#)\}")
_EXTENSION = re.compile(r"\.[^/.]+\Z")
_HEADER = re.compile(rb"#PMR[ \t]+([a-z][a-z-]*)[ \t]+(.*?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Array:
    """The ids of an array, ascending, and how many may run at once over the cluster (0: all)."""

    ids: tuple[int, ...]
    at_once: int = 0


def parse_array(text: str) -> Array:
    """Read an array as Slurm's users write it: `0-99`, `1-7:2`, `1,3,9`, `0-99%8`.

    Raises:
        ValueError: it is none of those, or too long; the message says what is wrong.
    """
    ranges, percent, limit = text.strip().partition("%")
    if percent and not _AT_ONCE.fullmatch(limit):
        raise ValueError(f"{limit!r} after % is no number of tasks at once")
    ids: set[int] = set()
    for word in ranges.split(","):
        found = _RANGE.fullmatch(word.strip())
        if found is None:
            raise ValueError(f"{word.strip()!r} is no id such as 3, range 0-99, or steps 1-7:2")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if step == 0:
            raise ValueError(f"{word.strip()!r} has steps of 0")
        if last < first:
            raise ValueError(f"{word.strip()!r} ends before it begins")
        more = range(first, last + 1, step)
        if len(ids) + len(more) > MOST_TASKS:
            raise ValueError(f"more than {MOST_TASKS:,} tasks")
        ids.update(more)
    return Array(tuple(sorted(ids)), int(limit or 0))


def line_entries(data: bytes) -> list[str]:
    """Return the lines of a file, without their ends; empty lines at its end do not count.

    Bytes that are no UTF-8 stay what they are (surrogateescape).

    Raises:
        ValueError: a line holds a NUL byte, which no variable and no argument can hold.
    """
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    while lines and lines[-1] in ("", "\r"):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(f"line {number} holds a NUL byte")
    return [line.removesuffix("\r") for line in lines]


def json_entries(data: bytes) -> list[str]:
    """Return the elements of a JSON list, or of JSON Lines: strings as they are, the rest as JSON.

    Raises:
        ValueError: it is neither, or an element holds what no variable can hold.
    """
    try:
        elements = json.loads(data)
        if not isinstance(elements, list):
            elements = [elements]
    except ValueError:
        lines = [line for line in data.splitlines() if line.strip()]
        try:
            elements = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"neither a JSON list nor JSON Lines: {error}") from error
    entries = [
        one if isinstance(one, str) else json.dumps(one, ensure_ascii=False, separators=(",", ":"))
        for one in elements
    ]
    for number, entry in enumerate(entries):
        if "\0" in entry:
            raise ValueError(f"element {number} holds a NUL character")
        try:
            entry.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"element {number} is no text: {error.reason}") from error
    return entries


def has_place(text: str) -> bool:
    """Say whether a command says where its entry goes."""
    return _PLACE.search(text) is not None


def fill(template: str, entry: str, number: int, quote: Callable[[str], str] = shlex.quote) -> str:
    """Return a command with an entry in its places, as GNU parallel means them.

    `{}` is the entry, `{.}` without its extension, `{/}` its last part, `{//}` its folder, `{/.}`
    its last part without extension, `{#}` the task's number from 1 (`number` is from 0). What
    goes in is quoted by `quote`, so that it stays one word of the command.
    """

    def put(place: re.Match[str]) -> str:
        return quote(_part(place[1], entry, number))

    return _PLACE.sub(put, template)


def _part(kind: str, entry: str, number: int) -> str:
    match kind:
        case "":
            return entry
        case "#":
            return str(number + 1)
        case ".":
            return _EXTENSION.sub("", entry)
        case "/":
            return posixpath.basename(entry)
        case "//":
            return posixpath.dirname(entry) or "."
        case _:
            return _EXTENSION.sub("", posixpath.basename(entry))


def header(script: bytes) -> dict[str, str]:
    """Return what a script says of itself: its lines `#PMR <word> <value>`, before any command.

    Like Slurm's #SBATCH, they stand among the comments and empty lines at the top.
    """
    found: dict[str, str] = {}
    for line in script.replace(b"\r\n", b"\n").split(b"\n"):
        if line.strip() and not line.startswith(b"#"):
            break
        if words := _HEADER.fullmatch(line):
            found[words[1].decode("ascii")] = words[2].decode("utf-8", "replace")
    return found

"""What a map goes over: arrays, lines, JSON, and the places of an entry in a command. Pure."""

from __future__ import annotations

import difflib
import json
import os
import posixpath
import re
import shlex
from dataclasses import dataclass
from enum import Enum

# Slurm's own default for arrays is 1,000; a ledger folds ten times a hundred thousand.
MOST_TASKS = 1_000_000
# An event names its task in at most nine digits (ledger.py).
HIGHEST_ID = 999_999_999
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_AT_ONCE = re.compile(r"[1-9]\d{0,6}", re.ASCII)
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_EXTENSION = re.compile(r"\.[^/.]+\Z")
# What a script can say of how it runs.
HEADER_WORDS = ("retries", "slots", "timeout")
_HEADER = re.compile(r"(#PMR)[ \t]+([a-z]+)[ \t]+(\S.*?)[ \t]*")
_NEAR_HEADER = re.compile(
    r"(?P<mark>#[ \t]*pmr)(?::|[ \t]+)?[ \t]*-{0,2}(?P<word>[a-z_-]*)[ \t]*[=:]?(?P<rest>.*)",
    re.IGNORECASE,
)


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

    Bytes that are no UTF-8 stay what they are (surrogateescape); a byte order mark is no part of
    the first line.

    Raises:
        ValueError: a line holds a NUL byte, which no variable and no argument can hold.
    """
    if data.startswith(_UTF16_MARKS):
        raise ValueError("it is UTF-16; iconv -f UTF-16 -t UTF-8 makes text of it")
    lines = data.removeprefix(_UTF8_MARK).decode("utf-8", "surrogateescape").split("\n")
    while lines and lines[-1] in ("", "\r"):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(f"line {number} holds a NUL byte")
    return [line.removesuffix("\r") for line in lines]


def line_changes(data: bytes) -> list[str]:
    """Return what `line_entries` takes for no part of an entry, one sentence for each kind."""
    lines = data.removeprefix(_UTF8_MARK).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    kept = len(line_entries(data))
    ends = sum(line.endswith(b"\r") for line in lines[:kept])
    empty = [number for number, line in enumerate(lines[:kept], 1) if line in (b"", b"\r")]
    changes = []
    if data.startswith(_UTF8_MARK):
        changes.append("the byte order mark before its first line is no part of an entry")
    if ends:
        what = "each line ends" if ends == kept else f"{ends:,} of {kept:,} lines end"
        changes.append(f"{what} in CR LF: the CR is no part of an entry")
    if len(lines) > kept:
        changes.append(f"{_counted(len(lines) - kept)} at its end left out")
    if empty:
        counted = _counted(len(empty))
        changes.append(f"{counted}, each a task with an empty entry (the first: line {empty[0]:,})")
    return changes


def _counted(count: int) -> str:
    return "1 empty line" if count == 1 else f"{count:,} empty lines"


def _json_elements(data: bytes) -> list[object]:
    try:
        whole = json.loads(data)
    except ValueError:
        lines = [line for line in data.splitlines() if line.strip()]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"neither a JSON list nor JSON Lines: {error}") from error
    return whole if isinstance(whole, list) else [whole]


def json_entries(data: bytes) -> list[str]:
    """Return the elements of a JSON list, or of JSON Lines: strings as they are, the rest as JSON.

    Raises:
        ValueError: it is neither, or an element holds what no variable can hold.
    """
    try:
        entries = [
            one
            if isinstance(one, str)
            else json.dumps(one, ensure_ascii=False, separators=(",", ":"))
            for one in _json_elements(data)
        ]
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    for number, entry in enumerate(entries):
        if "\0" in entry:
            raise ValueError(f"element {number} holds a NUL character")
        try:
            entry.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"element {number} is no text: {error.reason}") from error
    return entries


def header(script: bytes) -> dict[str, str]:
    """Return what a script says of itself: its lines `#PMR <word> <value>`, before any command.

    Like Slurm's #SBATCH, they stand among the comments and empty lines at the top.

    Raises:
        ValueError: a line looks like one of them and is none; the message has the right spelling.
    """
    found: dict[str, str] = {}
    above = True
    for number, line in enumerate(_text_lines(script), start=1):
        above = above and (not line.strip() or line.startswith("#"))
        words = _HEADER.fullmatch(line)
        if words is None or words[2] not in HEADER_WORDS:
            _check_near_header(line, number, above=above)
        elif not above:
            raise ValueError(f"line {number}: {line.strip()!r} stands below the first command")
        elif found.setdefault(words[2], words[3]) != words[3]:
            raise ValueError(f"line {number}: it says another {words[2]} than a line above it")
    return found


def _text_lines(script: bytes) -> list[str]:
    return [] if script.startswith(b"\x7fELF") else script.decode("utf-8", "replace").splitlines()


def _check_near_header(line: str, number: int, *, above: bool) -> None:
    """Refuse what was meant as a line `#PMR <word> <value>`, unless it may be prose.

    Raises:
        ValueError: it was.
    """
    near = _NEAR_HEADER.match(line)
    if near is None or not (above or near["mark"] == "#PMR"):
        return
    said = near["word"].lower()
    meant = difflib.get_close_matches(said, HEADER_WORDS, n=1, cutoff=0.8)
    exact = near["mark"] == "#PMR" and (above or bool(meant))
    # In other marks, words of prose follow: `# pmr map scripts/ runs this`.
    if not exact and not (meant and len(near["rest"].split()) == 1):
        return
    value = near["rest"].strip() or "VALUE"
    right = f"write `#PMR {meant[0]} {value}`" if meant else "write for example `#PMR retries 2`"
    raise ValueError(f"line {number}: {line.strip()!r} is not understood: {right}")


# Placeholders. An entry is data: it reaches a command as the value of a variable and is never
# text of the command. The command is read as bash reads it, as far as that takes to know in which
# quotes each placeholder stands, and whether bash or another program would run what it becomes.

PLACEHOLDERS = "{} {.} {/} {//} {/.} {#}"
_FOREIGN = (
    r"\{[+-]?[0-9]+(?:\.|/|//|/\.|#|%)?\}|\{[0-9]*(?:%|##)\}|\{[0-9]+#\}|\{=[^\n]*?=\}"
    r"|\{/?\.{2,3}\}|\{\+(?:/|\.{1,3})\}|\{%%?[^{}%\s]+\}|\{/[^{}/,\s]+/[^{}/,\s]*\}"
    r"|\{##?[^{}#,\s]+\}|\{\^\^?[^{}^,\s]+\}|\{:[0-9]+(?::[0-9]+)?\}|\{:-[^{}\s]*\}"
)
TOKEN = re.compile(
    r"\{(?P<go>\{\{\.\}\})\}"
    r"|(?P<unclear>\{\{\.\}\})"
    rf"|\{{(?P<literal>\{{(?:|/|//|/\.|#)\}}|{_FOREIGN})\}}"
    rf"|(?<!\$)(?P<foreign>{_FOREIGN})"
    r"|(?P<place>\{(?P<kind>|\.|/|//|/\.|#)\})"
)
ENTRY = "PMR_ENTRY"
_STEM = 'case ${%(of)s##*.} in "$%(of)s" | "" | */*) ;; *) %(name)s=${%(of)s%%.*} ;; esac'
_VARIABLE_AT_END = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*\Z")
# By kind: the variable that has its value, and what sets it (in any POSIX shell).
_VARIABLES = {
    "": (ENTRY, ""),
    ".": ("pmr_stem", f"pmr_stem=${ENTRY}; " + _STEM % {"of": ENTRY, "name": "pmr_stem"}),
    "/": ("pmr_last", f"pmr_last=${{{ENTRY}##*/}}"),
    "//": (
        "pmr_folder",
        f'pmr_folder=${{{ENTRY}%"${{{ENTRY}##*/}}"}}; '
        'pmr_top=${pmr_folder%"${pmr_folder##*[!/]}"}; pmr_folder=${pmr_top:-${pmr_folder:-.}}',
    ),
    "/.": (
        "pmr_name",
        f"pmr_last=${{{ENTRY}##*/}}; pmr_name=$pmr_last; "
        + _STEM % {"of": "pmr_last", "name": "pmr_name"},
    ),
    "#": ("pmr_number", "pmr_number=%s"),
}


class Quoting(Enum):
    """What a placeholder stands in; `HERE` is an unquoted here-document."""

    NONE = "NONE"
    DOUBLE = "DOUBLE"
    SINGLE = "SINGLE"
    HERE = "HERE"


@dataclass(frozen=True, slots=True)
class Place:
    """A placeholder of a command, by its kind: what stands between its braces."""

    kind: str
    quoting: Quoting

    def variable(self) -> str:
        """Return the text that bash replaces by the value, as one word or a part of one."""
        name = f"${{{_VARIABLES[self.kind][0]}}}"
        around = {Quoting.NONE: ('"', '"'), Quoting.SINGLE: ("'\"", "\"'")}
        before, after = around.get(self.quoting, ("", ""))
        return f"{before}{name}{after}"

    @property
    def breaks_quotes(self) -> bool:
        """Say whether `""` before it changes nothing."""
        return self.quoting in (Quoting.NONE, Quoting.DOUBLE)

    def value(self, entry: str, number: int) -> str:
        """Return the value itself, quoted so that it stands for the same bytes."""
        value = part(self.kind, entry, number)
        match self.quoting:
            case Quoting.NONE:
                return shlex.quote(value)
            case Quoting.SINGLE:
                return value.replace("'", "'\\''")
            case Quoting.DOUBLE:
                return re.sub(r'[\\$`"]', r"\\\g<0>", value)
            case Quoting.HERE:
                return re.sub(r"[\\$`]", r"\\\g<0>", value)


@dataclass(frozen=True, slots=True)
class Template:
    """A command with placeholders; `words` say that it is one program with its arguments."""

    parts: tuple[str | Place, ...]
    words: bool = False

    @property
    def portable(self) -> bool:
        """Say whether any POSIX shell can run its text."""
        return self.words and not self._may_be_option

    @property
    def _may_be_option(self) -> bool:
        first = self.parts[0]
        return isinstance(first, Place) or first.startswith("-")

    def longest_word(self, entry: str) -> int:
        """Return how many bytes the longest argument of a program has for an entry."""
        words, size = [0], 0
        for one in self.parts:
            size = 0 if one == " " else size + len(os.fsencode(_plain(one, entry)))
            words.append(size)
        return max(words)

    def text(self, number: str) -> str:
        """Return the command for all entries; `number` is what the shell has as the task's."""
        kinds = sorted({one.kind for one in self.parts if isinstance(one, Place)})
        first = [_VARIABLES[kind][1] for kind in kinds if kind]
        lines = [line % number if line.endswith("=%s") else line for line in first]
        body = "".join(one if isinstance(one, str) else one.variable() for one in self.parts)
        start = "" if not self.words else "exec -- " if self._may_be_option else "exec "
        return "".join(f"{line}\n" for line in lines) + start + body

    def shown(self, entry: str, number: int) -> str:
        """Return the command as it runs for one entry; `number` is from 0."""
        text = ""
        for one in self.parts:
            if isinstance(one, Place):
                # The value is no part of the name of a variable before it.
                text += '""' if _VARIABLE_AT_END.search(text) and one.breaks_quotes else ""
                text += one.value(entry, number)
            else:
                text += one
        return text


def _plain(one: str | Place, entry: str) -> str:
    return part(one.kind, entry, 0) if isinstance(one, Place) else "".join(shlex.split(one))


def part(kind: str, entry: str, number: int) -> str:
    """Return what a placeholder stands for, as GNU parallel means it.

    `{}` is the entry, `{.}` without its extension, `{/}` its last part, `{//}` its folder, `{/.}`
    its last part without extension, `{#}` the task's number from 1 (`number` is from 0).
    """
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

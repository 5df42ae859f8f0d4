"""Everything that the program prints goes through here: data to stdout, the rest to stderr."""

from __future__ import annotations

import dataclasses
import errno
import io
import json as json_format
import os
import re
import select
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from poormanray.errors import PmrError, ReaderGone, Unwritable, UsageProblem

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer as Buffer

    from poormanray.waiting import OutageReport

# Tags and logs come from elsewhere; none of these may reach a terminal: it would obey them, or
# show what follows in another order. Lone surrogates stand for bytes of names that are not UTF-8:
# no stream can encode them.
_UNSEEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
# What no encoding can carry is shown by its number.
_ERRORS = "backslashreplace"
# What rich's SIMPLE_HEAD draws between the columns of a table, and beside it.
_BETWEEN, _EDGES = 3, 2
# A cell that is cut keeps as much as this.
_LEAST_CELL = 8
_CONTROL = re.compile(f"[{_UNSEEN}]")
_CONTROL_OR_BREAK = re.compile(f"[{_UNSEEN}\t\n]")


def harmless(text: str) -> str:
    """Return `text` with control characters made visible, so that a terminal shows them only."""
    return _CONTROL.sub(_visible, text)


def one_line(text: str) -> str:
    """Return `text` as `harmless` does, and as one line: a name cannot begin a line of its own."""
    return _CONTROL_OR_BREAK.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    return f"\\x{ord(found.group()):02x}"


def to_json(value: object) -> object:
    """Turn what JSON does not know into what it knows: times as ISO 8601 UTC, enums as words."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def json_line(value: object) -> str:
    """Return a value as one line of JSON."""
    return json_format.dumps(value, default=to_json)


def json_pieces(value: object, indent: int | None = None) -> Iterator[str]:
    """Yield the JSON of a value in pieces; an iterator in a mapping is a list, one row at a time.

    So that very many rows are never all in memory.
    """

    def text(part: object, depth: int) -> str:
        words = json_format.dumps(part, default=to_json, indent=indent)
        return words if indent is None else words.replace("\n", new_line(depth))

    def new_line(depth: int) -> str:
        return "" if indent is None else "\n" + " " * indent * depth

    comma = ", " if indent is None else ","
    if not isinstance(value, Mapping) or not any(isinstance(v, Iterator) for v in value.values()):
        yield text(value, 0)
        return
    yield "{"
    for number, (key, part) in enumerate(value.items()):
        yield f"{comma if number else ''}{new_line(1)}{text(key, 1)}: "
        if not isinstance(part, Iterator):
            yield text(part, 1)
            continue
        yield "["
        before = ""
        for row in part:
            yield f"{before}{new_line(2)}{text(row, 2)}"
            before = comma
        yield f"{new_line(1) if before else ''}]"
    yield f"{new_line(0)}}}"


def is_terminal(stream: TextIO) -> bool:
    """Say whether a person watches `stream` (CI and dumb terminals do not count)."""
    if os.environ.get("TERM") == "dumb" or os.environ.get("CI"):
        return False
    return stream.isatty()


class _Stdout(io.FileIO):
    """File descriptor 1. The first write that fails is an error of ours; what follows is dropped.

    Dropped, so that the way out of the program (a last event, the flush at its end) fails no more.
    """

    failed = False

    def write(self, data: Buffer, /) -> int:
        """Write bytes; where the other end is slow and does not block, wait for it."""
        size = memoryview(data).nbytes
        if self.failed:
            return size
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except BrokenPipeError as error:
            self.failed = True
            raise ReaderGone("nobody reads stdout any more") from error
        except OSError as error:
            self.failed = True
            why = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise Unwritable(
                f"cannot write to stdout: {why}", "make room, or send the output elsewhere"
            ) from error
        return written


class _Stderr(io.FileIO):
    """File descriptor 2. Nothing fails because a note cannot be shown."""

    def write(self, data: Buffer, /) -> int:
        """Write bytes, as far as somebody takes them."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            return memoryview(data).nbytes
        return written


def open_streams() -> None:
    """Let the streams of this process be such that printing fails in one way only.

    A stream that is closed would hand its number to the next file or socket, and Python has None
    in its place; an encoding that cannot carry our words would fail at each of them.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # 1 is opened for reading, so that writing to it fails as it does to a closed one.
            os.dup2(os.open(os.devnull, mode), number)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    for name, kind, number in (("stdout", _Stdout, 1), ("stderr", _Stderr, 2)):
        now = getattr(sys, name)
        if now is not None and now is not getattr(sys, f"__{name}__"):
            continue  # somebody else reads what is printed, such as a test
        raw = kind(number, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=_usable(getattr(now, "encoding", None)),
            errors=_ERRORS,
            line_buffering=raw.isatty() or number == 2,  # noqa: PLR2004 (stderr)
        )
        setattr(sys, name, stream)


def _usable(encoding: str | None) -> str:
    """Return an encoding if it can carry plain words, else UTF-8."""
    words = "error: x\n"
    try:
        good = encoding is not None and words == words.encode(encoding, _ERRORS).decode(encoding)
    except (LookupError, UnicodeError):
        good = False
    return encoding if good and encoding else "utf-8"


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn what this machine refuses inside the block into an error that names the place.

    Raises:
        Unwritable: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise Unwritable(
            f"cannot write {where}: {error.strerror or error}",
            "make room there, or choose another with -o",
        ) from error


class Output:
    """One command's voice, in text or in JSON. Safe to use from several threads."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.is_terminal = is_terminal(sys.stdout)
        self._redraws = is_terminal(sys.stderr)
        self._progress = ""
        self._page: io.StringIO | None = None
        self._lock = threading.RLock()
        # Events that belong between others, until it is clear that there are any.
        self._held: list[Mapping[str, object]] = []
        self._streams = False

    def note(self, text: str) -> None:
        """Say one line to the person, on stderr, in both modes."""
        with self._lock:
            self._wipe()
            print(one_line(text), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Show how far the work is: redrawn in place on a terminal, else a line per change.

        An empty `text` takes the line away.
        """
        with self._lock:
            if text == self._progress:
                return
            if self._redraws:
                self._wipe()
                width = shutil.get_terminal_size().columns - 1
                print(one_line(text)[:width], end="", file=sys.stderr, flush=True)
            elif text:
                print(one_line(text), file=sys.stderr, flush=True)
            self._progress = text

    def line(self, text: str) -> None:
        """Print one line of data on stdout, in text mode only, defused."""
        if self.json:
            return
        with self._lock:
            self._wipe()
            print(one_line(text), file=self._page, flush=True)

    def raw(self, data: bytes) -> None:
        """Write bytes to stdout as they are."""
        with self._lock:
            self._wipe()
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def event(self, event: Mapping[str, object]) -> None:
        """Write one line of JSON Lines on stdout, in JSON mode only (see `json_pieces`)."""
        if not self.json:
            return
        with self._lock:
            self._streams = True
            for held in self._held:
                self._write(held)
            self._held.clear()
            self._write(event)

    def outage(self, report: OutageReport) -> None:
        """Show that a service does not answer, or answers again: a note, and an event if fitting.

        A command whose JSON is one document has no place for events.
        """
        service, lasted = report.service, f"{report.seconds:.0f} s"
        if report.throttled:
            begun = (
                f"AWS has throttled calls to {service} for {lasted} ({report.why}), still trying"
            )
            over = f"AWS throttles calls to {service} no more, after {lasted}"
        else:
            begun = f"no answer from {service} for {lasted} ({report.why}), still trying"
            over = f"{service} answers again, after {lasted}"
        self.note(over if report.over else begun)
        event = {
            "event": "outage",
            "service": service.lower(),
            "over": report.over,
            "seconds": round(report.seconds, 3),
            "why": report.why,
        }
        self._aside(event)

    def silence(self, names: Sequence[str], seconds: float) -> None:
        """Show that instances have not responded for so long, and are asked again."""
        first, *more = names
        others = f" and {len(more)} more:" if more else ""
        self.note(f"[{first}]{others} no response for {seconds:.0f} s (asked again)")
        told = {"seconds": round(seconds, 1), "why": "asked again"}
        for name in names:
            self._aside({"event": "no_response", "name": name, **told})

    def _aside(self, event: Mapping[str, object]) -> None:
        """Write an event where others are written, before the next of them at the latest."""
        with self._lock:
            self._held.append(event)
            if self._streams:
                self.event(self._held.pop())

    def document(self, value: object) -> None:
        """Write the one JSON document of a command on stdout, in JSON mode only (`json_pieces`)."""
        if self.json:
            self._write(value, indent=2)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        compact: bool = False,
        spare: Sequence[str] = (),
    ) -> None:
        """Print a table on stdout, in text mode only: drawn on a terminal, aligned text else.

        A compact one takes a terminal's line for each row: its last column ends where that does.
        `spare` are columns that a narrow terminal does without, the least important first; what
        is still too wide loses the ends of its cells, the first column's never.
        """
        if self.json:
            return
        clean = [[one_line(cell) for cell in row] for row in rows]
        with self._lock:
            self._wipe()
            if self.is_terminal:
                if spare:
                    columns, clean = fitted(columns, clean, spare, terminal_width())
                _draw(columns, clean, self._page, compact=compact)
            else:
                print(aligned(columns, clean), flush=True)

    def page(self, draw: Callable[[], None]) -> None:
        """Let `draw` print, and show all that it prints at once, on a terminal's cleared screen."""
        with self._lock:
            self._wipe()
            self._page = io.StringIO()
            try:
                draw()
                text = self._page.getvalue()
            finally:
                self._page = None
            print(f"\x1b[H\x1b[J{text}", end="", flush=True)

    @property
    def lost_stdout(self) -> bool:
        """Say whether writing to stdout has failed, so that what is printed there is dropped."""
        raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
        return isinstance(raw, _Stdout) and raw.failed

    @property
    def height(self) -> int | None:
        """Return how many lines the terminal has; None where nobody watches."""
        return shutil.get_terminal_size().lines if self.is_terminal else None

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question; anything but yes is a no.

        Raises:
            UsageProblem: nobody is there to answer (no terminal, or JSON mode).
        """
        if self.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageProblem(
                f"not done, as nobody is at a terminal to answer: {question}",
                "add --yes when that is what you want",
            )
        with self._lock:
            self._wipe()
            print(f"{one_line(question)} [y/N] ", end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().strip().lower() in {"y", "yes"}

    def failure(self, error: PmrError) -> None:
        """Report an error: what and what next on stderr, or one JSON object on stdout."""
        if self.json:
            self._write(
                {
                    "error": {
                        "kind": type(error).__name__,
                        "message": error.message,
                        "hint": error.hint,
                        "code": getattr(error, "code", ""),
                        "exit_code": int(error.exit_code),
                    }
                }
            )
            return
        self.note(f"error: {_one_line(error.message)}")
        if error.hint:
            self.note(f"  next: {_one_line(error.hint)}")

    def _write(self, value: object, indent: int | None = None) -> None:
        with self._lock:
            self._wipe()
            sys.stdout.writelines(json_pieces(value, indent))
            print(flush=True)

    def _wipe(self) -> None:
        """Take a drawn progress line away, so that other text starts on a clean line."""
        if self._redraws and self._progress:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._progress = ""


class Aside(Output):
    """The voice of what is done beside a command's own work: all of it goes to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.is_terminal = self._redraws

    def line(self, text: str) -> None:
        """Say a line of data."""
        self.note(text)

    def raw(self, data: bytes) -> None:
        """Write bytes to stderr as they are."""
        with self._lock:
            self._wipe()
            sys.stderr.flush()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text: columns two spaces apart, no trailing blanks."""
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(len(cells) for cells in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _draw(
    columns: Sequence[str], rows: Sequence[Sequence[str]], page: TextIO | None, *, compact: bool
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=page, force_terminal=True if page else None)
    table = Table(box=None if compact else SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="ellipsis" if compact else "fold")
    if compact:
        rows = _fitting(columns, rows, console.width)
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=compact) for cell in row))
    console.print(table)


def terminal_width() -> int:
    """Return how many characters a line of the terminal has."""
    return shutil.get_terminal_size().columns


def fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int
) -> tuple[list[str], list[list[str]]]:
    """Return a table that fits: without some columns, then with shorter cells.

    The first column keeps its cells whole: they are what a person types next.
    """
    lines = [list(columns), *(list(row) for row in rows)]

    def widths() -> list[int]:
        return [max(map(len, cells)) for cells in zip(*lines, strict=True)]

    def excess() -> int:
        now = widths()
        return sum(now) + _BETWEEN * (len(now) - 1) + _EDGES - width

    for name in spare:
        if excess() <= 0:
            break
        at = lines[0].index(name)
        for line in lines:
            del line[at]
    while (over := excess()) > 0:
        now = widths()
        at = max(range(1, len(now)), key=now.__getitem__, default=0)
        room = max(now[at] - over, _LEAST_CELL, len(lines[0][at]))
        if at == 0 or room >= now[at]:
            break
        for line in lines:
            line[at] = line[at] if len(line[at]) <= room else f"{line[at][: room - 1]}…"
    return lines[0], lines[1:]


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[Sequence[str]]:
    """Return rows whose last cells are cut so that they fit, as far as the other columns let."""
    others = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][:-1]
    room = max(width - sum(one + 2 for one in others), len(columns[-1]), 8)
    return [
        [*row[:-1], row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 1]}…"] for row in rows
    ]

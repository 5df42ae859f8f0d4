"""Everything that the program prints goes through here: data to stdout, the rest to stderr."""

from __future__ import annotations

import dataclasses
import io
import json as json_format
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING

from poormanray.errors import PmrError, UsageProblem

if TYPE_CHECKING:
    from typing import TextIO

    from poormanray.waiting import OutageReport

# Tags and logs come from elsewhere; none of these may reach a terminal: it would obey them, or
# show what follows in another order. Lone surrogates stand for bytes of names that are not UTF-8:
# no stream can encode them.
_UNSEEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
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
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, compact: bool = False
    ) -> None:
        """Print a table on stdout, in text mode only: drawn on a terminal, aligned text else.

        A compact one takes a terminal's line for each row: its last column ends where that does.
        """
        if self.json:
            return
        clean = [[one_line(cell) for cell in row] for row in rows]
        with self._lock:
            self._wipe()
            if self.is_terminal:
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


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[Sequence[str]]:
    """Return rows whose last cells are cut so that they fit, as far as the other columns let."""
    others = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][:-1]
    room = max(width - sum(one + 2 for one in others), len(columns[-1]), 8)
    return [
        [*row[:-1], row[-1] if len(row[-1]) <= room else f"{row[-1][: room - 1]}…"] for row in rows
    ]

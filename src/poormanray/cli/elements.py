"""What `pmr map` goes over, and the command that each element gets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from poormanray.cli.inputs import Program, read_file, script_file
from poormanray.entries import (
    fill,
    has_place,
    json_entries,
    line_entries,
    parse_array,
)
from poormanray.errors import UsageProblem
from poormanray.manifest import Task
from poormanray.shell import command_script, words_script

T = TypeVar("T")
U = TypeVar("U")

# GNU parallel's word between a command and what it is for.
MARK = ":::"
# An entry may be a whole JSON document; a name is for tables.
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Elements:
    """What is mapped over: each entry with the id of its task, and how many run at once (0: all).

    `numbers` says that the entries are an array's ids, which a command need not name.
    """

    entries: tuple[tuple[int, str], ...]
    at_once: int = 0
    numbers: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """The words of the command line that say what to map over; at most one of them is given."""

    array: str | None = None
    each_line: str | None = None
    from_json: str | None = None

    def read(self, words: Sequence[str]) -> tuple[Elements | None, tuple[str, ...]]:
        """Return what is mapped over, if that was said, and the words before `:::`.

        Raises:
            UsageProblem: more than one was said, one cannot be read, or there is nothing in it.
        """
        before, listed = _split(words)
        sources = (self.array, self.each_line, self.from_json, listed)
        given = sum(source is not None for source in sources)
        if given > 1:
            raise UsageProblem(
                "say in one way what to map over: --array, --each-line, --from-json or :::",
                "pmr map --help",
            )
        if not given:
            return None, before
        elements = self._elements(listed)
        if not elements.entries:
            raise UsageProblem("there is nothing to map over: no entries", "check what was given")
        return elements, before

    def _elements(self, listed: tuple[str, ...] | None) -> Elements:
        if self.array is not None:
            array = _checked("--array", parse_array, self.array)
            return Elements(tuple((i, str(i)) for i in array.ids), array.at_once, numbers=True)
        if self.each_line is not None:
            return _numbered(_checked("--each-line", line_entries, _content(self.each_line)))
        if self.from_json is not None:
            return _numbered(_checked("--from-json", json_entries, _content(self.from_json)))
        return _numbered(listed or ())


def _numbered(entries: Sequence[str]) -> Elements:
    return Elements(tuple(enumerate(entries)))


def _split(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the words before `:::`, and those after it (None without it)."""
    if MARK not in words:
        return tuple(words), None
    at = words.index(MARK)
    if MARK in words[at + 1 :]:
        raise UsageProblem(f"{MARK} stands there twice", "give one list of entries")
    return tuple(words[:at]), tuple(words[at + 1 :])


def _checked(option: str, parse: Callable[[T], U], given: T) -> U:
    try:
        return parse(given)
    except ValueError as error:
        raise UsageProblem(f"{option}: {error}", "pmr map --help shows the forms") from error


def _content(word: str) -> bytes:
    return sys.stdin.buffer.read() if word == "-" else read_file(Path(word))


def program(
    elements: Elements, *, command: str | None, script: str | None, words: Sequence[str]
) -> Program:
    """Return the tasks of a map over entries, and their scripts, equal ones once.

    A command without a place for the entry gets it as its last word, as with GNU parallel; an
    array's id it does not get, for that is in the environment. A script is the same for all.

    Raises:
        UsageProblem: the command was not said in exactly one way.
    """
    if len([one for one in (command, script, words) if one]) != 1:
        raise UsageProblem(
            "say in one way what to run for each: -c 'COMMAND {}', -s FILE, or -- COMMAND {}",
            "pmr map --help",
        )
    make = _maker(elements, command, script, words)
    scripts: dict[bytes, int] = {}
    tasks = []
    for index, (number, entry) in enumerate(elements.entries):
        which = scripts.setdefault(make(entry, index), len(scripts))
        tasks.append(Task(number, _name(entry), which, entry))
    return Program(tuple(scripts), tuple(tasks))


def _maker(
    elements: Elements, command: str | None, script: str | None, words: Sequence[str]
) -> Callable[[str, int], bytes]:
    """Return what makes the script of an entry and its place in the row."""
    if script:
        same = script_file(script)
        return lambda _entry, _index: same
    if command:
        template = command if elements.numbers or has_place(command) else f"{command} {{}}"
        return lambda entry, index: command_script(fill(template, entry, index))
    row = list(words)
    if not elements.numbers and not any(map(has_place, row)):
        row.append("{}")
    return lambda entry, index: words_script([fill(word, entry, index, str) for word in row])


def _name(entry: str) -> str:
    return entry if len(entry) <= LONGEST_NAME else entry[: LONGEST_NAME - 1] + "…"

"""What `pmr map` goes over, and the command that each element gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from poormanray.cli.inputs import (
    LONGEST_ARGUMENT_BYTES,
    Program,
    Say,
    check_stdin,
    read_file,
    script_file,
)
from poormanray.entries import Template, json_entries, line_changes, line_entries, parse_array
from poormanray.errors import UsageProblem
from poormanray.manifest import Task
from poormanray.shell import command_script, portable_script
from poormanray.templates import command_template, words_template

T = TypeVar("T")
U = TypeVar("U")

# GNU parallel's word between a command and what it is for.
MARK = ":::"
# Other marks of GNU parallel, and what to type instead.
_OTHER_MARKS = {
    "::::": "--each-line FILE maps over the lines of a file",
    ":::+": "map over lines that hold both (--each-line FILE), and let the task split $PMR_ENTRY",
    "::::+": "map over lines that hold both: paste FILE1 FILE2 | pmr map --each-line -",
}
LONGEST_ENTRY_BYTES = LONGEST_ARGUMENT_BYTES - len("PMR_ENTRY=")
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

    def read(self, words: Sequence[str], say: Say) -> tuple[Elements | None, tuple[str, ...]]:
        """Return what is mapped over, if that was said, and the words before `:::`.

        `say` is called with a line for all in a file that is no part of an entry.

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
        elements = self._elements(listed, say)
        if not elements.entries:
            raise UsageProblem("there is nothing to map over: no entries", "check what was given")
        return elements, before

    def _elements(self, listed: tuple[str, ...] | None, say: Say) -> Elements:
        if self.array is not None:
            array = _checked("--array", parse_array, self.array)
            return Elements(tuple((i, str(i)) for i in array.ids), array.at_once, numbers=True)
        if self.each_line is not None:
            data = _content(self.each_line)
            entries = _checked("--each-line", line_entries, data)
            for change in line_changes(data):
                say(f"--each-line {self.each_line}: {change}")
            return _numbered(entries)
        if self.from_json is not None:
            return _numbered(_checked("--from-json", json_entries, _content(self.from_json)))
        return _numbered(listed or ())


def _numbered(entries: Sequence[str]) -> Elements:
    return Elements(tuple(enumerate(entries)))


def _split(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the words before `:::`, and those after it (None without it).

    Raises:
        UsageProblem: there are two lists, or another of GNU parallel's marks.
    """
    for word in words:
        if word in _OTHER_MARKS:
            raise UsageProblem(f"{word} is not supported", _OTHER_MARKS[word])
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
    elements: Elements,
    say: Say,
    *,
    command: str | None,
    script: str | None,
    words: Sequence[str],
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
    template = _template(elements, command, words)
    if template is not None:
        check_stdin(template.shown("x", 0), say)
    same = script_file(script, say) if script else b""
    scripts: dict[bytes, int] = {}
    tasks = []
    for index, (number, entry) in enumerate(elements.entries):
        _check_length(entry, index, template)
        made = same if template is None else _script(template, elements, index)
        which = scripts.setdefault(made, len(scripts))
        tasks.append(Task(number, _name(entry), which, entry))
    places = {task.number: index for index, task in enumerate(tasks)}

    def shown(task: Task) -> str:
        return template.shown(task.entry or "", places[task.number]) if template else ""

    return Program(tuple(scripts), tuple(tasks), shown if template else None)


def _template(elements: Elements, command: str | None, words: Sequence[str]) -> Template | None:
    if command:
        return command_template(command, numbers=elements.numbers)
    return words_template(words, numbers=elements.numbers) if words else None


def _script(template: Template, elements: Elements, index: int) -> bytes:
    """Return what the task of an entry runs: the same for all, as the entry is in a variable."""
    # The ids of an array are any numbers; else a task's id is the entry's place from 0.
    number = str(index + 1) if elements.numbers else "$((PMR_TASK_ID + 1))"
    text = template.text(number)
    return portable_script(text) if template.portable else command_script(text)


def _check_length(entry: str, index: int, template: Template | None) -> None:
    """Refuse an entry that no variable can hold, or no argument of the program.

    Raises:
        UsageProblem: it is too long.
    """
    size = len(os.fsencode(entry))
    if size > LONGEST_ENTRY_BYTES:
        what, most = f"has {size:,} bytes: a task's variable", LONGEST_ENTRY_BYTES
    elif size > LONGEST_ENTRY_BYTES // 8 and template and template.words:
        size, most = template.longest_word(entry), LONGEST_ARGUMENT_BYTES
        what = f"makes an argument of {size:,} bytes: one"
    else:
        return
    if size > most:
        raise UsageProblem(
            f"entry {index + 1} {what} holds at most {most:,}",
            "write it to a file, send that with --files (or put it where the instances can read "
            "it), and map over the names of files",
        )


def _name(entry: str) -> str:
    return entry if len(entry) <= LONGEST_NAME else entry[: LONGEST_NAME - 1] + "…"

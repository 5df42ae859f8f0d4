"""Where an entry gets to within a command: by variables, arguments and input. Pure.

What happens inside another program, or by way of a file, is not followed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from poormanray.bash_syntax import (
    A_RESULT,
    PLAIN_FILE,
    Command,
    Reader,
    Word,
    echoes,
    leading,
    refused,
    refused_name,
    whole_number,
    writes_entry,
)

# What takes names of variables: bash runs what stands in the brackets of one.
NAMING = {"read", "unset", "mapfile", "readarray", "getopts"}
DECLARING = {"declare", "typeset", "local", "export", "readonly"}
_NAME_TEST = re.compile("-[vR]")
NAMING_OPTIONS = {
    **dict.fromkeys(("[[", "[", "test"), _NAME_TEST),
    "printf": re.compile("-v"),
    "wait": re.compile("-[a-z]*p"),
}
NUMBER_TESTS = {"-eq", "-ne", "-lt", "-le", "-gt", "-ge"}
COUNTING = re.compile(r"-[A-Za-z]*[in][A-Za-z]*")
# Bash calculates with what these are given, or expands it, or runs it.
_EVALUATED = {
    *("RANDOM", "SRANDOM", "SECONDS", "OPTIND", "HISTCMD", "LINENO", "EPOCHSECONDS", "BASHPID"),
    # Not ENV, which only an interactive sh expands: it is the name of many a program's setting.
    *("PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND", "BASH_ENV"),
}
_DEFAULT_TARGETS = {"read": "REPLY", "mapfile": "MAPFILE", "readarray": "MAPFILE"}
# The values of a task's, or a function's, arguments.
_POSITIONAL = frozenset("123456789@*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(?:\[[^\]]*\])?\+?=")
_GIVEN_A_DEFAULT = re.compile(r"\$\{([A-Za-z_]\w*):?=([^}]*)\}")
_IN_QUOTES = re.compile(r"\"[^\"'\\]* [^\"'\\]*\"")
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"")
_INPUT = re.compile(r"/dev/(stdin|fd/.*)|/proc/(self|\$\$)/fd/.*", re.DOTALL)


def programs(command: Command) -> Iterator[Sequence[Word]]:
    """Yield the words of a command from each one on that bash may take for the program."""
    words: Sequence[Word] = command.program
    while words:
        yield words
        if words[0].text in ("command", "builtin"):
            words = list(itertools.dropwhile(lambda one: one.text.startswith("-"), words[1:]))
        elif words[0].vanishes:
            words = words[1:]
        else:
            return


def named_words(words: Sequence[Word]) -> Iterator[Word]:
    """Yield the words that a command may take for a variable's name, behind an option for one."""
    option = NAMING_OPTIONS.get(words[0].base)
    for at, word in enumerate(words):
        if option and option.fullmatch(word.text):
            yield from leading(words[at + 1 :])


def _is_name(text: str) -> bool:
    return text in _POSITIONAL or _NAME.fullmatch(text) is not None


def names_input(word: Word) -> bool:
    """Say whether a word is the name of what the command reads as an open file."""
    return _INPUT.fullmatch(word.text.replace(A_RESULT, "$$")) is not None


def _split(names: frozenset[str]) -> tuple[str, str]:
    """Return patterns of the names of variables, and of arguments."""
    arguments = "".join(sorted(names & _POSITIONAL))
    return "|".join(
        sorted(names - _POSITIONAL)
    ) or "(?!)", f"[{arguments}]" if arguments else "(?!)"


def _used(names: frozenset[str]) -> re.Pattern[str]:
    """Match the names of variables whose values are used: not where one is only given a value."""
    plain, argument = _split(names)
    return re.compile(
        rf"\b(?<!\$\{{#)({plain})\b(?!=(?!=))|(?:(?<=\$)|(?<=\$\{{)|(?<=\$\{{!))({argument})"
    )


def _expanded(names: frozenset[str]) -> re.Pattern[str]:
    """Match `$x` and `${x…}`, but neither its length nor its value in quotes for a shell."""
    plain, argument = _split(names)
    name = rf"(?:(?:{plain})\b|{argument})"
    return re.compile(rf"\$(?:{name}|\{{!?{name}(?!@Q)[^}}]*\}})")


@dataclass(frozen=True)
class Flow:
    """What of a command holds an entry, as far as its text shows."""

    reader: Reader

    @cached_property
    def holders(self) -> frozenset[str]:
        """The variables that an entry is given to, or the name of such a one."""
        found: frozenset[str] = frozenset()
        while more := frozenset(filter(_is_name, self._given(found))) - found:
            found |= more
        return found

    def expands(self, start: int, end: int, holders: frozenset[str] | None = None) -> bool:
        """Say whether a stretch of the text has the value of a variable that holds an entry."""
        names = self.holders if holders is None else holders
        return bool(names) and _expanded(names).search(self.reader.text, start, end) is not None

    def requoted(self, source: str) -> str | None:
        """Return text with those values quoted once more for a shell, None where it has none."""
        if not self.holders:
            return None
        text, found = _expanded(self.holders).subn(lambda one: f'$(printf %q "{one[0]}")', source)
        return text if found else None

    def _takes(self, word: Word, holders: frozenset[str]) -> bool:
        return word.has_place or self.expands(word.start, word.end, holders)

    def _given(self, holders: frozenset[str]) -> Iterator[str]:
        """Yield the variables that get an entry if these hold one."""
        # `let y` evaluates what y holds, and so x where that is "x".
        names = _used(holders)
        for name, value in _GIVEN_A_DEFAULT.findall(self.reader.text):
            if names.search(value):
                yield name
        for command in self.reader.commands:
            for word in command.words:
                if named := _ASSIGNED.match(word.text):
                    value = self.reader.text[word.start : word.end].partition("=")[2]
                    if word.has_place or names.search(value):
                        yield named[1]
        yield from self._given_otherwise(holders)

    def _given_otherwise(self, holders: frozenset[str]) -> Iterator[str]:
        """Yield those that get one by a command, not by an assignment."""
        fed = any(self.writes(one, holders) for one in self.reader.commands)
        for command in self.reader.commands:
            for words in programs(command):
                yield from self._given_by(words, holders, fed=fed)

    @property
    def _counting(self) -> set[str]:
        """The variables whose values bash calculates when they get one."""
        found: set[str] = set()
        for words in (one for each in self.reader.commands for one in programs(each)):
            texts = [one.text for one in words]
            if words[0].base in DECLARING and any(map(COUNTING.fullmatch, texts)):
                found.update(re.split(r"[+=\[]", text)[0] for text in texts[1:])
        return found

    def _given_by(
        self, words: Sequence[Word], holders: frozenset[str], *, fed: bool
    ) -> Iterator[str]:
        name, texts = words[0].text, [one.text for one in words]
        taken = any(self._takes(one, holders) for one in words[1:])
        if name in ("for", "select"):
            if taken or ("in" not in texts[2:3] and holders & _POSITIONAL):
                yield from texts[1:2]
        elif name in NAMING and (fed or holders & _POSITIONAL):
            yield from (text for text in texts[1:] if _NAME.fullmatch(text))
            yield _DEFAULT_TARGETS.get(name, "OPTARG")
        elif name == "printf" and taken and texts[1:2] == ["-v"]:
            yield from texts[2:3]
        elif taken and (name == "set" or name in self.reader.functions):
            yield from _POSITIONAL

    def writes(self, command: Command, holders: frozenset[str] | None = None) -> bool:
        """Say whether a command prints an entry, or is fed with text that holds one."""
        names = self.holders if holders is None else holders
        if writes_entry(command):
            return True
        printed = [
            (one.start, one.end)
            for one in command.words
            if echoes(command) or PLAIN_FILE in one.text
        ]
        return any(self.expands(start, end, names) for start, end in (*command.given, *printed))

    def is_read(self, command: Command, *, surely: bool = False) -> bool:
        """Say whether an entry may be in what a command reads as its stdin.

        What it is given by what it stands in counts too, unless it is to be `surely` so.
        """
        anywhere = not surely and any(map(self.writes, self.reader.commands))
        if command.redirected:
            # What stands in `<(…)` reads the same input.
            inner = any(self.reader.text.startswith("<(", start) for start, _ in command.given)
            return self.writes(command) or (anywhere and (command.duplicates or inner))
        one: Command | None = command
        while one is not None:
            if one.fed or (one is not command and self.writes(one)):
                return True
            if one is not command and (one.ended or not one.words):
                return anywhere
            if one.left is None:
                return one is command and anywhere
            one = one.left
        return False

    def judge(self) -> None:
        """Refuse what bash itself evaluates though an entry is in it.

        Raises:
            UsageProblem: an entry is in a variable that bash calculates with and nothing sees to
                it that it is a number, or that it expands, or that is a command.
        """
        text = self.reader.text
        if self._counting & set(self._given_otherwise(self.holders)):
            raise refused_name()
        for name in sorted(self.holders & _EVALUATED):
            line = re.sub(rf"\b{name}\b", name.lower(), text)
            raise refused(f"{name}, which bash evaluates", line)
        for start, end in (*self.reader.arithmetic, *self._calculated()) if self.holders else ():
            unchecked = {one for one in self.holders if whole_number("", one) not in text[:start]}
            found = _used(frozenset(unchecked)).search(text, start, end) if unchecked else None
            if found:
                at, apart = self._before(start)
                line = text[:at].rstrip(" ") + "; " if apart else text[:at]
                name = next(filter(None, found.groups()))
                line += whole_number("", name) + text[at:]
                raise refused("a variable that bash calculates with", line)

    def judge_command_word(self, word: Word) -> None:
        """Refuse a word that bash splits into a program and its arguments, with an entry in it.

        Raises:
            UsageProblem: it is one.
        """
        source = self.reader.text[word.start : word.end]
        made = "$(" in source or "`" in source
        if made:
            held = word.has_place or self.expands(word.start, word.end)
            held = held and source[:1] != '"'
        else:
            held = bool(self.holders) and bool(
                _expanded(self.holders).search(_QUOTED.sub("", source))
            )
        if held:
            raise refused("words that bash splits into a command", self._unsplit(word, source))

    def _unsplit(self, word: Word, source: str) -> str:
        """Return the command with this word in quotes, or as an array where it has text."""
        text = self.reader.text
        whole = [(one.start, one.end) for each in self.reader.commands for one in each.words]
        for start, end in whole:
            name, _, value = text[start:end].partition("=")
            # A function may use what is only given behind it.
            used = source in (f"${name}", f"${{{name}}}")
            if used and end <= word.start and _IN_QUOTES.fullmatch(value):
                line = (
                    f'{text[:start]}{name}=({value[1:-1]}){text[end : word.start]}"${{{name}[@]}}"'
                )
                return line + text[word.end :]
        return f'{text[: word.start]}"{source}"{text[word.end :]}'

    def _calculated(self) -> Iterator[tuple[int, int]]:
        """Yield where words stand that a command calculates with, or takes for a name."""
        for words in (one for each in self.reader.commands for one in programs(each)):
            name = words[0].base
            texts = [one.text for one in words]
            if name == "let":
                yield words[0].end, words[-1].end
            for one, other in itertools.pairwise(words):
                numbers = name == "[[" and {one.text, other.text} & NUMBER_TESTS
                if numbers:
                    yield one.start, other.end
            yield from (
                (one.start, one.end) for one in named_words(words) if not _NAME.fullmatch(one.text)
            )
            if name in NAMING:
                yield from ((one.start, one.end) for one in words[1:] if A_RESULT in one.text)
            if name in DECLARING:
                counts = any(map(COUNTING.fullmatch, texts))
                results = [one for one in words[1:] if counts or A_RESULT in one.text.split("=")[0]]
                yield from ((one.start, one.end) for one in results)

    def _before(self, at: int) -> tuple[int, bool]:
        """Return where the command begins that this belongs to, and whether assignments precede."""
        text = self.reader.text
        within = [
            command
            for command in self.reader.commands
            if command.words
            and command.words[0].start <= at
            # What is calculated in `for ((` is no word.
            and (at <= command.words[-1].end or not text[command.words[-1].end : at].strip())
        ]
        if not within:
            return at, False
        words = max(within, key=lambda one: one.words[0].start)
        program = words.program
        if not program:
            return words.words[0].start, False
        return program[0].start, program[0] is not words.words[0]

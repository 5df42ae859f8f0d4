"""A command line as bash reads it: its commands, their words, and where placeholders stand."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poormanray.entries import ENTRY, TOKEN, Place, Quoting
from poormanray.errors import UsageProblem

# What a word comes to, as far as the text tells: each begins with NUL, which no argument can hold.
AN_ENTRY, A_RESULT, QUOTED_ENTRY = "\0{", "\0$", "\0q"
# What another command prints, as a file: with an entry, and without one.
A_FILE, PLAIN_FILE = "\0p", "\0f"


@dataclass(slots=True)
class Word:
    """A word of a command: its value, where it stands, and whether nothing of it is quoted.

    `vanishes`: it can come to no word at all, as a variable without a value, or an empty list.
    """

    start: int
    end: int = 0
    text: str = ""
    bare: bool = True
    vanishes: bool = False

    @property
    def base(self) -> str:
        """Return the last part of it, where it is a path."""
        return posixpath.basename(self.text)

    @property
    def has_place(self) -> bool:
        """Say whether an entry goes into it."""
        return AN_ENTRY in self.text


@dataclass(slots=True)
class Command:
    """A simple command: its words, and what it reads as its stdin.

    `given`: where text for it stands; `fed`: with an entry in it. `duplicates`: its stdin is
    another open file.
    """

    words: list[Word] = field(default_factory=list)
    ended: bool = False
    fed: bool = False
    given: list[tuple[int, int]] = field(default_factory=list)
    redirected: bool = False
    duplicates: bool = False
    left: Command | None = None

    @property
    def program(self) -> list[Word]:
        """Return the words after assignments."""
        at = 0
        while at < len(self.words) and _ASSIGNMENT.match(self.words[at].text):
            at += 1
        return self.words[at:]


_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\[[^\]]*\])?\+?=")
_REDIRECT = re.compile(r"<<<|<<-?|<>|>>|>\||[<>]&|&>>|&>|<|>")
_OPENERS = {"if", "then", "elif", "else", "while", "until", "do", "!", "{", "time", "coproc"}
_CLOSERS = {"fi", "done", "esac", "}"}
_BLANK = " \t"
_META = " \t\n;&|<>()"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_DESCRIPTOR = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(slots=True)
class _Here:
    """A here-document whose text has not come yet."""

    word: str
    quoted: bool
    tabs: bool
    command: Command
    at: tuple[int, int]


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"\n|;;&|;;|;&|&&|\|\||\|&|[;&|]")
_FUNCTION = re.compile(r"[ \t]*\)")
_ODD_BACKSLASHES = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_WITH_DEFAULT = re.compile(r"\$\{!?\w+(?:\[[^\]]*\])?:?[-=+?]")
# An element of an array, a part of a value, or the value of the variable that another one names.
_CALCULATING = re.compile(r"\$\{(?:!|#?\w+(?=\[|:(?![-=+?])))")
_ECHOING = {"echo", "printf", "yes", "basename", "dirname", "realpath", "readlink", "seq", "expr"}
_FILE_READING = {"cat", "zcat", "tac", "head", "tail"}


class Reader:
    """Reads a command line of bash, and finds what its placeholders stand in.

    It is as exact as that needs, and refuses what it cannot read: a placeholder in it might
    stand anywhere.
    """

    def __init__(self, text: str, *, added: bool = False) -> None:
        self.text = text
        self.parts: list[str | Place] = []
        self.commands: list[Command] = []
        self.places: list[tuple[int, int, Place]] = []
        # Where bash calculates, and so evaluates the values of variables once more.
        self.arithmetic: list[tuple[int, int]] = []
        self.functions: set[str] = set()
        self._added = added
        self._at = self._copied = 0
        self._end = len(text)
        self._here: list[_Here] = []

    def read(self) -> tuple[str | Place, ...]:
        """Return the command's text and its placeholders.

        Raises:
            UsageProblem: a placeholder stands where its entry would be more than data.
        """
        try:
            self._list("")
        except RecursionError as error:
            raise UsageProblem(
                "the command cannot be read: it is nested too deeply",
                "put it into a script, which finds the entry in PMR_ENTRY: -s FILE",
            ) from error
        if self._here:
            raise self._open("a here-document")
        if self._added and not self._takes_entry():
            raise UsageProblem(
                "the command does not say where its entry goes, and cannot take it as a last word",
                "write {} where the entry goes",
            )
        self._flush(self._end)
        return tuple(self.parts)

    def _takes_entry(self) -> bool:
        last = self.commands[-1] if self.commands else Command()
        words = last.program
        return len(words) > 1 and not last.ended and words[-1].text == AN_ENTRY

    # The text: what is copied as it is, and what is not.

    def _flush(self, upto: int) -> None:
        if upto > self._copied:
            self.parts.append(self.text[self._copied : upto])
        self._copied = upto

    def _token(self, word: Word | None, quoting: Quoting) -> bool:
        """Take a placeholder, or a literal one, if there is one here."""
        token = TOKEN.match(self.text, self._at, self._end)
        if token is None or not (token["place"] or token["literal"] or token["go"]):
            return False
        self._flush(token.start())
        self._at = self._copied = token.end()
        if token["place"]:
            place = Place(token["kind"], quoting)
            self.parts.append(place)
            self.places.append((token.start(), token.end(), place))
            value = AN_ENTRY
        else:
            value = token["literal"] or token["go"]
            self.parts.append(f"'{value}'" if quoting is Quoting.NONE else value)
        if word is not None:
            word.text += value
        return True

    def _verbatim(self, start: int, end: int) -> str:
        """Go on after a stretch of text without placeholders; write out literal ones in it."""
        for token in TOKEN.finditer(self.text, start, end):
            if value := token["literal"] or token["go"]:
                self._flush(token.start())
                self.parts.append(value)
                self._copied = token.end()
        self._at = end
        return self.text[start:end]

    def _calculates(self, start: int, end: int) -> str:
        """Go on after a stretch of text in which bash calculates."""
        self.arithmetic.append((start, end))
        return self._verbatim(start, end)

    def _place_in(self, start: int, end: int) -> re.Match[str] | None:
        for token in TOKEN.finditer(self.text, start, end):
            if token["place"]:
                return token
        return None

    def _char(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self.text[at] if at < self._end else ""

    def _open(self, what: str) -> UsageProblem:
        return UsageProblem(
            f"the command cannot be read: {what} is not closed",
            'close it; or write "$PMR_ENTRY" where the entry goes, instead of {}',
        )

    # Lists of commands.

    def _list(self, closer: str) -> list[Command]:
        """Read commands up to the closing parenthesis, or to the end; return them."""
        began = len(self.commands)
        cases: list[str] = []
        command = self._new()
        while char := self._char():
            if char == ")" and not (cases and cases[-1] == "pattern"):
                if not closer:
                    raise self._open("a ( that its ) belongs to")
                self._at += 1
                return self.commands[began:]
            if char in _BLANK or self.text.startswith("\\\n", self._at):
                self._at += 1 if char in _BLANK else 2
            elif char == "#":
                self._comment()
            else:
                command = self._item(command, cases)
        if closer or cases:
            raise self._open("a (" if closer else "a case")
        return self.commands[began:]

    def _item(self, command: Command, cases: list[str]) -> Command:
        """Read an operator, a redirection, a parenthesis or a word; return the command after it."""
        char = self._char()
        if char == ")":
            # It ends a pattern of a `case`.
            self._at += 1
            cases[-1] = "body"
            return self._new()
        if char in "\n;&|" and not self.text.startswith("&>", self._at):
            return self._operator(command, cases)
        if char == "(":
            return self._parenthesis(command, cases)
        if char in "<>&" and self._char(1) != "(":
            self._redirect(command)
            return command
        return self._next_word(command, cases)

    def _new(self, left: Command | None = None) -> Command:
        command = Command(left=left)
        self.commands.append(command)
        return command

    def _operator(self, command: Command, cases: list[str]) -> Command:
        char = self._char()
        found = _OPERATOR.match(self.text, self._at)
        self._at += len(found[0]) if found else 1
        if char == "\n":
            self._documents()
        if cases and cases[-1] == "pattern":
            return self._new()
        if cases and found and found[0] in (";;", ";&", ";;&"):
            cases[-1] = "pattern"
        return self._new(command if found and found[0] in ("|", "|&") else None)

    def _comment(self) -> None:
        end = self.text.find("\n", self._at, self._end)
        end = self._end if end < 0 else end
        if self._place_in(self._at, end):
            rest = (self.text[: self._at].rstrip(_BLANK) + self.text[end:]).removesuffix("\n")
            raise refused("a comment", rest)
        self._at = end

    def _parenthesis(self, command: Command, cases: list[str]) -> Command:
        words = command.words
        if cases and cases[-1] == "pattern":
            self._at += 1
            return command
        if self._char(1) == "(" and (not words or words[-1].text == "for"):
            start, end = self._at, self._arithmetic_end(self._at + 2)
            if end:
                self._check_arithmetic(start, end)
                self._calculates(start, end)
                command.ended = True
                return command
        self._at += 1
        found = _FUNCTION.match(self.text, self._at) if len(words) == 1 else None
        if found:
            # A function: its name is no command, what follows is.
            self._at = found.end()
            self.functions.add(words[0].text)
            words.clear()
            return command
        self._list(")")
        command.ended = True
        return command

    def _next_word(self, command: Command, cases: list[str]) -> Command:
        word = self._word(assigns=not command.program)
        if self._char() in ("<", ">") and _DESCRIPTOR.fullmatch(self.text[word.start : word.end]):
            return command
        state = cases[-1] if cases else ""
        first = word.bare and not command.program
        if word.bare and state == "word" and word.text == "in":
            cases[-1] = "pattern"
            return self._new()
        if first and cases and word.text == "esac":
            cases.pop()
            command.ended = True
        elif state != "pattern" and not (first and self._keyword(word, command, cases)):
            command.words.append(word)
            if [one.text for one in command.words[:1]] == ["function"] and command.words[1:]:
                # The name of a function: what follows is a command.
                self.functions.add(word.text)
                command.words.clear()
        return command

    def _keyword(self, word: Word, command: Command, cases: list[str]) -> bool:
        if command.words:
            return False
        if word.text == "case":
            cases.append("word")
        elif word.text == "[[":
            self._conditional(command, word)
        elif word.text in _CLOSERS:
            command.ended = True
        elif word.text not in _OPENERS:
            return False
        return True

    def _conditional(self, command: Command, first: Word) -> None:
        """Read `[[ … ]]`, in which parentheses, < and > are no more than characters."""
        command.words.append(first)
        while True:
            if not self._char():
                raise self._open("a [[")
            if self._char() in _META and self.text[self._at : self._at + 2] not in ("<(", ">("):
                self._at += 1
                continue
            word = self._word()
            command.words.append(word)
            if word.bare and word.text == "]]":
                break
        command.ended = True

    # Redirections.

    def _redirect(self, command: Command) -> None:
        found = _REDIRECT.match(self.text, self._at)
        self._at += len(found[0]) if found else 1
        kind = found[0] if found else ""
        while self._char() and self._char() in _BLANK:
            self._at += 1
        before = len(self.places)
        start = self._at
        word = self._word()
        if kind.startswith("<"):
            command.redirected = True
            command.duplicates = command.duplicates or kind == "<&"
            command.given.append((start, self._at))
        if kind in ("<<<", "<"):
            mark = AN_ENTRY if kind == "<<<" else A_FILE
            command.fed = command.fed or mark in word.text
        elif kind in ("<<", "<<-"):
            if len(self.places) > before:
                raise UsageProblem(
                    "a placeholder cannot be the end mark of a here-document",
                    "write a plain word there, such as <<END",
                )
            raw = self.text[start : self._at]
            quoted = any(mark in raw for mark in "'\"\\")
            at = (start, self._at)
            self._here.append(_Here(word.text, quoted, kind == "<<-", command, at))

    def _documents(self) -> None:
        """Read the here-documents that begin with this line."""
        waiting, self._here = self._here, []
        for here in waiting:
            start, end, after = self._extent(here)
            if here.quoted:
                if self._place_in(start, end):
                    raise refused(
                        "a quoted here-document", self._unquoted(here, start, end), fed=True
                    )
                self._verbatim(start, end)
            else:
                before, limit, self._end = len(self.places), self._end, end
                self._at = start
                while self._at < end:
                    self._expanding(Word(self._at), Quoting.HERE)
                self._end = limit
                here.command.given.append((start, end))
                here.command.fed = here.command.fed or len(self.places) > before
            self._at = after

    def _extent(self, here: _Here) -> tuple[int, int, int]:
        """Return where a here-document begins and ends, and where the command goes on."""
        start = at = self._at
        while at < self._end:
            end = self.text.find("\n", at, self._end)
            end = self._end if end < 0 else end
            line = self.text[at:end]
            if (line.lstrip("\t") if here.tabs else line) == here.word:
                return start, at, min(end + 1, self._end) if end < self._end else end
            # A backslash at the end of a line joins it to the next one.
            while not here.quoted and _ODD_BACKSLASHES.search(line) and end < self._end:
                at = end + 1
                end = self.text.find("\n", at, self._end)
                end = self._end if end < 0 else end
                line = self.text[at:end]
            at = end + 1
        raise self._open("a here-document")

    def _unquoted(self, here: _Here, start: int, end: int) -> str:
        """Return the command with an unquoted here-document that says the same."""
        body = re.sub(r"[\\$`]", r"\\\g<0>", self.text[start:end])
        head = self.text[: here.at[0]] + here.word + self.text[here.at[1] : start]
        return head + body + self.text[end:]

    # Words.

    def _word(self, *, assigns: bool = False) -> Word:
        """Read a word; one that `assigns` may begin with the name of a variable."""
        word = Word(self._at)
        while char := self._char():
            if assigns and char == "[" and _IDENTIFIER.fullmatch(word.text):
                word.text += self._brackets()
            process = char in "<>" and self._char(1) == "("
            if process or (char == "(" and self._inner(word)):
                self._substitution(word, process=char in "<>")
            elif char in _META:
                break
            elif char == "\\":
                word.bare = False
                word.text += "" if self._char(1) == "\n" else self._char(1)
                self._at = min(self._at + 2, self._end)
            elif char in "'\"":
                word.bare = False
                self._at += 1
                (self._single if char == "'" else self._double)(word)
            elif not self._token(word, Quoting.NONE):
                self._expand_or_copy(word, Quoting.NONE)
        word.end = self._at
        source = self.text[word.start : word.end]
        # In quotes a list is no word where it is empty.
        unquoted = source[:1] not in ("'", '"') or "@" in source
        word.vanishes = unquoted and bool(source) and not word.text.replace(A_RESULT, "")
        return word

    def _brackets(self) -> str:
        """Go on after the brackets of an array, which bash reads as one, whatever they hold."""
        start = self._at
        end = self._closed(start + 1, "[", Quoting.NONE)
        if self._place_in(start, end):
            raise refused_name()
        return self._calculates(start, end)

    def _inner(self, word: Word) -> bool:
        """Say whether a parenthesis is a part of a word: of an array, or a pattern."""
        raw = self.text[word.start : self._at]
        return bool(re.fullmatch(r"[A-Za-z_]\w*\+?=", raw)) or raw[-1:] in tuple("@?+*!")

    def _substitution(self, word: Word, *, process: bool = False) -> None:
        """Read what stands in parentheses within a word."""
        self._at += 2 if process else 1
        if process:
            inner = self._list(")")
            word.text += A_FILE if any(map(writes_entry, inner)) else PLAIN_FILE
            return
        while self._char() != ")":
            if not self._char():
                raise self._open("a (")
            if self._char() in " \t\n|":
                self._at += 1
            elif self._char() == "(":
                self._substitution(word)
            elif self._char() == "[":
                word.text += self._brackets()
            else:
                one = self._word()
                if one.end == one.start:
                    raise self._open("a (")
                word.text += one.text + " "
        self._at += 1

    def _single(self, word: Word) -> None:
        while (char := self._char()) != "'":
            if not char:
                raise self._open("a '")
            if not self._token(word, Quoting.SINGLE):
                word.text += char
                self._at += 1
        self._at += 1

    def _double(self, word: Word) -> None:
        while (char := self._char()) != '"':
            if not char:
                raise self._open('a "')
            self._expanding(word, Quoting.DOUBLE)
        self._at += 1

    def _expanding(self, word: Word, quoting: Quoting) -> None:
        """Read one item of double quotes, or of a here-document, in which variables have values."""
        if self._char() == "\\":
            special = "$`\\\n" + ('"' if quoting is Quoting.DOUBLE else "")
            if self._char(1) and self._char(1) in special:
                word.text += self._char(1).strip("\n")
                self._at += 2
                return
            self._at += 1
            word.text += "\\"
            if self._char() == "{":
                # The backslash stays one before the `$` that may follow it.
                self._flush(self._at)
                self.parts.append("\\")
        elif not self._token(word, quoting):
            self._expand_or_copy(word, quoting)

    def _expand_or_copy(self, word: Word, quoting: Quoting) -> None:
        char = self._char()
        if char == "$":
            self._dollar(word, quoting)
        elif char == "`":
            self._backticks(word)
        else:
            word.text += char
            self._at += 1

    def _dollar(self, word: Word, quoting: Quoting) -> None:
        after = self._char(1)
        if after == "(":
            self._command_substitution(word)
            return
        if after in ("{", "[") or (after == "'" and quoting is Quoting.NONE):
            self._special(word, after, quoting)
            return
        found = _NAME.match(self.text, self._at + 1, self._end)
        if found:
            self._at = found.end()
            word.text += A_RESULT
        else:
            # Also `$"…"`, which are double quotes.
            word.text += "" if after == '"' and quoting is Quoting.NONE else "$"
            self._at += 1

    def _command_substitution(self, word: Word) -> None:
        start = self._at
        if self._char(2) == "(" and (end := self._arithmetic_end(start + 3)):
            self._check_arithmetic(start, end)
            self._calculates(start, end)
            word.text += A_RESULT
            return
        before = len(self.places)
        self._at += 2
        inner = [one for one in self._list(")") if one.words]
        if len(self.places) == before or all(map(reads_file, inner)):
            word.text += A_RESULT
        else:
            word.text += QUOTED_ENTRY if all(map(quotes_entry, inner)) else AN_ENTRY

    def _special(self, word: Word, opener: str, quoting: Quoting) -> None:
        """Read `${…}`, `$[…]` or `$'…'`, in which an entry cannot be put as data."""
        start = self._at
        end = self._closed(start + 2, opener, quoting)
        if self._place_in(start + 1, end):
            if opener == "{":
                raise refused("${…}", self._with_variable(start, end, quoting))
            if opener == "[":
                self._check_arithmetic(start, end)
            text = TOKEN.sub(lambda t: f"'{t[0]}$'" if t["place"] else t[0], self.text[start:end])
            raise refused("$'…'", self.text[:start] + text + self.text[end:])
        word.bare = word.bare and opener != "'"
        raw = self.text[start:end]
        if opener == "[":
            self.arithmetic.append((start, end))
        elif opener == "{" and (found := _CALCULATING.match(raw)):
            self.arithmetic.append((start + found.end(), end))
        elif opener == "{" and raw.endswith("@P}"):
            self.arithmetic.append((start, end))
        if opener == "{":
            self._at = start + 2
            self._within(end, lambda: self._value(end - 1, quoting))
        else:
            self._verbatim(start, end)
        word.text += raw[2:-1] if opener == "'" else A_RESULT

    def _within(self, end: int, read: Callable[[], object]) -> None:
        """Go on at `end`, after reading the commands in what ends there with one closing character.

        Where that cannot be read, a variable in it counts as one that is calculated with.
        """
        start, copied, limit = self._at, self._copied, self._end
        counts = [(one, len(one)) for one in (self.parts, self.commands, self.arithmetic)]
        waiting, self._here = self._here, []
        self._end = end - 1
        try:
            read()
            unread = self._at != self._end or bool(self._here)
        except UsageProblem:
            unread = True
        self._end, self._here = limit, waiting
        if unread:
            for one, count in counts:
                del one[count:]
            self._at, self._copied = start, copied
            self._verbatim(start, end)
            self.arithmetic.append((start, end))
        self._at = end

    def _value(self, end: int, quoting: Quoting) -> None:
        """Read what stands in `${…}`."""
        while self._at < end:
            char = self._char()
            if char == "\\":
                self._at = min(self._at + 2, end)
            elif char == '"' or (char == "'" and quoting is Quoting.NONE):
                self._at += 1
                (self._single if char == "'" else self._double)(Word(self._at))
            elif not self._token(None, Quoting.DOUBLE):
                self._expand_or_copy(Word(self._at), quoting)

    def _closed(self, at: int, opener: str, quoting: Quoting) -> int:
        """Return where `${`, `$[`, `$'` or a plain parenthesis ends, from what follows it."""
        closer = {"{": "}", "[": "]", "'": "'", "(": ")"}[opener]
        while at < self._end:
            char = self.text[at]
            if char == closer:
                return at + 1
            if char == "\\":
                at += 2
            elif opener == char == "[":
                at = self._closed(at + 1, "[", quoting)
            elif opener != "'" and (inner := self._inside(at, quoting)):
                at = inner
            else:
                at += 1
        raise self._open(f"a {'(' if opener == '(' else '$' + opener}")

    def _inside(self, at: int, quoting: Quoting) -> int:
        """Return where the quotes or brackets end that begin here, 0 if none do."""
        two = self.text[at : at + 2]
        if two in ("${", "$(", "$["):
            return self._closed(at + 2, two[1], quoting)
        if two == "$'" and quoting is Quoting.NONE:
            return self._closed(at + 2, "'", quoting)
        if two[0] == "(":
            return self._closed(at + 1, "(", quoting)
        if two[0] == "'" and quoting is Quoting.NONE:
            return self.text.find("'", at + 1, self._end) + 1 or self._end
        if two[0] in '"`':
            at += 1
            while at < self._end and self.text[at] != two[0]:
                inner = self._inside(at, Quoting.DOUBLE) if self.text[at] == "$" else 0
                at = inner or at + (2 if self.text[at] == "\\" else 1)
            return at + 1
        return 0

    def _with_variable(self, start: int, end: int, quoting: Quoting) -> str:
        """Return the command with a variable in `${…}` instead of a placeholder."""
        region = self.text[start:end]
        if region == "${#}":
            return self.text[:start] + "$#" + self.text[end:]
        token = self._place_in(start + 1, end)
        assert token is not None  # noqa: S101 (the caller has found it)
        name, setting = (ENTRY, "") if not token["kind"] else ("x", f"x={token[0]}; ")
        if token.start() == start + 2:
            value = name
        elif re.search(r"[:\[]\s*\Z", self.text[start : token.start()]):
            setting, value = whole_number(setting, name), f"${name}"
        else:
            plain = quoting is not Quoting.NONE and _WITH_DEFAULT.match(region)
            value = f"${name}" if plain else f'"${name}"'
        return setting + self.text[: token.start()] + value + self.text[token.end() :]

    def _arithmetic_end(self, at: int) -> int:
        """Return where `((` ends if it is arithmetic: with `))`; `at` is after it, 0 if not."""
        try:
            inner = self._closed(at, "(", Quoting.NONE)
        except UsageProblem:
            return 0
        return inner + 1 if self.text[inner : inner + 1] == ")" else 0

    def _check_arithmetic(self, start: int, end: int) -> None:
        if token := self._place_in(start, end):
            name, setting = (ENTRY, "") if not token["kind"] else ("x", f"x={token[0]}; ")
            text = TOKEN.sub(
                lambda one: name if one[0] == token[0] else one[0], self.text[start:end]
            )
            line = self.text[:start] + text + self.text[end:]
            raise refused("arithmetic", whole_number(setting, name) + line)

    def _backticks(self, word: Word) -> None:
        start = at = self._at + 1
        while at < self._end and self.text[at] != "`":
            at += 2 if self.text[at] == "\\" else 1
        if at >= self._end:
            raise self._open("a `")
        if self._place_in(start, at):
            inner = re.sub(r"\\([\\`$])", r"\1", self.text[start:at])
            line = f"{self.text[: start - 1]}$({inner}){self.text[at + 1 :]}"
            raise refused("backticks", line)
        if "\\" in self.text[start:at]:
            # What bash makes of it first is not read.
            self.arithmetic.append((start, at))
            self._verbatim(start, at + 1)
        else:
            self._at = start
            self._within(at + 1, lambda: self._list(""))
        word.text += A_RESULT


def leading(words: Sequence[Word]) -> list[Word]:
    """Return the words that may be the first one, as those before them can come to nothing."""
    solid = next((at for at, one in enumerate(words) if not one.vanishes), len(words))
    return list(words[: solid + 1])


def whole_number(setting: str, name: str) -> str:
    """Return what refuses an entry that is no number, to stand before arithmetic on it."""
    return f"{setting}[[ ${name} =~ ^(0|-?[1-9][0-9]*)$ ]] || exit 2; "


def refused(where: str, line: str, *, fed: bool = False) -> UsageProblem:
    """Return the refusal of a placeholder, with the command to type instead."""
    why = "bash fills nothing in there" if fed or where == "a comment" else ""
    why = why or "its entry would be code there"
    return UsageProblem(f"a placeholder stands in {where}: {why}", f"-c {shlex.quote(line)}")


def writes_entry(command: Command) -> bool:
    """Say whether a command prints an entry itself, or is fed with text that holds one."""
    files = any(A_FILE in one.text for one in command.words)
    return command.fed or files or (echoes(command) and any(w.has_place for w in command.words))


def echoes(command: Command) -> bool:
    """Say whether a command prints its own words."""
    words = command.program
    if words and words[0].base == "env":
        # Without a program it prints its environment.
        return all(one.has_place or "=" in one.text for one in words[1:])
    return bool(words) and words[0].base in _ECHOING


def quotes_entry(command: Command) -> bool:
    """Say whether a command prints its words quoted for a shell: `printf %q`."""
    return [one.text.strip() for one in command.program[:2]] == ["printf", "%q"]


def reads_file(command: Command) -> bool:
    """Say whether a command prints what is in files only, which an entry may name."""
    words = command.program
    assigned = command.words[: len(command.words) - len(words)]
    if command.fed or any(one.has_place for one in assigned):
        return False
    return not any(one.has_place for one in words) or words[0].base in _FILE_READING


def refused_name() -> UsageProblem:
    """Return the refusal of an entry as a variable's name: bash runs what its brackets hold."""
    return refused("the name of a variable, or its brackets", "x={}; printf '%s\\n' \"$x\"")

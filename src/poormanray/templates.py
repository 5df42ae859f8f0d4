"""What a map runs for each entry: a command in which the entry is data, whatever it holds. Pure."""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poormanray.bash_flow import (
    COUNTING,
    DECLARING,
    NAMING,
    NUMBER_TESTS,
    Flow,
    named_words,
    names_input,
    programs,
)
from poormanray.bash_syntax import (
    A_FILE,
    A_RESULT,
    AN_ENTRY,
    PLAIN_FILE,
    QUOTED_ENTRY,
    Command,
    Reader,
    Word,
    leading,
    refused,
    refused_name,
    whole_number,
)
from poormanray.entries import ENTRY, PLACEHOLDERS, TOKEN, Place, Quoting, Template
from poormanray.errors import UsageProblem


def command_template(command: str, *, numbers: bool) -> Template:
    """Read a command line of bash; where it names no place for the entry, that is its last word.

    With `numbers` the entries are an array's ids, which a command need not take.

    Raises:
        UsageProblem: a placeholder stands where its entry would be more than data.
    """
    _refuse_foreign(command)
    if _names_entry(command):
        return Template(_read(command))
    if numbers or ENTRY in command:
        return Template((command,))
    return Template(_read(f"{command} {{}}", added=True))


def _names_entry(text: str) -> bool:
    """Say whether a text has a placeholder, or a literal one: then it is complete."""
    return TOKEN.search(text) is not None


def _read(command: str, *, added: bool = False) -> tuple[str | Place, ...]:
    reader = Reader(command, added=added)
    parts = reader.read()
    flow = Flow(reader)
    for one in reader.commands:
        _judge(flow, one)
    flow.judge()
    return parts


def words_template(words: Sequence[str], *, numbers: bool) -> Template:
    """Read a program's name and arguments; an entry without a place is one more argument.

    Raises:
        UsageProblem: a placeholder stands where its entry would be more than data.
    """
    row = list(words)
    for word in row:
        _refuse_foreign(word)
    if not numbers and not any(_names_entry(word) or ENTRY in word for word in row):
        row.append("{}")
    # In quotes no word is one of bash's own; `exec` runs it as a program in any case.
    _read(" ".join("'" + word.replace("'", "'\\''") + "'" for word in row))
    parts: list[str | Place] = []
    for at, word in enumerate(row):
        parts += [" "] if at else []
        parts += _word_parts(word)
    return Template(tuple(parts), words=True)


def _word_parts(word: str) -> list[str | Place]:
    """Return a word for a shell, each literal part in quotes."""
    parts: list[str | Place] = []
    literal, at = "", 0
    for token in TOKEN.finditer(word):
        literal += word[at : token.start()] + (token["literal"] or token["go"] or "")
        at = token.end()
        if token["place"]:
            parts += [
                *([shlex.quote(literal)] if literal else []),
                Place(token["kind"], Quoting.NONE),
            ]
            literal = ""
    literal += word[at:]
    return [*parts, shlex.quote(literal)] if literal or not parts else parts


def _refuse_foreign(text: str) -> None:
    for token in TOKEN.finditer(text):
        if token["unclear"]:
            raise UsageProblem(
                "{{.}} may be a value of a Go template, or a literal {.}",
                "write {{{.}}} for the template's {{.}}",
            )
        if word := token["foreign"]:
            raise UsageProblem(
                f"{word} is no placeholder here: known are {PLACEHOLDERS}",
                f"write {{{word}}} for a literal {word}; to have parts of an entry, let the task's "
                "script split $PMR_ENTRY",
            )


# What other programs run. An entry in their program text would be code.


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """How a program is given the text that it runs, and a line that hands it an entry as data.

    `code` matches an option that has the text in the next word, or behind it (group 2); of a
    shell (`of_shell`) it only says that the first operand is the text. `first`: the first operand
    is, unless an option has named text or (`file`) a file of it. `valued` options take the next
    word. `fed`: without a program it reads one from its stdin. `anywhere`: its options may stand
    behind its operands.
    """

    code: re.Pattern[str]
    line: str
    of_shell: bool = False
    first: bool = False
    file: re.Pattern[str] | None = None
    valued: frozenset[str] = frozenset()
    fed: bool = True
    anywhere: bool = False


def _options(text: str) -> re.Pattern[str]:
    return re.compile(rf"({text})(.*)", re.DOTALL)


_SHELL = _Interpreter(
    _options(r"[-+][A-Za-z]*c[A-Za-z]*"),
    'sh -c \'printf "%s\\n" "$1"\' sh {}',
    of_shell=True,
    valued=frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"}),
)
_AWK = "awk 'BEGIN { print ENVIRON[\"PMR_ENTRY\"] }'"
_SHELLS = re.compile(r"r?(?:ba|da|k|pdk|mk|z|a|c|tc|fi)?sh")
_VERSIONED = re.compile(r"(python|pypy|perl|ruby|php|lua|node)[0-9.]*")
_OTHERS = {
    "python": _Interpreter(
        _options(r"-[A-Za-z]*?c"),
        "python3 -c 'import sys; print(sys.argv[1])' {}",
        file=_options("-m"),
        valued=frozenset({"-W", "-X", "-Q"}),
    ),
    "perl": _Interpreter(
        _options(r"-[A-Za-z0-9]*?[eE]"),
        "perl -e 'print \"$ARGV[0]\\n\"' -- {}",
        valued=frozenset({"-I"}),
    ),
    "ruby": _Interpreter(
        _options(r"-[A-Za-z0-9]*?e"), "ruby -e 'puts ARGV[0]' -- {}", valued=frozenset({"-I", "-r"})
    ),
    "php": _Interpreter(_options("-[rBRE]|--run=?"), "php -r 'echo $argv[1];' -- {}"),
    "lua": _Interpreter(_options("-e"), "lua -e 'print(os.getenv(\"PMR_ENTRY\"))'"),
    "node": _Interpreter(
        _options("-pe|-[ep]|--eval=?|--print=?"),
        "node -e 'console.log(process.argv[1])' -- {}",
        valued=frozenset({"-r", "--require"}),
    ),
    "Rscript": _Interpreter(_options("-e"), "Rscript -e 'cat(Sys.getenv(\"PMR_ENTRY\"))'"),
    "R": _Interpreter(_options("-e"), "Rscript -e 'cat(Sys.getenv(\"PMR_ENTRY\"))'"),
    "julia": _Interpreter(
        _options("-[eE]|--eval=?|--print=?"), "julia -e 'println(ENV[\"PMR_ENTRY\"])'"
    ),
    "octave": _Interpreter(_options("--eval=?"), "octave --eval 'disp(getenv(\"PMR_ENTRY\"))'"),
    "matlab": _Interpreter(
        _options("-batch|-r"), "matlab -batch 'disp(getenv(\"PMR_ENTRY\"))'", fed=False
    ),
    "expect": _Interpreter(_options("-c"), "expect -c 'puts $env(PMR_ENTRY)'"),
    "awk": _Interpreter(
        _options("-e|--source=?"),
        _AWK,
        first=True,
        file=_options("-[fE]|--file=?|--exec=?"),
        valued=frozenset({"-F", "-v"}),
        fed=False,
    ),
    "sed": _Interpreter(
        _options("-[nErsuz]*e|--expression=?"),
        _AWK,
        first=True,
        file=_options("-[nErsuz]*f|--file=?"),
        valued=frozenset({"-l"}),
        fed=False,
    ),
    "su": _Interpreter(
        _options("-[A-Za-z]*?c|--command=?"),
        'su USER -c "cat $(printf %q {})"',
        anywhere=True,
    ),
    "flock": _Interpreter(
        _options("-c|--command=?"), "flock FILE cat {}", fed=False, anywhere=True
    ),
}
_ALIASES = {
    **dict.fromkeys(("gawk", "mawk", "nawk"), "awk"),
    **dict.fromkeys(("gsed", "ssed"), "sed"),
    **dict.fromkeys(("runuser", "script", "sg"), "su"),
    "pypy": "python",
    "nodejs": "node",
    "luajit": "lua",
}
# Each word of these is run, or read once more as code.
_ALL_CODE = {
    *("eval", "trap", "let", "alias", "bind", "complete", "compgen"),
    *("ssh", "slogin", "rsh", "mosh", "watch", "parallel"),
}
# These run the command that follows among their words, wherever it begins.
_RUNNING = {
    *("sudo", "doas", "env", "nice", "nohup", "timeout", "time", "exec", "command", "builtin"),
    *("setsid", "stdbuf", "ionice", "chrt", "taskset", "numactl", "xargs", "find", "strace"),
    *("unshare", "nsenter", "chroot", "docker", "podman", "kubectl", "singularity", "apptainer"),
    *("srun", "mpirun", "mpiexec", "busybox", "screen", "tmux", "flock", "cgexec", "unbuffer"),
    *("systemd-run", "prlimit", "firejail", "conda", "uv", "poetry", "pipenv", "ltrace", "perf"),
}
# These are code as the first word only: among the words of another they are something's name.
_ALSO_A_NAME = {"script", "sg", "R", "let", "alias", "bind", "complete", "trap", "watch"}
_EXECUTING = re.compile(r"-(exec|ok)(dir)?")
# With one of these, an interpreter needs no program.
_NO_PROGRAM = {"--version", "--help", "-V", "-v", "-h", "version", "help"}
# What stands between such a command and the one that it runs: options, numbers, assignments.
_BEFORE_PROGRAM = re.compile(r"[-+]|[0-9.]+[smhd]?\Z|[A-Za-z_]\w*=")
# What xargs puts in place of what it reads.
_MARK = re.compile(r"-[IJ](.*)|-i(.+)|--replace=(.+)|(-i|--replace)", re.DOTALL)
_FILES = (A_FILE, PLAIN_FILE)
_SHELL_QUOTED = re.compile(r"\$\([ \t]*printf[ \t]+%q[ \t][^()]*\)")


def _interpreter(word: Word) -> _Interpreter | None:
    name = word.base
    if _SHELLS.fullmatch(name):
        return _SHELL
    if found := _VERSIONED.fullmatch(name):
        name = found[1]
    return _OTHERS.get(_ALIASES.get(name, name))


def _judge(flow: Flow, command: Command) -> None:
    """Refuse a command that would run an entry, or take it for more than data.

    Raises:
        UsageProblem: it would.
    """
    for word in command.words:
        if word.has_place and re.match(r"[A-Za-z_]\w*\[[^\]]*\0\{[^\]]*\]\+?=", word.text):
            raise refused_name()
    for words in programs(command):
        _judge_words(flow, command, words)


def _judge_words(flow: Flow, command: Command, words: Sequence[Word]) -> None:
    if words[0].bare and words[0].text == "[[":
        _judge_conditional(flow.reader, words)
        return
    if words[0].text in ("for", "select") and any(one.has_place for one in words[1:2]):
        raise refused_name()
    at = 0
    name = words[0].base
    if name in _RUNNING or name.startswith("-"):
        _judge_own_places(flow.reader, words)
        at = _inner_command(words)
        for one in leading([one for one in words[1:] if not _BEFORE_PROGRAM.match(one.text)]):
            flow.judge_command_word(one)
    flow.judge_command_word(words[0])
    if "xargs" in (one.base for one in words[:at]) and flow.is_read(command):
        _judge_xargs(words, at)
    _judge_program(flow, command, words[at:])


def _judge_xargs(words: Sequence[Word], at: int) -> None:
    """Refuse a command of xargs that would run an entry which xargs reads.

    Raises:
        UsageProblem: the text has xargs' mark in it, or is the last thing that it adds.
    """
    texts = [one.text for one in words]
    found = next(filter(None, map(_MARK.fullmatch, texts[:at])), None)
    known = _interpreter(words[at])
    code = _program_text(words[at + 1 :], known)[0] if known else list(words[at:])
    # What xargs adds stands behind the last word.
    asks = any(known.code.fullmatch(one.text) for one in leading(words[::-1])) if known else True
    last = asks or (known is not None and known.first and not code)
    mark = ""
    if found:
        given = found[1] or found[2] or found[3] or ("{}" if found[4] else "")
        mark = given or texts[texts.index(found[0]) + 1]
    if (mark in "".join(one.text for one in code)) if mark else last:
        line = known.line if known else _SHELL.line
        raise refused(f"program text that xargs hands to {words[at].base}", line)


def _inner_command(words: Sequence[Word]) -> int:
    """Return which of the words is run by the first one, if that runs code; else 0."""
    begins = 1
    if words[0].base == "find":
        texts = [one.text for one in words]
        begins = next(
            (at for at, text in enumerate(texts) if _EXECUTING.fullmatch(text)), len(words)
        )
    for at in range(begins, len(words)):
        name = words[at].base
        known = _interpreter(words[at]) is not None and name not in _ALSO_A_NAME
        if (known or name in _ALL_CODE - _ALSO_A_NAME) and words[at - 1].text not in (
            "-e",
            "--rsh",
        ):
            return at
    return 1 if words[0].text in ("command", "builtin") and words[1:] else 0


def _judge_own_places(reader: Reader, words: Sequence[Word]) -> None:
    """Refuse `find -exec CMD {} \\;` and `xargs -I{}`: that `{}` is theirs, and would be filled."""
    texts = [one.text for one in words]
    own: list[Word] = []
    if words[0].base == "find":
        begins = [at for at, text in enumerate(texts) if _EXECUTING.fullmatch(text)]
        own = [one for at in begins for one in _command_of(words[at:]) if one.text == AN_ENTRY]
    elif "xargs" in (posixpath.basename(text) for text in texts):
        marks = any(re.fullmatch(r"(-[Ii]|--replace=?)(\0\{)?", text) for text in texts)
        own = [one for one in words if one.has_place] if marks else []
    if own:
        line = _replaced(reader, own[0].start, own[-1].end, lambda place, _quoting: f"{{{place}}}")
        raise UsageProblem(
            f"{words[0].base} has a {{}} of its own, and a placeholder would take its place: "
            'write {{}} for that one, "$PMR_ENTRY" for the entry',
            f"-c {shlex.quote(line)}",
        )


def _command_of(words: Sequence[Word]) -> Sequence[Word]:
    """Return the words of a command for find, up to its end."""
    return list(itertools.takewhile(lambda one: one.text not in (";", "+"), words))


def _judge_program(flow: Flow, command: Command, words: Sequence[Word]) -> None:
    name, rest = words[0].base, words[1:]
    placed = [one for one in rest if one.has_place]
    if name in _ALL_CODE and placed:
        raise _refused_code(flow.reader, name, words, placed[0])
    if name in _ALL_CODE - {"let"}:
        _refuse_holders(flow, name, words, rest)
    if name in NAMING and placed:
        raise refused_name()
    if any(one.has_place for one in named_words(words)):
        raise refused_name()
    if name in DECLARING:
        _judge_declaration(flow.reader, words)
    known = _interpreter(words[0])
    if known is None and A_RESULT in words[0].text:
        # A program that only the instance knows, such as "$SHELL".
        known = _SHELL
    if known is not None:
        _judge_interpreter(flow, command, words, known)
    elif name in (".", "source") and rest:
        for one in leading(rest):
            _judge_sourced(flow, command, name, one)


def _judge_sourced(flow: Flow, command: Command, name: str, word: Word) -> None:
    made = PLAIN_FILE in word.text and flow.expands(word.start, word.end)
    if made or A_FILE in word.text or (names_input(word) and flow.is_read(command)):
        raise refused(f"program text of {name}", _SHELL.line)


def _refuse_holders(flow: Flow, name: str, words: Sequence[Word], code: Sequence[Word]) -> None:
    """Refuse program text that bash makes of a variable with an entry in it.

    Raises:
        UsageProblem: there is such text.
    """
    text = flow.reader.text
    for word in code if flow.holders else ():
        source = text[word.start : word.end]
        quoted = flow.requoted(_SHELL_QUOTED.sub("", source))
        # In single quotes it is the program itself that reads its own variable.
        made = any(mark in word.text for mark in (A_RESULT, PLAIN_FILE))
        if not made or quoted is None:
            continue
        known = _interpreter(words[0])
        line = known.line if known is not None and not known.of_shell else ""
        line = line or text[: word.start] + (flow.requoted(source) or source) + text[word.end :]
        raise refused(f"a variable that {name} runs", line)


def _judge_declaration(reader: Reader, words: Sequence[Word]) -> None:
    texts = [one.text for one in words[1:]]
    plain = all(re.fullmatch(r"-[rxgulp]+|--", text) for text in texts if text[:1] in ("-", "+"))
    for word in words[1:]:
        named = re.match(r"[A-Za-z_]\w*\+?=", word.text)
        if word.has_place and not (plain and named):
            raise refused_name()
    if any(COUNTING.fullmatch(text) for text in texts):
        names = {re.split(r"[+=]", text)[0] for text in texts}
        for other in (one for command in reader.commands for one in command.words):
            if other.has_place and re.split(r"[+=\[]", other.text)[0] in names:
                raise refused_name()


def _judge_conditional(reader: Reader, words: Sequence[Word]) -> None:
    for one, other in itertools.pairwise(words):
        pair = (one, other)
        if one.text in ("-v", "-R") and one.bare and other.has_place:
            raise refused_name()
        if any(p.bare and p.text in NUMBER_TESTS for p in pair) and any(p.has_place for p in pair):
            line = reader.text[: words[0].start] + reader.text[words[0].start :].replace(
                "[[", "[", 1
            ).replace("]]", "]", 1)
            raise refused("arithmetic", line)


def _judge_interpreter(
    flow: Flow, command: Command, words: Sequence[Word], known: _Interpreter
) -> None:
    code, reads_stdin = _program_text(words[1:], known)
    name = words[0].base.replace("\0$", "a shell")
    bad = (AN_ENTRY, A_FILE) if known.of_shell else (AN_ENTRY, A_FILE, QUOTED_ENTRY)
    for word in code:
        if any(mark in word.text for mark in bad):
            raise _refused_code(flow.reader, name, words, word)
    _refuse_holders(flow, name, words, code)
    # A shell whose own program is another one hands it the same stdin.
    inner = (Word(0, text=text) for word in code for text in re.findall(r"[\w./+-]+", word.text))
    reads_stdin = reads_stdin or (known.of_shell and any(map(_interpreter, inner)))
    # A program that only the instance knows need not be a shell.
    surely = A_RESULT in words[0].text
    if known.fed and reads_stdin and flow.is_read(command, surely=surely):
        raise refused(f"the program text that {name} reads", known.line)


@dataclass(slots=True)
class _Options:
    """What the options of an interpreter say; `at` is where its operands begin.

    `code` are words of program text. `asked`: a shell's first operand is one; `given`: the
    program is named.
    """

    code: list[Word] = field(default_factory=list)
    asked: bool = False
    given: bool = False
    from_stdin: bool = False
    at: int = 0

    def take(self, words: Sequence[Word], known: _Interpreter) -> None:
        """Take in the option at `at`, with its value where that is the next word."""
        text = words[self.at].text
        self.at += 1
        if known.of_shell:
            self.asked = self.asked or known.code.fullmatch(text) is not None
            self.from_stdin = self.from_stdin or re.fullmatch("-[A-Za-z]*s", text) is not None
        elif found := known.code.fullmatch(text):
            self.given = True
            at = self.at - 1 if found[2] else self.at
            self.code += words[at : at + 1] if found[2] else leading(words[at:])
            self.at = at + 1
        elif known.file and (found := known.file.fullmatch(text)):
            self.given = True
            self.at += 0 if found[2] else 1
        if text in known.valued:
            self.at += 1


def _is_option(word: Word) -> bool:
    """Say whether a word is an option, or may be some: a variable without quotes."""
    text = word.text
    unknown = text.startswith(A_RESULT) and word.bare and not word.has_place
    return (text[:1] in ("-", "+") and text != "-") or unknown


def _program_text(words: Sequence[Word], known: _Interpreter) -> tuple[list[Word], bool]:
    """Return which words of an interpreter are program text, and whether it reads some more."""
    options = _Options()
    operands: list[Word] = []
    while options.at < len(words):
        word = words[options.at]
        if _is_option(word) and word.text != "--":
            options.take(words, known)
        elif known.anywhere:
            operands.append(word)
            options.at += 1
        else:
            options.at += word.text == "--"
            operands = list(words[options.at :])
            break
    code = options.code
    if options.asked or (known.first and not options.given):
        code += leading(operands)
    elif known.of_shell:
        code += [one for one in leading(operands) if any(mark in one.text for mark in _FILES)]
    named = options.given or options.asked
    no_file = all(one.text == "-" or one.vanishes or names_input(one) for one in leading(operands))
    return code, not named and (options.from_stdin or no_file)


def idle_interpreter(command: str) -> str:
    """Return the interpreter that a command line is, if that would read its program from stdin.

    A task's stdin is empty: such a command does nothing, with success. "" where it is another
    command, or more than one.
    """
    reader = Reader(command)
    try:
        reader.read()
    except UsageProblem:
        return ""
    used = [one for one in reader.commands if one.words or one.ended]
    if len(used) != 1 or used[0].ended or used[0].redirected or not used[0].program:
        return ""
    words = used[0].program
    words = words[_inner_command(words) if words[0].base in _RUNNING else 0 :]
    known = _interpreter(words[0])
    if known is None or not known.fed or any(one.text in _NO_PROGRAM for one in words):
        return ""
    return words[0].base if _program_text(words[1:], known)[1] else ""


# What to type instead.


def _replaced(reader: Reader, start: int, end: int, put: Callable[[str, Quoting], str]) -> str:
    """Return the command with something else for the placeholders of a stretch."""
    text, at = "", 0
    for begins, ends, place in reader.places:
        if start <= begins < end:
            text += reader.text[at:begins] + put(reader.text[begins:ends], place.quoting)
            at = ends
    return text + reader.text[at:]


def _shell_quoted(place: str, quoting: Quoting) -> str:
    quote = {Quoting.NONE: '"', Quoting.SINGLE: "'\""}.get(quoting, "")
    return f"{quote}$(printf %q {place}){quote[::-1]}"


def _refused_code(reader: Reader, name: str, words: Sequence[Word], word: Word) -> UsageProblem:
    """Return the refusal of an entry that a program would run."""
    where = f"the words of {name}" if name in _ALL_CODE else f"program text of {name}"
    # A program that only the instance knows has been taken for a shell.
    known = _SHELL if A_RESULT in words[0].text else _interpreter(words[0])
    if name == "let":
        line = whole_number("", ENTRY) + _replaced(
            reader, words[0].start, words[-1].end, lambda _place, _quoting: ENTRY
        )
    elif name == "trap" or (known is not None and known.of_shell):
        line = _with_argument(reader, words, word, own=name == "trap")
    elif known is not None and name not in ("su", "runuser", "sg", "script"):
        line = known.line
    else:
        line = _replaced(reader, words[0].start, words[-1].end, _shell_quoted)
    return refused(f"{where} ({{{{}}}} is a literal {{}})", line)


def _with_argument(reader: Reader, words: Sequence[Word], word: Word, *, own: bool) -> str:
    """Return the command with the entry as an argument of its inner program, or a variable."""
    inner = word.text.replace(AN_ENTRY, "{}")
    plain = "\0" not in inner and {
        place.kind for start, end, place in reader.places if word.start <= start < word.end
    } == {""}
    if not plain:
        return _replaced(reader, word.start, word.end, _shell_quoted)
    try:
        parts = _read(inner)
    except UsageProblem:
        return _SHELL.line
    last = word is words[-1] and not own
    variable = "$1" if last else f"${ENTRY}"
    text = "".join(
        one if isinstance(one, str) else one.variable().replace(f"${{{ENTRY}}}", variable)
        for one in parts
    )
    shell = "sh" if A_RESULT in words[0].text else words[0].base
    argument = f" {shell} {{}}" if last else ""
    code = f"{shlex.quote(text)}{argument}"
    return reader.text[: word.start] + code + reader.text[word.end :]

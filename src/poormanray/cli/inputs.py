"""What a job is made of, read from the user's own machine: scripts, helper files, variables."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK

from poormanray.errors import UsageProblem
from poormanray.manifest import HelperFile, Task
from poormanray.shell import as_program
from poormanray.templates import idle_interpreter

# What is read into memory for one job; far more than can travel through SSM.
MOST_BYTES = 1 << 30
# Suffixes of what is no script of bash, whatever else it is.
_FOREIGN = re.compile(
    "md|rst|txt|csv|tsv|jsonl?|ndjson|ya?ml|toml|ini|cfg|conf|xml|html?|css|log|out|err|pdf|png|"
    "jpe?g|gif|svg|webp|mp[34]|wav|gz|bz2|xz|zst|zip|tar|tgz|whl|jar|parquet|feather|arrow|np[yz]|"
    "pkl|pt|safetensors|h5|hdf5|nc|mat|rds|sqlite|db|py[ci]?|ipynb|r|rmd|qmd|p[lm]|rb|lua|jl|m|"
    "[mc]?js|ts|php|sql|awk|sed|tcl|[ch]|cc|cpp|hpp|cu|rs|go|java|class|kt|scala|f(90)?|zsh|fish|"
    "t?csh|ps1|bat|cmd|tex|bib|lock|diff|patch|s?o|a|dylib|exe|dll"
)
_SHELL_SUFFIXES = ("sh", "bash")
_PAPERS = {
    *("readme", "license", "licence", "copying", "notice", "authors", "changelog"),
    *("makefile", "dockerfile"),
}
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_SHELL_LINE = re.compile(rb"#![ \t]*\S*?/(?:env[ \t]+(?:-\S+[ \t]+)*)?(?:ba|da|k|z)?sh\b")
_KINDS = (
    (S_ISFIFO, "a pipe"),
    (S_ISSOCK, "a socket"),
    (S_ISBLK, "a device"),
    (S_ISCHR, "a device"),
)
# So many files are named where many have the same fault.
_NAMED = 5
# Source: MAX_ARG_STRLEN of Linux, 131,072 with the NUL at its end, also for `NAME=value`.
LONGEST_ARGUMENT_BYTES = 131_072 - 1
Say = Callable[[str], None]
_BACKUPS = ("~", ".bak", ".orig", ".swp", ".swo", ".tmp", ".rej")


@dataclass(frozen=True, slots=True)
class Program:
    """Scripts, and the tasks that run them; `run` has none, as each instance is one.

    `shown` returns the command of a task with its entry in place, where the tasks have commands.
    """

    scripts: tuple[bytes, ...]
    tasks: tuple[Task, ...] = ()
    shown: Callable[[Task], str] | None = None


def is_script(path: Path, top: Path) -> bool:
    """Say whether a file of a directory is a script: not hidden, and no editor's backup."""
    parts = path.relative_to(top).parts
    if any(part.startswith(".") for part in parts):
        return False
    name = parts[-1]
    return not (name.endswith(_BACKUPS) or (name.startswith("#") and name.endswith("#")))


def collect_scripts(folders: Sequence[str], say: Say) -> Program:
    """Read the scripts of directories, sorted by name; a name is the path below its directory.

    `say` is called with a line for all that is left out or changed.

    Raises:
        UsageProblem: a directory is missing, unreadable or without scripts, two scripts have one
            name, or one is no script.
    """
    found: dict[str, tuple[Path, bytes]] = {}
    budget, checks = _Budget(), _Checks(say)
    for word in folders:
        if not word.strip():
            raise UsageProblem("the name of a directory is empty", "name each directory")
        top = Path(word)
        kind = _kind_of(top)
        if not S_ISDIR(kind):
            what = "is not a directory" if kind else "does not exist"
            raise UsageProblem(f"{word} {what}: map takes a directory of scripts", "check the path")
        paths = list(_files(top, is_script, checks.left_out))
        if not paths:
            raise UsageProblem(
                f"{word} has no scripts (hidden files and backups do not count)",
                "put one script for each task into it",
            )
        for path in paths:
            name = str(path.relative_to(top))
            if name in found:
                raise UsageProblem(
                    f"two scripts are named {name!r}: {found[name][0]} and {path}",
                    "rename one, or map over the folder that holds both",
                )
            found[name] = (path, checks.program(path, budget.read(path)))
    checks.tell()
    return Program(
        tuple(data for _, (_, data) in sorted(found.items())),
        tuple(Task(number, name, number) for number, name in enumerate(sorted(found))),
    )


def helper_files(paths: Sequence[str], say: Say) -> tuple[HelperFile, ...]:
    """Read the files and folders of `--files`; `say` is called with a line for what is left out.

    Raises:
        UsageProblem: one cannot be read or sent, or two would lie in the same place.
    """
    found: dict[str, HelperFile] = {}
    budget, checks = _Budget(), _Checks(say)
    for word in paths:
        top = Path(os.path.realpath(word))
        kind = _kind_of(top)
        if not kind:
            raise UsageProblem(f"--files: there is no {word}", "check the path")
        if not S_ISDIR(kind) and not S_ISREG(kind):
            raise UsageProblem(f"--files: {word} is neither a file nor a folder", "name a file")
        for path in _files(top, None, checks.left_out) if S_ISDIR(kind) else (top,):
            name = str(path.relative_to(top.parent))
            if name in found:
                raise UsageProblem(f"--files: two files would be {name}", "rename one of them")
            data = budget.read(path)
            checks.helper(path, data)
            found[name] = HelperFile(name, data, path.stat().st_mode & 0o755)
    checks.tell()
    return tuple(found.values())


def script_file(word: str, say: Say) -> bytes:
    """Read the executable of `-s`, and return its bytes, as the kernel can start them.

    A pipe is read to its end; `say` is called with a line for all that is changed.

    Raises:
        UsageProblem: it cannot be read, or is a folder, or no script.
    """
    path = Path(word)
    kind = _kind_of(path)
    if not kind:
        raise UsageProblem(f"-s: there is no file {word}", "check the path")
    if S_ISDIR(kind):
        raise UsageProblem(f"-s: {word} is a folder", "pmr map takes a folder of scripts")
    checks = _Checks(say)
    data = checks.program(path, _Budget().read(path))
    checks.tell()
    return data


def check_stdin(command: str, say: Say) -> None:
    """Refuse a command that could only read its program from stdin; name a stdin that is not sent.

    Raises:
        UsageProblem: the command would do nothing, and succeed.
    """
    if name := idle_interpreter(command):
        raise UsageProblem(
            f"{name} would read its program from stdin, and a task's stdin is empty: nothing would "
            "run",
            "pmr run -n NAME -s FILE runs a script; -s /dev/stdin takes it from a pipe",
        )
    if _stdin_has_content():
        say("stdin is not sent: a task's stdin is empty (--files FILE sends a file along)")


def _stdin_has_content() -> bool:
    """Say whether there is something in stdin that a user may want to have read."""
    try:
        kind = os.fstat(0).st_mode
        if S_ISREG(kind):
            return os.lseek(0, 0, os.SEEK_CUR) < os.fstat(0).st_size
        return S_ISFIFO(kind) and fcntl.ioctl(0, termios.FIONREAD, bytes(4)) != bytes(4)
    except OSError:
        return False


def environment(pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return `--env` as a mapping; names that are ours cannot be set.

    Raises:
        UsageProblem: a name begins with PMR_.
    """
    for key, value in pairs:
        if len(os.fsencode(f"{key}={value}")) > LONGEST_ARGUMENT_BYTES:
            raise UsageProblem(
                f"--env {key}: a variable of a task holds at most {LONGEST_ARGUMENT_BYTES:,} bytes",
                "send it in a file: --files",
            )
        if key.startswith("PMR_"):
            raise UsageProblem(f"--env {key}: names with PMR_ are poormanray's own", "rename it")
    return dict(pairs)


def read_file(path: Path) -> bytes:
    """Read a file of the user's; a pipe to its end.

    Raises:
        UsageProblem: it cannot be read, or is larger than what one job may have.
    """
    return _Budget().read(path)


class _Budget:
    """Reads files until they come to more than one job may have."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def read(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                data = file.read(self._left + 1)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._left -= len(data)
        if self._left < 0:
            raise UsageProblem(
                f"with {path} the job's files come to more than {MOST_BYTES >> 30} GiB",
                "put large inputs where the instances can read them",
            )
        return data


class _Checks:
    """Looks at what is to be sent: refuses what is no script, and says what is changed."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.left_out: dict[str, list[str]] = {}
        self._plain: list[str] = []

    def program(self, path: Path, data: bytes) -> bytes:
        """Return a script as the kernel can start it.

        Raises:
            UsageProblem: it is none, or its lines do not end as those of a script do.
        """
        if data.startswith(_UTF16_MARKS):
            raise UsageProblem(
                f"{path} is UTF-16: no shell reads that",
                f"iconv -f UTF-16 -t UTF-8 {shlex.quote(str(path))} > NEW-FILE",
            )
        if data.startswith(_UTF8_MARK):
            data = data.removeprefix(_UTF8_MARK)
            self._say(f"{path}: the byte order mark before its first line is left out")
        if not data.startswith(b"#!"):
            self._without_line(path, data)
        _check_line_ends(path, data)
        return as_program(data)

    def _without_line(self, path: Path, data: bytes) -> None:
        """Look at a file without a `#!` line: bash would run whatever it is."""
        if data.startswith(b"\x7fELF"):
            return
        why = _no_script(path, data)
        if why:
            raise UsageProblem(
                f"{path} {why}",
                "move it elsewhere; or, if it is a script, say who runs it in its first line, such "
                "as #!/bin/bash or #!/usr/bin/env python3",
            )
        if not data.strip():
            self._say(f"{path} is empty: its task does nothing")
        elif not _names_bash(path):
            self._plain.append(str(path))

    def helper(self, path: Path, data: bytes) -> None:
        """Look at a helper file: what is wrong with it as a script may still be right as data."""
        bare = data.removeprefix(_UTF8_MARK)
        first = bare.partition(b"\n")[0]
        if not bare.startswith(b"#!"):
            return
        if bare != data:
            self._say(
                f"{path}: the kernel does not start it, as a byte order mark is before its #!"
            )
        if first.endswith(b"\r"):
            self._say(f"{path}: the kernel does not start it, as its #! line ends in CR LF")

    def tell(self) -> None:
        """Say what was left out, and what bash runs as nobody else is named."""
        for why, paths in self.left_out.items():
            self._say(f"left out: {_listed(paths)} ({why})")
        if self._plain:
            self._say(f"no #! line, so bash runs it: {_listed(self._plain)}")


def _no_script(path: Path, data: bytes) -> str:
    """Return why a file without a `#!` line is no script of bash, "" where it may be one."""
    if b"\0" in data[:8192]:
        return "is neither a script nor a program of Linux"
    suffix = path.suffix[1:].lower()
    executable = bool(_kind_of(path) & 0o111)
    if _FOREIGN.fullmatch(suffix) or (
        path.stem.lower() in _PAPERS and not suffix and not executable
    ):
        return "has no #! line, and its name is no script's: bash would run it"
    return ""


def _names_bash(path: Path) -> bool:
    return path.suffix[1:] in _SHELL_SUFFIXES


def _check_line_ends(path: Path, data: bytes) -> None:
    """Refuse a script whose CR LF would make a riddle of `not found`.

    Raises:
        UsageProblem: it has such lines, and a shell or the kernel would read them.
    """
    first = data.partition(b"\n")[0]
    by_shell = not data.startswith((b"#!", b"\x7fELF")) or _SHELL_LINE.match(first)
    if (data.startswith(b"#!") and first.endswith(b"\r")) or (by_shell and b"\r\n" in data):
        raise UsageProblem(
            f"{path} has the line ends of Windows (CR LF), which no shell takes",
            f"sed -i 's/\\r$//' {shlex.quote(str(path))}",
        )


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more


def _files(
    top: Path, wanted: Callable[[Path, Path], bool] | None, left_out: dict[str, list[str]]
) -> Iterator[Path]:
    """Yield the wanted files below a folder, sorted; None: all of them.

    What is not wanted is noted in `left_out`, by its reason; what cannot be listed or sent is an
    error.
    """

    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    below: list[Path] = []
    for word, folders, names in os.walk(top, onerror=stop):
        here = Path(word)
        if not wanted and not folders and not names and here != top:
            left_out.setdefault("an empty folder", []).append(str(here))
        paths = {here / name: name for name in [*folders, *names]}
        for path in sorted(paths):
            if wanted and not wanted(path, top):
                left_out.setdefault("hidden, or a backup", []).append(str(path))
                del paths[path]
        folders[:] = [name for name in folders if here / name in paths]
        inner = {name for name in folders if not (here / name).is_symlink()}
        below += [path for path, name in paths.items() if name not in inner]
    for path in sorted(below):
        yield _sendable(path)


def _sendable(path: Path) -> Path:
    """Return the path of a regular file, or of a link to one.

    Raises:
        UsageProblem: it is something else.
    """
    kind = _kind_of(path)
    if S_ISREG(kind):
        return path
    if not kind:
        raise UsageProblem(f"{path} is a link that leads nowhere", "remove it, or mend it")
    if S_ISDIR(kind):
        raise UsageProblem(
            f"{path} is a link to a folder, which is not followed",
            "cp -rL FOLDER COPY makes a copy that has what its links lead to; or remove the link",
        )
    what = next((word for test, word in _KINDS if test(kind)), "no file")
    raise UsageProblem(f"{path} is {what}, which cannot be sent", "move it elsewhere")


def _kind_of(path: Path) -> int:
    """Return what a path leads to, as `stat` has it in the mode; 0 where there is nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageProblem:
    return UsageProblem(f"cannot read {path}: {error.strerror}", "check the path")

"""What a job is made of, read from the user's own machine: scripts, helper files, variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from poormanray.errors import UsageProblem
from poormanray.manifest import HelperFile, Task
from poormanray.shell import as_program

# What is read into memory for one job; far more than can travel through SSM.
MOST_BYTES = 1 << 30
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


def collect_scripts(folders: Sequence[str]) -> Program:
    """Read the scripts of directories, sorted by name; a name is the path below its directory.

    Raises:
        UsageProblem: a directory is missing, unreadable or without scripts, or two scripts have
            one name.
    """
    found: dict[str, tuple[Path, bytes]] = {}
    budget = _Budget()
    for word in folders:
        if not word.strip():
            raise UsageProblem("the name of a directory is empty", "name each directory")
        top = Path(word)
        kind = _kind_of(top)
        if not S_ISDIR(kind):
            what = "is not a directory" if kind else "does not exist"
            raise UsageProblem(f"{word} {what}: map takes a directory of scripts", "check the path")
        paths = [path for path in _regular_files(top) if is_script(path, top)]
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
            found[name] = (path, as_program(budget.read(path)))
    return Program(
        tuple(data for _, (_, data) in sorted(found.items())),
        tuple(Task(number, name, number) for number, name in enumerate(sorted(found))),
    )


def helper_files(paths: Sequence[str]) -> tuple[HelperFile, ...]:
    """Read the files and folders of `--files`.

    Raises:
        UsageProblem: one cannot be read, or two would lie in the same place.
    """
    found: dict[str, HelperFile] = {}
    budget = _Budget()
    for word in paths:
        top = Path(os.path.realpath(word))
        kind = _kind_of(top)
        if not kind:
            raise UsageProblem(f"--files: there is no {word}", "check the path")
        if not S_ISDIR(kind) and not S_ISREG(kind):
            raise UsageProblem(f"--files: {word} is neither a file nor a folder", "name a file")
        for path in _regular_files(top) if S_ISDIR(kind) else (top,):
            name = str(path.relative_to(top.parent))
            if name in found:
                raise UsageProblem(f"--files: two files would be {name}", "rename one of them")
            found[name] = HelperFile(name, budget.read(path), path.stat().st_mode & 0o755)
    return tuple(found.values())


def script_file(word: str) -> bytes:
    """Read the executable of `-s`, and return its bytes, as the kernel can start them.

    Raises:
        UsageProblem: it cannot be read, or is a folder. A pipe is read to its end.
    """
    path = Path(word)
    kind = _kind_of(path)
    if not kind:
        raise UsageProblem(f"-s: there is no file {word}", "check the path")
    if S_ISDIR(kind):
        raise UsageProblem(f"-s: {word} is a folder", "pmr map takes a folder of scripts")
    return as_program(_Budget().read(path))


def environment(pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return `--env` as a mapping; names that are ours cannot be set.

    Raises:
        UsageProblem: a name begins with PMR_.
    """
    for key, _ in pairs:
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


def _regular_files(top: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted; what cannot be listed is an error, not left out."""

    def stop(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    below = [
        Path(folder, name) for folder, _, names in os.walk(top, onerror=stop) for name in names
    ]
    for path in sorted(below):
        if S_ISREG(_kind_of(path)):
            yield path


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

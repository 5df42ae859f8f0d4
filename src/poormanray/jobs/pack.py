"""What is in a pack of outputs (shell/outputs.sh), and where it may go on this machine.

All of it is the word of a task's user: a path that leads out of its folder goes nowhere.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from poormanray.jobs.results import fresh

# Source: PATH_MAX and NAME_MAX of Linux.
LONGEST_PATH, LONGEST_NAME = 4096, 255
_HEAD = re.compile(rb"f ([0-9]{1,9})\.([0-9]{1,4}) ([0-7]{1,5}) ([1-9][0-9]{0,3}) ([0-9]{1,15})\n")
_LONGEST_HEAD = 60
_WHOLE, _CHANGED = b".\n", b"!\n"
_BLOCK_BYTES = 1 << 20
EXECUTABLE, PLAIN = 0o755, 0o644
# An instance packs some hundreds in a second, and no more than these (shell/outputs.sh).
MOST_FILES = 20_000
_IN_THE_WAY = {
    errno.EEXIST,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
}


class Readable(Protocol):
    """What can be read from its beginning to its end."""

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes; none at the end."""
        ...


class PackError(Exception):
    """A pack is damaged, or larger than it may be."""


class Changed(Exception):
    """A file changed, or something else came to its place, while it was packed."""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a pack; `content` has `size` bytes left to read before the next file comes."""

    task: int
    attempt: int
    name: bytes
    executable: bool
    size: int
    content: Readable

    @property
    def key(self) -> str:
        """Return the attempt that wrote it, as ledgers name it."""
        return f"{self.task}.{self.attempt}"

    def blocks(self) -> Iterator[bytes]:
        """Yield the content.

        Raises:
            Changed: that was not all of the file.
            PackError: it ends too soon.
        """
        left = self.size
        while left:
            block = _read(self.content, min(left, _BLOCK_BYTES))
            left -= len(block)
            yield block
        word = b"".join(_pieces(self.content, 2))
        if word not in (_WHOLE, _CHANGED):
            raise PackError("it is damaged")
        if word == _CHANGED:
            raise Changed


def packed_files(pack: IO[bytes], *, most: int) -> Iterator[PackedFile]:
    """Yield the files of a pack, at most `most` bytes of content together.

    Each has to be read to its end before the next.

    Raises:
        PackError: the pack is damaged, or has more in it.
    """
    count = 0
    with gzip.GzipFile(fileobj=pack) as content:
        while head := _line(content):
            found = _HEAD.fullmatch(head)
            if found is None:
                raise PackError("it is damaged")
            task, attempt, length, size = (int(found[n]) for n in (1, 2, 4, 5))
            most -= size
            count += 1
            if most < 0 or length > LONGEST_PATH or count > MOST_FILES:
                raise PackError("it holds more than it may")
            name = b"".join(_pieces(content, length))
            executable = bool(int(found[3], 8) & 0o100)
            yield PackedFile(task, attempt, name, executable, size, content)


def _line(content: gzip.GzipFile) -> bytes:
    try:
        return content.readline(_LONGEST_HEAD)
    except (EOFError, OSError, zlib.error) as error:
        raise PackError("it is damaged") from error


def _read(content: Readable, count: int) -> bytes:
    try:
        data = content.read(count)
    except (EOFError, OSError, zlib.error) as error:
        raise PackError("it is damaged") from error
    if not data:
        raise PackError("it ends too soon")
    return data


def _pieces(content: Readable, count: int) -> Iterator[bytes]:
    while count:
        data = _read(content, count)
        count -= len(data)
        yield data


def inner_path(name: bytes) -> tuple[str, ...] | None:
    """Return the steps of a path that stays below where it starts; None if it is no such path."""
    steps = name.split(b"/")
    if len(name) > LONGEST_PATH or b"\0" in name:
        return None
    if any(step in (b"", b".", b"..") or len(step) > LONGEST_NAME for step in steps):
        return None
    return tuple(os.fsdecode(step) for step in steps)


def checked_pattern(pattern: str) -> str:
    """Return a pattern for files below a task's folder of outputs.

    Raises:
        ValueError: it would lead out of there, or is none.
    """
    steps = pattern.split("/")
    if not pattern or "\0" in pattern or len(os.fsencode(pattern)) > LONGEST_PATH:
        raise ValueError("it is empty, too long, or holds a NUL byte")
    if pattern.startswith("/") or any(step in (".", "..", "") for step in steps):
        raise ValueError("it is to be a path below PMR_OUTPUT_DIR, such as '*.csv' or '**'")
    return pattern


@dataclass(slots=True)
class Store:
    """The folder for outputs, `<folder>/<task>/<path>`, and what was written into it."""

    folder: Path
    files: int = 0
    written_bytes: int = 0

    def take(self, pack: IO[bytes], keys: Collection[str], *, count: int, most: int) -> list[str]:
        """Write the files of a pack that are of these attempts; return why some were left out.

        `count` is how many the pack should have: those that could not be read there are missing.

        Raises:
            PackError: the pack is damaged, or has more than `most` bytes in it.
            OSError: this machine cannot write them.
        """
        left_out = []
        for file in packed_files(pack, most=most):
            count -= 1
            opened = self._open(file) if file.key in keys else ""
            try:
                if isinstance(opened, str):
                    for _ in file.blocks():
                        pass
                else:
                    self._fill(opened, file)
                    opened = ""
            except Changed:
                opened = "it changed while it was read"
            left_out += [f"task {file.task}: {file.name!r}: {opened}"] if opened else []
        if count > 0:
            left_out.append(f"{count} that the tasks' own user cannot read")
        return left_out

    def _open(self, file: PackedFile) -> Path | str:
        """Make an empty file in its place, or return why it cannot be there."""
        steps = inner_path(file.name)
        if steps is None:
            return "no path inside a folder"
        path = self.folder / str(file.task)
        try:
            for step in steps:
                # A link may lie there, and lead anywhere: nothing is written through one.
                if path.is_symlink():
                    return "a link lies in its way"
                path.mkdir(parents=True, exist_ok=True)
                path /= step
            mode = EXECUTABLE if file.executable else PLAIN
            os.close(os.open(fresh(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        except OSError as error:
            # What a task chose to name its files must not keep others from being written.
            if error.errno not in _IN_THE_WAY:
                raise
            return error.strerror or "it cannot be there"
        return path

    def _fill(self, path: Path, file: PackedFile) -> None:
        try:
            with path.open("wb") as target:
                for block in file.blocks():
                    target.write(block)
        except (Changed, OSError, PackError):
            # Part of a file would look like all of it.
            path.unlink(missing_ok=True)
            raise
        self.files += 1
        self.written_bytes += file.size

"""A host for tests, and what asks it."""

from __future__ import annotations

import itertools
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from poormanray.local.host import Ended, Execution, Host

ONE = "i-00000000000000001"
TWO = "i-00000000000000002"
_numbers = itertools.count()


@dataclass(slots=True)
class Running:
    """A script that was started, and its end."""

    ended: queue.SimpleQueue[Ended] = field(default_factory=queue.SimpleQueue)
    execution: Execution | None = None

    def wait(self, timeout_s: float = 30) -> Ended:
        """Return how it ended."""
        return self.ended.get(timeout=timeout_s)

    def kill(self) -> None:
        """Kill its process group."""
        assert self.execution is not None
        self.execution.kill()


@dataclass(frozen=True, slots=True)
class Guests:
    """A host with instances that run scripts."""

    host: Host
    folder: Path

    @property
    def nested(self) -> bool:
        """Whether instances are machines of their own."""
        return self.host.isolation == "namespaces"

    def start(
        self,
        script: str | bytes,
        *,
        on: str = ONE,
        timeout_s: float = 30,
        folder: str = "",
        command_id: str = "",
    ) -> Running:
        """Start a script, on an instance that is booted when it is not running."""
        self.host.boot(on, facts={"region": "eu-west-1"})
        running = Running()
        running.execution = self.host.execute(
            on,
            command_id=command_id or f"command-{next(_numbers)}",
            script=script if isinstance(script, bytes) else f"{script}\n".encode(),
            working_directory=folder,
            timeout_s=timeout_s,
            on_end=running.ended.put,
        )
        return running

    def run(self, script: str | bytes, *, on: str = ONE, folder: str = "") -> Ended:
        """Run a script to its end."""
        return self.start(script, on=on, folder=folder).wait()

    def says(self, script: str, *, on: str = ONE) -> str:
        """Return the output of a script that must succeed."""
        ended = self.run(script, on=on)
        assert ended.exit_code == 0, (ended.stdout + ended.stderr).decode()
        return ended.stdout.decode().strip()

    def path(self, name: str, *, on: str = ONE) -> Path:
        """Return where a file of an instance lies on this machine."""
        return self.folder / on / name


@contextmanager
def guests(folder: Path, *, hidden: tuple[Path, ...] = ()) -> Iterator[Guests]:
    """Run a host for the block; nothing of it may be left afterwards."""
    before = set(descendants())
    host = Host(folder, hidden=hidden)
    try:
        yield Guests(host, folder.resolve())
    finally:
        host.close()
    assert set(descendants()) <= before


def require(isolation: str, patch: pytest.MonkeyPatch) -> None:
    """Have hosts isolate in this way; skip the test where this machine does not allow it."""
    patch.setenv("PMR_LOCAL_ISOLATION", isolation)
    with tempfile.TemporaryDirectory() as folder:
        try:
            Host(Path(folder)).close()
        except OSError as error:
            pytest.skip(f"this machine has no namespaces for us: {error}")


def descendants() -> list[int]:
    """Return the processes that come from this one."""
    return [process.pid for process in psutil.Process().children(recursive=True)]


def soon(condition: Callable[[], object], timeout_s: float = 15) -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        pause(0.02)


def pause(seconds: float) -> None:
    """Let time pass for processes."""
    threading.Event().wait(seconds)


def still(path: Path, seconds: float = 0.6) -> bool:
    """Tell whether a file stops changing: what writes to it is gone."""
    before = path.stat().st_size
    pause(seconds)
    return path.stat().st_size == before


def is_root() -> bool:
    """Tell whether this process is root, who has other users to give to instances."""
    return os.geteuid() == 0

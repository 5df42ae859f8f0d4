"""The processes of one instance, seen from the machine: who they are, and signals for them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

# Of the job runner: it keeps it from everything that it starts.
RUNNER = "PMR_RUNNER"
# A process that forks while all are being stopped is found in the next round.
STOP_ROUNDS = 5


def in_namespace_of(first: int) -> list[int]:
    """Return every process in the process namespace of `first`, itself included."""
    wanted = Path(f"/proc/{first}/ns/pid").readlink()
    found = []
    for path in Path("/proc").iterdir():
        # Others' processes cannot be read, and some end meanwhile.
        with contextlib.suppress(OSError):
            if path.name.isdigit() and (path / "ns" / "pid").readlink() == wanted:
                found.append(int(path.name))
    return found


def with_variable(name: str, value: str) -> list[int]:
    """Return every process that was started with an environment variable of this value."""
    return [one.pid for one in psutil.process_iter() if _variable(one, name) == value]


def stop_all(members: Callable[[], Iterable[int]]) -> int:
    """Stop every process that `members` names (SIGSTOP); return how many there are."""
    stopped: set[int] = set()
    for _ in range(STOP_ROUNDS):
        fresh = set(members()) - stopped
        if not fresh:
            break
        signal_all(fresh, signal.SIGSTOP)
        stopped |= fresh
    return len(stopped)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def runners(pids: Iterable[int]) -> list[int]:
    """Return the job runners among processes: what a runner forks is not one."""
    marked = {pid for pid in pids if _of(pid, lambda one: RUNNER in one.environ())}
    return sorted(pid for pid in marked if _of(pid, lambda one: one.ppid()) not in marked)


def screens(pids: Iterable[int]) -> list[int]:
    """Return the screens that hold the job runners among processes."""
    above = (_of(pid, lambda one: one.parents()) or [] for pid in runners(pids))
    names = {one.pid: _of(one.pid, lambda it: it.name()) for parents in above for one in parents}
    return sorted(pid for pid, name in names.items() if name and "screen" in name.lower())


def _variable(process: psutil.Process, name: str) -> str | None:
    return _of(process.pid, lambda one: one.environ().get(name))


def _of(pid: int, ask: Callable[[psutil.Process], T]) -> T | None:
    """Ask a process; None when it has ended or is not ours to look at."""
    try:
        return ask(psutil.Process(pid))
    except (psutil.Error, OSError):
        return None

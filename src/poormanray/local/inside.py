"""The processes of one instance, seen from the machine: who they are, and signals for them."""

from __future__ import annotations

import contextlib
import os
import signal
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

# Of the job runner: it keeps it from everything that it starts.
RUNNER = "PMR_RUNNER"
# Of the runner, and of the tasks.
JOB_MARKS = frozenset({RUNNER, "PMR_JOB_ID"})
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
        signal_all(fresh, signal.SIGSTOP, members)
        stopped |= fresh
    return len(stopped)


def signal_all(
    pids: Iterable[int], number: signal.Signals, members: Callable[[], Iterable[int]]
) -> int:
    """Send a signal to processes that `members` still names; return how many got it.

    A process id is another's as soon as its process is collected: so each process is held on to
    first, and looked at again before it is signalled.
    """
    held = [(pid, handle) for pid in pids if (handle := _hold(pid)) is not None]
    if not held:
        return 0
    still = set(members())
    for pid, handle in held:
        if pid in still:
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                handle(number)
    return sum(pid in still for pid, _ in held)


def _hold(pid: int) -> Callable[[signal.Signals], None] | None:
    """Return what signals this very process, whoever has its number later."""
    if not hasattr(os, "pidfd_open"):  # no Linux
        return _of(pid, lambda one: one.send_signal)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None

    def send(number: signal.Signals) -> None:
        signal.pidfd_send_signal(descriptor, number)

    weakref.finalize(send, os.close, descriptor)
    return send


def runners(pids: Iterable[int]) -> list[int]:
    """Return the job runners among processes: what a runner forks is not one."""
    marked = {pid for pid in pids if _of(pid, lambda one: RUNNER in one.environ())}
    return sorted(pid for pid in marked if _of(pid, lambda one: one.ppid()) not in marked)


def of_jobs(pids: Iterable[int]) -> list[int]:
    """Return what belongs to jobs among processes, with all that came of it, oldest first."""
    here = {pid: _of(pid, lambda one: (one.ppid(), one.create_time())) for pid in pids}
    marked = {pid for pid in here if _of(pid, lambda one: not JOB_MARKS.isdisjoint(one.environ()))}
    found: set[int] = set()
    while marked - found:
        found |= marked
        marked = {pid for pid, facts in here.items() if facts is not None and facts[0] in found}
    return sorted(found, key=lambda pid: (facts[1] if (facts := here[pid]) else 0.0, pid))


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

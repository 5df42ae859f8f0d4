"""Hold one instance that is made of plain processes: a program of its own, run by the host.

It is started as `python -I -S supervisor.py` with a socket to the host as standard input, starts
what it is told to, and adopts what its children leave behind (Linux: child subreaper), so that
nothing escapes by `setsid` or by an empty environment. When the socket closes, because the host
asks for the end or is gone, it kills all of it and ends.

A request is one line of JSON: `{"run": ID, "argv": [...], "env": {...}}` with three descriptors
(standard output, standard error, report), or `{"kill": ID}`. A report is `exit CODE`.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36
READ_BYTES = 65_536
DESCRIPTORS_PER_RUN = 3
MOST_DESCRIPTORS = 192


class Children:
    """The scripts that were started, and all that came of them."""

    def __init__(self) -> None:
        self._reports: dict[int, int] = {}
        self._groups: dict[str, int] = {}

    def run(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Start a script as the leader of a process group of its own."""
        child = os.fork()
        if child == 0:
            _become(request, descriptors)
        with contextlib.suppress(PermissionError):
            # Also done by the child; refused once that has started its program.
            os.setpgid(child, child)
        self._groups[request["run"]] = child
        self._reports[child] = descriptors[2]
        os.close(descriptors[0])
        os.close(descriptors[1])

    def kill(self, run_id: str) -> None:
        """Send one SIGKILL to a script's process group."""
        group = self._groups.get(run_id)
        if group in self._reports:
            os.killpg(group, signal.SIGKILL)
            return
        # Its leader is gone, so that its number may be another's by now: only our own ones.
        for process, (_parent, its_group, since) in self._descendants().items():
            if its_group == group:
                _kill(process, since)

    def collect(self) -> bool:
        """Collect what has ended and report it; tell whether any child is left."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            report = self._reports.pop(process, None)
            if report is not None:
                code = os.waitstatus_to_exitcode(status)
                _report(report, 128 - code if code < 0 else code)

    def end(self) -> None:
        """Kill everything until nothing is left."""
        while self.collect():
            for process, (_parent, _group, since) in self._descendants().items():
                _kill(process, since)
            select.select([], [], [], 0.005)

    def _descendants(self) -> dict[int, tuple[int, int, int]]:
        """Return parent, group and start time of every process that comes from this one."""
        everyone = _processes()
        found: dict[int, tuple[int, int, int]] = {}
        fresh = {os.getpid()}
        while fresh:
            parents = fresh
            fresh = {p for p, (parent, *_) in everyone.items() if parent in parents} - found.keys()
            found |= {process: everyone[process] for process in fresh}
        if not everyone:
            # Not collected yet: the number is still its own.
            found = {child: (os.getpid(), child, 0) for child in self._reports}
        return found


def _processes() -> dict[int, tuple[int, int, int]]:
    """Return parent, group and start time of every process; nothing where there is no /proc."""
    everyone: dict[int, tuple[int, int, int]] = {}
    if sys.platform != "linux":
        return everyone
    for name in os.listdir("/proc"):
        if name.isdigit():
            facts = _facts(int(name))
            if facts is not None:
                everyone[int(name)] = facts
    return everyone


def _facts(process: int) -> tuple[int, int, int] | None:
    try:
        with open(f"/proc/{process}/stat", "rb") as reading:
            words = reading.read().rpartition(b")")[2].split()
    except OSError:
        return None  # it has ended meanwhile
    return int(words[1]), int(words[2]), int(words[19])


def _kill(process: int, since: int) -> None:
    """Kill the process that began at `since` (0: a child that was not collected yet)."""
    try:
        if not since:
            os.kill(process, signal.SIGKILL)
            return
        handle = os.pidfd_open(process)
    except OSError:
        return  # it has ended meanwhile
    try:
        # Its parent may have collected it after the look: then another can have the number.
        facts = _facts(process)
        if facts is not None and facts[2] == since:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _report(descriptor: int, code: int) -> None:
    try:
        os.write(descriptor, f"exit {code}\n".encode())
    except BrokenPipeError:
        return  # the host has gone; the end is near
    finally:
        os.close(descriptor)


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    try:
        os.setpgid(0, 0)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(descriptors[0], 1)
        os.dup2(descriptors[1], 2)
        os.closerange(3, 256)
        signal.set_wakeup_fd(-1)
        # The agent's scripts ignore and block nothing, whatever was set where the cloud started.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(request["argv"][0], request["argv"], request["env"])  # noqa: S606 (its task)
    finally:
        os._exit(127)


class Requests:
    """What the host asks for, with the descriptors that came along."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._text = b""
        self._descriptors: list[int] = []

    def read(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """Return the whole requests that are there; None when the host has closed."""
        size = array.array("i").itemsize * MOST_DESCRIPTORS
        data, extra, _flags, _address = self._connection.recvmsg(
            READ_BYTES, socket.CMSG_SPACE(size)
        )
        if not data:
            return None
        for _level, _kind, packed in extra:
            numbers = array.array("i")
            numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
            self._descriptors += numbers
        *lines, self._text = (self._text + data).split(b"\n")
        requests = []
        for line in lines:
            request = json.loads(line)
            count = DESCRIPTORS_PER_RUN if "run" in request else 0
            requests.append((request, self._descriptors[:count]))
            del self._descriptors[:count]
        return requests


def main() -> None:
    """Serve the host until it closes the socket."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    connection = socket.socket(fileno=0)
    requests, children = Requests(connection), Children()
    sources: list[int] = [connection.fileno(), wake_read]
    try:
        while True:
            ready, _, _ = select.select(sources, [], [])
            if wake_read in ready:
                os.read(wake_read, READ_BYTES)
                children.collect()
            if connection.fileno() in ready and not serve(requests, children):
                return
    finally:
        children.end()


def serve(requests: Requests, children: Children) -> bool:
    """Do what the host asks for; tell whether it may ask for more."""
    asked = requests.read()
    for request, descriptors in asked or []:
        if "run" in request:
            children.run(request, descriptors)
        else:
            children.kill(request["kill"])
    return asked is not None


if __name__ == "__main__":
    main()

"""Follow running scripts: drain their output, end them in time, say when they are over.

One thread watches all of them. A script is over when it has ended *and* both of its pipes are
closed, which is what the real agent waits for (agent-facts §6).
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

# One more than the 24,000 bytes that the agent keeps, so that it can tell that there was more.
HEAD_BYTES = 24_001
READ_BYTES = 65_536
KILLED_CODE = 137
# Epoll takes at most 2^31 ms.
LONGEST_WAIT_S = 86_400.0
# How long executions that were killed may take to be seen as ended when the watcher closes.
CLOSE_TIMEOUT_S = 10.0
# How long the pipes may take to close after the group of an ended script was killed.
ORPHAN_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended.

    `exit_code` is 0..255; a death by signal N is 128+N. `stdout` and `stderr` are heads of at
    most 24,001 bytes. `orphaned`: the script had ended, but something outside its process group
    held its output open when its time was up (the agent then reports exit code 1).
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool
    killed: bool
    orphaned: bool = False


@dataclass(frozen=True, slots=True)
class Errand:
    """A script to start: its path below the instance's folder, its folder, its environment."""

    script: str
    working_directory: str
    environment: Mapping[str, str]


class Launched(Protocol):
    """A script that was started."""

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the script ends."""

    def exit_code(self) -> int | None:
        """Return the script's exit code once it has ended; its group can still be killed."""

    def kill(self) -> None:
        """Send one SIGKILL to the script's process group."""

    def release(self) -> None:
        """Forget the script; the group cannot be killed any more."""


class Execution:
    """One script that runs, or has run."""

    def __init__(
        self, launched: Launched, outputs: tuple[int, int], on_end: Callable[[Ended], None]
    ) -> None:
        self.launched = launched
        self.on_end = on_end
        self.heads = {outputs[0]: bytearray(), outputs[1]: bytearray()}
        self.outputs = outputs
        self.open = set(outputs)
        self.exit_code: int | None = None
        self.timed_out = False
        self.killed = False
        self.late_s: float | None = None
        self._lock = threading.Lock()
        self._released = False

    def kill(self) -> None:
        """Send one SIGKILL to the script's process group; `on_end` still follows."""
        with self._lock:
            if not self._released:
                self.killed = True
                self.launched.kill()

    def finish_off(self) -> None:
        """Send one more SIGKILL to the script's process group, without having asked for it."""
        with self._lock:
            if not self._released:
                self.launched.kill()

    def expire(self) -> None:
        """Kill the script's process group because its time is up."""
        with self._lock:
            if not self._released:
                self.timed_out = True
                if self.exit_code is not None:
                    self.late_s = time.monotonic()
                self.launched.kill()

    def close(self) -> Ended:
        """Release everything and return how it ended."""
        with self._lock:
            self._released = True
            self.launched.release()
        code = self.exit_code if self.exit_code is not None else 1
        orphaned = False
        if self.late_s is not None:
            orphaned = time.monotonic() - self.late_s > ORPHAN_GRACE_S
            code = 1 if orphaned else KILLED_CODE
        stdout, stderr = (bytes(self.heads[output]) for output in self.outputs)
        return Ended(
            exit_code=code,
            stdout=stdout,
            stderr=stderr,
            timed_out=self.timed_out and not orphaned,
            killed=self.killed,
            orphaned=orphaned,
        )


class Watcher:
    """The thread that watches executions and other descriptors.

    What it calls back runs in a few threads of its own and may take its time.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._todo: list[Callable[[], None]] = []
        self._deadlines: list[tuple[float, int, Execution]] = []
        self._count = itertools.count()
        self._lock = threading.Lock()
        self._closing_until_s: float | None = None
        self._following = 0
        self._callbacks = ThreadPoolExecutor(max_workers=8, thread_name_prefix="host-callback")
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wake)
        self._thread = threading.Thread(target=self._run, name="host-watcher", daemon=True)
        self._thread.start()

    def follow(self, execution: Execution, timeout_s: float) -> None:
        """Follow an execution to its end; kill it after `timeout_s` wall-clock seconds."""
        self._soon(lambda: self._add(execution, time.monotonic() + timeout_s))

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` in the watching thread whenever the descriptor is readable."""
        self._soon(
            lambda: void(self._selector.register(descriptor, selectors.EVENT_READ, on_readable))
        )

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor and close it."""

        def remove() -> None:
            self._selector.unregister(descriptor)
            os.close(descriptor)

        self._soon(remove)

    def close(self) -> None:
        """End the thread once what was killed has ended and its callbacks have returned."""
        with self._lock:
            self._closing_until_s = time.monotonic() + CLOSE_TIMEOUT_S
        self._wake()
        self._thread.join()
        self._callbacks.shutdown()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _soon(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._todo.append(action)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            return  # it has not read the last ones yet: it will wake up

    def _drain_wake(self) -> None:
        while len(os.read(self._wake_read, READ_BYTES)) == READ_BYTES:
            continue

    def _run(self) -> None:
        while True:
            for key, _events in self._selector.select(self._next_wait_s()):
                key.data()
            self._expire()
            with self._lock:
                todo, self._todo = self._todo, []
            if not todo and self._may_close():
                return
            for action in todo:
                action()

    def _next_wait_s(self) -> float | None:
        until_s = [self._deadlines[0][0]] if self._deadlines else []
        if self._closing_until_s is not None:
            until_s.append(self._closing_until_s)
        if not until_s:
            return None
        return min(max(0.0, min(until_s) - time.monotonic()), LONGEST_WAIT_S)

    def _may_close(self) -> bool:
        until_s = self._closing_until_s
        return until_s is not None and (self._following == 0 or until_s <= time.monotonic())

    def _expire(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            heapq.heappop(self._deadlines)[2].expire()

    def _add(self, execution: Execution, deadline_s: float) -> None:
        self._following += 1
        heapq.heappush(self._deadlines, (deadline_s, next(self._count), execution))
        for output in execution.outputs:
            self._selector.register(
                output, selectors.EVENT_READ, lambda output=output: self._read(execution, output)
            )
        self._selector.register(
            execution.launched.fileno(), selectors.EVENT_READ, lambda: self._exited(execution)
        )

    def _read(self, execution: Execution, output: int) -> None:
        data = os.read(output, READ_BYTES)
        head = execution.heads[output]
        head += data[: HEAD_BYTES - len(head)]
        if not data:
            self._selector.unregister(output)
            os.close(output)
            execution.open.discard(output)
            self._maybe_end(execution)

    def _exited(self, execution: Execution) -> None:
        code = execution.launched.exit_code()
        if code is not None:
            execution.exit_code = code
            self._selector.unregister(execution.launched.fileno())
            self._maybe_end(execution)

    def _maybe_end(self, execution: Execution) -> None:
        if execution.open or execution.exit_code is None:
            return
        ended = execution.close()
        self._following -= 1
        self._deadlines = [entry for entry in self._deadlines if entry[2] is not execution]
        heapq.heapify(self._deadlines)
        self._callbacks.submit(execution.on_end, ended).add_done_callback(_report)


def void(_value: object) -> None:
    """Drop a value."""


def _report(done: object) -> None:
    # An error in a callback is a bug: it must be seen.
    error = done.exception()  # type: ignore[attr-defined]
    if error is not None:
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, None))
        )

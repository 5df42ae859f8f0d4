"""The emulated agent of one instance: what it does with the commands that it is handed."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from poormanray.local import agent_output
from poormanray.local.machine import Ended, Execution, Machines
from poormanray.local.run_command_records import Delivery, Order, Reply, Status
from poormanray.local.settings import Settings
from poormanray.local.timers import Timers

LOG = logging.getLogger(__name__)

# Source: agent-facts (measured): five at once, five wait, more are refused without a reply.
WORKERS, WAITING_PLACES = 5, 5
# Source: agent-facts 6: outside of it, the timeout silently becomes 3600.
EXECUTION_TIMEOUT_MIN_S, EXECUTION_TIMEOUT_MAX_S = 5, 172_800
EXECUTION_TIMEOUT_DEFAULT_S = 3_600
# Source: ssm-facts 4.2: without credentials at boot, first 5 minutes, then doubling to 1 hour.
CREDENTIAL_WAIT_S, CREDENTIAL_WAIT_MAX_S = 300.0, 3_600.0
# Source: agent-facts 5: runs of a script that keeps asking for a reboot.
REBOOT_RUNS_MAX = 15
# A name of Parameter Store; here there is no service that puts its value in its place.
TEMPLATE = re.compile(rb"\{\{\s*ssm:[\w./:-]+\s*\}\}")
EXIT_TIMED_OUT, EXIT_SUCCESS, EXIT_FAILURE, EXIT_REBOOT = 137, 168, 169, 194
_SKIP = (
    "\nStep exited with code {}. Therefore, marking step as {}. "
    "Further document steps will be skipped."
)


class AgentOwner(Protocol):
    """What an agent needs of the fleet that it belongs to."""

    def may_register(self, instance_id: str) -> bool:
        """Say whether the instance's role lets the agent register."""
        ...

    def registration_s(self) -> float:
        """Return how long a registration that begins now takes, in cloud seconds."""
        ...

    def reply(self, reply: Reply) -> None:
        """Pass a reply on to the service."""
        ...

    def connected(self, instance_id: str) -> None:
        """Take note that the agent is online."""
        ...

    def reboot(self, instance_id: str) -> None:
        """Restart the instance."""
        ...


@dataclass(slots=True)
class Task:
    """A command on an instance's disk, and what the agent did with it."""

    order: Order
    runs: int = 0
    execution: Execution | None = None
    cancelled: bool = False
    awaits_reboot: bool = False
    started_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A script that could not be started, in the shape of one that has ended."""

    stderr: bytes
    stdout: bytes = b""
    exit_code: int = 1
    timed_out: bool = False
    killed: bool = False


# Source: agent-facts 3 (measured): it fails before it runs, without a code or output.
INVALID = NotStarted(stderr=b"", exit_code=-1)


class Agent:
    """The agent of one instance. Every method may be called from any thread."""

    def __init__(
        self,
        instance_id: str,
        machines: Machines,
        timers: Timers,
        settings: Settings,
        owner: AgentOwner,
    ) -> None:
        self.instance_id = instance_id
        self.registered_at_s: float | None = None  # epoch, the first time
        self.online_since_s: float | None = None  # cloud clock; None: not online
        # Cloud clock: since when the service hears nothing and was told nothing; None: else.
        self.silent_since_s: float | None = None
        self.last_online_s = 0.0  # cloud clock: when the last time online began
        self._machines = machines
        self._timers = timers
        self._settings = settings
        self._owner = owner
        self._lock = threading.Lock()
        self._life = 0  # grows with every power on and off; what belongs to an older one is void
        self._attempt = 0  # grows with every start and stop; an older registration is void
        self._resend_s = 0.0
        self._seen: set[str] = set()
        self._running: dict[str, Task] = {}
        self._waiting: deque[Task] = deque()
        # What a power loss or a cancel leaves on disk, for the agent's next start.
        self._left_to_run: list[Task] = []
        self._left_to_report: list[Task] = []
        self._unsent: list[Reply] = []  # replies that found no service
        # Replies that will be lost: so many, and all until a moment of the cloud's clock.
        self._losses = 0
        self._losing_until_s = 0.0

    # Power

    def power_on(self) -> None:
        """Begin to register; the agent is online a while later, if its role allows it."""
        with self._lock:
            self._life += 1
        self._begin(self._owner.registration_s())

    def power_off(self, *, crash: bool = False) -> None:
        """Forget everything but the disk; no reply is sent for what was running.

        After a `crash` the service goes on believing that the agent is there.
        """
        with self._lock:
            self._life += 1
            self._leave(silently=crash)
            for task in self._running.values():
                if not task.awaits_reboot:
                    self._left_to_report.append(task)
                elif not task.cancelled:
                    self._left_to_run.append(task)
            self._running.clear()

    def stop(self) -> None:
        """Stop the agent alone: scripts go on, what waits will run at the next start.

        Source: agent-facts 6: KillMode=process.
        """
        with self._lock:
            self._leave(silently=True)

    def lose_channel(self) -> None:
        """Lose the way to the service; commands go on, and those that wait run."""
        with self._lock:
            self._go_silent()

    def lose_replies(self, for_s: float | None) -> None:
        """Lose the next final reply, or all of them for some time; its command stays InProgress."""
        with self._lock:
            if for_s is None:
                self._losses += 1
            else:
                self._losing_until_s = self._timers.now_s() + for_s

    def _loses(self) -> bool:
        with self._lock:
            if self._timers.now_s() < self._losing_until_s:
                return True
            lost = self._losses > 0
            self._losses -= lost
            return lost

    def start(self, after_s: float, *, resend_s: float = 0.0) -> None:
        """Come online after `after_s`, if the role allows it; then send what could not be sent."""
        self._begin(after_s, resend_s)

    def _begin(self, after_s: float, resend_s: float = 0.0) -> None:
        with self._lock:
            self._resend_s = resend_s
            self._attempt += 1
            attempt = self._attempt
        self._timers.after(after_s, lambda: self._register(attempt, CREDENTIAL_WAIT_S))

    def _leave(self, *, silently: bool) -> None:
        """Go offline; the lock is held."""
        self._go_silent()
        if not silently:
            self.silent_since_s = None
        self._left_to_run.extend(self._waiting)
        self._waiting.clear()

    def _go_silent(self) -> None:
        self._attempt += 1
        if self.online_since_s is not None:
            self.silent_since_s = self._timers.now_s()
        self.online_since_s = None

    def _register(self, attempt: int, next_wait_s: float) -> None:
        if attempt != self._attempt:
            return
        if not self._owner.may_register(self.instance_id):
            later_s = min(next_wait_s * 2, CREDENTIAL_WAIT_MAX_S)
            self._timers.after(next_wait_s, lambda: self._register(attempt, later_s))
            return
        with self._lock:
            if attempt != self._attempt:
                return
            self.online_since_s = self.last_online_s = self._timers.now_s()
            self.silent_since_s = None
            self.registered_at_s = self.registered_at_s or self._timers.wall_s()
            to_run, self._left_to_run = self._left_to_run, []
            to_report, self._left_to_report = self._left_to_report, []
            unsent, self._unsent = self._unsent, []
        for reply in unsent:
            self._timers.after(self._resend_s, partial(self._send, reply))
        for task in to_run:
            self._accept(task)
        for task in to_report:
            self._timers.after(
                self._settings.interrupted_report_s, partial(self._interrupted, task.order)
            )
        self._owner.connected(self.instance_id)

    # Commands

    def deliver(self, order: Order) -> Delivery:
        """Take a command: run it, let it wait, or refuse it; the same id never runs twice."""
        with self._lock:
            if self.online_since_s is None:
                return Delivery.OFFLINE
            if order.command_id in self._seen:
                return Delivery.ACCEPTED
        return self._accept(Task(order))

    def cancel(self, command_id: str) -> None:
        """Kill a running command; one that waits stays on disk and runs at the next start.

        An agent that is not there hears nothing.

        Source: agent-facts 6 (measured): no terminal reply comes for the latter.
        """
        with self._lock:
            if self.online_since_s is None:
                return
            task = self._running.get(command_id)
            if task is not None:
                task.cancelled = True
                execution = task.execution
                if task.awaits_reboot:
                    self._send(Reply(command_id, self.instance_id, Status.CANCELLED))
            else:
                execution = None
                kept = [task for task in self._waiting if task.order.command_id != command_id]
                gone = [task for task in self._waiting if task.order.command_id == command_id]
                self._waiting = deque(kept)
                self._left_to_run.extend(gone)
        if execution is not None:
            execution.kill()

    def _accept(self, task: Task) -> Delivery:
        order = task.order
        with self._lock:
            self._seen.add(order.command_id)
            start = len(self._running) < WORKERS
            if start:
                self._running[order.command_id] = task
            elif len(self._waiting) < WAITING_PLACES:
                self._waiting.append(task)
            else:
                self._seen.discard(order.command_id)
                return Delivery.FULL
            life = self._life
        self._send(Reply(order.command_id, self.instance_id, Status.IN_PROGRESS))
        if start:
            self._launch(task, life)
        return Delivery.ACCEPTED

    def _launch(self, task: Task, life: int) -> None:
        order = task.order
        if TEMPLATE.search(order.script):
            self._ended(task, life, INVALID)
            return
        task.runs += 1
        task.awaits_reboot = False
        task.started_at_s = self._timers.wall_s()
        try:
            execution = self._machines.execute(
                self.instance_id,
                command_id=order.command_id,
                script=order.script,
                working_directory=order.working_directory,
                timeout_s=execution_timeout_s(order.execution_timeout),
                on_end=lambda ended: self._ended(task, life, ended),
            )
        except OSError as error:
            LOG.warning("%s: cannot run %s: %s", self.instance_id, order.command_id, error)
            self._ended(task, life, NotStarted(stderr=str(error).encode()))
            return
        with self._lock:
            task.execution = execution
            kill = task.cancelled
        if kill:
            execution.kill()

    def _ended(self, task: Task, life: int, ended: Ended) -> None:
        order = task.order
        with self._lock:
            if life != self._life:
                return
            reboot = ended.exit_code == EXIT_REBOOT and not (ended.timed_out or task.cancelled)
            if reboot and task.runs < REBOOT_RUNS_MAX:
                again = Task(order, runs=task.runs, awaits_reboot=True)
                self._running[order.command_id] = again
                self._timers.after(self._settings.reboot_grace_s, lambda: self._reboot(life))
                return
            self._running.pop(order.command_id, None)
            following = self._waiting.popleft() if self._waiting else None  # none while stopped
            if following is not None:
                self._running[following.order.command_id] = following
        reply = finished(self.instance_id, task, ended, self._timers.wall_s())
        if reply is not None and not self._loses():
            self._send(reply)
            self._timers.after(self._settings.reply_s * 2, lambda: self._late(order.command_id))
        if following is not None:
            self._launch(following, life)

    def _reboot(self, life: int) -> None:
        if life == self._life:
            self._owner.reboot(self.instance_id)

    def _interrupted(self, order: Order) -> None:
        text = "document process failed unexpectedly"
        self._send(
            Reply(order.command_id, self.instance_id, Status.FAILED, exit_code=1, output=text)
        )

    def _late(self, command_id: str) -> None:
        """Pass on the plugin's own reply; it says InProgress and often comes after the final one.

        Source: agent-facts 8 (measured): in 77 of 157 commands.
        """
        self._pass_on(Reply(command_id, self.instance_id, Status.IN_PROGRESS))

    def _send(self, reply: Reply) -> None:
        self._timers.after(self._settings.reply_s, lambda: self._pass_on(reply))

    def _pass_on(self, reply: Reply) -> None:
        with self._lock:
            if self.online_since_s is None:
                self._unsent.append(reply)  # it stays on disk until the service answers
                return
        self._owner.reply(reply)


def execution_timeout_s(text: str) -> float:
    """Return the timeout that the agent applies; outside of 5 to 172800 it is 3600."""
    try:
        seconds = int(text)
    except ValueError:
        return EXECUTION_TIMEOUT_DEFAULT_S
    fits = EXECUTION_TIMEOUT_MIN_S <= seconds <= EXECUTION_TIMEOUT_MAX_S
    return seconds if fits else EXECUTION_TIMEOUT_DEFAULT_S


def finished(instance_id: str, task: Task, ended: Ended, now_s: float) -> Reply | None:
    """Return the final reply, None when the agent would drop it for its size."""
    status, code, stdout, stderr = _judged(task, ended)
    out, err = agent_output.cut_stream(stdout), agent_output.cut_stream(stderr)
    reply = Reply(
        task.order.command_id,
        instance_id,
        status,
        exit_code=code,
        stdout=out,
        stderr=err,
        output=agent_output.combined(stdout, stderr),
        started_at_s=task.started_at_s,
        ended_at_s=now_s,
    )
    if agent_output.reply_bytes(out, err, reply.output) > agent_output.REPLY_BYTES_MAX:
        LOG.info("%s: the reply to %s is too large", instance_id, task.order.command_id)
        return None
    return reply


def _judged(task: Task, ended: Ended) -> tuple[Status, int, bytes, bytes]:
    """Return status, code and streams; source: agent-facts 4 to 6 (measured)."""
    code, stdout, stderr = ended.exit_code, ended.stdout, ended.stderr
    cut_off = Status.CANCELLED if task.cancelled else Status.TIMED_OUT
    if ended.timed_out and code != EXIT_TIMED_OUT:
        # The script had ended by itself, and something else held its pipes.
        return Status.FAILED, 1, stdout, stderr + b"failed to run commands: no such process"
    if ended.timed_out or ended.killed:
        return cut_off, EXIT_TIMED_OUT, stdout, stderr + b"failed to run commands: signal: killed"
    if code == EXIT_SUCCESS:
        return Status.SUCCESS, code, stdout + _SKIP.format(code, "succeeded").encode(), b""
    if code > 0:
        stderr += f"failed to run commands: exit status {code}".encode()
    if code == EXIT_FAILURE:
        text = _SKIP.format(code, "Failed").encode()
        stdout, stderr = stdout + text, stderr + text
    status = {0: Status.SUCCESS, EXIT_TIMED_OUT: cut_off}.get(code, Status.FAILED)
    return status, code, stdout, stderr

"""What Run Command stores, and its contract with the agents."""

from __future__ import annotations

import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Any, Protocol

HISTORY_S = 30 * 86_400  # ssm-facts 2.6: commands are remembered for 30 days
# So many commands stay in memory, and all that have not ended.
IN_MEMORY = 100


class Status(Enum):
    """The status of a command or of one invocation (SSM model: CommandInvocationStatus)."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    DELAYED = "Delayed"
    SUCCESS = "Success"
    CANCELLED = "Cancelled"
    TIMED_OUT = "TimedOut"
    FAILED = "Failed"
    CANCELLING = "Cancelling"

    @property
    def ended(self) -> bool:
        """Say whether the status can no longer change."""
        return self in _ENDED


_ENDED = {Status.SUCCESS, Status.CANCELLED, Status.TIMED_OUT, Status.FAILED}
WAITING = {Status.PENDING, Status.DELAYED}


class Delivery(Enum):
    """What became of an attempt to hand a command to an agent."""

    ACCEPTED = "accepted"
    FULL = "full"  # five run, five wait: the agent says no and never replies
    OFFLINE = "offline"
    GONE = "gone"  # terminated since


@dataclass(frozen=True, slots=True)
class Order:
    """What the service hands to an agent."""

    command_id: str
    script: bytes
    working_directory: str
    execution_timeout: str  # as sent; the agent makes a number of it


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent tells the service; IN_PROGRESS carries nothing, an ended status all."""

    command_id: str
    instance_id: str
    status: Status
    exit_code: int = -1
    stdout: str = ""
    stderr: str = ""
    output: str = ""
    started_at_s: float | None = None
    ended_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One managed instance as SSM knows it; times are epoch seconds."""

    instance_id: str
    name: str
    online: bool
    accepts: bool  # SendCommand takes it
    listed: bool  # DescribeInstanceInformation shows it: neither stopped nor terminated
    computer_name: str
    ip_address: str
    role: str
    registered_at_s: float
    last_ping_at_s: float
    agent_version: str
    platform_version: str = "2023"


class Fleet(Protocol):
    """The agents, as the service sees them. No method calls back into the service directly."""

    def node(self, instance_id: str) -> Node | None:
        """Return the managed instance, None when it never registered."""
        ...

    def nodes(self) -> list[Node]:
        """Return every managed instance."""
        ...

    def deliver(self, instance_id: str, order: Order) -> Delivery:
        """Hand one command to an agent."""
        ...

    def cancel(self, instance_id: str, command_id: str) -> None:
        """Ask an agent to end a command."""
        ...


@dataclass(slots=True)
class InvocationRecord:
    """One instance's part of a command."""

    serial: int  # grows with every invocation; orders the lists
    instance_id: str
    instance_name: str
    status: Status = Status.PENDING
    detail: str = "Pending"
    sent: bool = False  # its turn has come
    refused: bool = False  # the agent was full: nothing comes any more
    exit_code: int = -1
    stdout: str = ""
    stderr: str = ""
    output: str = ""
    started_at_s: float | None = None
    ended_at_s: float | None = None

    def move(self, status: Status, detail: str = "") -> bool:
        """Change the status unless it has ended; say whether it changed."""
        if self.status.ended:
            return False
        self.status = status
        self.detail = detail or status.value
        return True


@dataclass(slots=True)
class CommandRecord:
    """One SendCommand."""

    serial: int
    command_id: str
    document: str
    document_version: str
    comment: str
    parameters: dict[str, list[str]]
    instance_ids: list[str]
    timeout_s: int
    execution_timeout_s: int
    max_concurrency: str
    max_errors: str
    echoed: dict[str, object]  # what is only recorded and given back
    sent_at_s: float  # cloud clock
    requested_at_s: float  # epoch
    targets: list[dict[str, Any]] = field(default_factory=list)
    target_count: int = 0
    by_tag: bool = False
    # What ended the command before any instance was asked.
    early_end: tuple[Status, str] | None = None
    wave: int = 1  # how many instances get it next
    cancel_asked: bool = False
    invocations: dict[str, InvocationRecord] = field(default_factory=dict)

    def order(self) -> Order:
        """Return what the agents get."""
        lines = self.parameters["commands"]
        return Order(
            self.command_id,
            ("\n".join(lines) + "\n").encode(),
            (self.parameters.get("workingDirectory") or [""])[0],
            (self.parameters.get("executionTimeout") or ["3600"])[0],
        )

    @property
    def ended(self) -> bool:
        """Say whether no instance's part can change any more."""
        return all(part.status.ended for part in self.invocations.values())


class History:
    """The commands of 30 days: the newest and those under way in memory, the others in a file.

    A command with its script and its instances' output takes up to some megabytes, and a busy hour
    has thousands. What comes from the file is a copy; nothing changes a command that has ended.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Keep the file, once there is one, in a folder or where temporary files are."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._recent: OrderedDict[str, CommandRecord] = OrderedDict()
        # Where the others are: offset, length, how many invocations, and when they were sent.
        self._stored: OrderedDict[str, tuple[int, int, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recent) + len(self._stored)

    def add(self, command: CommandRecord) -> None:
        """Take in a new command; move ended ones to the file, and drop what is too old."""
        self._recent[command.command_id] = command
        while self._stored:
            oldest, (_, _, _, sent_at_s) = next(iter(self._stored.items()))
            if command.sent_at_s - sent_at_s < HISTORY_S:
                break
            del self._stored[oldest]
        surplus = len(self._recent) - IN_MEMORY
        if surplus > 0:
            ended = [one for one in self._recent.values() if one.ended]
            for one in ended[:surplus]:
                self._store(one)

    def _store(self, command: CommandRecord) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (until it is closed)
        data = pickle.dumps(command)
        at = self._file.seek(0, 2)
        self._file.write(data)
        place = (at, len(data), len(command.invocations), command.sent_at_s)
        self._stored[command.command_id] = place
        del self._recent[command.command_id]

    def get(self, command_id: str) -> CommandRecord | None:
        """Return a command, None where there is none."""
        if command_id in self._stored:
            return self._load(command_id)
        return self._recent.get(command_id)

    def _load(self, command_id: str) -> CommandRecord:
        at, length, _, _ = self._stored[command_id]
        assert self._file is not None  # noqa: S101 (what is stored is in it)
        self._file.seek(at)
        command = pickle.loads(self._file.read(length))  # noqa: S301 (written here, by nobody else)
        assert isinstance(command, CommandRecord)  # noqa: S101 (as it was stored)
        return command

    def live(self, command_id: str) -> CommandRecord | None:
        """Return a command that is in memory; one that is not has ended."""
        return self._recent.get(command_id)

    def recent(self) -> list[CommandRecord]:
        """Return the commands in memory: among them are all that have not ended."""
        return list(self._recent.values())

    def __iter__(self) -> Iterator[CommandRecord]:
        """Yield every command, one of the file at a time."""
        for command_id in list(self._stored):
            yield self._load(command_id)
        yield from self.recent()

    def invocations(self) -> int:
        """Return how many instances' parts there are."""
        parts = sum(count for _, _, count, _ in self._stored.values())
        return parts + sum(len(one.invocations) for one in self._recent.values())

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

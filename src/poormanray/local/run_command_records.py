"""What Run Command remembers, and its contract with the agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


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

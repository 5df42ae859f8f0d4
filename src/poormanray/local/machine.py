"""What the cloud needs of the part that runs processes; `host.Host` is the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Ended(Protocol):
    """How a script ended."""

    @property
    def exit_code(self) -> int:
        """0 to 255; 128+N after signal N."""
        ...

    @property
    def stdout(self) -> bytes:
        """The head of its standard output."""
        ...

    @property
    def stderr(self) -> bytes:
        """The head of its standard error."""
        ...

    @property
    def timed_out(self) -> bool:
        """Whether the execution timeout struck."""
        ...

    @property
    def killed(self) -> bool:
        """Whether `Execution.kill` struck."""
        ...


class Execution(Protocol):
    """A running script."""

    def kill(self) -> None:
        """Send one SIGKILL to the script's process group."""
        ...


class Machines(Protocol):
    """Machines that boot, run scripts and end."""

    def boot(self, instance_id: str, *, facts: Mapping[str, str]) -> None:
        """Start a machine; raises OSError."""
        ...

    def end_jobs(self, instance_id: str) -> int:
        """End the jobs' processes, as the first step of a shutdown; return how many."""
        ...

    def power_off(self, instance_id: str) -> None:
        """End its processes and keep its disk."""
        ...

    def destroy(self, instance_id: str) -> None:
        """End its processes and remove its disk."""
        ...

    def notify(self, instance_id: str, notice: str) -> None:
        """Tell it what EC2 says of its end; raises OSError."""
        ...

    def execute(
        self,
        instance_id: str,
        *,
        command_id: str,
        script: bytes,
        working_directory: str,
        timeout_s: float,
        on_end: Callable[[Ended], None],
    ) -> Execution:
        """Run a script as the agent does; raises OSError."""
        ...

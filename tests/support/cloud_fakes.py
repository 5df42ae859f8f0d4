"""A clock that is turned by hand, and machines without processes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from poormanray.local.fleet import InstanceFleet
from poormanray.local.machine import Ended
from poormanray.local.run_command import RunCommand
from poormanray.local.settings import Settings
from poormanray.local.timers import Action

WALL_S = 1_700_000_000.0


class HandTimers:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self._now_s = 100.0
        self._due: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def now_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return WALL_S + self._now_s

    def after(self, delay_s: float, action: Action) -> None:
        heapq.heappush(self._due, (self._now_s + delay_s, next(self._order), action))

    def pass_s(self, seconds: float) -> None:
        end_s = self._now_s + seconds
        while self._due and self._due[0][0] <= end_s:
            at_s, _, action = heapq.heappop(self._due)
            self._now_s = max(self._now_s, at_s)
            action()
        self._now_s = end_s


@dataclass(frozen=True)
class Outcome:
    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    killed: bool = False


@dataclass
class Script:
    """A script that runs until the test ends it."""

    instance_id: str
    command_id: str
    script: bytes
    timeout_s: float
    on_end: Callable[[Ended], None]
    kills: int = 0

    def kill(self) -> None:
        self.kills += 1

    def end(self, outcome: Ended | None = None) -> None:
        self.on_end(outcome or Outcome())


@dataclass
class HandMachines:
    """Machines whose scripts the test ends."""

    on: set[str] = field(default_factory=set)
    gone: list[str] = field(default_factory=list)
    jobs_ended: list[str] = field(default_factory=list)
    boots: list[str] = field(default_factory=list)
    notices: dict[str, str] = field(default_factory=dict)
    scripts: list[Script] = field(default_factory=list)

    def boot(self, instance_id: str, *, facts: Mapping[str, str]) -> None:
        assert facts is not None
        self.boots.append(instance_id)
        self.on.add(instance_id)

    def end_jobs(self, instance_id: str) -> int:
        self.jobs_ended.append(instance_id)
        return 0

    def power_off(self, instance_id: str) -> None:
        self.on.discard(instance_id)

    def destroy(self, instance_id: str) -> None:
        self.on.discard(instance_id)
        self.gone.append(instance_id)

    def notify(self, instance_id: str, notice: str) -> None:
        self.notices[instance_id] = notice

    def execute(
        self,
        instance_id: str,
        *,
        command_id: str,
        script: bytes,
        working_directory: str,
        timeout_s: float,
        on_end: Callable[[Ended], None],
    ) -> Script:
        if working_directory == "/missing":
            raise OSError("no such directory")
        started = Script(instance_id, command_id, script, timeout_s, on_end)
        self.scripts.append(started)
        return started


class World:
    """Run Command with its agents, by hand."""

    def __init__(self, *, managed: bool = True, settings: Settings | None = None) -> None:
        self.timers = HandTimers()
        self.machines = HandMachines()
        self.managed = managed
        self.tags: dict[str, dict[str, str]] = {}
        self.use(settings or Settings())

    def use(self, settings: Settings) -> None:
        """Begin anew with other settings."""
        self.settings = settings
        self.fleet = InstanceFleet(
            self.machines,
            self.timers,
            self.settings,
            role_of=lambda _instance_id: "role" if self.managed else None,
        )
        self.service = RunCommand(
            self.fleet,
            self.timers,
            self.settings,
            account="123456789012",
            tags_of=lambda instance_id: self.tags.get(instance_id, {}),
        )
        self.fleet.on_reply = self.service.on_reply
        self.fleet.on_connected = self.service.on_connected

    def boot(self, count: int = 1, *, wait_s: float = 2.0) -> list[str]:
        """Return the ids of instances that were booted `wait_s` seconds ago."""
        ids = [f"i-{number:017x}" for number in range(1, count + 1)]
        for instance_id in ids:
            self.fleet.boot(instance_id, {"name": "n"}, lambda _problem: None)
        self.timers.pass_s(wait_s)
        return ids

    def send(self, ids: list[str], script: str = "true", **options: object) -> str:
        request = {
            **({"InstanceIds": ids} if ids else {}),
            "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": [script]},
            **options,
        }
        answer = self.service.call("SendCommand", request)
        command_id: str = answer["Command"]["CommandId"]
        return command_id

    def sent(self, ids: list[str], script: str = "true", **options: object) -> str:
        """Send, and let the command arrive and become visible."""
        command_id = self.send(ids, script, **options)
        self.timers.pass_s(1.0)
        return command_id

    def status(self, command_id: str, instance_id: str) -> tuple[str, str]:
        got = self.get(command_id, instance_id)
        return str(got["Status"]), str(got["StatusDetails"])

    def get(self, command_id: str, instance_id: str) -> dict[str, object]:
        request = {"CommandId": command_id, "InstanceId": instance_id}
        return self.service.call("GetCommandInvocation", request)

    def end(self, outcome: Outcome | None = None, which: int = -1) -> None:
        self.machines.scripts[which].end(outcome or Outcome())
        self.timers.pass_s(0.1)

"""All instances that have a machine: power, order of their operations, and their agents."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from poormanray.local.agent import CREDENTIAL_WAIT_S, Agent
from poormanray.local.machine import Machines
from poormanray.local.run_command_records import Delivery, Node, Order, Reply
from poormanray.local.settings import Settings
from poormanray.local.timers import Action, Timers

LOG = logging.getLogger(__name__)

AGENT_VERSION = "3.3.987.0"
SYSTEMD_RESTART_S = 90.0  # Source: the agent's unit file: Restart=always, RestartSec=90
# Source: agent-facts 6 (measured): reconnects after 10 s; stored results by a 5-minute job.
RECONNECT_S, RESEND_S = 10.0, 288.0
PING_EVERY_S = 300.0  # Source: ssm-facts 4.1: a heartbeat every 5 minutes


@dataclass(slots=True)
class _Member:
    agent: Agent
    facts: Mapping[str, str]
    alive: bool = True
    powered: bool = False
    dark: bool = True  # nothing runs there, whatever EC2 goes on believing
    todo: deque[Action] = field(default_factory=deque)
    busy: bool = False


class InstanceFleet:
    """The fleet. Operations on one instance happen one after the other, in the order asked."""

    def __init__(
        self,
        machines: Machines,
        timers: Timers,
        settings: Settings,
        *,
        role_of: Callable[[str], str | None],
    ) -> None:
        """`role_of` names the role that lets an instance's agent register, or None."""
        self._machines = machines
        self._timers = timers
        self._settings = settings
        self._role_of = role_of
        self._lock = threading.Lock()
        self._members: dict[str, _Member] = {}
        self._registering: list[float] = []  # when the registrations under way end, cloud clock
        self.on_reply: Callable[[Reply], None] = lambda _reply: None
        self.on_connected: Callable[[str], None] = lambda _instance_id: None

    # Power

    def boot(
        self, instance_id: str, facts: Mapping[str, str], then: Callable[[OSError | None], None]
    ) -> None:
        """Power an instance on and call `then` with None, or with what went wrong."""
        with self._lock:
            member = self._members.get(instance_id)
            if member is None:
                agent = Agent(instance_id, self._machines, self._timers, self._settings, self)
                member = self._members[instance_id] = _Member(agent, facts)
            member.facts = facts
        self._enqueue(member, lambda: self._boot(instance_id, member, then))

    def power_off(self, instance_id: str, then: Action) -> None:
        """End an instance's processes, keep its disk, then call `then`."""
        self._end(instance_id, self._machines.power_off, then, alive=True)

    def destroy(self, instance_id: str, then: Action) -> None:
        """End an instance for good, then call `then`."""
        self._end(instance_id, self._machines.destroy, then, alive=False)

    def reboot(self, instance_id: str) -> None:
        """Restart an instance; nothing happens when it is not powered."""
        member = self._member(instance_id)
        if member is not None:
            self._shut_down(instance_id, member, lambda: self._reboot(instance_id, member))

    def _reboot(self, instance_id: str, member: _Member) -> None:
        if not member.powered:
            return
        member.agent.power_off()
        self._machines.power_off(instance_id)
        member.dark = True
        self._boot(instance_id, member, lambda _problem: None)

    def _shut_down(self, instance_id: str, member: _Member, end: Action) -> None:
        """Let the jobs end first, and `end` the rest `jobs_end_s` later.

        Source: agent-facts, last section (measured): systemd ends the jobs' scopes at once, while
        the agent's script lives on for a while under the same boot id.
        """
        after_s = self._settings.jobs_end_s

        def begin() -> None:
            if member.dark or not after_s:
                end()
                return
            self._machines.end_jobs(instance_id)
            self._timers.after(after_s, lambda: self._enqueue(member, end))

        self._enqueue(member, begin)

    def _boot(
        self, instance_id: str, member: _Member, then: Callable[[OSError | None], None]
    ) -> None:
        if not member.alive:
            return
        try:
            self._machines.boot(instance_id, facts=member.facts)
        except OSError as problem:
            LOG.exception("%s does not boot", instance_id)
            then(problem)
            return
        member.powered, member.dark = True, False
        member.agent.power_on()
        then(None)

    def _end(
        self, instance_id: str, how: Callable[[str], None], then: Action, *, alive: bool
    ) -> None:
        member = self._member(instance_id)
        if member is None:
            then()
            return
        member.alive = member.alive and alive
        member.powered = False

        def end() -> None:
            member.powered, member.dark = False, True
            member.agent.power_off()
            how(instance_id)
            then()

        self._shut_down(instance_id, member, end)

    # What goes wrong

    def crash(self, instance_id: str) -> None:
        """Cut an instance's power without a word: EC2 and SSM go on believing that it runs."""
        member = self._member(instance_id)
        if member is None:
            return

        def cut() -> None:
            member.agent.power_off(crash=True)
            self._machines.power_off(instance_id)
            member.dark = True

        self._enqueue(member, cut)

    def notify(self, instance_id: str, notice: str) -> None:
        """Tell an instance what EC2 says of its end."""
        member = self._member(instance_id)
        if member is not None:
            self._enqueue(member, lambda: self._machines.notify(instance_id, notice))

    def stop_agent(self, instance_id: str) -> None:
        """Stop an instance's agent, as `systemctl stop` does; scripts go on."""
        member = self._member(instance_id)
        if member is not None:
            member.agent.stop()

    def start_agent(self, instance_id: str) -> None:
        """Start an agent that was stopped; what ended meanwhile is reported then."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.start(self._settings.agent_start_s)

    def restart_agent(self, instance_id: str) -> None:
        """Restart an agent, as an update of it does."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.stop()
            member.agent.start(self._settings.agent_restart_s)

    def kill_agent(self, instance_id: str) -> None:
        """Let an agent be stopped for want of memory; systemd starts it again 90 s later."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.stop()
            member.agent.start(SYSTEMD_RESTART_S)

    def cut_off(self, instance_id: str, for_s: float) -> None:
        """Let an instance lose its way to the service for some time (cloud seconds)."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.lose_channel()
            member.agent.start(for_s + RECONNECT_S, resend_s=RESEND_S)

    def lose_replies(self, instance_id: str, for_s: float | None) -> None:
        """Lose an agent's next reply, or all of them for some time (cloud seconds)."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.lose_replies(for_s)

    def hibernate_agent(self, instance_id: str) -> None:
        """Let an agent sleep as without credentials: it asks again 5 minutes later."""
        member = self._member(instance_id)
        if member is not None and member.powered:
            member.agent.stop()
            member.agent.start(CREDENTIAL_WAIT_S)

    def _enqueue(self, member: _Member, action: Action) -> None:
        with self._lock:
            member.todo.append(action)
            if member.busy:
                return
            member.busy = True
        self._timers.after(0, lambda: self._drain(member))

    def _drain(self, member: _Member) -> None:
        while True:
            with self._lock:
                if not member.todo:
                    member.busy = False
                    return
                action = member.todo.popleft()
            try:
                action()
            except Exception:
                LOG.exception("an operation on an instance failed")

    # What the service asks of it

    def node(self, instance_id: str) -> Node | None:
        """Return the managed instance, None when it never registered."""
        member = self._member(instance_id)
        return self._node(instance_id, member) if member else None

    def nodes(self) -> list[Node]:
        """Return every managed instance, in the order of their launch."""
        with self._lock:
            members = list(self._members.items())
        found = (self._node(instance_id, member) for instance_id, member in members)
        return [node for node in found if node is not None]

    def deliver(self, instance_id: str, order: Order) -> Delivery:
        """Hand one command to an agent."""
        member = self._member(instance_id)
        if member is None or not member.alive:
            return Delivery.GONE
        return member.agent.deliver(order)

    def cancel(self, instance_id: str, command_id: str) -> None:
        """Ask an agent to end a command."""
        member = self._member(instance_id)
        if member is not None:
            member.agent.cancel(command_id)

    def states(self) -> dict[str, str]:
        """Return, for every instance that was ever booted, how it and its agent are."""
        with self._lock:
            members = list(self._members.items())
        return {
            instance_id: (
                "terminated"
                if not member.alive
                else "off"
                if not member.powered
                else "online"
                if member.agent.online_since_s is not None
                else "on"
            )
            for instance_id, member in members
        }

    # What agents ask of it

    def may_register(self, instance_id: str) -> bool:
        """Say whether the instance's role lets the agent register."""
        return self._role_of(instance_id) is not None

    def registration_s(self) -> float:
        """Return how long a registration takes: longer when many instances start at once."""
        herd, once_s = int(self._settings.registration_herd), self._settings.registration_s
        if not herd:
            return once_s
        now_s = self._timers.now_s()
        with self._lock:
            self._registering = [at_s for at_s in self._registering if at_s > now_s]
            wait_s = once_s * (1 + len(self._registering) // herd)
            self._registering.append(now_s + wait_s)
        return wait_s

    def reply(self, reply: Reply) -> None:
        """Pass a reply on to the service."""
        self.on_reply(reply)

    def connected(self, instance_id: str) -> None:
        """Take note that an agent is online."""
        self._timers.after(0, lambda: self.on_connected(instance_id))

    def _member(self, instance_id: str) -> _Member | None:
        with self._lock:
            return self._members.get(instance_id)

    def _node(self, instance_id: str, member: _Member) -> Node | None:
        agent = member.agent
        registered_s, online_s = agent.registered_at_s, agent.online_since_s
        if registered_s is None:
            return None
        now_s = self._timers.now_s()
        silent_s = agent.silent_since_s
        heard_s = now_s if online_s is not None else silent_s
        ping_s, fresh = registered_s, False
        if heard_s is not None:
            # Between two heartbeats the service knows nothing: Online may be minutes old.
            last_s = heard_s - (heard_s - agent.last_online_s) % PING_EVERY_S
            ping_s = self._timers.wall_s() - (now_s - last_s) / self._settings.time_scale
            fresh = online_s is not None or now_s - last_s < self._settings.ping_lost_s
        return Node(
            instance_id=instance_id,
            name=member.facts.get("name", ""),
            online=fresh,
            accepts=member.alive and (member.powered or bool(self._settings.stopped_accepted)),
            listed=member.alive and member.powered,
            computer_name=member.facts.get("host_name", ""),
            ip_address=member.facts.get("private_ip", ""),
            role=member.facts.get("role", ""),
            registered_at_s=registered_s,
            last_ping_at_s=round(ping_s, 3),
            agent_version=AGENT_VERSION,
        )

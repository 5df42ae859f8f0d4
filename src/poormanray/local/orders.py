"""Orders for faults: what someone asks for is checked here, and done or left standing."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from poormanray.local import faults
from poormanray.local.faults import Faults, Rule
from poormanray.local.refusals import Refusal
from poormanray.local.timers import Action, Timers

_NUMBERS = {
    "free": int,
    "probability": float,
    "count": int,
    "after": int,
    "seconds": float,
    "seed": int,
}


class Agents(Protocol):
    """The agents of the instances."""

    def stop_agent(self, instance_id: str) -> None:
        """Stop one."""
        ...

    def start_agent(self, instance_id: str) -> None:
        """Start one."""
        ...

    def restart_agent(self, instance_id: str) -> None:
        """Restart one."""
        ...

    def hibernate_agent(self, instance_id: str) -> None:
        """Let one sleep."""
        ...

    def kill_agent(self, instance_id: str) -> None:
        """Kill one; systemd starts it again."""
        ...

    def cut_off(self, instance_id: str, for_s: float) -> None:
        """Take its way to the service from one."""
        ...

    def lose_replies(self, instance_id: str, for_s: float | None) -> None:
        """Lose the next reply of one, or all for some time."""
        ...

    def crash(self, instance_id: str) -> None:
        """Cut an instance's power without a word."""
        ...


class Instances(Protocol):
    """The instances as EC2 has them."""

    def named(self, pattern: str) -> list[str]:
        """Return the ids of those that are not gone, by id or by their Name."""
        ...

    def reboot(self, instance_ids: list[str]) -> None:
        """Restart machines."""
        ...

    def reclaim(self, instance_id: str, notice_s: float | None = None) -> None:
        """Take a spot instance back some time after a notice."""
        ...

    def end(self, instance_id: str, how: str, reason: tuple[str, str]) -> None:
        """Let EC2 `stop` or `terminate` one of its own accord."""
        ...


class Sessions(Protocol):
    """The temporary credentials."""

    def end_all(self) -> int:
        """Let all be over; return how many were not."""
        ...


class Machines(Protocol):
    """The instances as processes."""

    def freeze(self, instance_id: str) -> int:
        """Stop every process; return how many."""
        ...

    def thaw(self, instance_id: str) -> int:
        """Let them go on."""
        ...

    def kill_runners(self, instance_id: str, *, screens: bool) -> int:
        """Kill the job runners, or the screens that they are in; return how many."""
        ...

    def limit_disk(self, instance_id: str, free: int) -> None:
        """Leave so many bytes on its disk (-1: no limit); raises OSError."""
        ...


class Commands(Protocol):
    """Run Command."""

    def doom(self, instance_id: str, detail: str | None) -> None:
        """Let what is sent to an instance end so; None: no longer."""
        ...

    def pardon(self) -> list[str]:
        """Let no instance be doomed any more; return which ones were."""
        ...


# How what is sent to an instance ends by itself, by the kind of the order.
_FATES = {
    "access-denied": "AccessDenied",
    "invalid-platform": "InvalidPlatform",
    "undeliverable": "Undeliverable",
}


class Orders:
    """Takes orders: rules for requests stand, faults of instances happen at once."""

    def __init__(  # noqa: PLR0913 (each is what some kind of fault strikes)
        self,
        rules: Faults,
        timers: Timers,
        instances: Instances,
        agents: Agents,
        machines: Machines,
        sessions: Sessions,
        *,
        commands: Commands,
        close_port: Callable[[float], None],
    ) -> None:
        self._rules = rules
        self._timers = timers
        self._instances = instances
        self._agents = agents
        self._machines = machines
        self._sessions = sessions
        self._commands = commands
        self._close_port = close_port
        self._kinds: dict[str, Callable[[str, float | None], int]] = {
            "agent-stop": self._agent_stop,
            "agent-start": _always(agents.start_agent),
            "agent-restart": _always(agents.restart_agent),
            "agent-hibernate": _always(agents.hibernate_agent),
            "agent-kill": _always(agents.kill_agent),
            "agent-cut-off": self._cut_off,
            "reply-lost": self._lose_replies,
            "instance-crash": _always(agents.crash),
            "instance-terminate": self._ender("terminate", "Server.InternalError"),
            "instance-stop": self._ender("stop", "Server.ScheduledStop"),
            "instance-reboot": _always(lambda one: instances.reboot([one])),
            "instance-reclaim": self._reclaim,
            "instance-freeze": self._freeze,
            "instance-thaw": self._thaw,
            "disk-full": lambda one, free: self._limit_disk(one, int(free or 0)),
            "disk-free": lambda one, _seconds: self._limit_disk(one, -1),
            "runner-kill": lambda one, _seconds: machines.kill_runners(one, screens=False),
            "screen-kill": lambda one, _seconds: machines.kill_runners(one, screens=True),
            **{kind: self._doomer(detail) for kind, detail in _FATES.items()},
        }

    def answer(self, method: str, route: str, asked: Mapping[str, Any]) -> Mapping[str, object]:
        """Answer the routes `faults` and `faults/ID`.

        Raises:
            Refusal: the order makes no sense, or names what is not there.
        """
        _, _, rule_id = route.partition("/")
        if method == "GET":
            return {"faults": self._rules.listed()}
        if method == "DELETE":
            gone = self._rules.clear(rule_id or None)
            gone += [] if rule_id else self._commands.pardon()
            if rule_id and not gone:
                raise Refusal("NotFound", f"there is no fault {rule_id}", status=404)
            return {"cleared": gone}
        if method == "POST" and not rule_id:
            return self._add(asked)
        raise Refusal("NotFound", f"no route {method} {route}", status=404)

    def _add(self, asked: Mapping[str, Any]) -> Mapping[str, object]:
        order = _checked(asked)
        if order["kind"] == "sessions-end":
            return self._end_sessions(order)
        if order["kind"] == "port-closed":
            return self._refuse_connections(order)
        kind, named = order["kind"], order.get("instance", "")
        ids = self._instances.named(named) if named else []
        if named and not ids:
            raise Refusal("NotFound", f"there is no instance {named}", status=404)
        seed = order.get("seed", secrets.randbelow(2**31))
        if kind in faults.REQUEST_KINDS:
            if "free" in order:
                raise Refusal("ValidationError", f"{kind} takes no free")
            fields = {name: order[name] for name in order.keys() - {"instance", "seed"}}
            rule = Rule(**fields, instance_ids=tuple(ids), seed=seed)
            return {"id": self._rules.add(rule), "kind": kind, "seed": seed}
        strike = self._kinds.get(kind)
        if strike is None:
            known = ", ".join((*faults.REQUEST_KINDS, *self._kinds, "sessions-end", "port-closed"))
            raise Refusal("ValidationError", f"{kind!r} is no kind of fault: {known}")
        measure = "free" if kind == "disk-full" else "seconds"
        wrong = sorted(order.keys() - {"kind", "instance", "count", "seed", measure})
        if wrong:
            text = f"{kind} happens at once and takes no {' or '.join(wrong)}"
            raise Refusal("ValidationError", text)
        if not ids:
            ids = _drawn(self._instances.named("*"), order.get("count", 1), seed)
        struck = {one: strike(one, order.get(measure)) for one in ids}
        return {"kind": kind, "seed": seed, "instances": struck}

    def _end_sessions(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        if wrong := sorted(order.keys() - {"kind", "seed"}):
            text = f"sessions-end happens at once and takes no {' or '.join(wrong)}"
            raise Refusal("ValidationError", text)
        return {"kind": "sessions-end", "seed": 0, "sessions": self._sessions.end_all()}

    def _refuse_connections(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        if wrong := sorted(order.keys() - {"kind", "seconds", "seed"}):
            text = f"port-closed happens at once and takes no {' or '.join(wrong)}"
            raise Refusal("ValidationError", text)
        self._close_port(order["seconds"])
        return {"kind": "port-closed", "seed": 0, "seconds": order["seconds"]}

    def _agent_stop(self, instance_id: str, seconds: float | None) -> int:
        self._agents.stop_agent(instance_id)
        self._later(seconds, lambda: self._agents.start_agent(instance_id))
        return 1

    def _cut_off(self, instance_id: str, seconds: float | None) -> int:
        self._agents.cut_off(instance_id, seconds or 0.0)
        return 1

    def _lose_replies(self, instance_id: str, seconds: float | None) -> int:
        self._agents.lose_replies(instance_id, seconds)
        return 1

    def _doomer(self, detail: str) -> Callable[[str, float | None], int]:
        def act(instance_id: str, seconds: float | None) -> int:
            self._commands.doom(instance_id, detail)
            self._later(seconds, lambda: self._commands.doom(instance_id, None))
            return 1

        return act

    def _ender(self, how: str, code: str) -> Callable[[str, float | None], int]:
        reason = (code, f"{code}: ordered as a fault")
        return _always(lambda one: self._instances.end(one, how, reason))

    def _reclaim(self, instance_id: str, seconds: float | None) -> int:
        self._instances.reclaim(instance_id, seconds)
        return 1

    def _freeze(self, instance_id: str, seconds: float | None) -> int:
        # The agent is one of the instance's processes, though here it runs outside.
        self._agents.stop_agent(instance_id)
        count = self._machines.freeze(instance_id)
        self._later(seconds, lambda: void(self._thaw(instance_id, None)))
        return count

    def _thaw(self, instance_id: str, _seconds: float | None) -> int:
        count = self._machines.thaw(instance_id)
        self._agents.start_agent(instance_id)
        return count

    def _limit_disk(self, instance_id: str, free: int) -> int:
        try:
            self._machines.limit_disk(instance_id, free)
        except OSError as problem:
            raise Refusal("ValidationError", str(problem)) from problem
        return 1

    def _later(self, seconds: float | None, action: Action) -> None:
        if seconds is not None:
            self._timers.after(seconds, action)


def void(_value: object) -> None:
    """Drop a value."""


def _always(action: Callable[[str], None]) -> Callable[[str, float | None], int]:
    def act(instance_id: str, _seconds: float | None) -> int:
        action(instance_id)
        return 1

    return act


def _drawn(ids: list[str], count: int, seed: int) -> list[str]:
    """Return `count` instances by lot; the same ones for the same seed and instances."""
    if not ids:
        raise Refusal("NotFound", "there is no instance", status=404)
    lots = random.Random(seed)  # noqa: S311 (must be the same again, not secret)
    return sorted(lots.sample(sorted(ids), min(count, len(ids))))


def _checked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order with values of the right kinds."""
    order = {name: value for name, value in asked.items() if value is not None}
    unknown = sorted(order.keys() - {*_NUMBERS, "kind", "operation", "instance"})
    words = [order.get(name, "") for name in ("kind", "operation", "instance")]
    if unknown or not order.get("kind") or not all(isinstance(word, str) for word in words):
        raise Refusal("ValidationError", f"an order for a fault has no {unknown or 'kind'}")
    try:
        order |= {name: make(order[name]) for name, make in _NUMBERS.items() if name in order}
    except (TypeError, ValueError) as problem:
        raise Refusal("ValidationError", f"not a number: {problem}") from None
    # While the port is closed, no order can open it.
    sized = order["kind"] in (*faults.SIZED_KINDS, "port-closed")
    seconds = order.get("seconds")
    if sized and seconds is None:
        raise Refusal("ValidationError", f"{order['kind']} needs its seconds")
    if seconds is not None and seconds < 0 and order["kind"] != "clock-skew":
        raise Refusal("ValidationError", "seconds must not be negative")
    if not 0 <= order.get("probability", 1) <= 1:
        raise Refusal("ValidationError", "a probability is between 0 and 1")
    if order.get("count", 1) < 1 or order.get("after", 0) < 0 or order.get("free", 0) < 0:
        raise Refusal("ValidationError", "count is at least 1, after and free at least 0")
    return order

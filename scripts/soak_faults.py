"""Giving the orders of a round at their moments, and taking note of what took effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from poormanray.errors import PmrError
from scripts.soak_check import Struck
from scripts.soak_cloud import Cloud, pause
from scripts.soak_plan import INSTANCE_KINDS, REQUEST_KINDS, SESSIONS_END, Fault

# How an instance must be for an order to mean anything to it.
_AWAKE, _ON = ("online",), ("on", "online")
_MEANT_FOR = {
    **dict.fromkeys(INSTANCE_KINDS, _ON),
    **dict.fromkeys(("agent-stop", "agent-restart", "agent-hibernate"), _AWAKE),
    **dict.fromkeys(("agent-kill", "agent-cut-off"), _AWAKE),
    "agent-start": ("on",),
}
# Wall seconds until what was ordered to end by itself has ended, and agents answer again.
HEALED_S = 60.0
# An agent that has not come back after so long is started, and again after so long.
HELP_S = 3.0


@dataclass(slots=True)
class Tally:
    """How often one kind was ordered and took effect; `strikes` counts requests and instances."""

    ordered: int = 0
    took: int = 0
    strikes: int = 0

    def note(self, strikes: int) -> None:
        """Take in one order, and how much it struck."""
        self.ordered += 1
        self.took += strikes > 0
        self.strikes += strikes


@dataclass(slots=True)
class _Due:
    """An order to come; `at_s` is None until a task has started there."""

    kind: str
    target: int | None
    words: Mapping[str, object]
    at_s: float | None
    fault: Fault | None = None


@dataclass(slots=True)
class Weather:
    """The faults of one round."""

    cloud: Cloud
    faults: Sequence[Fault]
    ids: list[str] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    struck: list[Struck] = field(default_factory=list)
    # Whether clients of now have the keys of a session.
    keyed: bool = False
    _due: list[_Due] = field(default_factory=list)
    _rules: set[str] = field(default_factory=set)
    _last_look_s: float = 0.0

    def begin(self, phase: str) -> None:
        """Start a phase: its faults come at their moments from here on, some at once."""
        now_s = time.monotonic()
        for fault in self.faults:
            if fault.phase == phase:
                if fault.kind == SESSIONS_END:
                    self.cloud.write_keys(lasting=False)
                    self.keyed = True
                at_s = None if fault.on_start else now_s + fault.at_s
                self._due.append(_Due(fault.kind, fault.target, fault.words, at_s, fault))
        self.tick(lambda _instance_id: False)

    def tick(self, is_started: Callable[[str], bool]) -> None:
        """Give the orders that are due; `is_started` says whether a task runs on an instance."""
        now_s = time.monotonic()
        for due in list(self._due):
            if due.at_s is None and due.target is not None and is_started(self.ids[due.target]):
                due.at_s = now_s + (due.fault.at_s if due.fault else 0)
            if due.at_s is not None and due.at_s <= now_s:
                self._due.remove(due)
                self._give(due)

    def _give(self, due: _Due) -> None:
        if due.kind == SESSIONS_END:
            if due.words["renewed"]:
                self.cloud.write_keys(lasting=True)
            said = self.cloud.ask("POST", "faults", {"kind": due.kind})
            self.tallies.setdefault(due.kind, Tally()).note(said["sessions"])
            return
        if due.kind in REQUEST_KINDS:
            said = self.cloud.ask("POST", "faults", {"kind": due.kind, **due.words})
            self._rules.add(said["id"])
            if due.kind == "clock-skew" and due.fault and due.fault.harsh:
                self.struck.append(Struck(due.kind, "", time.time()))
            return
        instance_id = self.ids[due.target or 0]
        if self.strike(due.kind, instance_id, due.words) and due.fault and due.fault.undo:
            at_s = time.monotonic() + due.fault.undo_s
            self._due.append(_Due(due.fault.undo, due.target, {}, at_s))

    def strike(self, kind: str, instance_id: str, words: Mapping[str, object]) -> bool:
        """Order a fault of an instance; say whether it took effect."""
        tally = self.tallies.setdefault(kind, Tally())
        at = time.time()
        strikes = 0
        if self.cloud.machines().get(instance_id) in _MEANT_FOR[kind]:
            order = {"kind": kind, "instance": instance_id, **words}
            try:
                strikes = sum(self.cloud.ask("POST", "faults", order)["instances"].values())
            except PmrError:
                # It is gone, or its disk cannot be changed now.
                strikes = 0
        tally.note(strikes)
        if strikes:
            self.struck.append(Struck(kind, instance_id, at))
        return strikes > 0

    def clear(self) -> None:
        """Take the rules back, and count what they struck."""
        self.keyed = False
        if self._rules:
            for rule in self.cloud.ask("GET", "faults")["faults"]:
                self.tallies.setdefault(rule["kind"], Tally()).note(rule["struck"])
            self.cloud.ask("DELETE", "faults")
            self._rules.clear()

    def heal(self) -> None:
        """End what can be ended, but for full disks; leave instances that are off as they are."""
        self.clear()
        disks = [due for due in self._due if due.kind == "disk-free"]
        undone = [due for due in self._due if due.fault is None and due.kind != "disk-free"]
        self._due = disks
        for due in undone:
            self._give(due)
        until_s = time.monotonic() + HEALED_S
        help_s = time.monotonic() + HELP_S
        while time.monotonic() < until_s:
            asleep = [one for one in self.cloud.machines().items() if one[1] != "off"]
            asleep = [one for one in asleep if one[0] not in self.dead()]
            leaving = any(self.has(one, "instance-reclaim") for one, _ in asleep)
            if not leaving and all(machine == "online" for _, machine in asleep):
                return
            if time.monotonic() >= help_s:
                help_s += HELP_S
                for instance_id in (one for one, machine in asleep if machine == "on"):
                    frozen = self.has(instance_id, "instance-freeze")
                    self.strike("instance-thaw" if frozen else "agent-start", instance_id, {})
            pause(0.2)

    def free_disks(self) -> None:
        """Give full disks their room back. No job may be running."""
        due, self._due = self._due, []
        for one in due:
            self._give(one)

    def has(self, instance_id: str, kind: str) -> bool:
        """Say whether a fault of this kind has struck an instance."""
        return any((one.instance, one.kind) == (instance_id, kind) for one in self.struck)

    def dead(self) -> set[str]:
        """Return the instances without power that EC2 believes to be running."""
        return {
            one.instance
            for one in self.struck
            if one.kind == "instance-crash"
            and not any(
                other.instance == one.instance
                and other.kind in ("instance-reboot", "instance-stop")
                and other.at > one.at
                for other in self.struck
            )
        }

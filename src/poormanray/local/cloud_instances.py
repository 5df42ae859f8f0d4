"""EC2's instances as they really change: states that take time, and machines behind them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from poormanray.local.cloud_moto import Moto, MotoInstance
from poormanray.local.fleet import InstanceFleet
from poormanray.local.refusals import Refusal
from poormanray.local.settings import Settings
from poormanray.local.timers import Timers

LOG = logging.getLogger(__name__)

# Source: EC2 model, InstanceState.Code.
CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
MANAGED_POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
_GONE = ("shutting-down", "terminated")
# From which states an operation is refused, and how the service words it.
_NOT_FROM = {
    "StartInstances": (("stopping", *_GONE), "started"),
    "StopInstances": (_GONE, "stopped"),
    "RebootInstances": (("stopping", "stopped", *_GONE), "rebooted"),
}


class Instances:
    """Follows moto's instances. moto changes states at once; here they pass through the others."""

    def __init__(
        self, moto: Moto, fleet: InstanceFleet, timers: Timers, settings: Settings
    ) -> None:
        self._moto = moto
        self._fleet = fleet
        self._timers = timers
        self._settings = settings
        self._states: dict[str, str] = {}  # what we say, by instance id; moto's lock guards it
        self._regions: dict[str, str] = {}
        self.noticed: set[str] = set()  # spot instances that are told of their end

    def check(self, action: str, instance_ids: Sequence[str]) -> None:
        """Refuse what cannot be done in an instance's state, with IncorrectInstanceState."""
        rule = _NOT_FROM.get(action)
        if rule is None:
            return
        for instance_id in instance_ids:
            if self._states.get(instance_id) in rule[0]:
                text = f"The instance '{instance_id}' is not in a state from which it can be"
                raise Refusal("IncorrectInstanceState", f"{text} {rule[1]}.")

    def follow(self, region: str) -> None:
        """Look at what a call into moto changed, and let machines and states follow."""
        with self._moto.lock:
            for instance in self._moto.ec2(region).all_instances():
                self._regions.setdefault(instance.id, region)
                ours, theirs = self._states.get(instance.id), instance.state
                if ours is None:
                    self._launch(instance)
                elif ours != theirs:
                    self._change(instance, ours, theirs)

    def reboot(self, instance_ids: Sequence[str]) -> None:
        """Restart machines after RebootInstances."""
        for instance_id in instance_ids:
            self._fleet.reboot(instance_id)

    def guest_shutdown(self, instance_id: str, action: str) -> None:
        """Take note that someone ran `shutdown` or `reboot` inside an instance."""
        if action == "reboot":
            self._fleet.reboot(instance_id)
            return
        if action == "halt":
            # The machine stands still with its power on: EC2 sees no end.
            self._fleet.crash(instance_id)
            return
        with self._moto.lock:
            instance = self._find(instance_id)
            if instance is None or self._states.get(instance_id) != "running":
                return
            code = "Client.InstanceInitiatedShutdown"
            self._end(
                instance,
                instance.instance_initiated_shutdown_behavior,
                (code, f"{code}: Instance initiated shutdown"),
            )

    def end(self, instance_id: str, how: str, reason: tuple[str, str]) -> None:
        """Stop or terminate (`how`) a running instance without anyone's call.

        `reason` is the code and the message of its StateReason.
        """
        with self._moto.lock:
            instance = self._find(instance_id)
            if instance is not None and self._states.get(instance_id) in ("pending", "running"):
                self._end(instance, how, reason)

    def named(self, pattern: str) -> list[str]:
        """Return the instances that are not gone, by id or by Name, where `*` stands for any."""
        with self._moto.lock:
            here = [name for name, state in self._states.items() if state not in _GONE]
            if pattern in here:
                return [pattern]
            found = [instance for instance in map(self._find, here) if instance is not None]
            return [one.id for one in found if fnmatchcase(_name(one), pattern)]

    def _end(self, instance: MotoInstance, how: str, reason: tuple[str, str]) -> None:
        if how == "terminate":
            instance.terminate()
        else:
            instance.stop()
        instance.state_reason.code, instance.state_reason.message = reason
        self.follow(self._regions[instance.id])

    def reclaim(self, instance_id: str, notice_s: float | None = None) -> None:
        """Take a spot instance back: EC2 ends it `notice_s` (cloud time) after the notice.

        Source: EC2 user guide: two minutes; the state reason is Server.SpotInstanceTermination;
        the notice is the metadata item spot/instance-action.
        """
        self.noticed.add(instance_id)
        after_s = self._settings.reclaim_notice_s if notice_s is None else notice_s
        ends_at_s = self._timers.wall_s() + after_s / self._settings.time_scale
        at = datetime.fromtimestamp(ends_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._fleet.notify(instance_id, json.dumps({"action": "terminate", "time": at}))
        self._timers.after(after_s, lambda: self._take_back(instance_id))

    def _take_back(self, instance_id: str) -> None:
        with self._moto.lock:
            instance = self._find(instance_id)
            if instance is None or self._states.get(instance_id) in _GONE:
                return
            code = "Server.SpotInstanceTermination"
            text = f"{code}: Instance terminated by a spot interruption"
            self._end(instance, "terminate", (code, text))

    def tags_of(self, instance_id: str) -> dict[str, str]:
        """Return the tags of an instance; none when EC2 has forgotten it."""
        with self._moto.lock:
            instance = self._find(instance_id)
            return {tag["key"]: tag["value"] for tag in instance.get_tags()} if instance else {}

    def role_of(self, instance_id: str) -> str | None:
        """Name the role that makes an instance a managed one, None when it has none such."""
        with self._moto.lock:
            region = self._regions.get(instance_id)
            if region is None:
                return None
            associations = self._moto.ec2(region).iam_instance_profile_associations
            association = associations.get(instance_id)
            roles = association.iam_instance_profile.roles if association else []
            for role in roles:
                if MANAGED_POLICY in role.managed_policies:
                    return str(role.name)
        return None

    def states(self) -> dict[str, str]:
        """Return the state of every instance."""
        with self._moto.lock:
            return dict(self._states)

    def _launch(self, instance: MotoInstance) -> None:
        if instance.state in ("stopped", "terminated"):
            self._states[instance.id] = instance.state
            return
        self._set(instance, "pending")
        self._power_on_later(instance.id)

    def _change(self, instance: MotoInstance, ours: str, theirs: str) -> None:
        instance_id = instance.id
        if theirs == "running" and ours == "stopped":
            self._set(instance, "pending")
            self._power_on_later(instance_id)
        elif theirs == "stopped" and ours in ("pending", "running"):
            self._set(instance, "stopping")
            self._fleet.power_off(
                instance_id, lambda: self._settle(instance_id, "stopping", "stopped")
            )
        elif theirs == "terminated" and ours not in _GONE:
            self._set(instance, "shutting-down")
            self._fleet.destroy(
                instance_id, lambda: self._settle(instance_id, "shutting-down", "terminated")
            )
        else:
            self._set(instance, ours)

    def _power_on_later(self, instance_id: str) -> None:
        self._timers.after(self._settings.pending_s, lambda: self._power_on(instance_id))

    def _power_on(self, instance_id: str) -> None:
        with self._moto.lock:
            instance = self._find(instance_id)
            if instance is None or self._states.get(instance_id) != "pending":
                return
            facts = dict(self._facts(instance))
        self._fleet.boot(instance_id, facts, lambda problem: self._booted(instance_id, problem))

    def _booted(self, instance_id: str, problem: OSError | None) -> None:
        with self._moto.lock:
            instance = self._find(instance_id)
            if instance is None or self._states.get(instance_id) != "pending":
                return
            if problem is None:
                self._set(instance, "running")
                return
            code = "Server.InternalError"
            self._end(instance, "terminate", (code, f"{code}: {problem}"))

    def _settle(self, instance_id: str, before: str, after: str) -> None:
        stopping = before == "stopping"
        delay_s = self._settings.stopping_s if stopping else self._settings.shutting_down_s

        def settle() -> None:
            with self._moto.lock:
                instance = self._find(instance_id)
                if instance is not None and self._states.get(instance_id) == before:
                    self._set(instance, after)
                    if after == "terminated":
                        shown_s = self._settings.terminated_shown_s
                        self._timers.after(shown_s, lambda: self._forget(instance_id))

        self._timers.after(delay_s, settle)

    def _forget(self, instance_id: str) -> None:
        """Let a terminated instance be unknown to every call."""
        with self._moto.lock:
            del self._states[instance_id]
            for reservation in self._moto.ec2(self._regions.pop(instance_id)).reservations.values():
                kept = [one for one in reservation.instances if one.id != instance_id]
                reservation.instances[:] = kept

    def _set(self, instance: MotoInstance, state: str) -> None:
        self._states[instance.id] = state
        instance._state.name, instance._state.code = state, CODES[state]

    def _find(self, instance_id: str) -> MotoInstance | None:
        region = self._regions.get(instance_id)
        if region is None:
            return None
        found: MotoInstance | None = self._moto.ec2(region).get_instance_by_id(instance_id)
        return found

    def _facts(self, instance: MotoInstance) -> Iterator[tuple[str, str]]:
        yield "region", self._regions[instance.id]
        yield "type", str(instance.instance_type)
        yield "image", str(instance.image_id)
        yield "architecture", str(instance.architecture)
        yield "name", _name(instance)
        yield "private_ip", str(instance.private_ip or "")
        yield "host_name", str(instance.private_dns_name or "")
        yield "zone", str(instance.availability_zone or "")
        yield "role", self.role_of(instance.id) or ""


def _name(instance: MotoInstance) -> str:
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}.get("Name", "")

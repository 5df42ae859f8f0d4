"""How many calls the services take: a token bucket for each operation."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from poormanray.local.settings import Settings
from poormanray.local.timers import Timers


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of a bucket, and how many tokens come back in a second."""

    size: float
    refill: float


# Source: ssm-facts 3 (EC2 API throttling): requests by account, region and operation.
EC2_READ, EC2_BARE_READ, EC2_CHANGE = Bucket(100, 20), Bucket(50, 10), Bucket(50, 5)
EC2_REQUESTS = {
    "RunInstances": Bucket(5, 2),
    "StartInstances": Bucket(5, 2),
    "TerminateInstances": Bucket(100, 5),
    "CreateTags": Bucket(100, 10),
    "DeleteTags": Bucket(100, 10),
    "AssociateIamInstanceProfile": Bucket(100, 5),
}
# The same for how many instances they name.
EC2_INSTANCES = {
    "RunInstances": Bucket(1000, 2),
    "StartInstances": Bucket(1000, 2),
    "StopInstances": Bucket(1000, 20),
    "TerminateInstances": Bucket(1000, 20),
}
_BARE = ("DescribeInstances", "DescribeInstanceStatus")
_PAGED = ("Filter.", "MaxResults", "InstanceId.")


class Throttle:
    """Counts calls; time is the cloud's."""

    def __init__(self, timers: Timers, settings: Settings) -> None:
        self._timers = timers
        self._settings = settings
        self._lock = threading.Lock()
        self._levels: dict[tuple[str, ...], tuple[float, float]] = {}  # tokens, when

    def refuses(self, service: str, region: str, operation: str, form: Mapping[str, str]) -> bool:
        """Take a call's tokens; say whether there were too few."""
        wanted = self._wanted(service, operation, form)
        with self._lock:
            now_s = self._timers.now_s()
            levels: dict[tuple[str, ...], tuple[float, float]] = {}
            for kind, (bucket, cost) in wanted.items():
                key = (service, region, operation, kind)
                level, at_s = self._levels.get(key, (bucket.size, now_s))
                level = min(bucket.size, level + (now_s - at_s) * bucket.refill)
                if level < cost:
                    return True
                levels[key] = (level - cost, now_s)
            self._levels.update(levels)
        return False

    def _wanted(
        self, service: str, operation: str, form: Mapping[str, str]
    ) -> dict[str, tuple[Bucket, float]]:
        if service == "ec2" and self._settings.ec2_throttle:
            wanted = {"requests": (_ec2_bucket(operation, form), 1.0)}
            if operation in EC2_INSTANCES:
                wanted["instances"] = (EC2_INSTANCES[operation], _instances(form))
            return wanted
        rate = {"ssm": self._settings.ssm_rate, "iam": self._settings.iam_rate}.get(service, 0)
        return {"requests": (Bucket(max(rate, 1), rate), 1.0)} if rate else {}


def _ec2_bucket(operation: str, form: Mapping[str, str]) -> Bucket:
    if operation in EC2_REQUESTS:
        return EC2_REQUESTS[operation]
    if not operation.startswith("Describe"):
        return EC2_CHANGE
    bare = operation in _BARE and not any(name.startswith(_PAGED) for name in form)
    return EC2_BARE_READ if bare else EC2_READ


def _instances(form: Mapping[str, str]) -> float:
    if form.get("MaxCount", "").isdecimal():
        return float(form["MaxCount"])
    return float(sum(name.startswith("InstanceId.") for name in form))

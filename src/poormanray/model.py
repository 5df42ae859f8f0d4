"""The nouns of the program: frozen values, and pure functions on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TypeVar

T = TypeVar("T")

# `<cluster>-0000` is the Name tag of an instance; a tag value may have 256 characters.
CLUSTER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
TOOL_TAG = "poormanray"

# The tags that make an instance ours. The last is set by the launch itself, the same on all
# instances of the launch: the host index of the first of them.
TAG_CLUSTER = "Project"
TAG_TOOL = "Tool"
TAG_OWNER = "Contact"
TAG_NAME = "Name"
TAG_FIRST_INDEX = "FirstHostIndex"
# Of an instance that no tag gives a host index.
NO_INDEX = -1


class InstanceState(Enum):
    """The states of an EC2 instance (EC2 model: InstanceStateName)."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def alive(self) -> bool:
        """Say whether the instance still exists, running or not."""
        return self not in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)


@dataclass(frozen=True, slots=True)
class Instance:
    """One EC2 instance of a cluster.

    `launch_index` is its place within the one request that launched it, `launch_token` that
    request's client token; `named` says whether it carries its Name tag already.
    """

    instance_id: str
    name: str
    cluster: str
    host_index: int
    state: InstanceState
    instance_type: str = ""
    architecture: str = ""
    owner: str = ""
    launched_at: datetime | None = None
    zone: str = ""
    private_ip: str = ""
    public_ip: str = ""
    spot: bool = False
    state_reason: str = ""
    launch_index: int = 0
    launch_token: str = ""
    named: bool = True


@dataclass(frozen=True, slots=True)
class Image:
    """A machine image, as far as a launch needs to know it (`root_gib` 0: it does not say)."""

    image_id: str
    name: str
    architecture: str
    root_device: str
    root_gib: int
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet, and the zone and network that it lies in."""

    subnet_id: str
    zone: str
    vpc_id: str


@dataclass(frozen=True, slots=True)
class Profile:
    """An instance profile; `is_new` if it was made just now, so that EC2 may not see it yet."""

    name: str
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to launch: a count and a type, and how each instance is made (empty: our default)."""

    cluster: str
    owner: str
    count: int
    instance_type: str
    image: str = ""
    zone: str = ""
    subnet: str = ""
    security_groups: tuple[str, ...] = ()
    public_ip: bool = False
    instance_profile: str = ""
    policy_arns: tuple[str, ...] = ()
    permissions_boundary: str = ""
    storage_type: str = "gp3"
    storage_gib: int | None = None
    storage_iops: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One call that launches instances, with everything in it decided.

    `token` makes it safe to repeat: the same token never launches twice.
    """

    spec: LaunchSpec
    count: int
    first_index: int
    token: str
    image: Image
    subnet: Subnet
    security_groups: tuple[str, ...]
    profile: Profile


@dataclass(frozen=True, slots=True)
class Agent:
    """What SSM knows of the agent on one instance (SSM model: InstanceInformation)."""

    instance_id: str
    online: bool
    last_ping_at: datetime | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which instances a command is about; no ids means the whole cluster."""

    cluster: str
    instance_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reachability:
    """The instances of a selection that can take work now, and why the others cannot."""

    ready: tuple[Instance, ...]
    left_out: tuple[tuple[Instance, str], ...]


class InvocationStatus(Enum):
    """Where one instance's part of a command stands, as far as the client cares."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    UNDELIVERED = "undelivered"

    @property
    def ended(self) -> bool:
        """Say whether the status can no longer change."""
        return self not in (InvocationStatus.PENDING, InvocationStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One instance's part of a command.

    `detail` is the service's StatusDetails text; `output` the part of stdout that the call
    returned (at most 2,500 characters from a list, 24,000 from a single look).
    """

    instance_id: str
    status: InvocationStatus
    detail: str
    response_code: int
    output: str


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def instance_name(cluster: str, host_index: int) -> str:
    """Return the name of an instance: its cluster and its number."""
    return f"{cluster}-{host_index:04d}"


def numbered(instances: Iterable[Instance]) -> list[Instance]:
    """Give each instance of a cluster a host index of its own, and the name that it makes.

    An index that a tag gives stays. Instances without one, and the second of two that got the
    same (two launches at the same moment), follow after the highest, always in the same order.
    """
    clusters: dict[str, list[Instance]] = {}
    for instance in instances:
        clusters.setdefault(instance.cluster, []).append(instance)
    return [
        replace(instance, host_index=index, name=instance_name(cluster, index))
        for cluster in sorted(clusters)
        for index, instance in sorted(_indexed(clusters[cluster]), key=lambda pair: pair[0])
    ]


def _indexed(instances: list[Instance]) -> list[tuple[int, Instance]]:
    placed: dict[int, Instance] = {}
    without: list[Instance] = []
    order = sorted(
        instances,
        key=lambda i: (not i.state.alive, i.launch_token, i.launch_index, i.instance_id),
    )
    for instance in order:
        if instance.host_index == NO_INDEX or instance.host_index in placed:
            without.append(instance)
        else:
            placed[instance.host_index] = instance
    after = max(placed, default=-1) + 1
    return [*placed.items(), *enumerate(without, start=after)]


def readable_s(seconds: float) -> str:
    """Return a time span in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

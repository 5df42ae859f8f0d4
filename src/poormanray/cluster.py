"""What a cluster can do once it is there: be found, awaited, paused, resumed and ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from poormanray.errors import AwsRefused, NoCapacity, NotFound, NotReached
from poormanray.model import (
    Agent,
    Instance,
    InstanceState,
    Reachability,
    Selection,
    numbered,
)
from poormanray.waiting import poll

if TYPE_CHECKING:
    from poormanray.aws.session import Aws

READY_TIMEOUT_S = 600.0
_STOPPED_S = 600.0
# How long EC2 may refuse to change what has just been shown in a fitting state, or have no room.
_CHANGED_S = 60.0

_ENDED = {InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED}
_HOPELESS = _ENDED | {InstanceState.STOPPING, InstanceState.STOPPED}


def find(
    aws: Aws, selection: Selection, *, states: Iterable[InstanceState] | None = None
) -> list[Instance]:
    """Return the living instances of a selection, by host index; `states` narrows them further.

    An instance is selected by its id or its name.

    Raises:
        NotFound: there is no such cluster, or no such instance in it.
    """
    known = numbered(aws.ec2().instances(selection.cluster))
    living = [instance for instance in known if instance.state.alive]
    if not living:
        raise NotFound(
            f"there is no cluster named {selection.cluster} in {aws.region}",
            "pmr list shows every cluster of the region; pmr create makes one",
        )
    if selection.instance_ids:
        wanted = set(selection.instance_ids)
        chosen = [one for one in living if one.instance_id in wanted or one.name in wanted]
        _refuse_unknown(selection, chosen, known)
        living = chosen
    if states is not None:
        allowed = set(states)
        living = [instance for instance in living if instance.state in allowed]
    return living


def _refuse_unknown(
    selection: Selection, chosen: Sequence[Instance], known: Sequence[Instance]
) -> None:
    words = {word for one in chosen for word in (one.instance_id, one.name)}
    missing = [word for word in selection.instance_ids if word not in words]
    if not missing:
        return
    ended = {one.instance_id: one for one in known if not one.state.alive}
    gone = [f"{word} ({ended[word].state.value})" if word in ended else word for word in missing]
    raise NotFound(
        f"cluster {selection.cluster} has no instance {', '.join(gone)}",
        f"pmr list -n {selection.cluster} shows its instances",
    )


def clusters(aws: Aws) -> list[Instance]:
    """Return the living instances of every cluster, by cluster and host index."""
    return [one for one in numbered(aws.ec2().instances()) if one.state.alive]


def reachable(aws: Aws, instances: Sequence[Instance]) -> Reachability:
    """Say which instances can take work now, and why the others cannot."""
    running = [one.instance_id for one in instances if one.state is InstanceState.RUNNING]
    agents = aws.ssm().agents(running)
    ready: list[Instance] = []
    left_out: list[tuple[Instance, str]] = []
    for instance in instances:
        reason = _obstacle(instance, agents.get(instance.instance_id))
        if reason:
            left_out.append((instance, reason))
        else:
            ready.append(instance)
    return Reachability(ready=tuple(ready), left_out=tuple(left_out))


def _obstacle(instance: Instance, agent: Agent | None) -> str:
    """Return why an instance cannot take work; empty if it can."""
    if instance.state is not InstanceState.RUNNING:
        why = f" ({instance.state_reason})" if instance.state_reason else ""
        return f"{instance.state.value}{why}"
    if agent is None:
        return "its agent has not reported to SSM yet"
    if not agent.online:
        return f"its agent is not online{_since(agent.last_ping_at)}"
    return ""


def _since(at: datetime | None) -> str:
    return f" (last seen {at:%Y-%m-%d %H:%M:%S} UTC)" if at else ""


def wait_ready(
    aws: Aws,
    instances: Sequence[Instance],
    timeout_s: float = READY_TIMEOUT_S,
    *,
    on_look: Callable[[Reachability], None] | None = None,
) -> Reachability:
    """Wait until the agent of every instance is online, and return who is ready and who not.

    It ends early when those that are not ready never will be (stopped, ended), and after
    `timeout_s` seconds; `on_look` is told of every look in between.
    """
    wanted = {one.instance_id: one for one in instances}
    last = Reachability(ready=(), left_out=())

    def look() -> Reachability:
        nonlocal last
        last = reachable(aws, refreshed(aws, list(wanted.values())))
        if on_look:
            on_look(last)
        return last

    try:
        # An outage is waited for as long as the instances are.
        with aws.clock.until(aws.clock.now_s() + timeout_s):
            return poll(
                look,
                clock=aws.clock,
                timeout_s=timeout_s,
                until=lambda now: all(one.state in _HOPELESS for one, _ in now.left_out),
                longest_s=4.0,
            )
    except TimeoutError:
        return last


def refreshed(aws: Aws, instances: Sequence[Instance]) -> list[Instance]:
    """Return the same instances as EC2 sees them now; one that it does not show is as it was."""
    now = {
        one.instance_id: one
        for cluster in sorted({one.cluster for one in instances})
        for one in aws.ec2().instances(cluster)
    }
    return [
        replace(now.get(one.instance_id, one), host_index=one.host_index, name=one.name)
        for one in instances
    ]


def pause(aws: Aws, instances: Sequence[Instance]) -> list[Instance]:
    """Stop those instances that run, and return them; their disks stay.

    Raises:
        AwsRefused: a spot instance among them cannot be stopped; none was.
    """
    running = [
        one for one in instances if one.state in {InstanceState.RUNNING, InstanceState.PENDING}
    ]
    spot = [one.instance_id for one in running if one.spot]
    fixed = set(spot) - aws.ec2().restartable_spot(spot) if spot else set()
    if fixed:
        names = ", ".join(one.name for one in running if one.instance_id in fixed)
        raise AwsRefused(
            f"one-time spot instances cannot be stopped, only terminated: {names}",
            "pause the others with -i, or pmr terminate",
        )
    return _change(aws, running, aws.ec2().stop, {InstanceState.RUNNING, InstanceState.PENDING})


def resume(aws: Aws, instances: Sequence[Instance]) -> list[Instance]:
    """Start those instances that are stopped, and return them; waits for ones on their way down.

    It returns when EC2 no longer calls them stopped, so that a wait for their agents is no
    hopeless one.
    """
    down = {InstanceState.STOPPING, InstanceState.STOPPED}
    resting = [one for one in instances if one.state in down]
    resting = wait_state(aws, resting, lambda state: state is not InstanceState.STOPPING)
    stopped = [one for one in resting if one.state is InstanceState.STOPPED]
    started = _change(aws, stopped, aws.ec2().start, {InstanceState.STOPPED})
    return wait_state(aws, started, lambda state: state not in down)


def _change(
    aws: Aws,
    instances: Sequence[Instance],
    change: Callable[[Sequence[str]], None],
    fitting: Collection[InstanceState],
) -> list[Instance]:
    """Stop or start instances, and return them without those that have ended meanwhile.

    EC2 refuses the whole call for one instance whose state has changed since it was looked at, and
    where a zone has no room, which may be free a moment later.
    """
    now = list(instances)
    refusal: AwsRefused | None = None

    def try_once() -> bool:
        nonlocal now, refusal
        if refusal is not None:
            now = refreshed(aws, now)
        chosen = [one.instance_id for one in now if one.state in fitting]
        try:
            if chosen:
                change(chosen)
        except AwsRefused as error:
            if error.code != "IncorrectInstanceState" and not isinstance(error, NoCapacity):
                raise
            refusal = error
            return False
        return True

    try:
        poll(try_once, clock=aws.clock, timeout_s=_CHANGED_S, until=bool)
    except TimeoutError:
        if refusal is not None:
            raise refusal from None
    return [one for one in now if one.state not in _ENDED]


def wait_state(
    aws: Aws,
    instances: Sequence[Instance],
    accepted: Callable[[InstanceState], bool],
    timeout_s: float = _STOPPED_S,
) -> list[Instance]:
    """Wait until EC2 shows every instance in an accepted state.

    Raises:
        NotReached: some are not after `timeout_s` seconds.
    """
    if not instances:
        return []
    try:
        return poll(
            lambda: refreshed(aws, instances),
            clock=aws.clock,
            timeout_s=timeout_s,
            until=lambda now: all(accepted(one.state) for one in now),
            longest_s=8.0,
        )
    except TimeoutError as error:
        name = instances[0].cluster
        raise NotReached(
            f"after {timeout_s:.0f} s EC2 still has not moved every instance of {name}",
            f"pmr list -n {name} shows their states",
        ) from error


def terminate(aws: Aws, instances: Sequence[Instance]) -> None:
    """End instances for good; doing it twice is no error."""
    aws.ec2().terminate([one.instance_id for one in instances])

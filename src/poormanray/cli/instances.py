"""How the commands show instances, and how far they are from being ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime

from poormanray import cluster
from poormanray.cli.options import App
from poormanray.errors import CredentialsEnded, ExitCode, NotReached, PmrError
from poormanray.model import Agent, Instance, InstanceState, Reachability

# So many instances are named where many share one obstacle.
_NAMED = 4
COLUMNS = ("id", "name", "type", "state", "agent", "zone", "private ip", "age")
# What a narrow terminal does without; --json has all.
SPARE_COLUMNS = ("private ip", "zone", "type", "age")
_NO_AGENT_HINT = (
    "an agent needs a way out to SSM: a NAT gateway, the VPC endpoints ssm and ssmmessages, or "
    "create --public-ip; pmr wait goes on waiting"
)


@contextmanager
def goes_on(app: App, what: str, again: str) -> Iterator[None]:
    """Where the block is cut off, say that `what` goes on, and the command to look again."""
    try:
        yield
    except (KeyboardInterrupt, PmrError) as error:
        app.out.note(f"{what}; to go on waiting: {again}")
        if isinstance(error, CredentialsEnded):
            error.hint = f"log in again, then: {again}"
        raise


def watched(
    app: App,
    instances: Sequence[Instance],
    timeout_s: float,
    *,
    events: bool = False,
    chosen: Sequence[str] = (),
) -> Reachability:
    """Wait until the instances are ready, and show how far they are.

    `chosen` are the words of `-i`, for the command that goes on waiting.
    """
    ready: set[str] = set()
    last = Reachability(ready=(), left_out=tuple((one, "not asked yet") for one in instances))

    def show(now: Reachability) -> None:
        nonlocal last
        last = now
        why = Counter(reason for _, reason in now.left_out)
        rest = "".join(f", {count}: {reason}" for reason, count in why.most_common())
        app.out.progress(f"{len(now.ready)} of {len(instances)} ready{rest}")
        for one in now.ready:
            if events and one.instance_id not in ready:
                app.out.event({"event": "ready", "instance_id": one.instance_id, "name": one.name})
        ready.update(one.instance_id for one in now.ready)

    only = [word for one in chosen for word in ("-i", one)]
    again = app.command_line("wait", "-n", instances[0].cluster, *only)
    try:
        with goes_on(app, "they go on starting", again):
            reach = cluster.wait_ready(app.aws, instances, timeout_s, on_look=show)
    except PmrError:
        _tell_last(app, last)
        if events:
            ids = [one.instance_id for one in last.ready]
            told = {"event": "unwatched", "ready": ids, **left_out_facts(last), "again": again}
            app.out.event(told)
        raise
    app.out.progress("")
    return reach


def _tell_last(app: App, last: Reachability) -> None:
    """Say which instances were ready when they were last seen, and which not yet."""
    if last.ready:
        app.out.note(f"ready, as last seen: {_names(last.ready)}")
    for reason in {reason: None for _, reason in last.left_out}:
        those = [one for one, why in last.left_out if why == reason]
        app.out.note(f"not ready yet: {_names(those)}: {reason}")


def verdict(app: App, reach: Reachability, expected: int) -> ExitCode:
    """Name every instance that is not ready, say what to do, and return the exit code.

    `expected` is how many instances there are to be.
    """
    if not reach.left_out:
        return ExitCode.OK if len(reach.ready) == expected > 0 else ExitCode.NOT_REACHED
    if not app.out.json:
        why: dict[str, list[Instance]] = {}
        for one, reason in reach.left_out:
            why.setdefault(reason, []).append(one)
        for reason, those in why.items():
            app.out.note(f"{_names(those)}: {reason}")
        count, total = len(reach.left_out), len(reach.left_out) + len(reach.ready)
        hint = _way_out(app, [one for one, _ in reach.left_out])
        app.out.failure(NotReached(f"{count} of {many(total)} not ready", hint))
    return ExitCode.NOT_REACHED


def _names(instances: Sequence[Instance]) -> str:
    """Return the names of instances, of many only the first few."""
    names = ", ".join(f"{one.name} ({one.instance_id})" for one in instances[:_NAMED])
    more = len(instances) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _way_out(app: App, instances: Sequence[Instance]) -> str:
    """Return what to do about instances that are not ready, for the nearest obstacle."""
    name = instances[0].cluster
    states = {one.state for one in instances}
    if InstanceState.RUNNING in states:
        return _NO_AGENT_HINT
    if InstanceState.PENDING in states:
        return f"{app.command_line('wait', '-n', name)} goes on waiting"
    if states & {InstanceState.STOPPED, InstanceState.STOPPING}:
        return app.command_line("resume", "-n", name)
    create = app.command_line("create", "-n", name, "-N", len(instances))
    return f"{create} makes up for those that ended"


def agent_words(app: App, instances: Sequence[Instance]) -> dict[str, str]:
    """Return a word on the agent of each instance."""
    running = [one.instance_id for one in instances if one.state is InstanceState.RUNNING]
    known = app.aws.ssm().agents(running)
    return {one.instance_id: _agent_word(one, known) for one in instances}


def _agent_word(instance: Instance, known: Mapping[str, Agent]) -> str:
    if instance.state is not InstanceState.RUNNING:
        return "-"
    agent = known.get(instance.instance_id)
    if agent is None:
        return "not yet"
    return "online" if agent.online else "offline"


def row(one: Instance, agent: str) -> list[str]:
    """Return the cells of an instance, in the order of COLUMNS."""
    return [
        one.instance_id,
        one.name,
        one.instance_type,
        one.state.value,
        agent,
        one.zone or "-",
        one.private_ip or "-",
        _age(one.launched_at),
    ]


def facts(one: Instance, agent: str) -> dict[str, object]:
    """Return what JSON tells of an instance."""
    hidden = {"launch_index", "launch_token", "named"}
    told = {field.name: getattr(one, field.name) for field in fields(one)}
    return {key: value for key, value in told.items() if key not in hidden} | {"agent": agent}


def left_out_facts(reach: Reachability) -> dict[str, object]:
    """Return what JSON tells of the instances that are not ready."""
    return {
        "left_out": [
            {"instance_id": one.instance_id, "name": one.name, "reason": reason}
            for one, reason in reach.left_out
        ]
    }


def many(count: int) -> str:
    """Return a number of instances, in words that fit it."""
    return f"{count} instance{'' if count == 1 else 's'}"


def _age(since: datetime | None) -> str:
    """Return how long ago a moment was, in two units at most."""
    if since is None:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if not hours:
        return f"{minutes}m"
    return f"{days}d{hours % 24:02d}h" if days else f"{hours}h{minutes % 60:02d}m"

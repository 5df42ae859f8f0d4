"""How fast a command reaches its instances, and when the rest of them is spared."""

from __future__ import annotations

from poormanray.local.run_command_records import CommandRecord, InvocationRecord, Status

# Source: user guide, "Understanding command statuses": only these count toward MaxErrors.
COUNTED = ("Failed", "ExecutionTimedOut")


def advance(command: CommandRecord) -> list[str]:
    """Mark the instances whose turn it is as sent, and return them.

    One instance at first; when it has acknowledged, two more, then four, and so on, never more
    than MaxConcurrency at a time. After more than MaxErrors errors the rest is Terminated.
    Source: user guide, "Using targets and rate controls".
    """
    parts = list(command.invocations.values())
    if error_count(command) > allowed_errors(command):
        for part in parts:
            if not part.sent:
                part.move(Status.CANCELLED, "Terminated")
        return []
    sent = [part for part in parts if part.sent]
    if not all(map(_acknowledged, sent)):
        return []
    # One that cannot be reached keeps its place until its time is over.
    room = allowed_at_once(command) - sum(not part.status.ended for part in sent)
    waiting = [part for part in parts if not part.sent and not part.status.ended]
    turn = waiting[: max(0, min(command.wave, room))]
    for part in turn:
        part.sent = True
    if turn:
        command.wave *= 2
    return [part.instance_id for part in turn]


def error_count(command: CommandRecord) -> int:
    """Return how many invocations count toward MaxErrors."""
    return sum(part.detail in COUNTED for part in command.invocations.values())


def allowed_errors(command: CommandRecord) -> int:
    """Return MaxErrors as a number of instances."""
    return _number(command.max_errors, len(command.invocations))


def allowed_at_once(command: CommandRecord) -> int:
    """Return MaxConcurrency as a number of instances, at least 1."""
    return max(1, _number(command.max_concurrency, len(command.invocations)))


def _acknowledged(part: InvocationRecord) -> bool:
    """Say whether the agent, or its absence, has answered."""
    return part.refused or part.status is not Status.PENDING


def _number(text: str, whole: int) -> int:
    return whole * int(text[:-1]) // 100 if text.endswith("%") else int(text)

"""How Run Command's records look in answers: statuses, counts, pages."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from poormanray.local.refusals import Refusal
from poormanray.local.run_command_pace import allowed_errors, error_count
from poormanray.local.run_command_records import (
    WAITING,
    CommandRecord,
    InvocationRecord,
    Node,
    Status,
)

T = TypeVar("T")

PLUGIN = "aws:runShellScript"
# Source: SSM model, GetCommandInvocationResult and CommandPlugin.
STDOUT_CHARS, STDERR_CHARS, LISTED_CHARS = 24_000, 8_000, 2_500
# Details that neither fail nor complete a command (user guide, "Understanding command statuses").
_NOT_COUNTED = {"Undeliverable", "InvalidPlatform", "AccessDenied"}
# Details of those that were spared because others had failed.
_SPARED = {"Terminated"}


def command_status(command: CommandRecord) -> tuple[Status, str]:
    """Return a command's status and detail, made of its invocations'."""
    if command.early_end is not None:
        return command.early_end
    parts = list(command.invocations.values())
    if all(part.status.ended for part in parts):
        return _ended_status(command)
    if command.cancel_asked:
        return Status.CANCELLING, "Cancelling"
    states = {part.status for part in parts}
    if states == {Status.PENDING}:
        return Status.PENDING, "Pending"
    delayed = states <= WAITING
    return Status.IN_PROGRESS, "Delayed" if delayed else "InProgress"


def _ended_status(command: CommandRecord) -> tuple[Status, str]:
    unhappy = [
        part
        for part in command.invocations.values()
        if part.detail not in _NOT_COUNTED | _SPARED and part.status is not Status.SUCCESS
    ]
    if not unhappy:
        return Status.SUCCESS, "Success"
    if any(part.status is Status.CANCELLED for part in unhappy):
        return Status.CANCELLED, "Cancelled"
    first = unhappy[0]
    if all(part.detail == first.detail for part in unhappy):
        return first.status, first.detail
    failed = error_count(command) > allowed_errors(command)
    return Status.FAILED, "Failed" if failed else "Incomplete"


def command_view(command: CommandRecord, *, counts: bool = True) -> dict[str, Any]:
    """Return a Command structure; SendCommand's own answer has no counts yet."""
    status, detail = command_status(command)
    parts = list(command.invocations.values())
    return {
        "CommandId": command.command_id,
        "DocumentName": command.document,
        "DocumentVersion": command.document_version,
        "Comment": command.comment,
        "ExpiresAfter": command.requested_at_s + command.timeout_s + command.execution_timeout_s,
        "Parameters": command.parameters,
        "InstanceIds": command.instance_ids,
        "Targets": command.targets,
        "RequestedDateTime": command.requested_at_s,
        "Status": status.value,
        "StatusDetails": detail,
        "MaxConcurrency": command.max_concurrency,
        "MaxErrors": command.max_errors,
        "TargetCount": command.target_count if counts else 0,
        "CompletedCount": sum(part.status.ended for part in parts) if counts else 0,
        "ErrorCount": error_count(command) if counts else 0,
        "DeliveryTimedOutCount": sum(part.detail == "DeliveryTimedOut" for part in parts),
        "TimeoutSeconds": command.timeout_s,
        "OutputS3BucketName": "",
        "OutputS3KeyPrefix": "",
        "ServiceRole": "",
        **command.echoed,
    }


def invocation_view(
    command: CommandRecord, part: InvocationRecord, *, details: bool
) -> dict[str, Any]:
    """Return a CommandInvocation structure, with its plugin when `details` are asked for."""
    plugin = {
        "Name": PLUGIN,
        "Status": _plugin_status(part.status).value,
        "StatusDetails": part.detail,
        "ResponseCode": part.exit_code,
        "ResponseStartDateTime": part.started_at_s,
        "ResponseFinishDateTime": part.ended_at_s,
        "Output": part.output[:LISTED_CHARS] if part.status.ended else "",
        "StandardOutputUrl": "",
        "StandardErrorUrl": "",
        "OutputS3BucketName": command.echoed.get("OutputS3BucketName", ""),
        "OutputS3KeyPrefix": command.echoed.get("OutputS3KeyPrefix", ""),
    }
    return {
        "CommandId": command.command_id,
        "InstanceId": part.instance_id,
        "InstanceName": part.instance_name,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": command.document_version,
        "RequestedDateTime": command.requested_at_s,
        "Status": part.status.value,
        "StatusDetails": part.detail,
        "StandardOutputUrl": "",
        "StandardErrorUrl": "",
        "CommandPlugins": [plugin] if details else [],
        "ServiceRole": "",
    }


def single_view(command: CommandRecord, part: InvocationRecord) -> dict[str, Any]:
    """Return GetCommandInvocation's answer."""
    ended = part.status.ended
    start, end = part.started_at_s, part.ended_at_s
    elapsed = f"PT{end - start:.3f}S" if start is not None and end is not None else ""
    return {
        "CommandId": command.command_id,
        "InstanceId": part.instance_id,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": command.document_version,
        "PluginName": PLUGIN,
        "ResponseCode": part.exit_code,
        "ExecutionStartDateTime": _iso(start),
        "ExecutionElapsedTime": elapsed,
        "ExecutionEndDateTime": _iso(end),
        "Status": part.status.value,
        "StatusDetails": part.detail,
        "StandardOutputContent": part.stdout[:STDOUT_CHARS] if ended else "",
        "StandardOutputUrl": "",
        "StandardErrorContent": part.stderr[:STDERR_CHARS] if ended else "",
        "StandardErrorUrl": "",
        "CloudWatchOutputConfig": {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False},
    }


def node_view(node: Node) -> dict[str, Any]:
    """Return an InstanceInformation structure."""
    return {
        "InstanceId": node.instance_id,
        "PingStatus": "Online" if node.online else "ConnectionLost",
        "LastPingDateTime": node.last_ping_at_s,
        "AgentVersion": node.agent_version,
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": "Amazon Linux",
        "PlatformVersion": node.platform_version,
        "ResourceType": "EC2Instance",
        "IPAddress": node.ip_address,
        "ComputerName": node.computer_name,
        "SourceId": node.instance_id,
        "SourceType": "AWS::EC2::Instance",
    }


def matches(
    filters: Sequence[Mapping[str, str]], command: CommandRecord, status: str, *, stage: bool
) -> bool:
    """Say whether all filters accept; `stage` allows ExecutionStage, which only ListCommands has.

    Raises:
        Refusal: InvalidFilterKey, or a time that is none.
    """
    return all(
        _matches_one(item["key"], item["value"], command, status, stage=stage) for item in filters
    )


def _matches_one(key: str, value: str, command: CommandRecord, status: str, *, stage: bool) -> bool:
    if key == "Status":
        return status == value
    if key == "DocumentName":
        return command.document == value
    if key in ("InvokedAfter", "InvokedBefore"):
        try:
            limit_s = datetime.fromisoformat(value).timestamp()
        except ValueError:
            raise Refusal("ValidationException", f"{key}: {value!r} is not a time") from None
        after = key == "InvokedAfter"
        return command.requested_at_s > limit_s if after else command.requested_at_s < limit_s
    if key == "ExecutionStage" and stage:
        return (value == "Complete") == command_status(command)[0].ended
    raise Refusal("InvalidFilterKey", f"The filter key {key} is not valid here")


def page(
    items: Iterable[T],
    serial: Callable[[T], int],
    request: Mapping[str, Any],
    default: int,
    most: int = 0,
) -> tuple[list[T], str | None]:
    """Return one page, newest first, and the token of the next one.

    No page is longer than `most` if that is not 0: a service may send less than it was asked for.

    Raises:
        Refusal: InvalidNextToken.
    """
    size = int(request.get("MaxResults", default))
    size = min(size, most) if most else size
    token = request.get("NextToken")
    below = _read_token(token) if token else None
    rows = sorted(items, key=serial, reverse=True)
    rest = [row for row in rows if below is None or serial(row) < below]
    shown = rest[:size]
    more = len(rest) > size
    return shown, _token(serial(shown[-1])) if more else None


def _token(below: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"below": below}).encode()).decode()


def _read_token(token: str) -> int:
    try:
        return int(json.loads(base64.urlsafe_b64decode(token))["below"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise Refusal("InvalidNextToken", "The specified token is not valid.") from None


def _plugin_status(status: Status) -> Status:
    if status is Status.DELAYED:
        return Status.PENDING
    return Status.IN_PROGRESS if status is Status.CANCELLING else status


def _iso(at_s: float | None) -> str:
    if at_s is None:
        return ""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"

"""Systems Manager: send a script to instances, see what came of it, see whose agent is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from poormanray.aws.paced import Paced
from poormanray.aws.refusals import translated
from poormanray.errors import AwsRefused, Outage
from poormanray.model import Agent, Invocation, InvocationStatus, chunks
from poormanray.waiting import Clock, Repeated, at_once

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_ssm.type_defs import CommandInvocationTypeDef, SendCommandResultTypeDef

DOCUMENT = "AWS-RunShellScript"
# SSM model: SendCommandRequest.InstanceIds, and the page of DescribeInstanceInformation.
MAX_IDS = 50
# SSM model: SendCommandRequest.Comment.
MAX_COMMENT = 100
# SSM model: SendCommandRequest.TimeoutSeconds.
MIN_DELIVERY_S = 30
MAX_DELIVERY_S = 2_592_000
# The agent takes 5 to 172,800 seconds, and reads anything else as 3,600 (its pluginutil.go).
MIN_EXECUTION_S = 5
MAX_EXECUTION_S = 172_800

_STATUSES = {
    "Pending": InvocationStatus.PENDING,
    "Delayed": InvocationStatus.PENDING,
    "InProgress": InvocationStatus.RUNNING,
    "Cancelling": InvocationStatus.RUNNING,
    "Success": InvocationStatus.DONE,
    "Failed": InvocationStatus.FAILED,
    "TimedOut": InvocationStatus.TIMED_OUT,
    "Cancelled": InvocationStatus.CANCELLED,
}
# StatusDetails of invocations that never reached the agent, or whose end it never told.
_UNDELIVERED = {
    "deliverytimedout",
    "undeliverable",
    "terminated",
    "invalidplatform",
    "accessdenied",
}


class Ssm:
    """Run Command, as far as we use it. Safe to share by threads."""

    def __init__(
        self,
        client: SSMClient,
        region: str,
        clock: Clock | None = None,
        *,
        repeated: Repeated = at_once,
    ) -> None:
        clock = clock or Clock()
        self._client = client
        self._repeated = repeated
        self._region = region
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._told: tuple[float, float] | None = None
        self._paced = Paced(clock)
        self._paced.attach(client.meta.events, "ssm")
        client.meta.events.register("response-received.ssm", self._note_date)

    def share_pace(self) -> None:
        """Make all calls together as rare as those of one operation: for large fleets."""
        self._paced.share()

    def send(
        self,
        *,
        instance_ids: Sequence[str],
        script: Callable[[], str],
        comment: str,
        deliver_timeout_s: int,
        execution_timeout_s: int,
    ) -> str:
        """Send one script to at most 50 instances, and return the id of the command.

        Times are cut to what the service takes: delivery 30 to 2,592,000 s, execution 5 to
        172,800 s. Each time that an outage fails the call, the script is made anew: it holds the
        time until which it may start.

        Raises:
            InvalidInstances: at least one is not a managed instance; nothing was sent.
            AwsRefused: any other refusal.
        """
        if not 0 < len(instance_ids) <= MAX_IDS:
            raise ValueError(f"a send is for 1 to {MAX_IDS} instances, not {len(instance_ids)}")
        execution_s = min(max(execution_timeout_s, MIN_EXECUTION_S), MAX_EXECUTION_S)

        def send() -> SendCommandResultTypeDef:
            return self._client.send_command(
                InstanceIds=list(instance_ids),
                DocumentName=DOCUMENT,
                Comment=" ".join(comment.split())[:MAX_COMMENT],
                TimeoutSeconds=min(max(deliver_timeout_s, MIN_DELIVERY_S), MAX_DELIVERY_S),
                Parameters={
                    "commands": [script()],
                    "executionTimeout": [str(execution_s)],
                },
                # The defaults are traps: 50 at a time, and a stop at the first failure.
                MaxConcurrency="100%",
                MaxErrors="100%",
            )

        with translated("ssm", self._region):
            answer = self._repeated("ssm", send)
        return answer["Command"].get("CommandId", "")

    def invocations(self, command_id: str) -> list[Invocation]:
        """Return every instance's part of a command; right after a send it may be empty.

        `output` is at most 2,500 characters, and empty until the part has ended.
        """
        pages = self._client.get_paginator("list_command_invocations")
        with translated("ssm", self._region):
            return [
                _listed(part)
                for page in pages.paginate(
                    CommandId=command_id, Details=True, PaginationConfig={"PageSize": MAX_IDS}
                )
                for part in page["CommandInvocations"]
            ]

    def invocation(self, command_id: str, instance_id: str) -> Invocation | None:
        """Return one instance's part with up to 24,000 characters of output.

        None: SSM does not know of it (yet); right after a send that is usual.
        """
        try:
            with translated("ssm", self._region):
                part = self._client.get_command_invocation(
                    CommandId=command_id, InstanceId=instance_id
                )
        except AwsRefused as refusal:
            if refusal.code == "InvocationDoesNotExist":
                return None
            raise
        detail = part.get("StatusDetails", "")
        return Invocation(
            instance_id=instance_id,
            status=status_of(part.get("Status", ""), detail),
            detail=detail,
            response_code=part.get("ResponseCode", -1),
            output=part.get("StandardOutputContent", ""),
        )

    def command_detail(self, command_id: str) -> str:
        """Return how a command as a whole stands, "" where SSM does not (or may not) say.

        A command that was dropped as one too many has no invocations, and says so only here.

        Raises:
            Outage: it does not answer now.
        """
        try:
            with translated("ssm", self._region):
                found = self._client.list_commands(CommandId=command_id)["Commands"]
        except Outage:
            raise
        except AwsRefused:
            return ""
        return found[0].get("StatusDetails", "").replace(" ", "") if found else ""

    def cancel(self, command_id: str) -> None:
        """Ask for the end of a command; best effort, and one that has ended is left as it is."""
        with translated("ssm", self._region):
            self._client.cancel_command(CommandId=command_id)

    def agents(self, instance_ids: Sequence[str]) -> dict[str, Agent]:
        """Return what SSM knows of the agents of these instances; unknown ones are left out.

        One call per 50 ids, so that one page holds the whole answer.
        """
        found: dict[str, Agent] = {}
        for some in chunks(instance_ids, MAX_IDS):
            found |= self._agents_of(some)
        return found

    def server_time_s(self) -> float:
        """Return AWS's own clock, in seconds since 1970 (±1 s).

        Taken from the Date header of the last reply of SSM and the time that passed since; it
        makes a cheap call if there was none.
        """
        if self._told is None:
            with translated("ssm", self._region):
                self._client.describe_instance_information(MaxResults=5)
        with self._lock:
            if self._told is None:
                raise AwsRefused(
                    f"ssm in {self._region} answers without a Date", "check for a proxy in between"
                )
            told_s, at_s = self._told
        return told_s + (self._monotonic() - at_s)

    def _agents_of(self, instance_ids: Sequence[str]) -> dict[str, Agent]:
        pages = self._client.get_paginator("describe_instance_information")
        found = {}
        with translated("ssm", self._region):
            for page in pages.paginate(
                Filters=[{"Key": "InstanceIds", "Values": list(instance_ids)}],
                PaginationConfig={"PageSize": MAX_IDS},
            ):
                for agent in page["InstanceInformationList"]:
                    instance_id = agent.get("InstanceId", "")
                    found[instance_id] = Agent(
                        instance_id=instance_id,
                        online=agent.get("PingStatus") == "Online",
                        last_ping_at=agent.get("LastPingDateTime"),
                        version=agent.get("AgentVersion", ""),
                    )
        return found

    def _note_date(self, response_dict: Mapping[str, object] | None = None, **_: object) -> None:
        """Keep the Date of a reply (botocore calls this for each, errors too)."""
        headers = (response_dict or {}).get("headers")
        date = headers.get("Date") if isinstance(headers, Mapping) else None
        if not isinstance(date, str):
            return
        try:
            told = parsedate_to_datetime(date)
        except ValueError:  # a proxy's invention; the next reply may have a real one
            return
        if told.tzinfo is None:
            told = told.replace(tzinfo=UTC)
        with self._lock:
            self._told = (told.timestamp(), self._monotonic())


def status_of(status: str, detail: str) -> InvocationStatus:
    """Return where an invocation stands; words that we do not know count as not yet ended."""
    if detail.replace(" ", "").lower() in _UNDELIVERED:
        return InvocationStatus.UNDELIVERED
    return _STATUSES.get(status, InvocationStatus.RUNNING)


def _listed(part: CommandInvocationTypeDef) -> Invocation:
    plugins = part.get("CommandPlugins") or [{}]
    detail = part.get("StatusDetails", "")
    return Invocation(
        instance_id=part.get("InstanceId", ""),
        status=status_of(part.get("Status", ""), detail),
        detail=detail,
        response_code=plugins[0].get("ResponseCode", -1),
        output=plugins[0].get("Output", ""),
    )

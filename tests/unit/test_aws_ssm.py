"""Run Command's words and answers, against botocore's own idea of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
from botocore.stub import Stubber

from poormanray.aws import ssm as subject
from poormanray.aws.ssm import Ssm, status_of
from poormanray.errors import AwsRefused, InvalidInstances
from poormanray.model import Invocation, InvocationStatus
from poormanray.waiting import Clock

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

REGION = "us-east-1"
COMMAND = "11111111-2222-3333-4444-555555555555"
ONE = "i-0123456789abcdef0"


@pytest.fixture
def client() -> SSMClient:
    return boto3.client("ssm", region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture
def stub(client: SSMClient) -> Iterator[Stubber]:
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def send(client: SSMClient, ids: list[str], comment: str = "start j1", deliver_s: int = 60) -> str:
    return Ssm(client, REGION).send(
        instance_ids=ids,
        script=lambda: "true",
        comment=comment,
        deliver_timeout_s=deliver_s,
        execution_timeout_s=1,
    )


def expected(**changes: object) -> dict[str, object]:
    return {
        "InstanceIds": [ONE],
        "DocumentName": "AWS-RunShellScript",
        "Comment": "start j1",
        "TimeoutSeconds": 60,
        "Parameters": {"commands": ["true"], "executionTimeout": ["5"]},
        "MaxConcurrency": "100%",
        "MaxErrors": "100%",
        **changes,
    }


def test_a_send_avoids_the_traps_of_the_defaults(client: SSMClient, stub: Stubber) -> None:
    stub.add_response("send_command", {"Command": {"CommandId": COMMAND}}, expected())
    assert send(client, [ONE]) == COMMAND


def test_what_is_too_long_or_too_short_is_cut_to_what_ssm_takes(
    client: SSMClient,
    stub: Stubber,
) -> None:
    wanted = expected(Comment="a " + "b" * 98, TimeoutSeconds=30)
    stub.add_response("send_command", {"Command": {"CommandId": COMMAND}}, wanted)
    send(client, [ONE], comment="a\n" + "b" * 200, deliver_s=3)


@pytest.mark.parametrize("count", [0, 51])
def test_a_send_for_too_many_is_a_mistake_of_ours(client: SSMClient, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 50"):
        send(client, [ONE] * count)


def test_one_bad_id_is_told_apart_from_other_refusals(client: SSMClient, stub: Stubber) -> None:
    stub.add_client_error(
        "send_command", "InvalidInstanceId", "Instances [[]] not in a valid state"
    )
    with pytest.raises(InvalidInstances):
        send(client, [ONE])


def test_one_page_answers_for_many(client: SSMClient, stub: Stubber) -> None:
    def part(instance_id: str, status: str, output: str) -> dict[str, object]:
        plugin = {"Name": "aws:runShellScript", "ResponseCode": 0, "Output": output}
        return {
            "CommandId": COMMAND,
            "InstanceId": instance_id,
            "Status": status,
            "StatusDetails": status,
            "CommandPlugins": [plugin],
        }

    words = {"CommandId": COMMAND, "Details": True, "MaxResults": 50}
    first = {"CommandInvocations": [part("i-1", "Success", "hi")], "NextToken": "more"}
    stub.add_response("list_command_invocations", first, words)
    last = {"CommandInvocations": [part("i-2", "InProgress", "")]}
    stub.add_response("list_command_invocations", last, {**words, "NextToken": "more"})
    assert Ssm(client, REGION).invocations(COMMAND) == [
        Invocation("i-1", InvocationStatus.DONE, "Success", 0, "hi"),
        Invocation("i-2", InvocationStatus.RUNNING, "InProgress", 0, ""),
    ]


def test_an_invocation_without_plugins_has_not_started(client: SSMClient, stub: Stubber) -> None:
    part = {"InstanceId": "i-1", "Status": "Pending", "StatusDetails": "Pending"}
    stub.add_response("list_command_invocations", {"CommandInvocations": [part]})
    assert Ssm(client, REGION).invocations(COMMAND) == [
        Invocation("i-1", InvocationStatus.PENDING, "Pending", -1, "")
    ]


def test_an_invocation_that_is_not_there_yet_is_none(client: SSMClient, stub: Stubber) -> None:
    stub.add_client_error("get_command_invocation", "InvocationDoesNotExist")
    assert Ssm(client, REGION).invocation(COMMAND, ONE) is None
    stub.add_client_error("get_command_invocation", "AccessDeniedException", "no")
    with pytest.raises(AwsRefused, match="ssm:GetCommandInvocation"):
        Ssm(client, REGION).invocation(COMMAND, ONE)


def test_a_command_that_was_dropped_says_so_itself(client: SSMClient, stub: Stubber) -> None:
    told = {"Commands": [{"CommandId": COMMAND, "StatusDetails": "Rate Exceeded"}]}
    stub.add_response("list_commands", told, {"CommandId": COMMAND})
    assert Ssm(client, REGION).command_detail(COMMAND) == "RateExceeded"
    # Who may not ask is told nothing, and goes on without it.
    stub.add_client_error("list_commands", "AccessDeniedException", "no")
    assert Ssm(client, REGION).command_detail(COMMAND) == ""


def test_a_single_look_carries_the_long_output(client: SSMClient, stub: Stubber) -> None:
    told = {
        "Status": "Failed",
        "StatusDetails": "Failed",
        "ResponseCode": 7,
        "StandardOutputContent": "x" * 24_000,
    }
    stub.add_response("get_command_invocation", told)
    found = Ssm(client, REGION).invocation(COMMAND, ONE)
    assert found == Invocation(ONE, InvocationStatus.FAILED, "Failed", 7, "x" * 24_000)


@pytest.mark.parametrize(
    ("status", "detail", "meant"),
    [
        ("TimedOut", "DeliveryTimedOut", InvocationStatus.UNDELIVERED),
        ("TimedOut", "Delivery Timed Out", InvocationStatus.UNDELIVERED),
        ("TimedOut", "ExecutionTimedOut", InvocationStatus.TIMED_OUT),
        ("Failed", "Undeliverable", InvocationStatus.UNDELIVERED),
        ("Cancelled", "Cancelled", InvocationStatus.CANCELLED),
        ("Cancelling", "Cancelling", InvocationStatus.RUNNING),
        ("Delayed", "Delayed", InvocationStatus.PENDING),
        ("AWordFromTomorrow", "Tomorrow", InvocationStatus.RUNNING),
    ],
)
def test_statuses_mean_what_the_service_says(
    status: str, detail: str, meant: InvocationStatus
) -> None:
    assert status_of(status, detail) is meant


def test_agents_cost_one_call_per_fifty(client: SSMClient, stub: Stubber) -> None:
    ids = [f"i-{number:017x}" for number in range(60)]
    seen = datetime(2026, 1, 2, tzinfo=UTC)
    for some, ping in ((ids[:50], "Online"), (ids[50:], "ConnectionLost")):
        told = [{"InstanceId": one, "PingStatus": ping, "LastPingDateTime": seen} for one in some]
        stub.add_response(
            "describe_instance_information",
            {"InstanceInformationList": told},
            {"Filters": [{"Key": "InstanceIds", "Values": some}], "MaxResults": 50},
        )
    agents = Ssm(client, REGION).agents(ids)
    assert [agents[one].online for one in ids] == [True] * 50 + [False] * 10
    assert agents[ids[0]].last_ping_at == seen


def test_no_ids_no_call(client: SSMClient, stub: Stubber) -> None:
    stub.assert_no_pending_responses()
    assert Ssm(client, REGION).agents([]) == {}


def test_the_clock_is_the_services_own(client: SSMClient) -> None:
    now_s = 100.0
    ssm = Ssm(client, REGION, Clock(monotonic=lambda: now_s))
    for date in ("nonsense", "Thu, 01 Jan 1970 00:16:40 GMT"):
        client.meta.events.emit(
            "response-received.ssm.SendCommand", response_dict={"headers": {"Date": date}}
        )
    now_s = 102.5
    assert ssm.server_time_s() == 1002.5


def test_without_a_date_there_is_no_clock(client: SSMClient, stub: Stubber) -> None:
    stub.add_response("describe_instance_information", {"InstanceInformationList": []})
    with pytest.raises(AwsRefused, match="Date"):
        Ssm(client, REGION).server_time_s()


def test_our_limits_are_the_models() -> None:
    model = botocore.session.Session().get_service_model("ssm")
    send_words = model.operation_model("SendCommand").input_shape
    assert send_words is not None
    members: Any = send_words.members
    assert members["InstanceIds"].metadata["max"] == subject.MAX_IDS
    assert members["Comment"].metadata["max"] == subject.MAX_COMMENT
    assert members["TimeoutSeconds"].metadata["min"] == subject.MIN_DELIVERY_S
    assert members["TimeoutSeconds"].metadata["max"] == subject.MAX_DELIVERY_S
    page = model.operation_model("DescribeInstanceInformation").input_shape
    assert page is not None
    assert page.members["MaxResults"].metadata["max"] == subject.MAX_IDS

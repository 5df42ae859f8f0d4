"""The rules of Run Command, with a clock turned by hand."""

from __future__ import annotations

import pytest

from poormanray.local.refusals import Refusal
from tests.support.cloud_fakes import Outcome, World


def code_of(world: World, operation: str, request: dict[str, object]) -> str:
    with pytest.raises(Refusal) as caught:
        world.service.call(operation, request)
    return caught.value.code


def test_a_command_runs_and_answers() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids, "echo hello")
    assert [script.script for script in world.machines.scripts] == [b"echo hello\n"] * 2
    assert world.status(command_id, ids[0]) == ("InProgress", "InProgress")
    world.end(Outcome(stdout=b"hello\n"), which=0)
    got = world.get(command_id, ids[0])
    assert (got["Status"], got["ResponseCode"]) == ("Success", 0)
    assert got["StandardOutputContent"] == "hello\n"
    assert world.status(command_id, ids[1])[0] == "InProgress"


def test_a_new_command_is_invisible_for_a_moment() -> None:
    world = World()
    ids = world.boot()
    command_id = world.send(ids)
    get: dict[str, object] = {"CommandId": command_id, "InstanceId": ids[0]}
    assert code_of(world, "GetCommandInvocation", get) == "InvocationDoesNotExist"
    listed = world.service.call("ListCommandInvocations", {"CommandId": command_id})
    assert listed == {"CommandInvocations": []}
    world.timers.pass_s(world.settings.visibility_s)
    assert world.service.call("ListCommandInvocations", {"CommandId": command_id}) != listed


def test_output_is_empty_until_the_end() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    request = {"CommandId": command_id, "Details": True}
    before = world.service.call("ListCommandInvocations", request)["CommandInvocations"][0]
    assert before["CommandPlugins"][0]["Output"] == ""
    assert before["CommandPlugins"][0]["ResponseCode"] == -1
    running = world.get(command_id, ids[0])
    assert running["ResponseCode"] == -1
    assert running["StandardOutputContent"] == running["StandardErrorContent"] == ""
    world.end(Outcome(stdout=b"x" * 3_000))
    after = world.service.call("ListCommandInvocations", request)["CommandInvocations"][0]
    assert after["CommandPlugins"][0]["ResponseCode"] == 0
    output = after["CommandPlugins"][0]["Output"]
    assert len(output) == 2_500
    assert output.endswith("\n---Output truncated---")


def test_stderr_is_cut_at_8000_and_stdout_at_24000() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(stdout=b"a" * 24_000, stderr=b"b" * 24_000))
    got = world.get(command_id, ids[0])
    stdout, stderr = str(got["StandardOutputContent"]), str(got["StandardErrorContent"])
    assert (len(stdout), len(stderr)) == (24_000, 8_000)
    assert stdout.endswith("a--output truncated--")


def test_one_bad_id_fails_the_whole_call() -> None:
    world = World()
    ids = world.boot()
    stranger = "i-0123456789abcdef0"
    with pytest.raises(Refusal) as caught:
        world.send([*ids, stranger])
    assert caught.value.code == "InvalidInstanceId"
    assert caught.value.message == (
        f"Instances [[{stranger}]] not in a valid state for account 123456789012"
    )
    world.timers.pass_s(1)
    assert not world.machines.scripts


@pytest.mark.parametrize("end", ["power_off", "destroy"])
def test_an_instance_that_is_off_is_not_valid_and_not_listed(end: str) -> None:
    world = World()
    ids = world.boot(2)
    getattr(world.fleet, end)(ids[0], lambda: None)
    world.timers.pass_s(0)
    with pytest.raises(Refusal, match="InvalidInstanceId"):
        world.send(ids)
    listed = world.service.call("DescribeInstanceInformation", {})["InstanceInformationList"]
    assert [node["InstanceId"] for node in listed] == ids[1:]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"InstanceIds": [f"i-{n:017x}" for n in range(51)]}, "ValidationException"),
        ({"InstanceIds": ["nonsense"]}, "ValidationException"),
        ({"MaxConcurrency": "0"}, "ValidationException"),
        ({"MaxErrors": "101%"}, "ValidationException"),
        ({"TimeoutSeconds": 29}, "ValidationException"),
        ({"Comment": "x" * 101}, "ValidationException"),
        ({"Comment": "two\nlines"}, "ValidationException"),
        ({"DocumentHash": "x" * 257}, "ValidationException"),
        ({"Targets": [{"Key": "x" * 164, "Values": ["y"]}]}, "ValidationException"),
        (
            {"Parameters": {"commands": ["true"], "workingDirectory": ["/" * 4097]}},
            "InvalidParameters",
        ),
        ({"DocumentName": None}, "ValidationException"),
        ({"TimeoutSeconds": "60"}, "SerializationException"),
        ({"DocumentName": "AWS-RunNothing"}, "InvalidDocument"),
        ({"DocumentVersion": "7"}, "InvalidDocumentVersion"),
        ({"Parameters": {}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["true"], "colour": ["red"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["true"], "executionTimeout": ["0"]}}, "InvalidParameters"),
        (
            {"Parameters": {"commands": ["true"], "executionTimeout": ["172801"]}},
            "InvalidParameters",
        ),
        ({"Parameters": {"commands": ["x" * 65_000]}}, "MaxDocumentSizeExceeded"),
        ({"InstanceIds": [f"i-{1:017x}"] * 2}, "DuplicateInstanceId"),
        ({"InstanceIds": []}, "InvalidInstanceId"),
    ],
)
def test_what_send_command_refuses(change: dict[str, object], code: str) -> None:
    world = World()
    ids = world.boot()
    request: dict[str, object] = {
        "InstanceIds": ids,
        "DocumentName": "AWS-RunShellScript",
        "Parameters": {"commands": ["true"]},
        **change,
    }
    assert code_of(world, "SendCommand", request) == code


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("CancelCommand", {"CommandId": "0" * 36, "InstanceIds": ["i-0123456789abcdef0"] * 51}),
        ("ListCommands", {"Filters": [{"key": "Status", "value": "Success"}] * 6}),
        ("ListCommandInvocations", {"Filters": [{"key": "Status", "value": "Success"}] * 6}),
        (
            "DescribeInstanceInformation",
            {"Filters": [{"Key": "InstanceIds", "Values": ["i-0123456789abcdef0"] * 101}]},
        ),
        ("DescribeInstanceInformation", {"Filters": [{"Key": "InstanceIds", "Values": []}]}),
    ],
)
def test_lists_that_are_too_long(operation: str, request_: dict[str, object]) -> None:
    assert code_of(World(), operation, request_) == "ValidationException"


def test_fifty_ids_are_taken() -> None:
    world = World()
    ids = world.boot(50)
    command_id = world.sent(ids)
    listed = world.service.call("ListCommandInvocations", {"CommandId": command_id})
    assert len(listed["CommandInvocations"]) == 50
    assert "NextToken" not in listed


def test_not_delivered_in_time() -> None:
    world = World()
    ids = world.boot()
    for _ in range(10):
        world.sent(ids)
    late = world.sent(ids, TimeoutSeconds=30)  # the eleventh: the agent is full
    assert world.status(late, ids[0]) == ("Pending", "Pending")
    world.timers.pass_s(30 - 1 - 0.5)
    assert world.status(late, ids[0]) == ("Pending", "Pending")
    world.timers.pass_s(1)
    assert world.status(late, ids[0]) == ("TimedOut", "DeliveryTimedOut")
    for script in list(world.machines.scripts):
        script.end()
    world.timers.pass_s(1)
    assert late not in {script.command_id for script in world.machines.scripts}
    command = world.service.call("ListCommands", {"CommandId": late})["Commands"][0]
    assert (command["Status"], command["DeliveryTimedOutCount"]) == ("TimedOut", 1)


def test_in_progress_for_ever_ends_at_the_total_timeout() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(
        ids, TimeoutSeconds=30, Parameters={"commands": ["true"], "executionTimeout": ["60"]}
    )
    world.fleet.destroy(ids[0], lambda: None)
    world.timers.pass_s(90 - 1 - 0.5)
    assert world.status(command_id, ids[0]) == ("InProgress", "InProgress")
    world.timers.pass_s(1)
    assert world.status(command_id, ids[0]) == ("TimedOut", "DeliveryTimedOut")


def test_an_agent_that_comes_online_gets_what_waits() -> None:
    world = World()
    ids = world.boot()
    world.fleet.reboot(ids[0])
    world.timers.pass_s(world.settings.jobs_end_s)
    command_id = world.send(ids)
    world.timers.pass_s(0.6)
    assert world.status(command_id, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(2)
    world.end()
    assert world.status(command_id, ids[0]) == ("Success", "Success")


def test_a_late_in_progress_undoes_nothing() -> None:
    from poormanray.local.run_command_records import Reply, Status

    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(stdout=b"first\n", stderr=b"and last"))

    def shown() -> list[object]:
        request = {"CommandId": command_id, "Details": True}
        return [
            world.get(command_id, ids[0]),
            world.service.call("ListCommandInvocations", request),
            world.service.call("ListCommands", {"CommandId": command_id}),
        ]

    ended = shown()
    assert world.get(command_id, ids[0])["StandardOutputContent"] == "first\n"
    world.timers.pass_s(60)
    for status in Status:
        world.service.on_reply(
            Reply(
                command_id,
                ids[0],
                status,
                exit_code=7,
                stdout="late",
                stderr="late",
                output="late",
                started_at_s=1.0,
                ended_at_s=2.0,
            )
        )
        assert shown() == ended


def test_cancel_of_a_running_command() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.service.call("CancelCommand", {"CommandId": command_id})
    assert world.status(command_id, ids[0])[0] == "Cancelling"
    world.timers.pass_s(1)
    script = world.machines.scripts[0]
    assert script.kills == 1
    world.end(Outcome(exit_code=137, killed=True))
    assert world.status(command_id, ids[0]) == ("Cancelled", "Cancelled")
    command = world.service.call("ListCommands", {"CommandId": command_id})["Commands"][0]
    assert command["Status"] == "Cancelled"


def test_cancel_before_delivery_runs_nothing() -> None:
    world = World()
    ids = world.boot()
    command_id = world.send(ids)
    world.service.call("CancelCommand", {"CommandId": command_id})
    world.timers.pass_s(2)
    assert world.status(command_id, ids[0]) == ("Cancelled", "Cancelled")
    assert not world.machines.scripts


def test_unknown_command_ids() -> None:
    world = World()
    ids = world.boot()
    nobody = "00000000-0000-0000-0000-000000000000"
    for operation in ("CancelCommand", "ListCommands", "ListCommandInvocations"):
        assert code_of(world, operation, {"CommandId": nobody}) == "InvalidCommandId"
    get: dict[str, object] = {"CommandId": nobody, "InstanceId": ids[0]}
    assert code_of(world, "GetCommandInvocation", get) == "InvocationDoesNotExist"


def test_counts_and_echo_of_a_command() -> None:
    world = World()
    ids = world.boot(3)
    answer = world.service.call(
        "SendCommand",
        {
            "InstanceIds": ids,
            "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": ["a", "b"]},
            "Comment": "why",
            "MaxErrors": "100%",
        },
    )["Command"]
    assert answer["TargetCount"] == 0
    world.timers.pass_s(1)
    for script, code in zip(list(world.machines.scripts), (0, 3, 137), strict=True):
        script.end(Outcome(exit_code=code))
    world.timers.pass_s(1)
    command = world.service.call("ListCommands", {})["Commands"][0]
    assert command["Parameters"] == {"commands": ["a", "b"]}
    assert (command["TargetCount"], command["CompletedCount"], command["ErrorCount"]) == (3, 3, 2)
    assert (command["Status"], command["StatusDetails"]) == ("Failed", "Incomplete")
    assert command["Comment"] == "why"


def test_pages() -> None:
    world = World()
    ids = world.boot(7)
    command_id = world.sent(ids)
    found: list[str] = []
    request: dict[str, object] = {"CommandId": command_id, "MaxResults": 3}
    pages = 0
    while True:
        answer = world.service.call("ListCommandInvocations", request)
        found += [part["InstanceId"] for part in answer["CommandInvocations"]]
        pages += 1
        if "NextToken" not in answer:
            break
        request["NextToken"] = answer["NextToken"]
    assert (pages, sorted(found)) == (3, ids)
    request["NextToken"] = "made up"
    assert code_of(world, "ListCommandInvocations", request) == "InvalidNextToken"


@pytest.mark.parametrize("operation", ["ListCommands", "ListCommandInvocations"])
def test_a_page_has_1_to_50(operation: str) -> None:
    world = World()
    ids = world.boot()
    command_id, _ = (world.sent(ids) for _ in range(2))
    for size in (1, 50):
        answer = world.service.call(operation, {"MaxResults": size})
        key = "Commands" if operation == "ListCommands" else "CommandInvocations"
        assert len(answer[key]) == min(size, 2)
    for size in (0, 51, -1):
        request: dict[str, object] = {"CommandId": command_id, "MaxResults": size}
        assert code_of(world, operation, request) == "ValidationException"


def test_filters() -> None:
    world = World()
    ids = world.boot(2)
    first, second = world.sent(ids[:1]), world.sent(ids[1:])
    world.end(which=0)

    def listed(key: str, value: str) -> list[str]:
        request = {"Filters": [{"key": key, "value": value}]}
        return [c["CommandId"] for c in world.service.call("ListCommands", request)["Commands"]]

    assert listed("Status", "Success") == [first]
    assert listed("ExecutionStage", "Executing") == [second]
    assert listed("DocumentName", "AWS-RunShellScript") == [second, first]
    assert listed("InvokedAfter", "2099-01-01T00:00:00Z") == []
    request = {"Filters": [{"key": "ExecutionStage", "value": "Complete"}]}
    assert code_of(world, "ListCommandInvocations", dict(request)) == "InvalidFilterKey"


def test_describe_pages_by_ten_and_filters() -> None:
    world = World()
    ids = world.boot(12)
    first = world.service.call("DescribeInstanceInformation", {})
    assert len(first["InstanceInformationList"]) == 10
    rest = world.service.call("DescribeInstanceInformation", {"NextToken": first["NextToken"]})
    assert len(rest["InstanceInformationList"]) == 2
    wanted = {"Filters": [{"Key": "InstanceIds", "Values": [ids[3], "i-0123456789abcdef0"]}]}
    found = world.service.call("DescribeInstanceInformation", wanted)["InstanceInformationList"]
    assert [node["InstanceId"] for node in found] == [ids[3]]
    assert found[0]["PingStatus"] == "Online"
    assert found[0]["PlatformName"] == "Amazon Linux"
    small: dict[str, object] = {"MaxResults": 4}
    assert code_of(world, "DescribeInstanceInformation", small) == "ValidationException"

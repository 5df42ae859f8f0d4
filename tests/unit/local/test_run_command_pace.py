"""Targets, rate controls and the statuses that come of them, with a clock turned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from poormanray.local.refusals import Refusal
from poormanray.local.settings import Settings
from tests.support.cloud_fakes import Outcome, World


def command_of(world: World, command_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = world.service.call("ListCommands", {"CommandId": command_id})[
        "Commands"
    ]
    return found[0]


def details(world: World, command_id: str) -> list[str]:
    request: dict[str, Any] = {"CommandId": command_id}
    found: list[dict[str, Any]] = []
    while True:
        answer = world.service.call("ListCommandInvocations", request)
        found += answer["CommandInvocations"]
        if "NextToken" not in answer:
            break
        request["NextToken"] = answer["NextToken"]
    rows = sorted(found, key=lambda row: str(row["InstanceId"]))
    return [row["StatusDetails"] for row in rows]


def by_tag(values: list[str], key: str = "tag:team") -> list[dict[str, object]]:
    return [{"Key": key, "Values": values}]


def test_one_then_two_then_four_as_they_acknowledge() -> None:
    world = World(settings=Settings(ramp_s=1.0))
    ids = world.boot(20)
    world.send(ids, MaxConcurrency="100%")
    counts = []
    for _ in range(6):
        world.timers.pass_s(1.0)
        counts.append(len(world.machines.scripts))
    assert counts == [1, 3, 7, 15, 20, 20]


def test_the_ramp_to_fifty_costs_little() -> None:
    world = World()
    ids = world.boot(50)
    world.send(ids, MaxConcurrency="100%")
    world.timers.pass_s(world.settings.delivery_s + 0.1)
    assert len(world.machines.scripts) == 50


@pytest.mark.parametrize(("most", "at_once"), [("3", 3), ("30%", 3), ("1%", 1)])
def test_max_concurrency_is_never_exceeded(most: str, at_once: int) -> None:
    world = World()
    ids = world.boot(10)
    command_id = world.sent(ids, MaxConcurrency=most)
    for done in range(10):
        assert len(world.machines.scripts) == min(10, at_once + done)
        world.end(which=done)
    assert details(world, command_id) == ["Success"] * 10


def test_fifty_at_once_and_no_error_by_default() -> None:
    world = World()
    ids = world.boot(60)
    world.tags = {instance_id: {"team": "red"} for instance_id in ids}
    command_id = world.sent([], Targets=by_tag(["red"]))
    assert len(world.machines.scripts) == 50
    command = command_of(world, command_id)
    assert (command["MaxConcurrency"], command["MaxErrors"]) == ("50", "0")
    world.end(Outcome(1), which=0)
    assert sorted(details(world, command_id)) == (
        ["Failed"] + ["InProgress"] * 49 + ["Terminated"] * 10
    )
    for script in world.machines.scripts[1:]:
        script.end()
    world.timers.pass_s(1)
    command = command_of(world, command_id)
    assert (command["Status"], command["StatusDetails"]) == ("Failed", "Failed")
    assert (command["CompletedCount"], command["ErrorCount"]) == (60, 1)


@pytest.mark.parametrize(("most", "runs"), [("0", 1), ("1", 2), ("10%", 2), ("100%", 10)])
def test_max_errors_stops_at_one_more(most: str, runs: int) -> None:
    world = World()
    ids = world.boot(10)
    command_id = world.sent(ids, MaxConcurrency="1", MaxErrors=most)
    for done in range(runs):
        world.end(Outcome(1), which=done)
    assert len(world.machines.scripts) == runs
    assert details(world, command_id) == ["Failed"] * runs + ["Terminated"] * (10 - runs)


@pytest.mark.parametrize("detail", ["Undeliverable", "AccessDenied", "InvalidPlatform"])
def test_what_never_arrived_counts_no_error(detail: str) -> None:
    world = World()
    ids = world.boot(3)
    world.service.doom(ids[0], detail)
    command_id = world.sent(ids, MaxConcurrency="1")
    for _ in range(2):
        world.end()
    assert details(world, command_id) == [detail, "Success", "Success"]
    command = command_of(world, command_id)
    assert (command["Status"], command["ErrorCount"]) == ("Success", 0)


@pytest.mark.parametrize("detail", ["AccessDenied", "InvalidPlatform", "Undeliverable"])
def test_instances_that_cannot_be_asked(detail: str) -> None:
    world = World()
    ids = world.boot()
    world.service.doom(ids[0], detail)
    command_id = world.sent(ids)
    assert world.status(command_id, ids[0]) == ("Failed", detail)
    assert world.get(command_id, ids[0])["ResponseCode"] == -1
    world.service.doom(ids[0], None)
    assert world.status(world.sent(ids), ids[0])[0] == "InProgress"


def test_an_instance_that_ends_before_delivery_is_undeliverable() -> None:
    world = World()
    ids = world.boot()
    command_id = world.send(ids)
    world.fleet.destroy(ids[0], lambda: None)
    world.timers.pass_s(1)
    assert world.status(command_id, ids[0]) == ("Failed", "Undeliverable")


def test_a_command_whose_only_instance_is_away_is_delayed() -> None:
    world = World()
    ids = world.boot()
    world.fleet.stop_agent(ids[0])
    command_id = world.sent(ids)
    assert world.status(command_id, ids[0]) == ("Delayed", "Delayed")
    command = command_of(world, command_id)
    assert (command["Status"], command["StatusDetails"]) == ("InProgress", "Delayed")


def test_one_that_is_away_keeps_its_place() -> None:
    world = World()
    ids = world.boot(2)
    world.fleet.stop_agent(ids[0])
    command_id = world.sent(ids, MaxConcurrency="1", TimeoutSeconds=60)
    assert details(world, command_id) == ["Delayed", "Pending"]
    world.service.call("CancelCommand", {"CommandId": command_id, "InstanceIds": ids[:1]})
    world.timers.pass_s(1)
    assert details(world, command_id) == ["Cancelled", "InProgress"]


def test_what_has_not_had_its_turn_in_time_never_runs() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids, MaxConcurrency="1", TimeoutSeconds=30)
    world.timers.pass_s(30)
    world.end()
    assert details(world, command_id) == ["Success", "DeliveryTimedOut"]
    assert len(world.machines.scripts) == 1
    command = command_of(world, command_id)
    assert (command["DeliveryTimedOutCount"], command["ErrorCount"]) == (1, 0)


def test_execution_timeouts_count_as_errors() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids, MaxConcurrency="1")
    world.end(Outcome(137, timed_out=True))
    assert details(world, command_id) == ["ExecutionTimedOut", "Terminated"]
    command = command_of(world, command_id)
    assert (command["Status"], command["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")


# Targets


def test_tags_find_instances() -> None:
    world = World()
    ids = world.boot(4)
    teams: tuple[dict[str, str], ...] = (
        {"team": "red", "env": "x"},
        {"team": "blue", "env": "x"},
        {"team": "red", "env": "y"},
        {},
    )
    world.tags = dict(zip(ids, teams, strict=True))
    world.sent([], Targets=by_tag(["red", "blue"]))
    assert [script.instance_id for script in world.machines.scripts] == ids[:3]
    both = [{"Key": "tag:team", "Values": ["red"]}, {"Key": "tag:env", "Values": ["x"]}]
    command_id = world.sent([], Targets=both)
    assert [script.instance_id for script in world.machines.scripts[3:]] == ids[:1]
    command = command_of(world, command_id)
    assert (command["InstanceIds"], command["Targets"]) == ([], both)


def test_no_instance_with_the_tag_is_a_success() -> None:
    world = World()
    world.boot()
    command_id = world.sent([], Targets=by_tag(["green"]))
    command = command_of(world, command_id)
    assert (command["Status"], command["StatusDetails"]) == ("Success", "NoInstancesInTag")
    assert (command["TargetCount"], command["CompletedCount"]) == (0, 0)
    assert details(world, command_id) == []


def test_by_tag_ended_instances_hold_the_command() -> None:
    world = World()
    ids = world.boot()
    world.tags = {ids[0]: {"team": "red"}}
    world.fleet.destroy(ids[0], lambda: None)
    world.timers.pass_s(1)
    command_id = world.sent([], TimeoutSeconds=60, Targets=by_tag(["red"]))
    assert world.status(command_id, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(60 - 1 - 0.5)
    assert world.status(command_id, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(1)
    assert world.status(command_id, ids[0]) == ("TimedOut", "DeliveryTimedOut")


@pytest.mark.parametrize(
    ("targets", "code"),
    [
        ([{"Key": "tag:team", "Values": ["red"]}] * 6, "ValidationException"),
        ([{"Key": "tag:team", "Values": [str(n) for n in range(6)]}], "ValidationException"),
        ([{"Key": "InstanceIds", "Values": ["i-0123456789abcdef0"]}], "InvalidInstanceId"),
        ([{"Key": "resource-groups:Name", "Values": ["x"]}], "InvalidTarget"),
        ([{"Key": "InstanceIds", "Values": []}], "InvalidInstanceId"),
    ],
)
def test_targets_that_are_refused(targets: list[dict[str, object]], code: str) -> None:
    world = World()
    world.boot()
    with pytest.raises(Refusal) as caught:
        world.send([], Targets=targets)
    assert caught.value.code == code


def test_ids_as_targets_run_and_exclude_instance_ids() -> None:
    world = World()
    ids = world.boot(2)
    world.sent([], Targets=by_tag(ids, "InstanceIds"))
    assert len(world.machines.scripts) == 2
    with pytest.raises(Refusal, match="ValidationException"):
        world.send(ids, Targets=by_tag(ids, "InstanceIds"))


def test_too_many_open_invocations_are_rate_exceeded() -> None:
    world = World(settings=Settings(pending_invocations_max=3))
    ids = world.boot(2)
    first = world.sent(ids)
    second = world.sent(ids)
    assert len(world.machines.scripts) == 2
    command = command_of(world, second)
    assert (command["Status"], command["StatusDetails"]) == ("Cancelled", "RateExceeded")
    assert command["TargetCount"] == 2
    for script in list(world.machines.scripts):
        script.end()
    world.timers.pass_s(1)
    assert details(world, first) == ["Success"] * 2
    assert details(world, world.sent(ids)) == ["InProgress"] * 2


# Reads


def test_pages_may_be_shorter_than_asked_for() -> None:
    world = World(settings=Settings(page_max=2))
    ids = world.boot(5)
    command_id = world.sent(ids)
    sizes, request = [], {"CommandId": command_id, "MaxResults": 50}
    while True:
        answer = world.service.call("ListCommandInvocations", request)
        sizes.append(len(answer["CommandInvocations"]))
        if "NextToken" not in answer:
            break
        request["NextToken"] = answer["NextToken"]
    assert sizes == [2, 2, 1]
    agents = world.service.call("DescribeInstanceInformation", {"MaxResults": 50})
    assert len(agents["InstanceInformationList"]) == 2


def test_agents_are_found_by_tag_alone() -> None:
    world = World()
    ids = world.boot(2)
    world.tags = {ids[1]: {"team": "red"}}
    for item in ({"Key": "tag:team", "Values": ["red"]}, {"Key": "tag-key", "Values": ["team"]}):
        found = world.service.call("DescribeInstanceInformation", {"Filters": [item]})
        assert [one["InstanceId"] for one in found["InstanceInformationList"]] == ids[1:]
        mixed = [item, {"Key": "PingStatus", "Values": ["Online"]}]
        with pytest.raises(Refusal, match="ValidationException"):
            world.service.call("DescribeInstanceInformation", {"Filters": mixed})


def test_the_old_filter_refuses_unknown_ids() -> None:
    world = World()
    ids = world.boot()

    def listed(instance_id: str) -> list[Any]:
        old = [{"key": "InstanceIds", "valueSet": [instance_id]}]
        request = {"InstanceInformationFilterList": old}
        found: list[Any] = world.service.call("DescribeInstanceInformation", request)[
            "InstanceInformationList"
        ]
        return found

    assert len(listed(ids[0])) == 1
    with pytest.raises(Refusal, match="InvalidInstanceId"):
        listed("i-0123456789abcdef0")

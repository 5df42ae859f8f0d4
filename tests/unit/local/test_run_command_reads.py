"""What reads and cancels of Run Command say in the less usual cases."""

from __future__ import annotations

from typing import Any

import pytest

from poormanray.local.refusals import Refusal
from poormanray.local.run_command_records import HISTORY_S, IN_MEMORY
from tests.support.cloud_fakes import Outcome, World


def code_of(world: World, operation: str, request: dict[str, object]) -> str:
    with pytest.raises(Refusal) as caught:
        world.service.call(operation, request)
    return caught.value.code


def test_a_command_is_forgotten_after_30_days() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end()
    world.timers.pass_s(29 * 86_400)
    assert world.status(command_id, ids[0])[0] == "Success"
    world.timers.pass_s(86_400)
    assert world.service.call("ListCommands", {}) == {"Commands": []}
    get: dict[str, object] = {"CommandId": command_id, "InstanceId": ids[0]}
    assert code_of(world, "GetCommandInvocation", get) == "InvocationDoesNotExist"


def test_another_plugin_or_instance() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids[:1])
    get: dict[str, object] = {"CommandId": command_id, "InstanceId": ids[0]}
    assert code_of(world, "GetCommandInvocation", {**get, "PluginName": "other"}) == (
        "InvalidPluginName"
    )
    assert code_of(world, "GetCommandInvocation", {**get, "InstanceId": ids[1]}) == (
        "InvocationDoesNotExist"
    )


def test_times_are_empty_until_there_is_an_end() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    names = ("ExecutionStartDateTime", "ExecutionElapsedTime", "ExecutionEndDateTime")
    assert [world.get(command_id, ids[0])[name] for name in names] == ["", "", ""]
    world.end()
    assert all(world.get(command_id, ids[0])[name] for name in names)


def test_cancel_names_only_targets_and_none_twice() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids[:1])
    twice: dict[str, object] = {"CommandId": command_id, "InstanceIds": ids[:1] * 2}
    assert code_of(world, "CancelCommand", twice) == "DuplicateInstanceId"
    other: dict[str, object] = {"CommandId": command_id, "InstanceIds": ids[1:]}
    assert code_of(world, "CancelCommand", other) == "InvalidInstanceId"


def test_cancel_of_what_has_ended_changes_nothing() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(stdout=b"done"))
    world.service.call("CancelCommand", {"CommandId": command_id})
    world.timers.pass_s(1)
    assert world.status(command_id, ids[0]) == ("Success", "Success")
    assert world.machines.scripts[0].kills == 0


def test_cancel_of_one_leaves_the_others() -> None:
    world = World()
    ids = world.boot(2)
    command_id = world.sent(ids)
    world.service.call("CancelCommand", {"CommandId": command_id, "InstanceIds": ids[:1]})
    world.timers.pass_s(1)
    assert [script.kills for script in world.machines.scripts] == [1, 0]
    assert world.status(command_id, ids[1])[0] == "InProgress"


def test_spaces_newlines_and_control_characters_survive() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    text = "  a\t\r\n\x1b[31m\0 \n\n"
    world.end(Outcome(stdout=text.encode()))
    assert world.get(command_id, ids[0])["StandardOutputContent"] == text


def test_both_kinds_of_filters_exclude_each_other() -> None:
    world = World()
    world.boot()
    both: dict[str, object] = {
        "Filters": [{"Key": "PingStatus", "Values": ["Online"]}],
        "InstanceInformationFilterList": [{"key": "PingStatus", "valueSet": ["Online"]}],
    }
    assert code_of(world, "DescribeInstanceInformation", both) == "ValidationException"
    unknown: dict[str, object] = {"Filters": [{"Key": "Colour", "Values": ["red"]}]}
    assert code_of(world, "DescribeInstanceInformation", unknown) == "InvalidFilterKey"


def test_times_that_are_not_given() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    command = world.service.call("ListCommands", {"CommandId": command_id})["Commands"][0]
    assert command["TimeoutSeconds"] == 3_600
    assert command["ExpiresAfter"] == pytest.approx(command["RequestedDateTime"] + 7_200)
    assert world.machines.scripts[0].timeout_s == 3_600


def test_of_many_commands_few_are_in_memory_and_all_can_be_read() -> None:
    world = World()
    ids = world.boot()
    sent = []
    for _ in range(3 * IN_MEMORY):
        sent.append(world.sent(ids))
        world.end()
        world.timers.pass_s(1)
    history = world.service._history
    assert len(history.recent()) <= IN_MEMORY
    assert len(history) == len(sent)
    assert world.service.counts()["invocations"] == len(sent)
    first = {"CommandId": sent[0], "InstanceId": ids[0]}
    assert world.service.call("GetCommandInvocation", first)["Status"] == "Success"
    shown = world.service.call("ListCommands", {"CommandId": sent[0]})["Commands"][0]
    assert shown["Parameters"]["commands"]
    seen: list[str] = []
    page: dict[str, Any] = {}
    while page.get("NextToken") or not seen:
        page = world.service.call("ListCommands", page and {"NextToken": page["NextToken"]})
        seen += [command["CommandId"] for command in page["Commands"]]
    assert sorted(seen) == sorted(sent)
    world.service.close()


def test_a_command_under_way_stays_in_memory_however_many_follow() -> None:
    world = World()
    ids = world.boot(2)
    open_one = world.sent(ids[:1])
    for _ in range(IN_MEMORY + 10):
        world.sent(ids[1:])
        world.end()
        world.timers.pass_s(1)
    assert world.status(open_one, ids[0])[0] == "InProgress"
    world.end(which=0)
    world.timers.pass_s(1)
    assert world.status(open_one, ids[0])[0] == "Success"
    world.service.close()


def test_commands_of_more_than_30_days_ago_are_dropped() -> None:
    world = World()
    ids = world.boot()
    for _ in range(IN_MEMORY + 20):
        world.sent(ids)
        world.end()
        world.timers.pass_s(1)
    world.timers.pass_s(HISTORY_S)
    world.sent(ids)
    assert len(world.service._history) <= IN_MEMORY + 1
    world.service.close()

"""Agents that stop, come back, crash with their machine, sleep, or arrive in crowds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from poormanray.local.refusals import Refusal
from poormanray.local.run_command_records import Delivery, Order, Reply, Status
from tests.support.cloud_fakes import Outcome, World


def ping(world: World) -> str:
    listed = world.service.call("DescribeInstanceInformation", {})["InstanceInformationList"]
    return str(listed[0]["PingStatus"])


def last_ping_s(world: World) -> float:
    listed = world.service.call("DescribeInstanceInformation", {})["InstanceInformationList"]
    return float(listed[0]["LastPingDateTime"])


def test_a_script_outlives_its_agent_and_is_reported_when_it_is_back() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.stop_agent(ids[0])
    world.end(Outcome(stdout=b"done\n"))
    world.timers.pass_s(12)
    assert world.status(command_id, ids[0]) == ("InProgress", "InProgress")
    world.fleet.start_agent(ids[0])
    world.timers.pass_s(world.settings.agent_start_s - 0.1)
    assert world.status(command_id, ids[0])[0] == "InProgress"
    world.timers.pass_s(0.2)
    assert world.status(command_id, ids[0]) == ("Success", "Success")
    assert world.get(command_id, ids[0])["StandardOutputContent"] == "done\n"


def test_an_agent_that_was_restarted_still_reports_what_runs() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.restart_agent(ids[0])
    late = world.sent(ids)
    assert world.status(late, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(7)
    assert world.status(late, ids[0])[0] == "InProgress"
    world.end(which=0)
    assert world.status(command_id, ids[0])[0] == "Success"


def test_what_waited_when_the_agent_stopped_runs_at_its_start() -> None:
    world = World()
    ids = world.boot()
    sent = [world.sent(ids) for _ in range(6)]
    world.fleet.stop_agent(ids[0])
    world.end(which=0)
    assert len(world.machines.scripts) == 5
    world.fleet.start_agent(ids[0])
    world.timers.pass_s(4)
    assert world.machines.scripts[-1].command_id == sent[5]


@pytest.mark.parametrize("how", ["power_off", "destroy", "reboot"])
def test_a_shutdown_ends_the_jobs_before_the_script_of_the_agent(how: str) -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    ended: list[str] = []
    if how == "reboot":
        world.fleet.reboot(ids[0])
    else:
        getattr(world.fleet, how)(ids[0], lambda: ended.append(how))
    world.timers.pass_s(world.settings.jobs_end_s / 2)
    assert (world.machines.jobs_ended, world.machines.on, ended) == (ids, set(ids), [])
    # What it answers meanwhile arrives.
    world.end(Outcome(stdout=b"a dead runner\n"))
    assert world.status(command_id, ids[0])[0] == "Success"
    world.timers.pass_s(world.settings.jobs_end_s)
    assert len(world.machines.boots) == (2 if how == "reboot" else 1)
    assert ended == ([] if how == "reboot" else [how])
    assert (world.machines.on == set(ids)) is (how == "reboot")


def test_a_stopped_agent_hears_no_cancel() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.stop_agent(ids[0])
    world.service.call("CancelCommand", {"CommandId": command_id})
    world.timers.pass_s(1)
    assert world.machines.scripts[0].kills == 0
    assert world.status(command_id, ids[0])[0] == "Cancelling"


def test_online_is_minutes_old_after_a_crash() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.crash(ids[0])
    world.timers.pass_s(1)
    assert (world.machines.on, ping(world)) == (set(), "Online")
    after = world.sent(ids)  # the service takes it: it knows nothing
    assert world.status(after, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(world.settings.ping_lost_s - 10)
    assert ping(world) == "Online"
    world.timers.pass_s(10)
    assert ping(world) == "ConnectionLost"
    assert world.status(command_id, ids[0]) == ("InProgress", "InProgress")


def test_a_heartbeat_comes_every_5_minutes() -> None:
    world = World()
    world.boot()
    began_s = last_ping_s(world)
    pings = []
    for _ in range(11):
        world.timers.pass_s(60)
        pings.append(round(last_ping_s(world) - began_s))
    assert pings == [*[0] * 4, *[300] * 5, *[600] * 2]


def test_online_lasts_from_the_last_heartbeat_on() -> None:
    world = World()
    ids = world.boot()
    # The last heartbeat before the crash was 200 s ago.
    world.timers.pass_s(499)
    world.fleet.crash(ids[0])
    world.timers.pass_s(world.settings.ping_lost_s - 200 - 1)
    assert ping(world) == "Online"
    world.timers.pass_s(2)
    assert ping(world) == "ConnectionLost"


def test_a_crashed_instance_comes_back_by_a_reboot() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.crash(ids[0])
    world.timers.pass_s(1)
    world.fleet.reboot(ids[0])
    world.timers.pass_s(2)
    assert ping(world) == "Online"
    world.timers.pass_s(60)
    assert world.status(command_id, ids[0]) == ("Failed", "Failed")


def test_an_agent_that_hibernates_asks_again_after_5_minutes() -> None:
    world = World()
    ids = world.boot()
    world.fleet.hibernate_agent(ids[0])
    world.timers.pass_s(299)
    assert world.status(world.sent(ids), ids[0])[0] == "Delayed"
    world.timers.pass_s(1)
    assert world.status(world.sent(ids), ids[0])[0] == "InProgress"


def test_hibernation_doubles_up_to_an_hour() -> None:
    world = World(managed=False)
    asked: list[float] = []
    may_register = world.fleet.may_register

    def noted(instance_id: str) -> bool:
        asked.append(round(world.timers.now_s()))
        return may_register(instance_id)

    world.fleet.may_register = noted  # type: ignore[method-assign]
    world.boot()
    world.timers.pass_s(20_000)
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits[:6] == [300, 600, 1200, 2400, 3600, 3600]


def test_many_agents_register_some_at_a_time() -> None:
    world = World()
    world.use(replace(world.settings, registration_herd=2))
    world.boot(5, wait_s=1.5)
    assert len(world.fleet.nodes()) == 2
    world.timers.pass_s(1)
    assert len(world.fleet.nodes()) == 4
    world.timers.pass_s(1)
    assert len(world.fleet.nodes()) == 5


@pytest.mark.parametrize("accepted", [0, 1])
def test_a_stopped_instance_is_refused_or_waited_for(accepted: int) -> None:
    world = World()
    world.use(replace(world.settings, stopped_accepted=accepted))
    ids = world.boot()
    world.fleet.power_off(ids[0], lambda: None)
    world.timers.pass_s(1)
    assert world.service.call("DescribeInstanceInformation", {})["InstanceInformationList"] == []
    if not accepted:
        with pytest.raises(Refusal, match="InvalidInstanceId"):
            world.send(ids)
        return
    command_id = world.sent(ids, TimeoutSeconds=30)
    world.timers.pass_s(30 - 1 - 0.5)
    assert world.status(command_id, ids[0]) == ("Delayed", "Delayed")
    world.timers.pass_s(1)
    assert world.status(command_id, ids[0]) == ("TimedOut", "DeliveryTimedOut")


def test_the_last_in_progress_comes_after_the_end_and_is_not_seen() -> None:
    world = World()
    ids = world.boot()
    replies: list[tuple[Status, str]] = []
    seen = world.service.on_reply

    def noted(reply: Reply) -> None:
        seen(reply)
        replies.append((reply.status, world.status(reply.command_id, ids[0])[0]))

    world.sent(ids)
    world.fleet.on_reply = noted
    world.end()
    assert replies == [
        (Status.SUCCESS, "Success"),
        (Status.IN_PROGRESS, "Success"),
    ]


@pytest.mark.parametrize("script", ["echo {{ssm:name}}", "echo {{ ssm:/a/b }}"])
def test_a_name_of_parameter_store_fails_before_it_runs(script: str) -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids, script)
    got = world.get(command_id, ids[0])
    assert (got["Status"], got["ResponseCode"]) == ("Failed", -1)
    assert got["StandardOutputContent"] == got["StandardErrorContent"] == ""
    assert not world.machines.scripts


@pytest.mark.parametrize("script", ["echo {{ commands }}", "docker ps --format '{{.Names}}'"])
def test_other_templates_pass_unchanged(script: str) -> None:
    world = World()
    world.sent(world.boot(), script)
    assert world.machines.scripts[0].script == f"{script}\n".encode()


def test_the_same_command_id_never_runs_twice() -> None:
    world = World()
    ids = world.boot()
    order = Order("again", b"true\n", "", "3600")
    answers = [world.fleet.deliver(ids[0], order) for _ in range(2)]
    assert answers == [Delivery.ACCEPTED] * 2
    assert len(world.machines.scripts) == 1


def test_an_agent_killed_for_memory_is_back_after_90_s() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.fleet.kill_agent(ids[0])
    world.end()
    world.timers.pass_s(88)
    assert world.status(command_id, ids[0])[0] == "InProgress"
    world.timers.pass_s(2)
    assert world.status(command_id, ids[0])[0] == "Success"


def test_after_a_lost_channel_results_come_minutes_late() -> None:
    world = World()
    ids = world.boot()
    sent = [world.sent(ids) for _ in range(6)]
    world.fleet.cut_off(ids[0], 20)
    world.end(which=0)
    assert world.machines.scripts[-1].command_id == sent[5]  # the agent itself goes on
    late = world.sent(ids)
    world.timers.pass_s(20 + 10 - 1.2)
    assert world.status(late, ids[0])[0] == "Delayed"
    world.timers.pass_s(0.2)  # 10 s after the way is there again
    assert (ping(world), world.status(late, ids[0])[0]) == ("Online", "InProgress")
    assert world.status(sent[0], ids[0])[0] == "InProgress"
    world.end(which=1)  # what ends later is told at once
    assert world.status(sent[1], ids[0])[0] == "Success"
    world.timers.pass_s(287.5)
    assert world.status(sent[0], ids[0])[0] == "InProgress"
    world.timers.pass_s(0.5)
    assert world.status(sent[0], ids[0])[0] == "Success"

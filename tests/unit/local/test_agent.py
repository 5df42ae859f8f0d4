"""What the emulated agent does with exit codes, reboots, queues and large replies."""

from __future__ import annotations

import pytest

from poormanray.local.agent import execution_timeout_s
from poormanray.local.agent_output import combined, cut_stream, reply_bytes
from tests.support.cloud_fakes import Outcome, World


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        (0, "Success", "Success"),
        (1, "Failed", "Failed"),
        (137, "TimedOut", "ExecutionTimedOut"),
        (143, "Failed", "Failed"),
        (168, "Success", "Success"),
        (169, "Failed", "Failed"),
        (255, "Failed", "Failed"),
    ],
)
def test_exit_codes(code: int, status: str, detail: str) -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(code, b"out", b"err"))
    got = world.get(command_id, ids[0])
    assert (got["Status"], got["StatusDetails"], got["ResponseCode"]) == (status, detail, code)
    stderr = str(got["StandardErrorContent"])
    if code == 168:
        assert stderr == ""
        assert str(got["StandardOutputContent"]).startswith("out\nStep exited with code 168.")
    elif code:
        assert stderr.startswith(f"errfailed to run commands: exit status {code}")


def test_194_reboots_and_runs_again() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(194))
    assert world.status(command_id, ids[0])[0] == "InProgress"
    world.timers.pass_s(65)
    assert world.machines.boots == ids * 2
    assert len(world.machines.scripts) == 2
    world.end(Outcome(0))
    assert world.status(command_id, ids[0])[0] == "Success"


def test_a_command_cancelled_before_its_reboot_does_not_run_again() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(194))
    world.service.call("CancelCommand", {"CommandId": command_id})
    world.timers.pass_s(65)
    assert world.machines.boots == ids * 2
    assert len(world.machines.scripts) == 1
    assert world.status(command_id, ids[0]) == ("Cancelled", "Cancelled")


def test_194_for_ever_ends_after_15_runs() -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids, Parameters={"commands": ["x"], "executionTimeout": ["172800"]})
    for _ in range(20):
        if world.status(command_id, ids[0])[0] != "InProgress":
            break
        world.end(Outcome(194))
        world.timers.pass_s(65)
    assert len(world.machines.scripts) == 15
    assert world.get(command_id, ids[0])["ResponseCode"] == 194


def test_five_run_five_wait_the_eleventh_is_refused() -> None:
    world = World()
    ids = world.boot()
    sent = [world.sent(ids) for _ in range(11)]
    assert len(world.machines.scripts) == 5
    statuses = [world.status(command_id, ids[0])[0] for command_id in sent]
    assert statuses == ["InProgress"] * 10 + ["Pending"]
    world.end(which=0)
    assert [script.command_id for script in world.machines.scripts] == sent[:6]


def test_the_clock_of_an_execution_starts_with_its_script() -> None:
    world = World()
    ids = world.boot()
    for _ in range(5):
        world.sent(ids)
    limit = {"commands": ["true"], "executionTimeout": ["60"]}
    late = world.sent(ids, Parameters=limit)
    world.timers.pass_s(300)
    assert world.status(late, ids[0]) == ("InProgress", "InProgress")
    world.end(which=0)
    began = world.machines.scripts[-1]
    # Nothing of the five minutes in the queue counts: the script has its whole minute.
    assert (began.command_id, began.timeout_s) == (late, 60)
    world.timers.pass_s(59)
    assert world.status(late, ids[0]) == ("InProgress", "InProgress")
    world.end(Outcome(137, timed_out=True))
    assert world.status(late, ids[0]) == ("TimedOut", "ExecutionTimedOut")


def test_a_cancelled_command_that_waited_runs_at_the_next_start() -> None:
    world = World()
    ids = world.boot()
    sent = [world.sent(ids) for _ in range(6)]
    world.service.call("CancelCommand", {"CommandId": sent[5]})
    world.timers.pass_s(1)
    assert world.status(sent[5], ids[0])[0] == "Cancelling"
    for script in list(world.machines.scripts):
        script.end()
    assert len(world.machines.scripts) == 5
    world.fleet.reboot(ids[0])
    world.timers.pass_s(2)
    assert world.machines.scripts[-1].command_id == sent[5]


def test_power_loss_is_reported_a_minute_after_the_next_start() -> None:
    world = World()
    ids = world.boot()
    sent = [world.sent(ids) for _ in range(6)]
    world.fleet.power_off(ids[0], lambda: None)
    world.timers.pass_s(5)
    world.machines.scripts[0].end(Outcome(137))  # what dies with the power reports nothing
    world.timers.pass_s(5)
    assert world.status(sent[0], ids[0])[0] == "InProgress"
    world.fleet.boot(ids[0], {}, lambda _problem: None)
    world.timers.pass_s(2)  # the agent is back after one of them
    assert world.machines.scripts[-1].command_id == sent[5]  # it had waited
    world.timers.pass_s(58.5)
    assert world.status(sent[0], ids[0])[0] == "InProgress"
    world.timers.pass_s(1)
    assert world.status(sent[0], ids[0]) == ("Failed", "Failed")
    assert world.get(sent[0], ids[0])["ResponseCode"] == 1
    assert sent[0] not in {script.command_id for script in world.machines.scripts[5:]}


def test_no_profile_no_agent_until_it_asks_again() -> None:
    world = World(managed=False)
    world.boot()
    listed = world.service.call("DescribeInstanceInformation", {})["InstanceInformationList"]
    assert listed == []
    world.managed = True
    world.timers.pass_s(200)
    assert world.fleet.nodes() == []
    world.timers.pass_s(101)
    assert len(world.fleet.nodes()) == 1


def test_registration_takes_time() -> None:
    world = World()
    world.boot(wait_s=0.9)
    assert world.fleet.nodes() == []
    world.timers.pass_s(0.2)
    assert [node.online for node in world.fleet.nodes()] == [True]


def test_timeouts_as_the_agent_takes_them() -> None:
    assert [execution_timeout_s(text) for text in ("4", "5", "172800", "172801", "x")] == [
        3600,
        5,
        172_800,
        3600,
        3600,
    ]


def test_timeout_and_kill() -> None:
    world = World()
    ids = world.boot()
    first, second = world.sent(ids), world.sent(ids)
    world.end(Outcome(137, timed_out=True), which=0)
    world.end(Outcome(0, timed_out=True), which=1)
    assert world.status(first, ids[0]) == ("TimedOut", "ExecutionTimedOut")
    got = world.get(second, ids[0])
    assert (got["Status"], got["ResponseCode"]) == ("Failed", 1)
    assert got["StandardErrorContent"] == "failed to run commands: no such process"


def test_a_script_that_cannot_start_fails() -> None:
    world = World()
    ids = world.boot()
    parameters = {"commands": ["true"], "workingDirectory": ["/missing"]}
    command_id = world.sent(ids, Parameters=parameters)
    got = world.get(command_id, ids[0])
    assert (got["Status"], got["ResponseCode"]) == ("Failed", 1)


@pytest.mark.parametrize(
    ("stdout", "stderr", "arrives"),
    [
        (b"<" * 19_000, b"", False),
        (b"\0" * 24_000, b"", False),
        (b"\xff" * 24_000, b"\xff" * 24_000, False),
        (b"a" * 24_000, b"a" * 24_000, True),
        (b"\n" * 24_000, b"\n" * 24_000, True),
        (b"\xff" * 24_000, b"", True),
    ],
)
def test_a_reply_that_is_too_large_never_arrives(
    stdout: bytes, stderr: bytes, arrives: bool
) -> None:
    world = World()
    ids = world.boot()
    command_id = world.sent(ids)
    world.end(Outcome(0, stdout, stderr))
    assert (world.status(command_id, ids[0])[0] == "Success") == arrives


def test_streams_are_cut_by_bytes_and_decoded() -> None:
    assert cut_stream(b"a" * 23_999) == "a" * 23_999
    assert cut_stream(b"a" * 24_000) == "a" * 23_980 + "--output truncated--"
    assert cut_stream(b"a\xff\xfeb") == "a\ufffd\ufffdb"


def test_both_streams_share_2500_bytes() -> None:
    both = combined(b"o" * 5_000, b"e" * 5_000)
    assert len(both) <= 2_500
    assert "\n---Output truncated---\n----------ERROR-------\ne" in both
    assert both.endswith("\n---Error truncated----")
    assert combined(b"out", b"err") == "out\n----------ERROR-------\nerr"


def test_json_size_as_go_writes_it() -> None:
    own = reply_bytes("")
    assert [reply_bytes(text) - own for text in ("a", "<", "\n", "\0", "\u00e9")] == [1, 6, 2, 6, 2]

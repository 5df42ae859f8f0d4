"""Rules for faults: which requests they strike, and what an order must be."""

from __future__ import annotations

from typing import Any

import pytest

from poormanray.cli.local_fault import KINDS
from poormanray.local import faults
from poormanray.local.faults import Call, Effects, Faults, Rule
from poormanray.local.orders import Orders
from poormanray.local.refusals import Protocol, Refusal
from tests.support.cloud_fakes import HandTimers

SEND = Call("ssm", "SendCommand", b'{"InstanceIds": ["i-1"]}')
NOTHING = Effects()


class Recorder:
    """Stands for instances, agents and machines, and writes down what is done to them."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []
        self.ids = [f"i-{n}" for n in range(6)]

    def named(self, pattern: str) -> list[str]:
        return [one for one in self.ids if pattern in ("*", one)]

    def reboot(self, instance_ids: list[str]) -> None:
        self.done.append(("reboot", *instance_ids))

    def reclaim(self, instance_id: str, notice_s: float | None = None) -> None:
        self.done.append(("reclaim", instance_id, notice_s))

    def end(self, instance_id: str, how: str, reason: tuple[str, str]) -> None:
        self.done.append((how, instance_id, reason[0]))

    def stop_agent(self, instance_id: str) -> None:
        self.done.append(("stop_agent", instance_id))

    def start_agent(self, instance_id: str) -> None:
        self.done.append(("start_agent", instance_id))

    def restart_agent(self, instance_id: str) -> None:
        self.done.append(("restart_agent", instance_id))

    def hibernate_agent(self, instance_id: str) -> None:
        self.done.append(("hibernate_agent", instance_id))

    def kill_agent(self, instance_id: str) -> None:
        self.done.append(("kill_agent", instance_id))

    def cut_off(self, instance_id: str, for_s: float) -> None:
        self.done.append(("cut_off", instance_id, for_s))

    def lose_replies(self, instance_id: str, for_s: float | None) -> None:
        self.done.append(("lose_replies", instance_id, for_s))

    def crash(self, instance_id: str) -> None:
        self.done.append(("crash", instance_id))

    def freeze(self, instance_id: str) -> int:
        self.done.append(("freeze", instance_id))
        return 4

    def thaw(self, instance_id: str) -> int:
        self.done.append(("thaw", instance_id))
        return 4

    def limit_disk(self, instance_id: str, free: int) -> None:
        if instance_id == "i-5":
            raise OSError("jobs run")
        self.done.append(("limit_disk", instance_id, free))

    def doom(self, instance_id: str, detail: str | None) -> None:
        self.done.append(("doom", instance_id, detail))

    def pardon(self) -> list[str]:
        doomed = sorted({str(act[1]) for act in self.done if act[0] == "doom" and act[2]})
        self.done.append(("pardon",))
        return doomed

    def end_all(self) -> int:
        self.done.append(("end_all",))
        return 3

    def close_port(self, seconds: float) -> None:
        self.done.append(("close_port", seconds))

    def kill_runners(self, instance_id: str, *, screens: bool) -> int:
        self.done.append(("kill_runners", instance_id, screens))
        return 1


class Desk:
    """Orders with their clock, and what they did."""

    def __init__(self) -> None:
        self.timers = HandTimers()
        self.rules = Faults(self.timers.now_s)
        self.world = Recorder()
        world = self.world
        self.orders = Orders(
            self.rules,
            self.timers,
            world,
            world,
            world,
            world,
            commands=world,
            close_port=world.close_port,
        )

    def add(self, kind: str, **words: object) -> Any:  # noqa: ANN401 (a JSON document)
        return self.orders.answer("POST", "faults", {"kind": kind, **words})


def rules(*standing: Rule) -> Faults:
    made = Faults(lambda: 0.0)
    for rule in standing:
        made.add(rule)
    return made


def struck(made: Faults, count: int, call: Call = SEND) -> list[bool]:
    return [made.strike(call) != NOTHING for _ in range(count)]


def test_the_same_seed_strikes_the_same_requests() -> None:
    first = struck(rules(Rule("throttle", probability=0.3, seed=7)), 200)
    assert first == struck(rules(Rule("throttle", probability=0.3, seed=7)), 200)
    assert first != struck(rules(Rule("throttle", probability=0.3, seed=8)), 200)
    assert 30 < sum(first) < 90


def test_other_requests_draw_nothing() -> None:
    made = rules(Rule("5xx", "ssm:SendCommand", probability=0.5, seed=1))
    mixed = [made.strike(call) != NOTHING for _ in range(50) for call in (Call("s3", "x"), SEND)]
    assert mixed[1::2] == struck(rules(Rule("5xx", probability=0.5, seed=1)), 50)
    assert not any(mixed[::2])


def test_count_and_after() -> None:
    assert struck(rules(Rule("5xx", count=2, after=1)), 5) == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("operation", "call", "hit"),
    [
        ("*", SEND, True),
        ("ssm:*", SEND, True),
        ("ssm:SendCommand", SEND, True),
        ("SSM:sendcommand", SEND, True),
        ("ssm:Send", SEND, False),
        ("ec2:*", SEND, False),
        ("*:Describe*", Call("ec2", "DescribeInstances"), True),
        ("s3:PUT*", Call("s3", "PUT object"), True),
    ],
)
def test_operations_by_pattern(operation: str, call: Call, hit: bool) -> None:
    assert struck(rules(Rule("throttle", operation)), 1, call) == [hit]


def test_only_requests_that_name_the_instance() -> None:
    assert struck(rules(Rule("throttle", instance_ids=("i-1",))), 1) == [True]
    assert struck(rules(Rule("throttle", instance_ids=("i-2",))), 1) == [False]


def test_no_capacity_strikes_launches_and_starts_only() -> None:
    made = rules(Rule("no-capacity"))
    assert struck(made, 1, Call("ec2", "RunInstances")) == [True]
    assert struck(made, 1, Call("ec2", "DescribeInstances")) == [False]


def test_effects_add_up_until_one_keeps_the_request_undone() -> None:
    made = rules(
        Rule("slow", seconds=2),
        Rule("clock-skew", seconds=-60),
        Rule("slow", seconds=1),
        Rule("lost-request"),
        Rule("throttle"),
    )
    assert made.strike(SEND) == Effects(lost_request=True, delay_s=3, skew_s=-60)
    assert made.listed()[-1]["matched"] == 0


def test_a_rule_ends_after_its_seconds() -> None:
    now = [100.0]
    made = Faults(lambda: now[0])
    made.add(Rule("throttle", seconds=30))
    made.add(Rule("slow", seconds=30, operation="ec2:*"))
    assert struck(made, 1) == [True]
    now[0] = 130.0
    assert struck(made, 1) == [False]
    assert [one["spent"] for one in made.listed()] == [True, False]


def test_list_and_clear() -> None:
    desk = Desk()
    assert [desk.add("throttle", seed=5)["id"], desk.add("5xx")["id"]] == ["f1", "f2"]
    struck(desk.rules, 3)
    listed: Any = desk.orders.answer("GET", "faults", {})["faults"]
    assert [(one["id"], one["struck"]) for one in listed] == [("f1", 3), ("f2", 0)]
    assert listed[0]["seed"] == 5
    assert desk.orders.answer("DELETE", "faults/f1", {}) == {"cleared": ["f1"]}
    with pytest.raises(Refusal, match="no fault f1"):
        desk.orders.answer("DELETE", "faults/f1", {})
    assert desk.orders.answer("DELETE", "faults", {}) == {"cleared": ["f2"]}
    assert desk.orders.answer("DELETE", "faults", {}) == {"cleared": []}


@pytest.mark.parametrize(
    "words",
    [
        {"kind": "bogus"},
        {"kind": 5},
        {"kind": "throttle", "probability": 2},
        {"kind": "throttle", "count": 0},
        {"kind": "throttle", "count": "many"},
        {"kind": "throttle", "colour": "red"},
        {"kind": "throttle", "operation": ["ssm:*"]},
        {"kind": "throttle", "seconds": -1},
        {"kind": "slow"},
        {"kind": "runner-kill", "probability": 0.5},
        {"kind": "runner-kill", "instance": "i-99"},
        {"kind": "runner-kill", "free": 1},
        {"kind": "throttle", "free": 1},
        {"kind": "disk-full", "seconds": 5},
        {"kind": "disk-full", "instance": "i-5"},
    ],
)
def test_orders_that_make_no_sense(words: dict[str, object]) -> None:
    desk = Desk()
    with pytest.raises(Refusal):
        desk.orders.answer("POST", "faults", words)
    assert not desk.world.done
    assert not desk.rules.listed()


def test_faults_of_instances_happen_at_once() -> None:
    desk = Desk()
    for kind in KINDS:
        if kind not in (*faults.REQUEST_KINDS, "sessions-end", "port-closed"):
            assert desk.add(kind, instance="i-1")["instances"].keys() == {"i-1"}
    one = "i-1"
    assert desk.world.done == [
        ("stop_agent", one),
        ("start_agent", one),
        ("restart_agent", one),
        ("hibernate_agent", one),
        ("kill_agent", one),
        ("cut_off", one, 0.0),
        ("lose_replies", one, None),
        ("doom", one, "AccessDenied"),
        ("doom", one, "InvalidPlatform"),
        ("doom", one, "Undeliverable"),
        ("crash", one),
        ("terminate", one, "Server.InternalError"),
        ("stop", one, "Server.ScheduledStop"),
        *[("stop_agent", one), ("freeze", one)],
        *[("thaw", one), ("start_agent", one)],
        ("reboot", one),
        ("reclaim", one, None),
        ("limit_disk", one, 0),
        ("limit_disk", one, -1),
        ("kill_runners", one, False),
        ("kill_runners", one, True),
    ]


def test_frozen_for_some_seconds() -> None:
    desk = Desk()
    desk.add("instance-freeze", instance="i-1", seconds=20)
    desk.timers.pass_s(19)
    assert len(desk.world.done) == 2
    desk.timers.pass_s(2)
    assert desk.world.done[2:] == [("thaw", "i-1"), ("start_agent", "i-1")]


def test_what_is_sent_ends_by_itself_until_cleared() -> None:
    desk = Desk()
    desk.add("access-denied", instance="i-1")
    desk.add("undeliverable", instance="i-2", seconds=20)
    desk.timers.pass_s(21)
    assert desk.world.done[2:] == [("doom", "i-2", None)]
    desk.add("throttle")
    assert desk.orders.answer("DELETE", "faults/f1", {}) == {"cleared": ["f1"]}
    assert ("pardon",) not in desk.world.done
    assert desk.orders.answer("DELETE", "faults", {}) == {"cleared": ["i-1", "i-2"]}


def test_instances_are_drawn_by_the_seed() -> None:
    drawn = [sorted(Desk().add("instance-stop", count=2, seed=4)["instances"]) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2
    assert len(Desk().add("instance-stop")["instances"]) == 1
    assert len(Desk().add("instance-stop", count=99)["instances"]) == 6


def test_each_protocol_has_its_own_words() -> None:
    assert faults.refusal("throttle", Protocol.JSON).code == "ThrottlingException"
    assert faults.refusal("throttle", Protocol.EC2).code == "RequestLimitExceeded"
    assert faults.refusal("throttle", Protocol.S3).code == "SlowDown"
    assert faults.refusal("5xx", Protocol.QUERY).status == 500
    assert faults.refusal("no-capacity", Protocol.EC2).code == "InsufficientInstanceCapacity"


def test_the_command_knows_every_kind() -> None:
    desk = Desk()
    for kind in KINDS.keys() - {"sessions-end", "port-closed"}:
        desk.add(kind, instance="i-1", **({} if kind == "disk-full" else {"seconds": 1}))
    assert set(faults.REQUEST_KINDS) <= KINDS.keys()
    with pytest.raises(Refusal) as caught:
        desk.add("bogus")
    assert set(caught.value.message.partition(": ")[2].split(", ")) == set(KINDS)


def test_all_sessions_end_at_once() -> None:
    desk = Desk()
    assert desk.add("sessions-end")["sessions"] == 3
    assert desk.world.done == [("end_all",)]
    with pytest.raises(Refusal, match="takes no instance"):
        desk.add("sessions-end", instance="i-1")

"""A launch whose answers get lost, on an EC2 that shows what it has launched only in time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray import launching
from poormanray.errors import AwsRefused, NoAnswer, NoCapacity, Outage
from poormanray.launching import USED_ALREADY, WAVE, Launched
from poormanray.model import (
    Image,
    Instance,
    InstanceState,
    LaunchRequest,
    LaunchSpec,
    Profile,
    Subnet,
)
from poormanray.waiting import Clock

if TYPE_CHECKING:
    from poormanray.aws.session import Aws

SUBNETS = tuple(Subnet(f"subnet-{zone}", zone, "vpc-1") for zone in "abc")


@dataclass(slots=True)
class Ec2:
    """Launches all of a request or none, once for each token; its answers get lost by a plan.

    `faults` says what happens to each RunInstances: `ok`, `lost` (launched, no answer), `broken`
    (launched, answered with an error of the server's), `unheard` (not even launched), `full` (no
    capacity), `used` (the token is known, and no more is said).
    What it launched is shown by `shows` of DescribeInstances only, until `late_s`.
    """

    faults: list[str] = field(default_factory=list)
    shows: float = 1.0
    late_s: float = 0.0
    seed: int = 0
    by_token: dict[str, list[Instance]] = field(default_factory=dict)
    requests: list[tuple[LaunchRequest, str]] = field(default_factory=list)
    now_s: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now_s, pause=self._pause)

    def _pause(self, seconds: float) -> None:
        self.now_s += seconds

    def ec2(self) -> Ec2:
        return self

    @property
    def launched(self) -> set[str]:
        return {one.instance_id for some in self.by_token.values() for one in some}

    def launch(self, request: LaunchRequest) -> list[Instance]:
        fault = self.faults.pop(0) if self.faults else "ok"
        self.requests.append((request, fault))
        if fault == "unheard":
            raise NoAnswer("nothing came back")
        made = self.by_token.get(request.token)
        if fault == "full" and made is None:
            raise NoCapacity("no room")
        if made is None:
            made = self.by_token[request.token] = self._made(request)
        if fault == "used":
            raise AwsRefused("parameters differ", code=USED_ALREADY)
        if fault == "lost":
            raise NoAnswer("nothing came back")
        if fault == "broken":
            raise Outage("503")
        return made

    def _made(self, request: LaunchRequest) -> list[Instance]:
        number = len(self.by_token)
        return [
            Instance(
                f"i-{number}-{n}",
                f"demo-{request.first_index + n:04d}",
                "demo",
                request.first_index + n,
                InstanceState.PENDING,
                launch_index=n,
                launch_token=request.token,
            )
            for n in range(request.count)
        ]

    def instances(self, _cluster: str) -> list[Instance]:
        chance = random.Random(f"{self.seed} {self.now_s}")
        late = self.now_s < self.late_s
        return [
            one
            for some in self.by_token.values()
            for one in some
            if not late or chance.random() < self.shows
        ]

    def name(self, _one: Instance) -> None:
        return None


def launched(ec2: Ec2, count: int) -> Launched:
    plan = launching.Plan(
        spec=LaunchSpec(cluster="demo", owner="ann", count=count, instance_type="t3.micro"),
        image=Image("ami-1", "al2023", "x86_64", "/dev/xvda", 8),
        subnets=SUBNETS,
        security_groups=("sg-1",),
        profile=Profile("p"),
        first_index=0,
    )
    return launching.launch(cast("Aws", ec2), plan)


def test_a_lost_answer_with_part_of_it_shown_launches_no_more() -> None:
    ec2 = Ec2(["lost", "unheard", "broken", "unheard"], shows=0.6, late_s=20)
    done = launched(ec2, 500)
    assert (len(ec2.launched), len(done.instances), done.problem) == (500, 500, None)
    assert len({request.token for request, _ in ec2.requests}) == 1
    assert {(request.count, request.subnet.zone) for request, _ in ec2.requests} == {(500, "a")}


def test_what_is_never_seen_whole_is_reported_and_nothing_more_is_launched() -> None:
    ec2 = Ec2(["lost"] * 1000, shows=0.001, late_s=1e9, seed=3)
    done = launched(ec2, 1200)
    assert len(ec2.launched) == 500
    assert 0 < len(done.instances) < 500
    assert isinstance(done.problem, NoAnswer)
    assert "has not answered a request for 500 instances" in done.problem.message


def test_silence_alone_launches_nothing_elsewhere() -> None:
    ec2 = Ec2(["unheard"] * 1000)
    with pytest.raises(NoAnswer):
        launched(ec2, 3)
    assert {request.subnet.zone for request, _ in ec2.requests} == {"a"}
    assert ec2.launched == set()


def test_a_refusal_that_stands_is_believed_and_the_next_subnet_is_tried() -> None:
    ec2 = Ec2(["unheard", "full", "full", "full", "ok"])
    done = launched(ec2, 3)
    assert [request.subnet.zone for request, _ in ec2.requests] == [*"aaaa", "b"]
    assert (len(ec2.launched), len(done.instances)) == (3, 3)


@pytest.mark.parametrize("late_s", [0.0, 30.0])
def test_a_token_that_was_used_has_launched(late_s: float) -> None:
    ec2 = Ec2(["lost", *["used"] * 1000], shows=0.0, late_s=late_s)
    done = launched(ec2, 3)
    assert (len(ec2.launched), len(done.instances), done.problem) == (3, 3, None)


FAULTS = st.lists(
    st.sampled_from(["ok", "lost", "lost", "broken", "unheard", "full", "used"]), max_size=12
)


@given(
    faults=FAULTS,
    count=st.sampled_from([1, 3, WAVE, WAVE + 1, 2 * WAVE + 200]),
    shows=st.floats(0, 1),
    late_s=st.sampled_from([0.0, 5.0, 60.0, 1e9]),
    seed=st.integers(0, 9),
)
def test_whatever_gets_lost_no_more_is_launched_than_asked_for_and_all_is_reported(
    faults: list[str], count: int, shows: float, late_s: float, seed: int
) -> None:
    ec2 = Ec2([*faults], shows=shows, late_s=late_s, seed=seed)
    problem: AwsRefused | None = None
    reported: list[Instance] = []
    try:
        done = launched(ec2, count)
        reported, problem = list(done.instances), done.problem
    except AwsRefused as refusal:
        problem = refusal
    assert len(ec2.launched) <= count
    assert {one.instance_id for one in reported} <= ec2.launched
    if problem is None:
        assert {one.instance_id for one in reported} == ec2.launched
        assert len(reported) == count
        assert len({one.host_index for one in reported}) == count
    assert_each_subnet_was_refused(ec2)


def assert_each_subnet_was_refused(ec2: Ec2) -> None:
    """Check that a wave went on to another subnet only after EC2 had refused the one before."""
    last: Callable[[], str] = lambda: faults[-1]  # noqa: E731 (read where it is used)
    faults: list[str] = []
    before: LaunchRequest | None = None
    for request, fault in ec2.requests:
        if before and before.first_index == request.first_index and before.token != request.token:
            assert last() == "full"
            assert before.token not in ec2.by_token
        if before and before.token == request.token:
            assert replace(before) == request
        faults.append(fault)
        before = request

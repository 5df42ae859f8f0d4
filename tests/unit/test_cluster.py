"""Find, launch, wait, pause, resume: with an EC2, an SSM and an IAM made of lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from poormanray import cluster, launching
from poormanray.errors import (
    AwsRefused,
    InstanceUnseen,
    NoAnswer,
    NoCapacity,
    NotFound,
    NotReached,
    ProfileUnseen,
    UsageProblem,
)
from poormanray.model import (
    Agent,
    Image,
    Instance,
    InstanceState,
    LaunchRequest,
    LaunchSpec,
    Profile,
    Selection,
    Subnet,
    instance_name,
)
from poormanray.waiting import Clock

if TYPE_CHECKING:
    from poormanray.aws.session import Aws

RUNNING, STOPPED = InstanceState.RUNNING, InstanceState.STOPPED
PENDING, STOPPING = InstanceState.PENDING, InstanceState.STOPPING
TERMINATED = InstanceState.TERMINATED


def instance(index: int, state: InstanceState = RUNNING, name: str = "demo") -> Instance:
    return Instance(f"i-{index}", instance_name(name, index), name, index, state)


@dataclass
class Cloud:
    """Stand in for Aws and its adapters; `on_pause` is what happens while the client waits."""

    there: list[Instance] = field(default_factory=list)
    online: set[str] = field(default_factory=set)
    on_pause: list[Callable[[], None]] = field(default_factory=list)
    refusals: list[AwsRefused | None] = field(default_factory=list)
    requests: list[LaunchRequest] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    asked_agents: list[list[str]] = field(default_factory=list)
    persistent: set[str] = field(default_factory=set)
    profile: Profile = field(default_factory=lambda: Profile("poormanray-ssm"))
    tells_nothing: bool = False
    unseen_until_s: float = 0.0
    no_room_until_s: float = 0.0
    tags_late_until_s: float = 0.0
    region: str = "us-east-1"
    now_s: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now_s, pause=self._pause)

    def _pause(self, seconds: float) -> None:
        self.now_s += seconds
        if self.on_pause:
            self.on_pause.pop(0)()

    def ec2(self) -> Cloud:
        return self

    ssm = iam = ec2

    def instances(self, name: str | None = None) -> list[Instance]:
        late = self.now_s < self.tags_late_until_s
        return [
            one
            for one in self.there
            if name in {None, one.cluster} and not (late and one.launch_token)
        ]

    def agents(self, ids: Sequence[str]) -> dict[str, Agent]:
        self.asked_agents.append(list(ids))
        return {one: Agent(one, online=True) for one in ids if one in self.online}

    def launch(self, request: LaunchRequest) -> list[Instance]:
        self.requests.append(request)
        refusal = self.refusals.pop(0) if self.refusals else None
        first, token = request.first_index, request.token
        made = [one for one in self.there if one.launch_token == token]
        if made and refusal is None:
            return made
        made = [
            replace(instance(first + n, PENDING), launch_index=n, launch_token=token, named=False)
            for n in range(request.count)
        ]
        if refusal is None or isinstance(refusal, NoAnswer):
            self.there += made
        if refusal is not None:
            raise refusal
        return made

    def name(self, one: Instance) -> None:
        if self.tells_nothing:
            raise AwsRefused("no permission for ec2:CreateTags")
        if self.now_s < self.unseen_until_s:
            raise InstanceUnseen("The instance ID does not exist")
        self.named[one.instance_id] = one.name

    def stop(self, ids: Sequence[str]) -> None:
        self._refuse_unfit(ids, RUNNING)
        self.stopped += ids

    def _refuse_unfit(self, ids: Sequence[str], fit: InstanceState) -> None:
        # One that cannot be changed has the whole call refused, as EC2 does it.
        if any(one.instance_id in ids and one.state is not fit for one in self.there):
            raise AwsRefused("not in a fitting state", code="IncorrectInstanceState")

    def start(self, ids: Sequence[str]) -> None:
        self._refuse_unfit(ids, STOPPED)
        if self.now_s < self.no_room_until_s:
            raise NoCapacity("full")
        self.started += ids
        self.change(RUNNING, *ids)

    def change(self, state: InstanceState, *ids: str) -> None:
        self.there = [
            replace(one, state=state) if one.instance_id in ids else one for one in self.there
        ]

    def restartable_spot(self, ids: Sequence[str]) -> set[str]:
        return self.persistent & set(ids)

    def architectures(self, _instance_type: str) -> tuple[str, ...]:
        return ("i386", "x86_64")

    def newest_image(self, architecture: str) -> Image:
        return Image("ami-1", "al2023", architecture, "/dev/xvda", 8)

    def image(self, image_id: str) -> Image:
        return Image(image_id, "mine", "arm64", "/dev/xvda", 8)

    def default_subnets(self, _instance_type: str) -> list[Subnet]:
        return [Subnet(f"subnet-{zone}", zone, "vpc-1") for zone in ("a", "b")]

    def subnet(self, subnet_id: str) -> Subnet:
        return Subnet(subnet_id, "b", "vpc-2")

    def closed_group(self, vpc_id: str) -> str:
        return f"closed-{vpc_id}"

    def ensure_profile(self, _arns: Sequence[str], _boundary: str) -> Profile:
        return self.profile

    def has_profile(self, _name: str) -> bool:
        return True


def aws(cloud: Cloud) -> Aws:
    return cast("Aws", cloud)


def spec(**changes: object) -> LaunchSpec:
    plain = LaunchSpec(cluster="demo", owner="ann", count=3, instance_type="t3.micro")
    return replace(plain, **changes)  # type: ignore[arg-type]  # each test knows its field


def launched(cloud: Cloud, **changes: object) -> launching.Launched:
    return launching.launch(aws(cloud), launching.prepare(aws(cloud), spec(**changes)))


def ids(instances: Sequence[Instance]) -> list[str]:
    return [one.instance_id for one in instances]


def test_find_returns_the_living_by_index() -> None:
    cloud = Cloud([instance(2, STOPPED), instance(0), instance(1, TERMINATED)])
    assert ids(cluster.find(aws(cloud), Selection("demo"))) == ["i-0", "i-2"]
    assert ids(cluster.find(aws(cloud), Selection("demo"), states=[STOPPED])) == ["i-2"]


def test_find_selects_by_id_and_by_name() -> None:
    cloud = Cloud([instance(0), instance(1), instance(2)])
    assert ids(cluster.find(aws(cloud), Selection("demo", ("i-2", "demo-0000")))) == ["i-0", "i-2"]


def test_find_names_what_it_does_not_know() -> None:
    cloud = Cloud([instance(0), instance(1, TERMINATED)])
    with pytest.raises(NotFound, match=r"i-1 \(terminated\), i-77") as caught:
        cluster.find(aws(cloud), Selection("demo", ("i-0", "i-1", "i-77")))
    assert "pmr list" in caught.value.hint


@pytest.mark.parametrize("there", [[], [instance(0, TERMINATED)], [instance(0, name="other")]])
def test_find_of_an_unknown_cluster_is_an_error(there: list[Instance]) -> None:
    with pytest.raises(NotFound, match="no cluster named demo in us-east-1"):
        cluster.find(aws(Cloud(there)), Selection("demo"))


def test_reachable_says_why_not() -> None:
    cloud = Cloud(online={"i-0"})
    some = [instance(0), instance(1), instance(2, STOPPED), instance(3, PENDING)]
    reach = cluster.reachable(aws(cloud), some)
    assert ids(reach.ready) == ["i-0"]
    assert [reason for _, reason in reach.left_out] == [
        "its agent has not reported to SSM yet",
        "stopped",
        "pending",
    ]
    assert cloud.asked_agents == [["i-0", "i-1"]]


def test_a_launch_is_one_request_and_names_everything() -> None:
    cloud = Cloud([instance(4, STOPPED)])
    done = launched(cloud)
    (request,) = cloud.requests
    assert (request.count, request.first_index) == (3, 5)
    assert request.security_groups == ("closed-vpc-1",)
    assert cloud.named == {"i-5": "demo-0005", "i-6": "demo-0006", "i-7": "demo-0007"}
    assert ids(done.instances) == ["i-5", "i-6", "i-7"]
    assert done.problem is None


def test_a_launch_names_what_an_earlier_one_left_unnamed() -> None:
    cloud = Cloud([replace(instance(0), named=False)])
    launched(cloud, count=1)
    assert cloud.named == {"i-0": "demo-0000", "i-1": "demo-0001"}


def test_many_are_launched_in_waves_with_a_token_each() -> None:
    cloud = Cloud()
    done = launched(cloud, count=1200)
    assert [one.count for one in cloud.requests] == [500, 500, 200]
    assert [one.first_index for one in cloud.requests] == [0, 500, 1000]
    assert len({one.token for one in cloud.requests}) == 3
    assert len({one.host_index for one in done.instances}) == 1200


def test_a_late_refusal_does_not_lose_what_there_is() -> None:
    quota = AwsRefused("quota", code="VcpuLimitExceeded")
    done = launched(Cloud(refusals=[None, quota]), count=600)
    assert len(done.instances) == 500
    assert done.problem is quota


def test_a_first_refusal_ends_the_launch() -> None:
    with pytest.raises(AwsRefused, match="quota"):
        launched(Cloud(refusals=[AwsRefused("quota")]))


def test_the_same_token_is_sent_until_the_profile_is_seen() -> None:
    cloud = Cloud(refusals=[ProfileUnseen("Invalid IAM Instance Profile name")] * 4)
    launched(cloud)
    assert len(cloud.requests) == 5
    assert len({one.token for one in cloud.requests}) == 1
    assert cloud.now_s > 1


def test_a_profile_that_is_never_seen_is_said() -> None:
    cloud = Cloud(refusals=[ProfileUnseen("Invalid IAM Instance Profile name")] * 500)
    with pytest.raises(AwsRefused, match="does not see the instance profile mine"):
        launched(cloud, instance_profile="mine")
    assert 15 < cloud.now_s < 40


def test_no_room_in_one_zone_is_tried_in_the_next() -> None:
    cloud = Cloud(refusals=[NoCapacity("full")])
    launched(cloud)
    assert [one.subnet.zone for one in cloud.requests] == ["a", "b"]
    assert len({one.token for one in cloud.requests}) == 2


@pytest.mark.parametrize("words", [{"zone": "b"}, {"subnet": "subnet-mine"}])
def test_no_room_where_the_user_wants_to_be_is_an_error(words: dict[str, str]) -> None:
    cloud = Cloud(refusals=[NoCapacity("full")] * 500)
    with pytest.raises(NoCapacity):
        launched(cloud, **words)
    assert {one.subnet.zone for one in cloud.requests} == {"b"}
    assert 15 < cloud.now_s < 40


def test_room_that_is_missing_for_a_moment_is_waited_for() -> None:
    cloud = Cloud(refusals=[NoCapacity("full")] * 4)
    assert len(launched(cloud, zone="b").instances) == 3
    assert len({one.token for one in cloud.requests}) == 5


def test_stopped_instances_wait_for_room_in_their_zone() -> None:
    cloud = Cloud([instance(0, STOPPED)], no_room_until_s=9)
    cluster.resume(aws(cloud), cloud.there)
    assert cloud.started == ["i-0"]
    full = Cloud([instance(0, STOPPED)], no_room_until_s=900)
    with pytest.raises(NoCapacity):
        cluster.resume(aws(full), full.there)
    assert full.now_s < 90


def test_a_lost_answer_is_found_again_by_its_token() -> None:
    cloud = Cloud([instance(0)], refusals=[NoAnswer("read timeout")])
    assert ids(launched(cloud).instances) == ["i-1", "i-2", "i-3"]
    assert len({one.token for one in cloud.requests}) == 1


def test_a_lost_answer_is_found_again_when_tags_come_late() -> None:
    cloud = Cloud(refusals=[NoAnswer("read timeout")], tags_late_until_s=9)
    assert ids(launched(cloud).instances) == ["i-0", "i-1", "i-2"]
    assert len({one.token for one in cloud.requests}) == 1


def test_an_instance_that_ec2_does_not_know_yet_gets_its_name_a_little_later() -> None:
    cloud = Cloud(unseen_until_s=9)
    assert launched(cloud).problem is None
    assert sorted(cloud.named.values()) == ["demo-0000", "demo-0001", "demo-0002"]


def test_an_instance_that_ec2_never_knows_is_a_problem_but_loses_nothing() -> None:
    done = launched(Cloud(unseen_until_s=9_999))
    assert len(done.instances) == 3
    assert "does not know i-0" in str(done.problem)


def test_names_that_cannot_be_written_are_a_problem_but_lose_nothing() -> None:
    done = launched(Cloud(tells_nothing=True))
    assert len(done.instances) == 3
    assert "CreateTags" in str(done.problem)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"image": "ami-arm"}, "ami-arm is for arm64, but t3.micro runs i386 or x86_64"),
        ({"subnet": "subnet-b", "zone": "a"}, "lies in b, not in a"),
    ],
)
def test_words_that_do_not_fit_together_launch_nothing(words: dict[str, str], said: str) -> None:
    with pytest.raises(UsageProblem, match=said):
        launching.prepare(aws(Cloud()), spec(**words))


def test_a_zone_without_the_type_is_said() -> None:
    with pytest.raises(AwsRefused, match="no default subnet in z"):
        launching.prepare(aws(Cloud()), spec(zone="z"))


def test_ready_means_that_the_agent_answers() -> None:
    cloud = Cloud([instance(0, PENDING), instance(1, PENDING)])
    cloud.on_pause = [
        lambda: cloud.change(RUNNING, "i-0", "i-1"),
        lambda: cloud.online.add("i-1"),
        lambda: cloud.online.add("i-0"),
    ]
    looks: list[int] = []
    reach = cluster.wait_ready(
        aws(cloud), cloud.there, on_look=lambda now: looks.append(len(now.ready))
    )
    assert ids(reach.ready) == ["i-0", "i-1"]
    assert looks == [0, 0, 1, 2]


def test_the_wait_goes_on_for_the_others_and_ends_when_the_rest_is_hopeless() -> None:
    cloud = Cloud([instance(0), instance(1, PENDING)])
    ended = replace(instance(1, TERMINATED), state_reason="no spot capacity")
    cloud.on_pause = [
        lambda: cloud.there.__setitem__(1, ended),
        lambda: cloud.online.add("i-0"),
    ]
    reach = cluster.wait_ready(aws(cloud), list(cloud.there), 600)
    assert ids(reach.ready) == ["i-0"]
    assert [reason for _, reason in reach.left_out] == ["terminated (no spot capacity)"]
    assert cloud.now_s < 10


def test_the_wait_ends_after_its_time() -> None:
    cloud = Cloud([instance(0), instance(1)], online={"i-0"})
    reach = cluster.wait_ready(aws(cloud), cloud.there, 60)
    assert (ids(reach.ready), len(reach.left_out)) == (["i-0"], 1)
    assert 60 <= cloud.now_s < 90


def test_an_instance_that_ec2_does_not_show_yet_is_waited_for() -> None:
    new = instance(0, PENDING)
    cloud = Cloud(online={"i-0"})
    cloud.on_pause = [lambda: cloud.there.append(instance(0))]
    assert ids(cluster.wait_ready(aws(cloud), [new]).ready) == ["i-0"]


def test_pause_stops_only_what_runs() -> None:
    cloud = Cloud([instance(0), instance(1, STOPPED)])
    assert ids(cluster.pause(aws(cloud), cloud.there)) == ["i-0"]
    assert cloud.stopped == ["i-0"]


def test_pause_goes_on_without_what_has_ended_meanwhile() -> None:
    cloud = Cloud([instance(0), instance(1)])
    seen = list(cloud.there)
    cloud.change(TERMINATED, "i-1")
    assert ids(cluster.pause(aws(cloud), seen)) == ["i-0"]
    assert cloud.stopped == ["i-0"]


def test_pause_waits_for_what_has_not_quite_started() -> None:
    cloud = Cloud([instance(0), instance(1, PENDING)])
    cloud.on_pause = [lambda: None, lambda: cloud.change(RUNNING, "i-1")]
    assert ids(cluster.pause(aws(cloud), cloud.there)) == ["i-0", "i-1"]
    assert cloud.stopped == ["i-0", "i-1"]


def test_a_state_that_never_fits_is_told() -> None:
    cloud = Cloud([instance(0, PENDING)])
    with pytest.raises(AwsRefused, match="fitting"):
        cluster.pause(aws(cloud), cloud.there)
    assert cloud.stopped == []


def test_one_time_spot_cannot_be_paused_and_then_nothing_is() -> None:
    cloud = Cloud([replace(instance(n), spot=True) for n in range(2)], persistent={"i-0"})
    with pytest.raises(AwsRefused, match="demo-0001"):
        cluster.pause(aws(cloud), cloud.there)
    assert cloud.stopped == []
    assert ids(cluster.pause(aws(cloud), cloud.there[:1])) == ["i-0"]


def test_resume_waits_for_what_is_still_stopping() -> None:
    cloud = Cloud([instance(0), instance(1, STOPPED), instance(2, STOPPING)])
    cloud.on_pause = [lambda: cloud.change(STOPPED, "i-2")]
    assert ids(cluster.resume(aws(cloud), cloud.there)) == ["i-1", "i-2"]
    assert cloud.started == ["i-1", "i-2"]


def test_resume_with_nothing_to_do_does_nothing() -> None:
    cloud = Cloud([instance(0)])
    assert cluster.resume(aws(cloud), cloud.there) == []
    assert cloud.started == []


def test_instances_that_never_get_there_are_an_error() -> None:
    cloud = Cloud([instance(0, STOPPING)])
    with pytest.raises(NotReached, match="every instance of demo"):
        cluster.wait_state(aws(cloud), cloud.there, lambda state: state is STOPPED, 30)

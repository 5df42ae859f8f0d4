"""Clusters, by the real command against the local cloud."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cloud.conftest import PMR, ClientFactory, Pmr
from tests.support.commands import TRUST

TYPE = "t3.micro"


@pytest.fixture
def created(pmr: Pmr) -> Iterator[Callable[..., Any]]:
    """Return a function that creates a cluster, and returns what it said, for one test."""
    names: list[str] = []

    def create(name: str, count: int = 1, *more: str) -> Any:  # noqa: ANN401 (JSON is Any)
        names.append(name)
        return pmr.json("create", "-n", name, "-N", str(count), "-t", TYPE, *more)

    yield create
    for name in names:
        pmr("terminate", "-n", name, "--yes", "--if-exists")


@pytest.fixture(scope="module")
def mute(client: ClientFactory) -> str:
    """Return a profile whose role may do nothing, so that its agents never report."""
    iam, name = client("iam"), "mute"
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return name


def states(pmr: Pmr, name: str) -> dict[str, str]:
    told = pmr.json("list", "-n", name)["instances"]
    return {one["name"]: one["state"] for one in told}


def calls(pmr: Pmr, operation: str) -> int:
    counted = pmr.json("local", "status")["calls"]
    return sum(count for name, count in _flat(counted) if name.endswith(operation))


def _flat(counted: Any) -> Iterator[tuple[str, int]]:  # noqa: ANN401 (JSON is Any)
    for name, count in counted.items():
        if isinstance(count, dict):
            yield from ((f"{name}:{inner}", number) for inner, number in _flat(count))
        else:
            yield name, count


def test_create_launches_all_at_once_closed_and_tagged(
    pmr: Pmr, client: ClientFactory, created: Callable[..., Any]
) -> None:
    before = calls(pmr, "RunInstances")
    told = created("closed", 3, "-o", "ann")
    assert [one["name"] for one in told["instances"]] == [f"closed-000{n}" for n in range(3)]
    assert {one["agent"] for one in told["instances"]} == {"online"}
    assert (told["left_out"], told["problem"]) == ([], None)
    # The profile may need some tries until EC2 sees it; they all carry the same token.
    assert calls(pmr, "RunInstances") - before <= 6

    ec2 = client("ec2")
    ids = [one["instance_id"] for one in told["instances"]]
    found = [
        one
        for reservation in ec2.describe_instances(InstanceIds=ids)["Reservations"]
        for one in reservation["Instances"]
    ]
    assert len(found) == 3
    for index, one in enumerate(sorted(found, key=lambda one: one["AmiLaunchIndex"])):
        assert {tag["Key"]: tag["Value"] for tag in one["Tags"]} == {
            "Project": "closed",
            "Tool": "poormanray",
            "Contact": "ann",
            "FirstHostIndex": "0",
            "Name": f"closed-{index:04d}",
        }
        assert "KeyName" not in one
        assert "PublicIpAddress" not in one
        assert one["MetadataOptions"]["HttpTokens"] == "required"
        assert one["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
        assert one["IamInstanceProfile"]["Arn"].endswith("instance-profile/poormanray-ssm")
        groups = [group["GroupId"] for group in one["NetworkInterfaces"][0]["Groups"]]
        (group,) = ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
        assert group["IpPermissions"] == []
    volumes = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": ids}])
    for volume in volumes["Volumes"]:
        assert (volume["Encrypted"], volume["VolumeType"]) == (True, "gp3")
        assert {"Key": "Project", "Value": "closed"} in volume["Tags"]


def test_the_role_holds_the_managed_policy_and_nothing_more(
    client: ClientFactory, created: Callable[..., Any]
) -> None:
    created("role")
    attached = client("iam").list_attached_role_policies(RoleName="poormanray-ssm")
    names = [policy["PolicyName"] for policy in attached["AttachedPolicies"]]
    assert names == ["AmazonSSMManagedInstanceCore"]


def test_more_instances_join_and_are_numbered_on(pmr: Pmr, created: Callable[..., Any]) -> None:
    created("grows", 2)
    pmr("terminate", "-n", "grows", "-i", "grows-0000", "--yes")
    created("grows", 2, "-d")
    assert list(states(pmr, "grows")) == ["grows-0001", "grows-0002", "grows-0003"]
    pmr("wait", "-n", "grows")


def test_list_shows_one_cluster_or_all(pmr: Pmr, created: Callable[..., Any]) -> None:
    created("one")
    created("two")
    everything = pmr("list").stdout
    assert "one-0000" in everything
    assert "two-0000" in everything
    only = pmr("list", "-n", "one").stdout
    assert "two-0000" not in only
    assert only.splitlines()[0].split() == [
        *("ID", "NAME", "TYPE", "STATE", "AGENT", "ZONE", "PRIVATE", "IP", "AGE")
    ]
    assert " online " in only


def test_pause_and_resume_move_only_what_needs_moving(
    pmr: Pmr, created: Callable[..., Any]
) -> None:
    created("rests", 2)
    assert len(pmr.json("pause", "-n", "rests", "-i", "rests-0001")["paused"]) == 1
    assert states(pmr, "rests") == {"rests-0000": "running", "rests-0001": "stopped"}
    waited = pmr("wait", "-n", "rests", check=False)
    assert waited.returncode == 4
    assert "rests-0001" in waited.stderr
    assert "pmr resume -n rests" in waited.stderr
    assert len(pmr.json("pause", "-n", "rests")["paused"]) == 1
    again = pmr("pause", "-n", "rests")
    assert "nothing to do" in again.stderr
    assert len(pmr.json("resume", "-n", "rests")["resumed"]) == 2
    assert set(states(pmr, "rests").values()) == {"running"}
    assert "nothing to do" in pmr("resume", "-n", "rests").stderr


def test_terminate_shows_and_needs_a_yes(pmr: Pmr, created: Callable[..., Any]) -> None:
    created("ends", 2)
    unasked = pmr("terminate", "-n", "ends", check=False)
    assert unasked.returncode == 2
    assert "ends-0001" in unasked.stdout
    assert "--yes" in unasked.stderr
    assert len(states(pmr, "ends")) == 2
    pmr("terminate", "-n", "ends", "-i", "ends-0001", "--yes")
    assert list(states(pmr, "ends")) == ["ends-0000"]
    pmr("terminate", "-n", "ends", "--yes")
    assert pmr("terminate", "-n", "ends", "--yes", check=False).returncode == 3
    pmr("terminate", "-n", "ends", "--yes", "--if-exists")


@pytest.mark.parametrize(
    ("answer", "code", "left"), [(b"n\n", 1, 1), (b"\n", 1, 1), (b"y\n", 0, 0)]
)
def test_terminate_asks_at_a_terminal(
    pmr: Pmr, created: Callable[..., Any], answer: bytes, code: int, left: int
) -> None:
    name = f"asks-{code}-{len(answer)}"
    created(name, 1, "-d")
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [PMR, "terminate", "-n", name],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**pmr.environment(), "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(theirs)
    os.write(ours, answer)
    assert asking.wait(timeout=30) == code
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert f"Terminate 1 instance of {name} for good? [y/N]" in said
    known = pmr("list", "-n", name, check=False)
    assert known.stdout.count(f"{name}-0000") == left


def test_only_instances_with_both_tags_are_touched(
    pmr: Pmr, client: ClientFactory, created: Callable[..., Any]
) -> None:
    ours = created("mine", 1, "-d")
    ec2 = client("ec2")
    foreign = ec2.run_instances(
        ImageId=ours["image"],
        InstanceType=TYPE,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Project", "Value": "mine"}]}
        ],
    )["Instances"][0]["InstanceId"]
    assert foreign not in pmr("list").stdout
    assert pmr("terminate", "-n", "mine", "-i", foreign, "--yes", check=False).returncode == 3
    pmr("terminate", "-n", "mine", "--yes")
    told = ec2.describe_instances(InstanceIds=[foreign])["Reservations"][0]["Instances"][0]
    assert told["State"]["Name"] in {"pending", "running"}
    ec2.terminate_instances(InstanceIds=[foreign])


def test_an_agent_without_rights_never_comes_online_and_that_is_explained(
    pmr: Pmr, mute: str, created: Callable[..., Any]
) -> None:
    created("mute", 1, "--instance-profile", mute, "-d")
    waited = pmr("wait", "-n", "mute", "-T", "3", check=False)
    assert waited.returncode == 4
    assert "its agent has not reported to SSM yet" in waited.stderr
    assert "ssmmessages" in waited.stderr
    told = pmr("wait", "-n", "mute", "-T", "1", "--json", check=False).stdout.splitlines()
    assert '"event": "summary"' in told[-1]
    assert '"exit_code": 4' in told[-1]


def test_the_wait_ends_early_when_an_instance_does(
    pmr: Pmr, client: ClientFactory, mute: str, created: Callable[..., Any]
) -> None:
    told = created("doomed", 1, "--instance-profile", mute, "-d")
    waiting = pmr.start("wait", "-n", "doomed", "-T", "10m")
    assert waiting.stderr is not None
    assert b"0 of 1 ready" in b"".join(waiting.stderr.readline() for _ in range(2))
    client("ec2").terminate_instances(InstanceIds=[told["instances"][0]["instance_id"]])
    _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 4
    assert b"doomed-0000" in said


def test_an_interrupted_create_says_how_to_go_on(
    pmr: Pmr, mute: str, created: Callable[..., Any]
) -> None:
    created("stops", 1, "-d")
    creating = pmr.start("create", "-n", "stops", "-t", TYPE, "--instance-profile", mute)
    assert creating.stderr is not None
    for line in creating.stderr:
        if b" ready" in line:
            creating.send_signal(signal.SIGINT)
            break
    _, said = creating.communicate(timeout=30)
    assert creating.returncode == 130
    assert b"pmr wait -n stops" in said
    assert len(states(pmr, "stops")) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list", "-n", "nobody"], 3, "no cluster named nobody in us-east-1"),
        (["wait", "-n", "nobody"], 3, "no cluster named nobody"),
        (["pause", "-n", "nobody"], 3, "no cluster named nobody"),
        (["create", "-n", "x", "-N", "0"], 2, "1 or more"),
        (["create", "-n", "x y"], 2, "not a cluster name"),
        (["create", "-n", "x", "-T", "-1"], 2, "'-1'"),
        (["create", "-n", "x", "-t", "nope.large"], 5, "nope.large"),
        (["create", "-n", "x", "-t", TYPE, "--image", "ami-12345678"], 5, "ami-12345678"),
        (["create", "-n", "x", "-t", TYPE, "--subnet", "subnet-1"], 5, "subnet-1"),
        (["create", "-n", "x", "-t", TYPE, "-E", "gp2", "-I", "3000"], 2, "takes no IOPS"),
        (["create", "-n", "x", "--instance-profile", "y", "--policy-arn", "z"], 2, "--policy-arn"),
    ],
)
def test_what_cannot_be_is_one_line_a_next_step_and_a_code(
    pmr: Pmr, words: list[str], code: int, said: str
) -> None:
    ended = pmr(*words, check=False)
    assert ended.returncode == code
    error, hint = ended.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("  next: ")
    assert pmr.json(*words, check=False)["error"]["exit_code"] == code


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "no AWS credentials"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        (
            {
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            },
            "no answer from ec2 in us-east-1",
        ),
    ],
)
def test_no_way_to_aws_is_said(pmr: Pmr, env: dict[str, str], said: str) -> None:
    real = pmr.with_env(PMR_LOCAL="0", AWS_EC2_METADATA_DISABLED="true", **env)
    # What may be an outage is waited for, a minute at most.
    ended = real("list", "-n", "x", check=False, timeout_s=100)
    assert ended.returncode == 5
    assert said in ended.stderr
    assert "next: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_local_cloud_is_named_and_settings_of_aws_do_not_matter(pmr: Pmr) -> None:
    astray = pmr.with_env(AWS_PROFILE="nobody", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert "local cloud at 127.0.0.1:" in astray("list").stderr


def test_the_old_key_option_is_accepted_and_explained(
    pmr: Pmr, created: Callable[..., Any]
) -> None:
    created("keyed", 1, "-d")
    ended = pmr("terminate", "-n", "keyed", "-k", "id_rsa", "--yes")
    assert "no SSH is used" in ended.stderr

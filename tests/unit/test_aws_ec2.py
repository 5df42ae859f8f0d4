"""EC2's words and answers: what a launch asks for, and what instances are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from poormanray.aws.ec2 import Ec2
from poormanray.errors import AwsRefused, NotFound, UsageProblem
from poormanray.model import (
    NO_INDEX,
    Image,
    Instance,
    InstanceState,
    LaunchRequest,
    LaunchSpec,
    Profile,
    Subnet,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

REGION = "us-east-1"
ZONE = "us-east-1a"


@pytest.fixture
def client() -> EC2Client:
    return boto3.client("ec2", region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture
def stub(client: EC2Client) -> Iterator[Stubber]:
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def told(instance_id: str, tags: dict[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401 (AWS's own words)
    return {
        "InstanceId": instance_id,
        "State": {"Name": "running"},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        **more,
    }


def request_of(count: int, **changes: Any) -> LaunchRequest:  # noqa: ANN401 (each field has its own type)
    spec = LaunchSpec(cluster="demo", owner="ann", count=count, instance_type="t3.micro", **changes)
    return LaunchRequest(
        spec=spec,
        count=count,
        first_index=4,
        token="a-token",
        image=Image("ami-1", "al2023", "x86_64", "/dev/xvda", 8),
        subnet=Subnet("subnet-1", ZONE, "vpc-1"),
        security_groups=("sg-1",),
        profile=Profile("poormanray-ssm"),
    )


def launch_words(client: EC2Client, stub: Stubber, request: LaunchRequest) -> dict[str, Any]:
    """Return what RunInstances is asked, as botocore's model accepted it."""
    asked: dict[str, Any] = {}
    client.meta.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: asked.update(params)
    )
    answer = {"Instances": [told(f"i-{index}", {}) for index in range(request.count)]}
    stub.add_response("run_instances", answer)
    Ec2(client, REGION).launch(request)
    return asked


def test_a_launch_is_one_request_for_all_and_closed_by_default(
    client: EC2Client, stub: Stubber
) -> None:
    asked = launch_words(client, stub, request_of(3))
    tags = [
        {"Key": "Project", "Value": "demo"},
        {"Key": "Tool", "Value": "poormanray"},
        {"Key": "Contact", "Value": "ann"},
        {"Key": "FirstHostIndex", "Value": "4"},
    ]
    assert asked == {
        "ImageId": "ami-1",
        "InstanceType": "t3.micro",
        "MinCount": 3,
        "MaxCount": 3,
        "ClientToken": "a-token",
        "IamInstanceProfile": {"Name": "poormanray-ssm"},
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": "subnet-1",
                "Groups": ["sg-1"],
                "AssociatePublicIpAddress": False,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                    "VolumeType": "gp3",
                    "VolumeSize": 8,
                },
            }
        ],
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 2,
        },
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
    }


def test_a_launch_of_one_carries_its_name_at_once(client: EC2Client, stub: Stubber) -> None:
    request = request_of(1, storage_gib=50, storage_iops=4000, public_ip=True)
    asked = launch_words(client, stub, request)
    assert {"Key": "Name", "Value": "demo-0004"} in asked["TagSpecifications"][0]["Tags"]
    assert asked["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 50
    assert asked["BlockDeviceMappings"][0]["Ebs"]["Iops"] == 4000
    assert asked["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is True


@pytest.mark.parametrize(
    ("tags", "launch_index", "host_index"),
    [
        ({"FirstHostIndex": "4"}, 2, 6),
        ({"FirstHostIndex": "4", "Name": "demo-0099"}, 0, 4),
        ({"Name": "demo-0012"}, 3, 12),
        ({"Name": "a friend's machine"}, 3, NO_INDEX),
        ({"FirstHostIndex": "-1"}, 0, NO_INDEX),
        ({}, 0, NO_INDEX),
    ],
)
def test_the_host_index_is_what_the_launch_or_the_name_says(
    client: EC2Client, stub: Stubber, tags: dict[str, str], launch_index: int, host_index: int
) -> None:
    one = told("i-1", {"Project": "demo", **tags}, AmiLaunchIndex=launch_index)
    stub.add_response("describe_instances", {"Reservations": [{"Instances": [one]}]})
    (found,) = Ec2(client, REGION).instances("demo")
    assert found.host_index == host_index


def test_instances_are_asked_for_by_both_tags_and_page_by_page(
    client: EC2Client, stub: Stubber
) -> None:
    both = [
        {"Name": "tag:Tool", "Values": ["poormanray"]},
        {"Name": "tag:Project", "Values": ["demo"]},
    ]
    words = {"Filters": both, "MaxResults": 500}
    gone = told(
        "i-1",
        {"Project": "demo"},
        State={"Name": "terminated"},
        StateReason={"Code": "Server.SpotInstanceTermination", "Message": "Spot took it back"},
        InstanceLifecycle="spot",
    )
    first = {"Reservations": [{"Instances": [gone]}], "NextToken": "more"}
    stub.add_response("describe_instances", first, words)
    last = {"Reservations": [{"Instances": [told("i-2", {"Project": "demo", "Contact": "ann"})]}]}
    stub.add_response("describe_instances", last, {**words, "NextToken": "more"})
    lost, alive = Ec2(client, REGION).instances("demo")
    assert (lost.state, lost.state_reason) == (InstanceState.TERMINATED, "Spot took it back")
    assert lost.spot
    assert (alive.owner, alive.named) == ("ann", False)


def test_the_newest_image_wins(client: EC2Client, stub: Stubber) -> None:
    images = [
        {"ImageId": image_id, "Name": name, "CreationDate": date, "Architecture": "arm64"}
        for image_id, name, date in (
            ("ami-old", "al2023-ami-2023.1-arm64", "2024-01-01T00:00:00.000Z"),
            ("ami-new", "al2023-ami-2023.5-arm64", "2026-01-01T00:00:00.000Z"),
            ("ami-mid", "al2023-ami-2023.9-arm64", "2025-01-01T00:00:00.000Z"),
        )
    ]
    stub.add_response("describe_images", {"Images": images}, {"Owners": ["amazon"], "Filters": ANY})
    assert Ec2(client, REGION).newest_image("arm64").image_id == "ami-new"


def test_no_image_is_said(client: EC2Client, stub: Stubber) -> None:
    stub.add_response("describe_images", {"Images": []})
    with pytest.raises(AwsRefused, match="no Amazon Linux 2023 image for arm64"):
        Ec2(client, REGION).newest_image("arm64")
    stub.add_response("describe_images", {"Images": []})
    with pytest.raises(NotFound, match="ami-1"):
        Ec2(client, REGION).image("ami-1")


def test_only_zones_that_offer_the_type_are_tried(client: EC2Client, stub: Stubber) -> None:
    offered = [{"InstanceType": "t3.micro", "Location": zone} for zone in ("a", "c")]
    stub.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": offered})
    subnets = [
        {"SubnetId": f"subnet-{zone}", "AvailabilityZone": zone, "VpcId": "vpc-1"}
        for zone in ("c", "b", "a")
    ]
    stub.add_response("describe_subnets", {"Subnets": subnets})
    zones = [one.zone for one in Ec2(client, REGION).default_subnets("t3.micro")]
    assert zones == ["a", "c"]


def test_the_closed_group_is_used_again_and_must_stay_closed(
    client: EC2Client, stub: Stubber
) -> None:
    stub.add_response("describe_security_groups", {"SecurityGroups": [{"GroupId": "sg-7"}]})
    assert Ec2(client, REGION).closed_group("vpc-1") == "sg-7"
    opened = {"GroupId": "sg-7", "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 22}]}
    stub.add_response("describe_security_groups", {"SecurityGroups": [opened]})
    with pytest.raises(UsageProblem, match="sg-7"):
        Ec2(client, REGION).closed_group("vpc-1")


def test_another_client_may_be_faster_with_the_closed_group(
    client: EC2Client, stub: Stubber
) -> None:
    stub.add_response("describe_security_groups", {"SecurityGroups": []})
    stub.add_client_error("create_security_group", "InvalidGroup.Duplicate")
    stub.add_response("describe_security_groups", {"SecurityGroups": [{"GroupId": "sg-8"}]})
    assert Ec2(client, REGION).closed_group("vpc-1") == "sg-8"


def test_no_right_to_make_the_closed_group_is_answered_with_the_way_around(
    client: EC2Client, stub: Stubber
) -> None:
    stub.add_response("describe_security_groups", {"SecurityGroups": []})
    stub.add_client_error("create_security_group", "UnauthorizedOperation")
    stub.add_response("describe_security_groups", {"SecurityGroups": []})
    with pytest.raises(AwsRefused) as caught:
        Ec2(client, REGION).closed_group("vpc-1")
    assert "--security-group" in caught.value.hint


def test_many_are_terminated_a_thousand_at_a_time(client: EC2Client, stub: Stubber) -> None:
    ids = [f"i-{number}" for number in range(1001)]
    stub.add_response("terminate_instances", {}, {"InstanceIds": ids[:1000]})
    stub.add_response("terminate_instances", {}, {"InstanceIds": ids[1000:]})
    Ec2(client, REGION).terminate(ids)


def test_nothing_to_stop_is_no_call(client: EC2Client, stub: Stubber) -> None:
    stub.assert_no_pending_responses()
    Ec2(client, REGION).stop([])
    Ec2(client, REGION).start([])
    Ec2(client, REGION).terminate([])


def test_the_name_is_written_as_a_tag(client: EC2Client, stub: Stubber) -> None:
    stub.add_response(
        "create_tags",
        {},
        {"Resources": ["i-1"], "Tags": [{"Key": "Name", "Value": "demo-0001"}]},
    )
    Ec2(client, REGION).name(Instance("i-1", "demo-0001", "demo", 1, InstanceState.RUNNING))


def test_only_persistent_spot_can_be_stopped(client: EC2Client, stub: Stubber) -> None:
    requests = [
        {"InstanceId": "i-1", "Type": "persistent"},
        {"InstanceId": "i-2", "Type": "one-time"},
    ]
    stub.add_response("describe_spot_instance_requests", {"SpotInstanceRequests": requests})
    assert Ec2(client, REGION).restartable_spot(["i-1", "i-2"]) == {"i-1"}


def test_a_call_has_no_more_values_of_filters_than_ec2_takes(
    client: EC2Client, stub: Stubber
) -> None:
    ids = [f"i-{number}" for number in range(450)]
    for some in (ids[:200], ids[200:400], ids[400:]):
        wanted = {"Filters": [{"Name": "instance-id", "Values": some}]}
        one = {"InstanceId": some[0], "Type": "persistent"}
        stub.add_response(
            "describe_spot_instance_requests", {"SpotInstanceRequests": [one]}, wanted
        )
    found = Ec2(client, REGION).restartable_spot(ids)
    assert found == {"i-0", "i-200", "i-400"}

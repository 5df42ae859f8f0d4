"""Run Command and the door of the local cloud, through plain boto3 and plain HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.until import until

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
)
POLICY = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
Client = Any


@dataclass(frozen=True)
class Site:
    """Clients, and two instances whose agents are online."""

    ec2: Client
    iam: Client
    ssm: Client
    ids: list[str]
    image: str

    def state(self, instance_id: str) -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance_id])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    def online(self, ids: list[str]) -> bool:
        wanted = [{"Key": "InstanceIds", "Values": ids}]
        found = self.ssm.describe_instance_information(Filters=wanted, MaxResults=50)
        return len(found["InstanceInformationList"]) == len(ids)

    def launch(self, count: int = 1, **options: object) -> list[str]:
        words = {"ImageId": self.image, "InstanceType": "t3.micro", "MinCount": 1, **options}
        made = self.ec2.run_instances(MaxCount=count, **words)
        # What the answer says; a moment later they may be running.
        assert {one["State"]["Name"] for one in made["Instances"]} == {"pending"}
        return [one["InstanceId"] for one in made["Instances"]]

    def run(self, script: str, ids: list[str] | None = None, **parameters: list[str]) -> str:
        sent = self.ssm.send_command(
            InstanceIds=ids or self.ids[:1],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": [script], **parameters},
        )
        return str(sent["Command"]["CommandId"])

    def ended(self, command_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.ssm.list_command_invocations(CommandId=command_id, Details=True)
            rows = found["CommandInvocations"]
            over = rows and all(
                row["Status"] not in ("Pending", "InProgress", "Delayed", "Cancelling")
                for row in rows
            )
            return {row["InstanceId"]: row for row in rows} if over else None

        return until(look) or {}


@pytest.fixture(scope="module")
def site(client: ClientFactory) -> Site:
    ec2, iam, ssm = client("ec2"), client("iam"), client("ssm")
    images = ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "name", "Values": ["al2023-ami-2023.*"]},
            {"Name": "architecture", "Values": ["x86_64"]},
        ],
    )["Images"]
    iam.create_role(RoleName="managed", AssumeRolePolicyDocument=TRUST)
    iam.attach_role_policy(RoleName="managed", PolicyArn=POLICY)
    iam.create_instance_profile(InstanceProfileName="managed")
    iam.add_role_to_instance_profile(InstanceProfileName="managed", RoleName="managed")
    new = Site(ec2, iam, ssm, [], images[0]["ImageId"])

    def launch() -> list[str] | None:
        try:
            return new.launch(2, IamInstanceProfile={"Name": "managed"})
        except ec2.exceptions.ClientError:
            return None

    # EC2 does not see a profile that was made just now.
    with pytest.raises(ec2.exceptions.ClientError, match="Invalid IAM Instance Profile name"):
        new.launch(2, IamInstanceProfile={"Name": "managed"})
    launched = until(launch)
    assert launched
    new.ids.extend(launched)
    until(lambda: new.online(new.ids))
    assert [new.state(one) for one in new.ids] == ["running"] * 2
    return new


def code_of(call: Callable[[], object]) -> str:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_an_unknown_or_new_profile_is_refused(site: Site) -> None:
    site.iam.create_instance_profile(InstanceProfileName="new")
    for name in ("new", "nobody-made-this"):
        refused = site.ec2.exceptions.ClientError
        with pytest.raises(refused, match="Invalid IAM Instance Profile name"):
            site.launch(IamInstanceProfile={"Name": name})


def test_at_most_1000_are_terminated_in_one_call(site: Site) -> None:
    many = [f"i-{number:017x}" for number in range(1001)]
    assert code_of(lambda: site.ec2.terminate_instances(InstanceIds=many)) == (
        "InvalidParameterValue"
    )
    assert code_of(lambda: site.ec2.terminate_instances(InstanceIds=many[1:])) == (
        "InvalidInstanceID.NotFound"
    )


def test_every_instance_of_a_launch_has_the_profile(site: Site) -> None:
    found = site.ec2.describe_instances(InstanceIds=site.ids)["Reservations"][0]["Instances"]
    assert all(one["IamInstanceProfile"]["Arn"].endswith("/managed") for one in found)


def test_a_script_runs_on_each_of_two(site: Site) -> None:
    command_id = site.run("echo out; echo err >&2; exit 7", site.ids)
    assert (
        code_of(
            lambda: site.ssm.get_command_invocation(CommandId=command_id, InstanceId=site.ids[0])
        )
        == "InvocationDoesNotExist"
    )
    rows = site.ended(command_id)
    assert sorted(rows) == sorted(site.ids)
    for instance_id, row in rows.items():
        assert (row["Status"], row["CommandPlugins"][0]["ResponseCode"]) == ("Failed", 7)
        got = site.ssm.get_command_invocation(CommandId=command_id, InstanceId=instance_id)
        assert got["StandardOutputContent"] == "out\n"
        assert got["StandardErrorContent"] == "err\nfailed to run commands: exit status 7"


def test_cancel_and_timeout_kill(site: Site) -> None:
    slow, timed = site.run("sleep 60"), site.run("sleep 60", executionTimeout=["5"])
    until(
        lambda: (
            site.ssm.list_commands(CommandId=slow)["Commands"]
            and site.ssm.list_commands(CommandId=slow)["Commands"][0]["Status"] == "InProgress"
        )
    )
    site.ssm.cancel_command(CommandId=slow)
    assert site.ended(slow)[site.ids[0]]["StatusDetails"] == "Cancelled"
    assert site.ended(timed)[site.ids[0]]["StatusDetails"] == "ExecutionTimedOut"


def test_boto3_cannot_send_what_the_service_refuses(site: Site) -> None:
    stranger = "i-0123456789abcdef0"
    assert code_of(lambda: site.run("touch /root/ran", [*site.ids, stranger])) == (
        "InvalidInstanceId"
    )
    assert code_of(lambda: site.run("true", [f"i-{n:017x}" for n in range(51)])) == (
        "ValidationException"
    )
    assert code_of(lambda: site.run("x" * 70_000)) == "MaxDocumentSizeExceeded"
    row = site.ended(site.run("ls /root"))[site.ids[0]]
    assert "ran" not in row["CommandPlugins"][0]["Output"]


def test_life_of_an_instance(site: Site) -> None:
    one = site.launch(IamInstanceProfile={"Name": "managed"})
    until(lambda: site.online(one))
    site.ended(site.run("echo kept >/root/kept", one))
    assert code_of(lambda: site.ec2.run_instances(MinCount=3, MaxCount=1)) == (
        "InvalidParameterValue"
    )
    site.ec2.stop_instances(InstanceIds=one)
    assert site.state(one[0]) == "stopping"
    assert code_of(lambda: site.ec2.start_instances(InstanceIds=one)) == "IncorrectInstanceState"
    until(lambda: site.state(one[0]) == "stopped")
    assert code_of(lambda: site.run("true", one)) == "InvalidInstanceId"
    site.ec2.start_instances(InstanceIds=one)
    until(lambda: site.online(one))
    row = site.ended(site.run("cat /root/kept", one))[one[0]]
    assert row["CommandPlugins"][0]["Output"] == "kept\n"
    site.ec2.terminate_instances(InstanceIds=one)
    assert site.state(one[0]) == "shutting-down"
    until(lambda: site.state(one[0]) == "terminated")
    assert code_of(lambda: site.ec2.start_instances(InstanceIds=one)) == "IncorrectInstanceState"
    assert not site.online(one)


@pytest.mark.parametrize(("behaviour", "state"), [("stop", "stopped"), ("terminate", "terminated")])
def test_shutdown_inside(site: Site, behaviour: str, state: str) -> None:
    one = site.launch(
        IamInstanceProfile={"Name": "managed"}, InstanceInitiatedShutdownBehavior=behaviour
    )
    until(lambda: site.online(one))
    site.run("shutdown -h now", one)
    until(lambda: site.state(one[0]) == state)


def test_halt_inside_leaves_it_on_and_dead(site: Site) -> None:
    one = site.launch(IamInstanceProfile={"Name": "managed"})
    until(lambda: site.online(one))
    site.run("halt", one)

    def unheard() -> bool:
        sent = site.run("true", one)
        listed = site.ssm.list_command_invocations
        rows = until(lambda: listed(CommandId=sent)["CommandInvocations"])
        return bool(rows[0]["Status"] == "Delayed")

    until(unheard)
    assert site.state(one[0]) == "running"
    site.ec2.terminate_instances(InstanceIds=one)


def test_without_a_profile_there_is_no_agent(site: Site) -> None:
    one = site.launch()
    # An agent of its age with a profile is online by then.
    later = site.launch(IamInstanceProfile={"Name": "managed"})
    until(lambda: site.state(one[0]) == "running")
    until(lambda: site.online(later))
    assert not site.online(one)
    assert code_of(lambda: site.run("true", one)) == "InvalidInstanceId"
    site.ec2.terminate_instances(InstanceIds=later)
    site.ec2.terminate_instances(InstanceIds=one)


def test_client_tokens(site: Site) -> None:
    first = site.launch(2, ClientToken="once")
    assert site.launch(2, ClientToken="once") == first
    assert code_of(lambda: site.launch(1, ClientToken="once")) == "IdempotentParameterMismatch"
    site.ec2.terminate_instances(InstanceIds=first)


def test_architecture_must_fit(site: Site) -> None:
    assert code_of(lambda: site.launch(InstanceType="t4g.micro")) == "InvalidParameterValue"


def test_the_public_parameter_names_an_image(site: Site) -> None:
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
    image = site.ssm.get_parameter(Name=name)["Parameter"]["Value"]
    found = site.ec2.describe_images(ImageIds=[image])["Images"][0]
    assert found["Architecture"] == "arm64"


def test_instances_are_paged_one_by_one(site: Site) -> None:
    many = site.launch(7)
    wanted = [{"Name": "instance-id", "Values": many}]
    pages = list(
        site.ec2.get_paginator("describe_instances").paginate(
            Filters=wanted, PaginationConfig={"PageSize": 5}
        )
    )
    sizes = [sum(len(r["Instances"]) for r in page["Reservations"]) for page in pages]
    assert sizes == [5, 2]
    site.ec2.terminate_instances(InstanceIds=many)


# The door


def test_unsigned_and_wrongly_signed_requests_execute_nothing(site: Site, pmr: Pmr) -> None:
    import boto3

    contact = json.loads((pmr.state / "cloud.json").read_text())
    body = json.dumps(
        {
            "InstanceIds": site.ids[:1],
            "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": ["touch /root/intruder"]},
        }
    ).encode()
    headers = {
        "X-Amz-Target": "AmazonSSM.SendCommand",
        "Content-Type": "application/x-amz-json-1.1",
    }
    bare = urllib.request.Request(contact["url"], body, headers)
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        urllib.request.urlopen(bare)
    assert json.load(caught.value)["__type"] == "MissingAuthenticationTokenException"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{contact['url']}/_pmr/status")
    for key, secret, code in (
        ("AKIAIOSFODNN7EXAMPLE", contact["secret_key"], "UnrecognizedClientException"),
        (contact["access_key"], "wrong", "InvalidSignatureException"),
    ):
        stranger: Any = boto3.Session(
            aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        ).client("ssm", endpoint_url=contact["url"])
        assert code_of(lambda at=stranger: at.send_command(**json.loads(body))) == code  # type: ignore[misc]
    row = site.ended(site.run("ls /root"))[site.ids[0]]
    assert "intruder" not in row["CommandPlugins"][0]["Output"]


def test_presigned_urls(pmr: Pmr, client: ClientFactory) -> None:
    import boto3
    from botocore.config import Config

    contact = json.loads((pmr.state / "cloud.json").read_text())
    session: Any = boto3.Session(
        aws_access_key_id=contact["access_key"],
        aws_secret_access_key=contact["secret_key"],
        region_name="us-east-1",
    )
    s3 = session.client("s3", endpoint_url=contact["url"], config=Config(signature_version="s3v4"))
    client("s3").create_bucket(Bucket="presigned")
    where = {"Bucket": "presigned", "Key": "a b/\u00fc+c"}
    put = s3.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(put, b"body", method="PUT"))
    get = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"body"
    for bad in (get.replace("Expires=60", "Expires=600"), get.split("?", maxsplit=1)[0]):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(bad)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(get, method="DELETE"))


@pytest.mark.parametrize(
    "key", ["a b/&=+%?#x", "a%20b", "//dd//e", "\u043a\u043b\u044e\u0447", "'<>"]
)
def test_keys_of_objects_survive(client: ClientFactory, key: str) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="keys")
    s3.put_object(Bucket="keys", Key=key, Body=b"body")
    listed = s3.list_objects_v2(Bucket="keys", Prefix=key)["Contents"]
    assert [one["Key"] for one in listed] == [key]
    assert s3.get_object(Bucket="keys", Key=key)["Body"].read() == b"body"


def test_calls_are_counted(site: Site, pmr: Pmr) -> None:
    before = pmr.json("local", "status")["calls"]["ssm"]["ListCommands"]
    site.ssm.list_commands()
    assert pmr.json("local", "status")["calls"]["ssm"]["ListCommands"] == before + 1

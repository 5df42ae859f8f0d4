"""The cloud on its worst day, through plain boto3: late, full, throttled, expired."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.until import until

Client = Any
Image = str
SETTINGS = {
    "terminated_shown_s": 6,
    "capacity": 6,
    "ssm_rate": 5,
    "ec2_throttle": 1,
    "session_lifetime_s": 8,
    "page_max": 2,
}
# Long enough for a few calls on a machine that has much else to do.
LATE = {"instance_visible_s": 4, "tags_visible_s": 8}
TAGS = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "red"}]}]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), SETTINGS) as command:
        yield command


def maker(command: Pmr) -> Callable[..., Client]:
    """Return a maker of clients that try nothing twice."""
    import boto3
    from botocore.config import Config

    contact = json.loads((command.state / "cloud.json").read_text())
    session: Any = boto3.Session(region_name=contact["region"])
    retries: Any = {"mode": "standard", "total_max_attempts": 1}

    def client(service: str, keys: Mapping[str, str] | None = None) -> Client:
        return session.client(
            service,
            aws_access_key_id=keys["AccessKeyId"] if keys else contact["access_key"],
            aws_secret_access_key=keys["SecretAccessKey"] if keys else contact["secret_key"],
            aws_session_token=keys["SessionToken"] if keys else None,
            endpoint_url=contact["url"],
            config=Config(retries=retries, signature_version="s3v4" if service == "s3" else None),
        )

    return client


@pytest.fixture(scope="module")
def make(strict: Pmr) -> Callable[..., Client]:
    return maker(strict)


@pytest.fixture(scope="module")
def ec2(make: Callable[..., Client]) -> Client:
    return make("ec2")


@pytest.fixture(scope="module")
def image(ec2: Client) -> Image:
    return image_of(ec2)


def image_of(ec2: Client) -> Image:
    names = [
        {"Name": "name", "Values": ["al2023-ami-2023.*"]},
        {"Name": "architecture", "Values": ["x86_64"]},
    ]
    return str(ec2.describe_images(Owners=["amazon"], Filters=names)["Images"][0]["ImageId"])


def code_of(call: Callable[[], object]) -> str:
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def launch(ec2: Client, image: Image, most: int = 1, **options: object) -> list[str]:
    """Return the ids of new instances; wait while launches are throttled."""
    from botocore.exceptions import ClientError

    words = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, **options}

    def once() -> list[str]:
        try:
            made = ec2.run_instances(MaxCount=most, **words)
        except ClientError as error:
            if error.response["Error"]["Code"] == "RequestLimitExceeded":
                return []
            raise
        return [one["InstanceId"] for one in made["Instances"]]

    return until(once)


def shown(ec2: Client, **words: object) -> list[dict[str, Any]]:
    pages = ec2.describe_instances(**words)["Reservations"]
    return [one for page in pages for one in page["Instances"]]


def end(ec2: Client, ids: list[str]) -> None:
    until(lambda: not code_of(lambda: ec2.terminate_instances(InstanceIds=ids)))
    until(lambda: {one["State"]["Name"] for one in shown(ec2, InstanceIds=ids)} == {"terminated"})


def test_new_instances_are_unknown_and_their_tags_late(tmp_path: Path) -> None:
    with own_cloud(tmp_path, LATE) as command:
        late_instances(maker(command)("ec2"))


def late_instances(ec2: Client) -> None:
    ids = launch(ec2, image_of(ec2), TagSpecifications=TAGS)
    tag = [{"Key": "a", "Value": "b"}]
    by_id, by_tag = (
        [{"Name": "instance-id", "Values": ids}],
        [{"Name": "tag:team", "Values": ["red"]}],
    )
    assert code_of(lambda: ec2.describe_instances(InstanceIds=ids)) == "InvalidInstanceID.NotFound"
    assert code_of(lambda: ec2.create_tags(Resources=ids, Tags=tag)) == "InvalidInstanceID.NotFound"
    assert shown(ec2, Filters=by_id) == []
    until(lambda: shown(ec2, Filters=by_id))
    assert (shown(ec2, Filters=by_tag), shown(ec2, InstanceIds=ids)[0].get("Tags")) == ([], None)
    until(lambda: shown(ec2, Filters=by_tag))
    assert shown(ec2, InstanceIds=ids)[0]["Tags"] == TAGS[0]["Tags"]


def test_capacity_is_partial_then_none(ec2: Client, image: Image) -> None:
    ids = launch(ec2, image, most=4)
    assert code_of(lambda: launch(ec2, image, MinCount=2)) == "InvalidParameterValue"
    assert code_of(lambda: launch(ec2, image, most=3, MinCount=3)) == "InsufficientInstanceCapacity"
    more = launch(ec2, image, most=5)
    assert (len(ids), len(more)) == (4, 2)
    assert code_of(lambda: launch(ec2, image)) == "InsufficientInstanceCapacity"
    # What is stopped leaves its room to others.
    until(lambda: not code_of(lambda: ec2.stop_instances(InstanceIds=ids[:1])))
    until(lambda: not code_of(lambda: more.extend(launch(ec2, image))))
    assert code_of(lambda: ec2.start_instances(InstanceIds=ids[:1])) == (
        "InsufficientInstanceCapacity"
    )
    end(ec2, [*ids, *more])


def test_spot_requests_stops_and_reclaims(ec2: Client, image: Image, strict: Pmr) -> None:
    once = launch(ec2, image, InstanceMarketOptions={"MarketType": "spot"})
    lasting: dict[str, object] = {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"},
    }
    kept = launch(ec2, image, InstanceMarketOptions=lasting)
    wrong = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "terminate"}
    market = {"MarketType": "spot", "SpotOptions": wrong}
    code = code_of(lambda: launch(ec2, image, InstanceMarketOptions=market))
    assert code == "InvalidParameterCombination"
    until(lambda: len(shown(ec2, Filters=[{"Name": "instance-lifecycle", "Values": ["spot"]}])) > 1)

    def asked() -> dict[str, Any]:
        found = ec2.describe_spot_instance_requests(
            Filters=[{"Name": "instance-id", "Values": once}]
        )
        return dict(found["SpotInstanceRequests"][0])

    one = shown(ec2, InstanceIds=once)[0]
    assert (one["InstanceLifecycle"], one["SpotInstanceRequestId"]) == (
        "spot",
        asked()["SpotInstanceRequestId"],
    )
    assert asked()["Type"] == "one-time"
    assert code_of(lambda: ec2.stop_instances(InstanceIds=once)) == "UnsupportedOperation"
    until(lambda: not code_of(lambda: ec2.stop_instances(InstanceIds=kept)))
    strict("local", "fault", "add", "instance-reclaim", "--instance", once[0], "--seconds", "3")
    assert asked()["Status"]["Code"] == "marked-for-termination"
    until(lambda: asked()["State"] == "closed")
    reason = shown(ec2, InstanceIds=once)[0]["StateReason"]["Code"]
    assert reason == "Server.SpotInstanceTermination"
    end(ec2, kept)


def test_five_calls_a_second_of_each_operation(make: Callable[..., Client]) -> None:
    ssm = make("ssm")
    assert [code_of(ssm.list_commands) for _ in range(5)] == [""] * 5
    # Side by side: however slow the machine is, so many are more than five a second.
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: code_of(ssm.list_commands), range(40)))
    assert codes.count("ThrottlingException") >= 2
    assert code_of(ssm.list_command_invocations) == ""
    until(lambda: code_of(ssm.list_commands) == "")


def test_launches_have_the_smallest_bucket(ec2: Client, image: Image) -> None:
    words = {"ImageId": image, "InstanceType": "t3.none", "MinCount": 1, "MaxCount": 1}
    codes = [code_of(lambda: ec2.run_instances(**words)) for _ in range(7)]
    assert "RequestLimitExceeded" in codes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"Filters": [{"Name": "colour", "Values": ["red"]}]}, "InvalidParameterValue"),
        ({"InstanceIds": ["i-0123456789abcdef0"]}, "InvalidInstanceID.NotFound"),
        ({"InstanceIds": ["i-xyz"]}, "InvalidInstanceID.Malformed"),
    ],
)
def test_what_describe_instances_refuses(ec2: Client, words: dict[str, Any], code: str) -> None:
    assert code_of(lambda: ec2.describe_instances(**words)) == code


def test_groups_of_interfaces_are_those_of_the_instance(ec2: Client, image: Image) -> None:
    subnet = ec2.describe_subnets()["Subnets"][0]
    here = [{"Name": "vpc-id", "Values": [subnet["VpcId"]]}]
    group = ec2.describe_security_groups(Filters=here)["SecurityGroups"][0]["GroupId"]
    interface = {"DeviceIndex": 0, "SubnetId": subnet["SubnetId"], "Groups": [group]}
    ids = launch(ec2, image, NetworkInterfaces=[interface])
    until(lambda: not code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    assert [one["GroupId"] for one in shown(ec2, InstanceIds=ids)[0]["SecurityGroups"]] == [group]
    end(ec2, ids)


def test_too_many_ids_in_one_call(ec2: Client) -> None:
    many = [f"i-{number:017x}" for number in range(101)]
    code = code_of(lambda: ec2.describe_instance_status(InstanceIds=many))
    assert code == "InvalidParameterValue"


def test_tags_are_not_for_unknown_instances(ec2: Client) -> None:
    tags = [{"Key": "a", "Value": "b"}]
    code = code_of(lambda: ec2.create_tags(Resources=["i-0123456789abcdef0"], Tags=tags))
    assert code == "InvalidInstanceID.NotFound"


def test_a_trust_policy_must_be_one(make: Callable[..., Client]) -> None:
    iam = make("iam")
    for text in (
        "no json",
        "{}",
        '{"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}',
    ):
        code = code_of(
            lambda given=text: iam.create_role(RoleName="r", AssumeRolePolicyDocument=given)  # type: ignore[misc]
        )
        assert code == "MalformedPolicyDocument"


def test_user_data_is_16_kb_at_most(ec2: Client, image: Image) -> None:
    code = code_of(lambda: launch(ec2, image, UserData="x" * 16_385))
    assert code == "InvalidParameterValue"


def test_session_credentials_work_and_expire(make: Callable[..., Client]) -> None:
    sts = make("sts")
    make("s3")  # so that the next one is made at once
    arn = "arn:aws:iam::123456789012:role/any"
    keys = sts.assume_role(RoleArn=arn, RoleSessionName="me")["Credentials"]
    forged = {**keys, "SessionToken": "other"}
    assert code_of(make("ssm", forged).list_commands) == "UnrecognizedClientException"
    make("s3", keys).create_bucket(Bucket="mine")
    s3 = make("s3", keys)
    s3.put_object(Bucket="mine", Key="k", Body=b"body")
    url = s3.generate_presigned_url(
        "get_object", Params={"Bucket": "mine", "Key": "k"}, ExpiresIn=3600
    )
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"body"
    until(lambda: code_of(make("ssm", keys).list_commands) == "ExpiredTokenException")
    assert code_of(make("ec2", keys).describe_vpcs) == "RequestExpired"
    assert code_of(make("sts", keys).get_caller_identity) == "ExpiredToken"
    assert code_of(make("s3", keys).list_buckets) == "ExpiredToken"
    # A presigned URL ends with the credentials that signed it.
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        urllib.request.urlopen(url)
    assert b"ExpiredToken" in caught.value.read()


def test_a_presigned_url_expires(make: Callable[..., Client]) -> None:
    s3 = make("s3")
    s3.create_bucket(Bucket="short")
    s3.put_object(Bucket="short", Key="k", Body=b"body")
    url = s3.generate_presigned_url(
        "get_object", Params={"Bucket": "short", "Key": "k"}, ExpiresIn=1
    )

    def refused() -> bool:
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.HTTPError as error:
            return error.code == 403 and b"Request has expired" in error.read()
        return False

    until(refused)


def test_an_empty_object_can_be_put(make: Callable[..., Client]) -> None:
    s3 = make("s3")
    s3.create_bucket(Bucket="empty")
    s3.put_object(Bucket="empty", Key="k", Body=b"")
    assert s3.head_object(Bucket="empty", Key="k")["ContentLength"] == 0


def test_one_writer_wins(make: Callable[..., Client]) -> None:
    s3 = make("s3")
    s3.create_bucket(Bucket="locks")

    def claim(_number: int) -> str:
        return code_of(lambda: s3.put_object(Bucket="locks", Key="k", Body=b"x", IfNoneMatch="*"))

    with ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(claim, range(16)))
    assert codes == ["", *["PreconditionFailed"] * 15]


def test_an_object_is_replaced_only_where_it_is_the_one_that_was_read(
    make: Callable[..., Client],
) -> None:
    s3 = make("s3")
    s3.create_bucket(Bucket="versions")
    first = s3.put_object(Bucket="versions", Key="k", Body=b"1")["ETag"]
    s3.put_object(Bucket="versions", Key="k", Body=b"2", IfMatch=first)
    code = code_of(lambda: s3.put_object(Bucket="versions", Key="k", Body=b"3", IfMatch=first))
    assert code == "PreconditionFailed"
    assert s3.get_object(Bucket="versions", Key="k")["Body"].read() == b"2"


def test_a_profile_holds_one_role(make: Callable[..., Client]) -> None:
    iam = make("iam")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    for role in ("one", "two"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName="p")
    iam.add_role_to_instance_profile(InstanceProfileName="p", RoleName="one")
    for role in ("one", "two"):
        assert (
            code_of(
                lambda name=role: iam.add_role_to_instance_profile(  # type: ignore[misc]
                    InstanceProfileName="p", RoleName=name
                )
            )
            == "LimitExceeded"
        )
    assert code_of(lambda: iam.create_instance_profile(InstanceProfileName="p")) == (
        "EntityAlreadyExists"
    )
    assert (
        code_of(lambda: iam.create_role(RoleName="one", AssumeRolePolicyDocument=document))
        == "EntityAlreadyExists"
    )


def test_names_of_iam_have_a_length(make: Callable[..., Client]) -> None:
    iam = make("iam")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    assert (
        code_of(lambda: iam.create_role(RoleName="r" * 65, AssumeRolePolicyDocument=document))
        == "ValidationError"
    )
    assert (
        code_of(lambda: iam.create_instance_profile(InstanceProfileName="p" * 129))
        == "ValidationError"
    )


def test_words_of_ec2_that_do_not_go_together(ec2: Client, image: Image) -> None:
    ids = launch(ec2, image)
    until(lambda: not code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    stranger = "i-0123456789abcdef0"
    assert {
        "dry": code_of(lambda: ec2.terminate_instances(InstanceIds=ids, DryRun=True)),
        "mixed": code_of(lambda: ec2.describe_instances(InstanceIds=ids, MaxResults=5)),
        "stranger": code_of(lambda: ec2.terminate_instances(InstanceIds=[*ids, stranger])),
        "types": code_of(
            lambda: ec2.describe_instance_types(InstanceTypes=[f"t3.x{n}" for n in range(101)])
        ),
        "token": code_of(lambda: launch(ec2, image, ClientToken="x" * 65)),
    } == {
        "dry": "DryRunOperation",
        "mixed": "InvalidParameterCombination",
        "stranger": "InvalidInstanceID.NotFound",
        "types": "InvalidParameterValue",
        "token": "InvalidParameterValue",
    }
    assert shown(ec2, InstanceIds=ids)[0]["State"]["Name"] in ("pending", "running")
    end(ec2, ids)


def test_a_dry_run_does_nothing(ec2: Client, image: Image) -> None:
    ids = launch(ec2, image)
    until(lambda: not code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    until(lambda: shown(ec2, InstanceIds=ids)[0]["State"]["Name"] == "running")
    before = {one["InstanceId"]: (one["State"], one.get("Tags")) for one in shown(ec2)}
    one = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    calls: list[Callable[[], object]] = [
        lambda: ec2.run_instances(**one, DryRun=True),
        lambda: ec2.stop_instances(InstanceIds=ids, DryRun=True),
        lambda: ec2.reboot_instances(InstanceIds=ids, DryRun=True),
        lambda: ec2.terminate_instances(InstanceIds=ids, DryRun=True),
        lambda: ec2.create_tags(Resources=ids, Tags=TAGS[0]["Tags"], DryRun=True),
    ]
    for call in calls:
        codes: list[str] = []

        def unthrottled(call: Callable[[], object] = call, codes: list[str] = codes) -> bool:
            codes.append(code_of(call))
            return codes[-1] != "RequestLimitExceeded"

        until(unthrottled)
        assert codes[-1] == "DryRunOperation"
    assert {one["InstanceId"]: (one["State"], one.get("Tags")) for one in shown(ec2)} == before
    end(ec2, ids)


def test_a_protected_instance_is_not_terminated(ec2: Client, image: Image) -> None:
    ids = launch(ec2, image, DisableApiTermination=True)
    until(lambda: not code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=ids)) == "OperationNotPermitted"
    ec2.modify_instance_attribute(InstanceId=ids[0], DisableApiTermination={"Value": False})
    end(ec2, ids)


def test_a_terminated_instance_is_shown_for_a_while_and_then_unknown(
    ec2: Client, image: Image
) -> None:
    ids = launch(ec2, image)
    until(lambda: not code_of(lambda: ec2.terminate_instances(InstanceIds=ids)))
    until(lambda: shown(ec2, InstanceIds=ids)[0]["State"]["Name"] == "terminated")
    until(lambda: code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    refused = "InvalidInstanceID.NotFound"
    assert code_of(lambda: ec2.describe_instances(InstanceIds=ids)) == refused
    assert code_of(lambda: ec2.terminate_instances(InstanceIds=ids)) == refused
    assert ids[0] not in [one["InstanceId"] for one in shown(ec2)]


def test_only_running_ones_have_a_status(ec2: Client, image: Image) -> None:
    ids = launch(ec2, image)
    until(lambda: not code_of(lambda: ec2.describe_instances(InstanceIds=ids)))
    until(lambda: ec2.describe_instance_status(InstanceIds=ids)["InstanceStatuses"])
    until(lambda: not code_of(lambda: ec2.stop_instances(InstanceIds=ids)))
    assert ec2.describe_instance_status(InstanceIds=ids)["InstanceStatuses"] == []
    more = ec2.describe_instance_status(InstanceIds=ids, IncludeAllInstances=True)
    assert len(more["InstanceStatuses"]) == 1
    end(ec2, ids)


def test_tags_hold_what_an_answer_in_xml_can_hold(ec2: Client, image: Image) -> None:
    words = {"ImageId": image, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1}

    def launched_with(value: str) -> str:
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": value}]}]
        return code_of(lambda: ec2.run_instances(**words, TagSpecifications=tags))

    hostile = ("\x1b[31mred", "\x00", "a\ufffe")
    assert [launched_with(value) for value in hostile] == ["InvalidParameterValue"] * 3
    assert code_of(ec2.describe_instances) == ""


def test_who_is_refused_is_answered_and_keeps_no_connection(strict: Pmr) -> None:
    contact = json.loads((strict.state / "cloud.json").read_text())
    host, _, port = contact["url"].removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (403, "close")
    assert answer.read()
    connection.close()


@pytest.mark.timeout(600)
def test_a_thousand_connections_without_a_key_keep_nobody_out(tmp_path: Path) -> None:
    with own_cloud(tmp_path) as command, ExitStack() as held:
        contact = json.loads((command.state / "cloud.json").read_text())
        host, _, port = contact["url"].removeprefix("http://").partition(":")
        for number in range(1500):
            connection = socket.create_connection((host, int(port)), timeout=20)
            held.enter_context(connection)
            # Some say nothing, some begin a request, and some are refused.
            begun = (b"", b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with suppress(OSError):
                connection.sendall(begun[number % 3])
        assert command.json("local", "status")["url"] == contact["url"]
        assert command("list").returncode == 0

"""The instance profile: made, completed or reused, and never with more than was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.stub import ANY, Stubber

from poormanray.aws.iam import Iam, profile_name
from poormanray.errors import AwsRefused
from poormanray.model import Profile

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient

CORE = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
NAME = "poormanray-ssm"
TAGS = [{"Key": "Tool", "Value": "poormanray"}]


@pytest.fixture
def client() -> IAMClient:
    return boto3.client(
        "iam", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )


@pytest.fixture
def stub(client: IAMClient) -> Iterator[Stubber]:
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def iam(client: IAMClient) -> Iam:
    return Iam(client, "us-east-1", "aws")


def role(name: str) -> dict[str, object]:
    return {
        "Path": "/",
        "RoleName": name,
        "RoleId": "AROAEXAMPLEEXAMPLE",
        "Arn": f"arn:aws:iam::123456789012:role/{name}",
        "CreateDate": "2026-01-01T00:00:00Z",
    }


def profile(name: str, *roles: str) -> dict[str, object]:
    return {
        "InstanceProfile": {
            "Path": "/",
            "InstanceProfileName": name,
            "InstanceProfileId": "AIPAEXAMPLEEXAMPLE",
            "Arn": f"arn:aws:iam::123456789012:instance-profile/{name}",
            "CreateDate": "2026-01-01T00:00:00Z",
            "Roles": [role(one) for one in roles],
        }
    }


def test_a_profile_that_has_all_is_reused_in_two_calls(iam: Iam, stub: Stubber) -> None:
    stub.add_response("get_instance_profile", profile(NAME, NAME))
    attached = {"AttachedPolicies": [{"PolicyName": "core", "PolicyArn": CORE}]}
    stub.add_response("list_attached_role_policies", attached, {"RoleName": NAME})
    assert iam.ensure_profile((), "") == Profile(NAME)


def test_a_profile_is_made_with_the_core_policy_and_nothing_more(iam: Iam, stub: Stubber) -> None:
    stub.add_client_error("get_instance_profile", "NoSuchEntity")
    stub.add_response(
        "create_role",
        {"Role": role(NAME)},
        {
            "RoleName": NAME,
            "AssumeRolePolicyDocument": ANY,
            "Description": ANY,
            "Tags": TAGS,
        },
    )
    stub.add_response("attach_role_policy", {}, {"RoleName": NAME, "PolicyArn": CORE})
    stub.add_response(
        "create_instance_profile", profile(NAME), {"InstanceProfileName": NAME, "Tags": TAGS}
    )
    stub.add_response(
        "add_role_to_instance_profile", {}, {"InstanceProfileName": NAME, "RoleName": NAME}
    )
    assert iam.ensure_profile((), "") == Profile(NAME, is_new=True)


def test_what_a_crash_left_half_made_is_completed(iam: Iam, stub: Stubber) -> None:
    stub.add_response("get_instance_profile", profile(NAME))
    stub.add_client_error("create_role", "EntityAlreadyExists")
    stub.add_response("attach_role_policy", {})
    stub.add_client_error("create_instance_profile", "EntityAlreadyExists")
    # Meanwhile another client has put the role in: IAM then speaks of its quota of one role.
    stub.add_client_error("add_role_to_instance_profile", "LimitExceeded")
    stub.add_response("get_instance_profile", profile(NAME, NAME))
    assert iam.ensure_profile((), "").is_new


def test_a_missing_policy_is_added_to_the_role_that_is_there(iam: Iam, stub: Stubber) -> None:
    stub.add_response("get_instance_profile", profile(NAME, NAME))
    stub.add_response("list_attached_role_policies", {"AttachedPolicies": []})
    stub.add_response("attach_role_policy", {}, {"RoleName": NAME, "PolicyArn": CORE})
    stub.add_client_error("create_instance_profile", "EntityAlreadyExists")
    assert iam.ensure_profile((), "").is_new


def test_policies_and_boundary_get_a_role_of_their_own(iam: Iam, stub: Stubber) -> None:
    more, boundary = "arn:aws:iam::123456789012:policy/more", "arn:aws:iam::123456789012:policy/b"
    name = profile_name([more], boundary)
    stub.add_client_error("get_instance_profile", "NoSuchEntity")
    stub.add_response(
        "create_role",
        {"Role": role(name)},
        {
            "RoleName": name,
            "AssumeRolePolicyDocument": ANY,
            "Description": ANY,
            "Tags": TAGS,
            "PermissionsBoundary": boundary,
        },
    )
    stub.add_response("attach_role_policy", {}, {"RoleName": name, "PolicyArn": CORE})
    stub.add_response("attach_role_policy", {}, {"RoleName": name, "PolicyArn": more})
    stub.add_response("create_instance_profile", profile(name))
    stub.add_response("add_role_to_instance_profile", {})
    assert iam.ensure_profile([more], boundary) == Profile(name, is_new=True)
    assert name.startswith(f"{NAME}-")


def test_the_name_depends_on_the_set_of_policies_not_on_their_order() -> None:
    assert profile_name(["a", "b"], "") == profile_name(["b", "a"], "")
    assert len({profile_name(*words) for words in ((["a"], ""), ([], "a"), ([], ""))}) == 3


def test_no_rights_in_iam_are_answered_with_the_way_around(iam: Iam, stub: Stubber) -> None:
    stub.add_client_error("get_instance_profile", "AccessDenied", "no")
    with pytest.raises(AwsRefused) as caught:
        iam.ensure_profile((), "")
    assert "iam:GetInstanceProfile" in caught.value.message
    assert "--instance-profile" in caught.value.hint


def test_a_profile_without_a_role_is_not_there_yet(iam: Iam, stub: Stubber) -> None:
    stub.add_response("get_instance_profile", profile(NAME))
    assert not iam.has_profile(NAME)
    stub.add_response("get_instance_profile", profile(NAME, NAME))
    assert iam.has_profile(NAME)

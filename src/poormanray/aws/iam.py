"""IAM: the role and the instance profile that let an instance's agent talk to SSM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from poormanray.aws.refusals import DENIED, translated
from poormanray.errors import AwsRefused
from poormanray.model import TAG_TOOL, TOOL_TAG, Profile

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_iam.type_defs import CreateRoleRequestTypeDef

_CORE_POLICY = "AmazonSSMManagedInstanceCore"
_NAME = "poormanray-ssm"
_HINT = "have it allowed, or use a profile that exists: --instance-profile NAME"


class Iam:
    """IAM, as far as we use it."""

    def __init__(self, client: IAMClient, region: str, partition: str) -> None:
        self._client = client
        self._region = region
        self._partition = partition

    def ensure_profile(self, policy_arns: Sequence[str], boundary: str) -> Profile:
        """Return our instance profile, made or completed where needed; safe to repeat.

        Its role holds AmazonSSMManagedInstanceCore and `policy_arns`, nothing more. A set of
        policies of its own gets a role of its own, so that no other cluster gains rights.
        """
        name = profile_name(policy_arns, boundary)
        wanted = [f"arn:{self._partition}:iam::aws:policy/{_CORE_POLICY}", *policy_arns]
        try:
            role = self._role_in(name)
            if role and set(wanted) <= self._attached(role):
                return Profile(name)
            if not role:
                self._make_role(name, boundary)
            for arn in wanted:
                with translated("iam", self._region):
                    self._client.attach_role_policy(RoleName=role or name, PolicyArn=arn)
            self._make_profile(name)
            if not role:
                self._join(name)
        except AwsRefused as refusal:
            if refusal.code in DENIED:
                refusal.hint = _HINT
            raise
        return Profile(name, is_new=True)

    def has_profile(self, name: str) -> bool:
        """Say whether IAM shows the profile with a role in it."""
        return bool(self._role_in(name))

    def _role_in(self, profile: str) -> str:
        """Return the name of the role in a profile; empty if there is none."""
        try:
            with translated("iam", self._region):
                told = self._client.get_instance_profile(InstanceProfileName=profile)
        except AwsRefused as refusal:
            if refusal.code == "NoSuchEntity":
                return ""
            raise
        roles = told["InstanceProfile"]["Roles"]
        return roles[0]["RoleName"] if roles else ""

    def _attached(self, role: str) -> set[str]:
        pages = self._client.get_paginator("list_attached_role_policies")
        with translated("iam", self._region):
            return {
                policy.get("PolicyArn", "")
                for page in pages.paginate(RoleName=role)
                for policy in page["AttachedPolicies"]
            }

    def _make_role(self, name: str, boundary: str) -> None:
        service = "ec2.amazonaws.com.cn" if self._partition == "aws-cn" else "ec2.amazonaws.com"
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": service},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        role: CreateRoleRequestTypeDef = {
            "RoleName": name,
            "AssumeRolePolicyDocument": json.dumps(trust),
            "Description": "Lets the SSM agent of poormanray's instances report for work",
            "Tags": [{"Key": TAG_TOOL, "Value": TOOL_TAG}],
        }
        if boundary:
            role["PermissionsBoundary"] = boundary
        try:
            with translated("iam", self._region):
                self._client.create_role(**role)
        except AwsRefused as refusal:
            _unless_it_exists(refusal)

    def _make_profile(self, name: str) -> None:
        try:
            with translated("iam", self._region):
                self._client.create_instance_profile(
                    InstanceProfileName=name, Tags=[{"Key": TAG_TOOL, "Value": TOOL_TAG}]
                )
        except AwsRefused as refusal:
            _unless_it_exists(refusal)

    def _join(self, name: str) -> None:
        """Put the role into the profile; another client may have done it meanwhile."""
        try:
            with translated("iam", self._region):
                self._client.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        except AwsRefused as refusal:
            # A profile holds one role: with that one in it, IAM speaks of its quota of 1.
            if refusal.code != "LimitExceeded" or self._role_in(name) != name:
                _unless_it_exists(refusal)


def profile_name(policy_arns: Sequence[str], boundary: str) -> str:
    """Return the name of the role and profile for a set of policies and a boundary."""
    if not policy_arns and not boundary:
        return _NAME
    told = json.dumps([sorted(set(policy_arns)), boundary])
    return f"{_NAME}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


def _unless_it_exists(refusal: AwsRefused) -> None:
    if refusal.code != "EntityAlreadyExists":
        raise refusal

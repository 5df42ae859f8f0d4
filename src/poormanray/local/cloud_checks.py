"""What EC2 and IAM refuse where moto is kinder, and what they do not know for a moment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from poormanray.local.cloud_moto import Moto
from poormanray.local.refusals import Refusal
from poormanray.local.settings import Settings
from poormanray.local.timers import Timers

Form = Mapping[str, str]

# Source: EC2 model, DescribeInstanceStatus and TerminateInstances: explicit ids in one call.
IDS_MAX = {"DescribeInstanceStatus": 100, "TerminateInstances": 1000}
# Source: IAM model, roleNameType and instanceProfileNameType.
_NAMES_MAX = {"RoleName": 64, "InstanceProfileName": 128}
# Source: EC2 model, RequestInstanceTypeList; RunInstancesRequest.ClientToken.
TYPES_MAX = 100
TOKEN_MAX = 64
# What XML, the language of the answers, can hold. Source: XML 1.0, 2.2 Characters.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FILTERED = frozenset({"DescribeInstances"})
# Source: EC2's error FilterLimitExceeded: so many values of filters in one call.
FILTER_VALUES_MAX = 200
_FILTER_VALUE = re.compile(r"Filter\.\d+\.Value\.\d+")
_FILTER_NAME = re.compile(r"Filter\.\d+\.Name")
_ID_OF_INSTANCE = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")
# Filters of AWS that moto lacks, and the attribute of its instances.
_MORE_FILTERS = {
    "instance-lifecycle": "lifecycle",
    "spot-instance-request-id": "spot_instance_request_id",
    "launch-index": "ami_launch_index",
}


def check_characters(form: Form) -> None:
    """Refuse words that no answer could hold."""
    for name, value in form.items():
        if _NOT_IN_XML.search(name + value):
            raise Refusal("InvalidParameterValue", f"Value for parameter {name!r} is invalid")


class Newness:
    """The instances that EC2 has launched and does not yet show everywhere."""

    def __init__(self, moto: Moto, timers: Timers, settings: Settings) -> None:
        self._moto = moto
        self._timers = timers
        self._settings = settings
        # When an instance was launched, and after which part of the time it is shown.
        self._launched: dict[str, tuple[float, float]] = {}

    def launched(self, instance_ids: Sequence[str]) -> None:
        """Take note of a launch, whose instances are shown one after another."""
        now_s, count = self._timers.now_s(), len(instance_ids)
        for place, instance_id in enumerate(instance_ids, start=1):
            self._launched[instance_id] = (now_s, place / count)

    def unknown(self) -> frozenset[str]:
        """Return the instances that no call but their launch knows."""
        return self._younger_than(self._settings.instance_visible_s)

    def untagged(self) -> frozenset[str]:
        """Return the instances whose tags are not shown, and do not match."""
        return self._younger_than(self._settings.tags_visible_s)

    def check_ids(self, action: str, form: Form, region: str) -> None:
        """Refuse ids of instances that are unknown (yet), and too many of them."""
        named = [
            value
            for name, value in form.items()
            if name.startswith(("InstanceId.", "ResourceId."))
            or (name in ("InstanceId", "ResourceId"))
        ]
        instances = [value for value in named if value.startswith("i-")]
        if len(instances) > IDS_MAX.get(action, len(instances)):
            raise Refusal("InvalidParameterValue", f"{action} takes {IDS_MAX[action]} ids")
        unknown = self.unknown()
        for instance_id in instances:
            if not _ID_OF_INSTANCE.fullmatch(instance_id):
                raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
            known = self._moto.ec2(region).get_instance_by_id(instance_id) is not None
            if instance_id in unknown or (not known and action in ("CreateTags", "DeleteTags")):
                text = f"The instance ID '{instance_id}' does not exist"
                raise Refusal("InvalidInstanceID.NotFound", text)

    def _younger_than(self, age_s: float) -> frozenset[str]:
        if not age_s:
            return frozenset()
        now_s = self._timers.now_s()
        # A copy: launches come from other threads.
        known = list(self._launched.items())
        return frozenset(name for name, (at_s, part) in known if at_s + age_s * part > now_s)


def check_filters(action: str, form: Form) -> None:
    """Refuse too many values of filters, and filters that there are not; moto breaks on them."""
    if sum(_FILTER_VALUE.fullmatch(name) is not None for name in form) > FILTER_VALUES_MAX:
        text = (
            f"The maximum number of filter values specified on a single call is {FILTER_VALUES_MAX}"
        )
        raise Refusal("FilterLimitExceeded", text)
    if action not in _FILTERED:
        return
    from moto.ec2.utils import filter_dict_attribute_mapping as known

    known.update(_MORE_FILTERS)
    for key, name in form.items():
        if not _FILTER_NAME.fullmatch(key):
            continue
        if name not in known and not name.startswith("tag:") and name not in ("tag-key", "tag"):
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")


def check_sizes(action: str, form: Form) -> None:
    """Refuse too many types, and a token that is too long."""
    types = sum(name.startswith("InstanceType.") for name in form)
    if action == "DescribeInstanceTypes" and types > TYPES_MAX:
        raise Refusal("InvalidParameterValue", f"{action} takes {TYPES_MAX} types")
    if len(form.get("ClientToken", "")) > TOKEN_MAX:
        raise Refusal("InvalidParameterValue", f"A ClientToken has at most {TOKEN_MAX} characters")


def check_names(form: Form) -> None:
    """Refuse names that IAM finds too long."""
    for name, most in _NAMES_MAX.items():
        if len(form.get(name, "")) > most:
            text = f"Value at '{name}' failed to satisfy constraint: at most {most} characters"
            raise Refusal("ValidationError", text)


def check_trust(form: Form) -> None:
    """Refuse a role's trust policy that is none, with MalformedPolicyDocument."""
    try:
        statements = json.loads(form.get("AssumeRolePolicyDocument", ""))["Statement"]
        listed = statements if isinstance(statements, list) else [statements]
        fits = all(
            one["Effect"] in ("Allow", "Deny") and one["Principal"] and "sts:" in str(one["Action"])
            for one in listed
        )
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        text = "This policy contains invalid Json or lacks a part of a trust policy"
        raise Refusal("MalformedPolicyDocument", text)

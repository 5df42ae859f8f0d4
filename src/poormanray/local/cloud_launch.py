"""RunInstances as EC2 does it, where moto is kinder."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from poormanray.local.cloud_checks import Newness
from poormanray.local.cloud_moto import Moto
from poormanray.local.cloud_spot import Spot
from poormanray.local.refusals import Answer, Refusal
from poormanray.local.settings import Settings
from poormanray.local.signature import HttpRequest
from poormanray.local.timers import Timers

Form = Mapping[str, str]

# Source: EC2 user guide, instance user data: 16 KB before base64.
USER_DATA_MAX = 16 * 1024
_TAKES_ROOM = ("pending", "running", "stopping", "shutting-down")
_INSTANCE_IDS = re.compile(rb"<instanceId>(i-[0-9a-f]+)</instanceId>")


class Launches:
    """Checks launches, remembers client tokens, and gives every instance what moto leaves out."""

    def __init__(self, moto: Moto, timers: Timers, settings: Settings) -> None:
        self._moto = moto
        self._timers = timers
        self._settings = settings
        self.spot = Spot(moto, timers)
        self.newness = Newness(moto, timers, settings)
        self._visible_at_s: dict[str, float] = {}  # by instance profile name, cloud clock
        self._by_token: dict[tuple[str, str], tuple[dict[str, str], Answer]] = {}

    def profile_changed(self, action: str, form: Form) -> None:
        """Take note of an IAM call that succeeded: EC2 sees a profile only a while later."""
        name = form.get("InstanceProfileName", "")
        if action == "AddRoleToInstanceProfile":
            self._visible_at_s[name] = self._timers.now_s() + self._settings.profile_visible_s
        elif action in ("RemoveRoleFromInstanceProfile", "DeleteInstanceProfile"):
            self._visible_at_s.pop(name, None)

    def run(self, request: HttpRequest, form: Form, region: str) -> Answer:
        """Answer RunInstances.

        Raises:
            Refusal: as EC2 words it.
        """
        token = (region, form.get("ClientToken", ""))
        wanted = {name: value for name, value in form.items() if name != "ClientToken"}
        with self._moto.lock:
            known = self._by_token.get(token) if token[1] else None
            if known is not None:
                if known[0] != wanted:
                    text = "Arguments on this idempotent request are inconsistent with arguments"
                    raise Refusal("IdempotentParameterMismatch", f"{text} used in previous one.")
                return known[1]
            least, most = _counts(form)
            _check_user_data(form)
            self.spot.check_launch(form)
            count = min(most, self.room(region))
            if count < least:
                raise NoCapacity(form.get("InstanceType", "m1.small"))
            profile = self._profile(form)
            self._check_architecture(form, region)
            # moto launches MinCount instances; EC2 launches up to MaxCount.
            body = urlencode({**form, "MinCount": str(count), "MaxCount": str(count)}).encode()
            answer = self._moto.answer(request, body)
            if answer.status == HTTPStatus.OK:
                ids = [raw.decode() for raw in dict.fromkeys(_INSTANCE_IDS.findall(answer.body))]
                if profile is not None:
                    self._give_profile(profile, ids, region)
                self._complete(form, ids, region)
                self._by_token[token] = (wanted, answer)
            return answer

    def _profile(self, form: Form) -> str | None:
        name, arn = form.get("IamInstanceProfile.Name"), form.get("IamInstanceProfile.Arn")
        if not name and not arn:
            return None
        plain = name or str(arn).rpartition("/")[2]
        profiles = {profile.name: profile for profile in self._moto.iam().get_instance_profiles()}
        found = profiles.get(plain)
        visible_s = self._visible_at_s.get(plain)
        seen = found is not None and visible_s is not None and self._timers.now_s() >= visible_s
        if not seen or (arn and found is not None and found.arn != arn):
            which, value = ("name", name) if name else ("arn", arn)
            text = f"Value ({value}) for parameter iamInstanceProfile.{which} is invalid."
            raise Refusal("InvalidParameterValue", f"{text} Invalid IAM Instance Profile {which}")
        return plain

    def _check_architecture(self, form: Form, region: str) -> None:
        images = self._moto.ec2(region).amis
        image = images.get(form.get("ImageId", ""))
        kind = form.get("InstanceType", "m1.small")
        if image is None or not image.architecture:
            return
        supported = _architectures(kind)
        if supported and image.architecture not in supported:
            text = (
                f"The architecture '{','.join(supported)}' of the specified instance type does not "
                f"match the architecture '{image.architecture}' of the specified AMI. Specify an "
                "instance type and an AMI that have matching architectures, and try again."
            )
            raise Refusal("InvalidParameterValue", text)

    def room(self, region: str) -> int:
        """Return how many more instances may run in a region."""
        if not self._settings.capacity:
            return sys.maxsize
        states = [one.state for one in self._moto.ec2(region).all_instances()]
        return int(self._settings.capacity) - sum(one in _TAKES_ROOM for one in states)

    def check(self, action: str, instance_ids: Sequence[str], region: str) -> None:
        """Refuse to stop what cannot be stopped, or start what there is no room for.

        moto's lock is held.
        """
        if action == "StopInstances":
            self.spot.check_stop(instance_ids)
        elif action == "StartInstances":
            known = (self._moto.ec2(region).get_instance_by_id(name) for name in instance_ids)
            if sum(one is not None and one.state == "stopped" for one in known) > self.room(region):
                raise NoCapacity("the requested")

    def _give_profile(self, profile: str, instance_ids: Sequence[str], region: str) -> None:
        backend = self._moto.ec2(region)
        for instance_id in instance_ids:
            if instance_id not in backend.iam_instance_profile_associations:
                backend.associate_iam_instance_profile(
                    instance_id, iam_instance_profile_name=profile
                )

    def _complete(self, form: Form, instance_ids: Sequence[str], region: str) -> None:
        """Add what moto leaves out: spot requests, groups of the interfaces, protection."""
        self.newness.launched(instance_ids)
        self.spot.launched(form, instance_ids, region)
        for instance_id in instance_ids:
            instance = self._moto.ec2(region).get_instance(instance_id)
            if form.get("DisableApiTermination") == "true":
                instance.disable_api_termination = True
            if not instance.security_groups:
                groups = [group for nic in instance.nics.values() for group in nic.group_set]
                instance.security_groups = groups


class NoCapacity(Refusal):
    """EC2 has no room; its HTTP status is 500 as with every error of the server's."""

    def __init__(self, instance_type: str) -> None:
        super().__init__(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {instance_type} capacity in the Availability "
            "Zone you requested. Our system will be working on provisioning additional capacity.",
            status=500,
        )


def _counts(form: Form) -> tuple[int, int]:
    try:
        least, most = int(form["MinCount"]), int(form["MaxCount"])
    except (KeyError, ValueError):
        raise Refusal("MissingParameter", "MinCount and MaxCount must be numbers") from None
    if least < 1 or most < least:
        which, value = ("minCount", least) if least < 1 else ("maxCount", most)
        raise Refusal("InvalidParameterValue", f"Value ({value}) for {which} is invalid")
    return least, most


def _check_user_data(form: Form) -> None:
    try:
        size = len(base64.b64decode(form.get("UserData", ""), validate=True))
    except binascii.Error:
        raise Refusal("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data") from None
    if size > USER_DATA_MAX:
        text = f"User data is limited to {USER_DATA_MAX} bytes"
        raise Refusal("InvalidParameterValue", text)


def _architectures(instance_type: str) -> list[str]:
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    known: dict[str, Any] = INSTANCE_TYPES.get(instance_type, {})
    found = known.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    return [str(name) for name in found]

"""Spot instances: the request behind each, which moto leaves out."""

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from poormanray.local.cloud_moto import Moto
from poormanray.local.refusals import Answer, Refusal
from poormanray.local.timers import Timers

Form = Mapping[str, str]

_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_MARKET = "InstanceMarketOptions."
_ENDED = ("shutting-down", "terminated")


@dataclass(frozen=True, slots=True)
class SpotRequest:
    """What asked for one spot instance."""

    request_id: str
    instance_id: str
    kind: str  # one-time or persistent
    behaviour: str
    made_at: datetime


class Spot:
    """The spot requests of a cloud; moto's lock guards them."""

    def __init__(self, moto: Moto, timers: Timers) -> None:
        self._moto = moto
        self._timers = timers
        self._requests: dict[str, list[SpotRequest]] = {}  # by region
        self.noticed: set[str] = set()  # instances that EC2 has announced to take back

    def check_launch(self, form: Form) -> None:
        """Refuse a persistent request that ends its instances: it takes stop or hibernate only."""
        options = f"{_MARKET}SpotOptions."
        behaviour = form.get(f"{options}InstanceInterruptionBehavior", "")
        if form.get(f"{options}SpotInstanceType") == "persistent" and behaviour == "terminate":
            text = "Interruption behaviour terminate is not for persistent requests"
            raise Refusal("InvalidParameterCombination", text)

    def launched(self, form: Form, instance_ids: Iterable[str], region: str) -> None:
        """Remember the requests of a launch that asked for spot instances."""
        if form.get(f"{_MARKET}MarketType") != "spot":
            return
        options = f"{_MARKET}SpotOptions."
        made_at = datetime.fromtimestamp(self._timers.wall_s(), UTC)
        for instance_id in instance_ids:
            request = SpotRequest(
                f"sir-{secrets.token_hex(4)}",
                instance_id,
                form.get(f"{options}SpotInstanceType", "one-time"),
                form.get(f"{options}InstanceInterruptionBehavior", "terminate"),
                made_at,
            )
            self._requests.setdefault(region, []).append(request)
            instance = self._moto.ec2(region).get_instance(instance_id)
            instance.spot_instance_request_id = request.request_id

    def check_stop(self, instance_ids: Sequence[str]) -> None:
        """Refuse to stop what a one-time request asked for, with UnsupportedOperation."""
        for request in (one for some in self._requests.values() for one in some):
            if request.instance_id in instance_ids and request.kind != "persistent":
                text = (
                    f"You can't stop the Spot Instance '{request.instance_id}' because it is "
                    "associated with a one-time Spot Instance request. You can only stop Spot "
                    "Instances associated with persistent Spot Instance requests."
                )
                raise Refusal("UnsupportedOperation", text)

    def describe(self, form: Form, region: str) -> Answer:
        """Answer DescribeSpotInstanceRequests."""
        root = ET.Element("DescribeSpotInstanceRequestsResponse", xmlns=_NAMESPACE)
        ET.SubElement(root, "requestId").text = secrets.token_hex(16)
        rows = ET.SubElement(root, "spotInstanceRequestSet")
        ids = {value for key, value in form.items() if key.startswith("SpotInstanceRequestId.")}
        wanted = _filters(form)
        with self._moto.lock:
            requests = self._requests.get(region, [])
            told = [self._told(request, region) for request in requests]
        for values in told:
            named = not ids or values["spotInstanceRequestId"] in ids
            if named and all(values.get(_MEMBERS[key]) in some for key, some in wanted.items()):
                _write(ET.SubElement(rows, "item"), values)
        return Answer(HTTPStatus.OK, ET.tostring(root), "text/xml")

    def _told(self, request: SpotRequest, region: str) -> dict[str, str]:
        instance = self._moto.ec2(region).get_instance_by_id(request.instance_id)
        ended = instance is None or instance.state in _ENDED
        state, code = "active", "fulfilled"
        if ended:
            taken = request.instance_id in self.noticed
            state = "closed"
            code = "instance-terminated-no-capacity" if taken else "instance-terminated-by-user"
        elif request.instance_id in self.noticed:
            code = "marked-for-termination"
        return {
            "spotInstanceRequestId": request.request_id,
            "type": request.kind,
            "state": state,
            "code": code,
            "instanceId": request.instance_id,
            "instanceInterruptionBehavior": request.behaviour,
            "createTime": f"{request.made_at:%FT%T.000Z}",
        }


# Filter -> what it is compared with.
_MEMBERS = {
    "spot-instance-request-id": "spotInstanceRequestId",
    "type": "type",
    "state": "state",
    "status-code": "code",
    "instance-id": "instanceId",
}


def _filters(form: Form) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key, name in form.items():
        number, _, member = key.removeprefix("Filter.").partition(".")
        if not key.startswith("Filter.") or member != "Name":
            continue
        if name not in _MEMBERS:
            raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
        start = f"Filter.{number}.Value."
        found[name] = {value for other, value in form.items() if other.startswith(start)}
    return found


def _write(item: ET.Element, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        parent = ET.SubElement(item, "status") if name == "code" else item
        ET.SubElement(parent, name).text = value

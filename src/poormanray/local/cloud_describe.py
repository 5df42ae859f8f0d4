"""DescribeInstances in pages of instances; moto pages by reservation."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Container, Iterator, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlencode

from poormanray.local.cloud_checks import Newness
from poormanray.local.cloud_moto import Moto
from poormanray.local.refusals import Answer, Refusal
from poormanray.local.signature import HttpRequest

# Source: EC2 API reference, DescribeInstances: MaxResults is 5 to 1000.
PAGE_MIN, PAGE_MAX = 5, 1_000
_ALL = 1_000_000


def describe_instances(
    moto: Moto, request: HttpRequest, form: Mapping[str, str], region: str, newness: Newness
) -> Answer:
    """Answer DescribeInstances; instances that are new may be unknown, or have no tags yet.

    Raises:
        Refusal: InvalidParameterValue for a page size or token that is none.
    """
    unknown, untagged = newness.unknown(), newness.untagged()
    by_id = any(name.startswith("InstanceId.") for name in form)
    if by_id and not untagged:
        return moto.answer(request)  # ids and pages exclude each other; moto knows
    by_tag = any(name.endswith(".Name") and form[name].startswith("tag") for name in form)
    hidden = unknown | untagged if by_tag else unknown
    if by_id:
        return _changed(moto.answer(request), untagged, hidden)
    size, after = _size(form), _read_token(form.get("NextToken", ""))
    matching = _matching(moto, form, region)
    if matching is None:
        return moto.answer(request)  # and let it say what is wrong with the filters
    ids = [one for one in matching if one not in hidden]
    if after and after not in ids:
        raise Refusal("InvalidParameterValue", "The token is not valid")
    start = ids.index(after) + 1 if after else 0
    page = ids[start : start + size]
    token = ""
    if len(ids) > start + size:
        token = base64.urlsafe_b64encode(page[-1].encode()).decode()
    return _changed(moto.answer(request, _asks_for(page, form)), untagged, hidden, token)


def _matching(moto: Moto, form: Mapping[str, str], region: str) -> list[str] | None:
    """Return the ids of the instances that match the filters; None where moto cannot tell.

    moto would write all of them for every page.
    """
    filters = {
        value: [form[key] for key in form if key.startswith(name.removesuffix("Name") + "Value.")]
        for name, value in form.items()
        if name.startswith("Filter.") and name.endswith(".Name")
    }
    with moto.lock:
        try:
            groups = moto.ec2(region).describe_instances(filters=filters)
        except Exception:  # noqa: BLE001 (whatever it is, moto's answer to the request says it)
            return None
        return [instance.id for group in groups for instance in group.instances]


def _asks_for(ids: Sequence[str], form: Mapping[str, str]) -> bytes:
    """Return a form that asks moto for these instances in one page."""
    named = {f"Filter.1.Value.{number}": one for number, one in enumerate(ids or ["none"], 1)}
    kept = {key: form[key] for key in ("Action", "Version", "DryRun") if key in form}
    asked = {**kept, "Filter.1.Name": "instance-id", **named, "MaxResults": str(_ALL)}
    return urlencode(asked).encode()


def _changed(
    answer: Answer, untagged: Container[str], hidden: Container[str], token: str = ""
) -> Answer:
    """Return moto's answer without what is not shown yet, and with a token if there is one."""
    if answer.status != HTTPStatus.OK:
        return answer
    root = ET.fromstring(answer.body)  # noqa: S314 (see the import)
    namespace = root.tag.partition("}")[0].lstrip("{")
    _drop(root, hidden)
    _drop_tags(root, untagged)
    if token:
        ET.SubElement(root, f"{{{namespace}}}nextToken").text = token
    ET.register_namespace("", namespace)
    return dataclasses.replace(answer, body=ET.tostring(root), headers=_without_size(answer))


def _instances(root: ET.Element) -> Iterator[tuple[ET.Element, ET.Element, str]]:
    for group in root.findall(".//{*}reservationSet/{*}item/{*}instancesSet"):
        for item in group.findall("{*}item"):
            yield group, item, item.findtext("{*}instanceId") or ""


def _drop(root: ET.Element, hidden: Container[str]) -> None:
    for group, item, instance_id in list(_instances(root)):
        if instance_id in hidden:
            group.remove(item)
    for reservations in root.findall("{*}reservationSet"):
        for reservation in list(reservations):
            if reservation.find("{*}instancesSet/{*}item") is None:
                reservations.remove(reservation)


def _drop_tags(root: ET.Element, untagged: Container[str]) -> None:
    for _, item, instance_id in _instances(root):
        for tags in item.findall("{*}tagSet") if instance_id in untagged else ():
            item.remove(tags)


def _without_size(answer: Answer) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers if name.lower() != "content-length"]


def _size(form: Mapping[str, str]) -> int:
    text = form.get("MaxResults", str(PAGE_MAX))
    if not text.isdecimal() or not PAGE_MIN <= int(text) <= PAGE_MAX:
        raise Refusal(
            "InvalidParameterValue", f"Value ( {text} ) for parameter maxResults is invalid."
        )
    return int(text)


def _read_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError):
        raise Refusal("InvalidParameterValue", "The token is not valid") from None

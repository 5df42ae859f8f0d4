"""Which instances a request means: DescribeInstanceInformation's filters, SendCommand's targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poormanray.local import run_command_views as views
from poormanray.local.refusals import Refusal
from poormanray.local.run_command_records import Fleet, Node
from poormanray.local.settings import Settings

Request = Mapping[str, Any]
TagsOf = Callable[[str], Mapping[str, str]]

NODE_PAGE_DEFAULT = 10  # DescribeInstanceInformation: 5 to 50, 10 by default
# Source: user guide, "Using targets": up to five keys, and five values for each.
TAG_VALUES_MAX = 5


class Nodes:
    """The managed instances, as requests name them."""

    def __init__(self, fleet: Fleet, settings: Settings, *, account: str, tags_of: TagsOf) -> None:
        self._fleet = fleet
        self._settings = settings
        self._account = account
        self._tags_of = tags_of

    def chosen(self, request: Request) -> list[Node]:
        """Return the instances that SendCommand's InstanceIds or Targets mean.

        Raises:
            Refusal: DuplicateInstanceId, InvalidInstanceId, ValidationException, InvalidTarget.
        """
        targets = request.get("Targets") or []
        if not targets:
            return self._named(request.get("InstanceIds") or [])
        if request.get("InstanceIds"):
            raise Refusal("ValidationException", "InstanceIds and Targets exclude each other")
        by_id = [target for target in targets if target.get("Key") == "InstanceIds"]
        if by_id:
            if len(targets) > 1:
                raise Refusal("InvalidTarget", "InstanceIds cannot be combined with other targets")
            return self._named(by_id[0].get("Values") or [])
        for target in targets:
            key, values = target.get("Key", ""), target.get("Values") or []
            if not key.startswith("tag:"):
                raise Refusal("InvalidTarget", f"The local cloud has no targets by {key!r}")
            if len(values) > TAG_VALUES_MAX:
                text = f"{len(values)} values for {key}, at most {TAG_VALUES_MAX} are allowed"
                raise Refusal("ValidationException", text)
        # The service asks only the tags, also those of instances that are gone.
        return [node for node in self._fleet.nodes() if self._tagged(node, targets)]

    def describe(self, request: Request) -> dict[str, Any]:
        """Answer DescribeInstanceInformation."""
        filters = list(request.get("Filters") or [])
        old = list(request.get("InstanceInformationFilterList") or [])
        if filters and old:
            raise Refusal("ValidationException", "Filters and InstanceInformationFilterList both")
        self._check_old(old)
        filters += [{"Key": item["key"], "Values": item["valueSet"]} for item in old]
        tags = [item for item in filters if item["Key"].startswith(("tag:", "tag-key"))]
        if tags and len(tags) < len(filters):
            raise Refusal("ValidationException", "Tags cannot be combined with other filters")
        nodes = [n for n in self._fleet.nodes() if n.listed and self._matches(n, filters)]
        serials = {node.instance_id: index for index, node in enumerate(nodes, 1)}
        shown, token = views.page(
            nodes,
            lambda node: serials[node.instance_id],
            request,
            NODE_PAGE_DEFAULT,
            int(self._settings.page_max),
        )
        return {
            "InstanceInformationList": [views.node_view(node) for node in shown],
            "NextToken": token,
        }

    def _named(self, instance_ids: Sequence[str]) -> list[Node]:
        """Return the managed instances named; one bad id refuses them all."""
        if not instance_ids:
            raise Refusal("InvalidInstanceId", "InstanceIds must name at least one instance")
        twice = [name for name, count in Counter(instance_ids).items() if count > 1]
        if twice:
            raise Refusal("DuplicateInstanceId", f"Instances {twice} are named twice")
        found = {name: self._fleet.node(name) for name in instance_ids}
        bad = [name for name, node in found.items() if node is None or not node.accepts]
        if bad:
            listed = ", ".join(bad)
            text = f"Instances [[{listed}]] not in a valid state for account {self._account}"
            raise Refusal("InvalidInstanceId", text)
        return [node for node in found.values() if node is not None]

    def _check_old(self, filters: Sequence[Mapping[str, Any]]) -> None:
        """Refuse unknown ids in the old list; the new one only leaves them out."""
        for item in filters:
            for value in item["valueSet"] if item["key"] == "InstanceIds" else ():
                node = self._fleet.node(value)
                if node is None or not node.listed:
                    text = f"Instances [[{value}]] not in a valid state for account"
                    raise Refusal("InvalidInstanceId", f"{text} {self._account}")

    def _tagged(self, node: Node, wanted: Sequence[Mapping[str, Any]]) -> bool:
        """Keys join by AND, the values of one by OR."""
        tags = self._tags_of(node.instance_id)
        return all(tags.get(item["Key"].removeprefix("tag:")) in item["Values"] for item in wanted)

    def _matches(self, node: Node, filters: Sequence[Mapping[str, Any]]) -> bool:
        values = {
            "InstanceIds": node.instance_id,
            "PingStatus": "Online" if node.online else "ConnectionLost",
            "AgentVersion": node.agent_version,
            "PlatformTypes": "Linux",
            "ResourceType": "EC2Instance",
            "IamRole": node.role,
            "SourceIds": node.instance_id,
            "SourceTypes": "AWS::EC2::Instance",
        }
        for item in filters:
            key, wanted = item["Key"], item["Values"]
            if key.startswith("tag:"):
                fits = self._tagged(node, [item])
            elif key == "tag-key":
                fits = not set(wanted).isdisjoint(self._tags_of(node.instance_id))
            elif key in values:
                fits = values[key] in wanted
            else:
                raise Refusal("InvalidFilterKey", f"The filter key {key} is not valid")
            if not fits:
                return False
        return True

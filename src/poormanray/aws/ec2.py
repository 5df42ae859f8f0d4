"""EC2: find, launch, stop, start and end instances, and what a launch needs to know first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from poormanray.aws.refusals import DENIED, translated
from poormanray.errors import AwsRefused, NotFound, UsageProblem
from poormanray.model import (
    NO_INDEX,
    TAG_CLUSTER,
    TAG_FIRST_INDEX,
    TAG_NAME,
    TAG_OWNER,
    TAG_TOOL,
    TOOL_TAG,
    Image,
    Instance,
    InstanceState,
    LaunchRequest,
    Subnet,
    chunks,
    instance_name,
)

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import (
        EbsBlockDeviceTypeDef,
        FilterTypeDef,
        ImageTypeDef,
        InstanceTypeDef,
        RunInstancesRequestTypeDef,
        TagTypeDef,
    )

_PAGE = 500
# Source: EC2's error FilterLimitExceeded: a call has up to 200 values of filters, all together.
_FILTER_VALUES = 200
# EC2 model: TerminateInstances takes up to 1,000 ids.
_MAX_IDS = 1000
# The standard AL2023 image; the minimal and the ECS one have other words before the date.
_AL2023 = "al2023-ami-2023.*"
_CLOSED_GROUP = "poormanray-no-inbound"


class Ec2:
    """EC2, as far as we use it. Safe to share by threads."""

    def __init__(self, client: EC2Client, region: str) -> None:
        self._client = client
        self._region = region

    def instances(self, cluster: str | None = None) -> list[Instance]:
        """Return the instances of one cluster, or of all, ended ones too, in EC2's order.

        Their host index is what their tags say, or NO_INDEX: `model.numbered` completes it.
        """
        filters: list[FilterTypeDef] = [{"Name": f"tag:{TAG_TOOL}", "Values": [TOOL_TAG]}]
        if cluster is not None:
            filters.append({"Name": f"tag:{TAG_CLUSTER}", "Values": [cluster]})
        pages = self._client.get_paginator("describe_instances")
        with translated("ec2", self._region):
            return [
                _instance(told)
                for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": _PAGE})
                for reservation in page["Reservations"]
                for told in reservation.get("Instances", [])
            ]

    def by_ids(self, instance_ids: Sequence[str]) -> list[Instance]:
        """Return those of the given instances that EC2 shows, ended ones too, whatever their tags.

        The ids are a filter: as a parameter, one id that EC2 does not show would fail the call.
        """
        found: list[Instance] = []
        pages = self._client.get_paginator("describe_instances")
        for some in chunks(instance_ids, _FILTER_VALUES):
            filters: list[FilterTypeDef] = [{"Name": "instance-id", "Values": list(some)}]
            with translated("ec2", self._region):
                found += [
                    _instance(told)
                    for page in pages.paginate(
                        Filters=filters, PaginationConfig={"PageSize": _PAGE}
                    )
                    for reservation in page["Reservations"]
                    for told in reservation.get("Instances", [])
                ]
        return found

    def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch all instances of a request, or none.

        Raises:
            ProfileUnseen: EC2 does not know the instance profile (yet).
            NoCapacity: no room in the zone.
            NoAnswer: it may have launched; the request's token finds what did.
        """
        with translated("ec2", self._region):
            answer = self._client.run_instances(**_run_instances(request))
        return [_instance(told) for told in answer["Instances"]]

    def name(self, instance: Instance) -> None:
        """Write the Name tag of an instance.

        Raises:
            InstanceUnseen: EC2 does not know the instance (yet).
        """
        with translated("ec2", self._region):
            self._client.create_tags(
                Resources=[instance.instance_id], Tags=[{"Key": TAG_NAME, "Value": instance.name}]
            )

    def stop(self, instance_ids: Sequence[str]) -> None:
        """Stop running instances; their disks stay."""
        for some in chunks(instance_ids, _PAGE):
            with translated("ec2", self._region):
                self._client.stop_instances(InstanceIds=list(some))

    def start(self, instance_ids: Sequence[str]) -> None:
        """Start stopped instances."""
        for some in chunks(instance_ids, _PAGE):
            with translated("ec2", self._region):
                self._client.start_instances(InstanceIds=list(some))

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """End instances for good; ending one twice is no error."""
        for some in chunks(instance_ids, _MAX_IDS):
            with translated("ec2", self._region):
                self._client.terminate_instances(InstanceIds=list(some))

    def restartable_spot(self, instance_ids: Sequence[str]) -> set[str]:
        """Return those spot instances that may be stopped: the ones of persistent requests."""
        found: set[str] = set()
        pages = self._client.get_paginator("describe_spot_instance_requests")
        for some in chunks(instance_ids, _FILTER_VALUES):
            with translated("ec2", self._region):
                found |= {
                    told.get("InstanceId", "")
                    for page in pages.paginate(
                        Filters=[{"Name": "instance-id", "Values": list(some)}]
                    )
                    for told in page["SpotInstanceRequests"]
                    if told.get("Type") == "persistent"
                }
        return found

    def architectures(self, instance_type: str) -> tuple[str, ...]:
        """Return the architectures that a type runs, as EC2 says."""
        with translated("ec2", self._region):
            answer = self._client.describe_instance_types(
                InstanceTypes=[instance_type]  # type: ignore[list-item]  # any word is for EC2 to judge
            )
        return tuple(
            architecture
            for told in answer["InstanceTypes"]
            for architecture in told.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
        )

    def image(self, image_id: str) -> Image:
        """Return one image by its id."""
        with translated("ec2", self._region):
            told = self._client.describe_images(ImageIds=[image_id])["Images"]
        if not told:
            raise NotFound(
                f"there is no image {image_id} in {self._region} for this account",
                "choose another with -a/--image, or leave it out",
            )
        return _image(told[0])

    def newest_image(self, architecture: str) -> Image:
        """Return the newest standard Amazon Linux 2023 image of an architecture."""
        filters: list[FilterTypeDef] = [
            {"Name": "name", "Values": [_AL2023]},
            {"Name": "architecture", "Values": [architecture]},
            {"Name": "state", "Values": ["available"]},
            {"Name": "root-device-type", "Values": ["ebs"]},
        ]
        with translated("ec2", self._region):
            told = self._client.describe_images(Owners=["amazon"], Filters=filters)["Images"]
        images = [_image(one) for one in told]
        if not images:
            raise AwsRefused(
                f"EC2 shows no Amazon Linux 2023 image for {architecture} in {self._region}",
                "name an image with -a/--image",
            )
        return max(images, key=lambda image: (image.created_at, image.name))

    def subnet(self, subnet_id: str) -> Subnet:
        """Return one subnet by its id."""
        with translated("ec2", self._region):
            told = self._client.describe_subnets(SubnetIds=[subnet_id])["Subnets"][0]
        return Subnet(subnet_id, told.get("AvailabilityZone", ""), told.get("VpcId", ""))

    def default_subnets(self, instance_type: str) -> list[Subnet]:
        """Return the default VPC's subnets in zones that offer the type, by zone."""
        with translated("ec2", self._region):
            offered = self._client.describe_instance_type_offerings(
                LocationType="availability-zone",
                Filters=[{"Name": "instance-type", "Values": [instance_type]}],
            )["InstanceTypeOfferings"]
            subnets = self._client.describe_subnets(
                Filters=[{"Name": "default-for-az", "Values": ["true"]}]
            )["Subnets"]
        zones = {told.get("Location", "") for told in offered}
        found = [
            Subnet(
                told.get("SubnetId", ""), told.get("AvailabilityZone", ""), told.get("VpcId", "")
            )
            for told in subnets
        ]
        return sorted((one for one in found if one.zone in zones), key=lambda one: one.zone)

    def closed_group(self, vpc_id: str) -> str:
        """Return the security group of ours that lets nothing in, and make it where missing.

        Raises:
            UsageProblem: someone gave the group an inbound rule.
        """
        found = self._closed_group(vpc_id)
        if found is not None:
            return found
        try:
            with translated("ec2", self._region):
                return self._client.create_security_group(
                    GroupName=_CLOSED_GROUP,
                    Description="No inbound rule: all contact is through AWS Systems Manager",
                    VpcId=vpc_id,
                    TagSpecifications=[
                        {
                            "ResourceType": "security-group",
                            "Tags": [{"Key": TAG_TOOL, "Value": TOOL_TAG}],
                        }
                    ],
                )["GroupId"]
        except AwsRefused as refusal:
            found = self._closed_group(vpc_id)  # another client may have been faster
            if found is None:
                if refusal.code in DENIED:
                    refusal.hint = "have it allowed, or name a group with --security-group"
                raise
            return found

    def _closed_group(self, vpc_id: str) -> str | None:
        with translated("ec2", self._region):
            told = self._client.describe_security_groups(
                Filters=[
                    {"Name": "vpc-id", "Values": [vpc_id]},
                    {"Name": "group-name", "Values": [_CLOSED_GROUP]},
                ]
            )["SecurityGroups"]
        if not told:
            return None
        group_id = told[0].get("GroupId", "")
        if told[0].get("IpPermissions"):
            raise UsageProblem(
                f"the security group {_CLOSED_GROUP} ({group_id}) has an inbound rule",
                "remove the rule, or name another group with --security-group",
            )
        return group_id


def _tags(values: Mapping[str, str]) -> list[TagTypeDef]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def _run_instances(request: LaunchRequest) -> RunInstancesRequestTypeDef:
    """Return the words of RunInstances: no key pair, IMDSv2 only, an encrypted root volume."""
    spec = request.spec
    tags = {
        TAG_CLUSTER: spec.cluster,
        TAG_TOOL: TOOL_TAG,
        TAG_OWNER: spec.owner,
        TAG_FIRST_INDEX: str(request.first_index),
    }
    if request.count == 1:
        tags[TAG_NAME] = instance_name(spec.cluster, request.first_index)
    key = "Arn" if request.profile.name.startswith("arn:") else "Name"
    return {
        "ImageId": request.image.image_id,
        "InstanceType": spec.instance_type,  # type: ignore[typeddict-item]  # any word is for EC2 to judge
        "MinCount": request.count,
        "MaxCount": request.count,
        "ClientToken": request.token,
        "IamInstanceProfile": {key: request.profile.name},  # type: ignore[misc]  # Arn or Name
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": request.subnet.subnet_id,
                "Groups": list(request.security_groups),
                "AssociatePublicIpAddress": spec.public_ip,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [{"DeviceName": request.image.root_device, "Ebs": _disk(request)}],
        # Two hops, so that a container on the instance gets its credentials too.
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 2,
        },
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": _tags(tags)},
            {"ResourceType": "volume", "Tags": _tags(tags)},
        ],
    }


def _disk(request: LaunchRequest) -> EbsBlockDeviceTypeDef:
    spec = request.spec
    disk: EbsBlockDeviceTypeDef = {
        "Encrypted": True,
        "DeleteOnTermination": True,
        "VolumeType": spec.storage_type,  # type: ignore[typeddict-item]  # any word is for EC2 to judge
    }
    size_gib = spec.storage_gib or request.image.root_gib
    if size_gib:
        disk["VolumeSize"] = size_gib
    if spec.storage_iops is not None:
        disk["Iops"] = spec.storage_iops
    return disk


def _image(told: ImageTypeDef) -> Image:
    root = told.get("RootDeviceName", "/dev/xvda")
    disks = {disk.get("DeviceName"): disk for disk in told.get("BlockDeviceMappings", [])}
    return Image(
        image_id=told.get("ImageId", ""),
        name=told.get("Name", ""),
        architecture=told.get("Architecture", ""),
        root_device=root,
        root_gib=disks.get(root, {}).get("Ebs", {}).get("VolumeSize", 0),
        created_at=told.get("CreationDate", ""),
    )


def _instance(told: InstanceTypeDef) -> Instance:
    tags = {tag.get("Key", ""): tag.get("Value", "") for tag in told.get("Tags", [])}
    cluster = tags.get(TAG_CLUSTER, "")
    launch_index = told.get("AmiLaunchIndex", 0)
    host_index = _host_index(tags, launch_index)
    reason = told.get("StateReason", {}).get("Message") or told.get("StateTransitionReason", "")
    return Instance(
        instance_id=told.get("InstanceId", ""),
        name=tags.get(TAG_NAME) or instance_name(cluster, max(host_index, 0)),
        cluster=cluster,
        host_index=host_index,
        state=InstanceState(told.get("State", {}).get("Name", "pending")),
        instance_type=told.get("InstanceType", ""),
        architecture=told.get("Architecture", ""),
        owner=tags.get(TAG_OWNER, ""),
        launched_at=told.get("LaunchTime"),
        zone=told.get("Placement", {}).get("AvailabilityZone", ""),
        private_ip=told.get("PrivateIpAddress", ""),
        public_ip=told.get("PublicIpAddress", ""),
        spot=told.get("InstanceLifecycle") == "spot",
        state_reason=reason,
        launch_index=launch_index,
        launch_token=told.get("ClientToken", ""),
        named=bool(tags.get(TAG_NAME)),
    )


def _host_index(tags: Mapping[str, str], launch_index: int) -> int:
    """Return the number that the launch gave, or the one in the name, or NO_INDEX."""
    first = tags.get(TAG_FIRST_INDEX, "")
    if re.fullmatch(r"\d{1,6}", first):
        return int(first) + launch_index
    in_name = re.search(r"-(\d{1,6})$", tags.get(TAG_NAME, ""))
    return int(in_name[1]) if in_name else NO_INDEX

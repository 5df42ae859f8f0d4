"""Launch instances for a cluster: decide, make what is needed, ask EC2 once, name what came."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poormanray.errors import (
    AwsRefused,
    InstanceUnseen,
    NoAnswer,
    NoCapacity,
    Outage,
    ProfileUnseen,
    UsageProblem,
)
from poormanray.model import Image, Instance, LaunchRequest, LaunchSpec, Profile, Subnet, numbered
from poormanray.waiting import poll

if TYPE_CHECKING:
    from poormanray.aws.session import Aws

# EC2 model, RunInstances: "break a request for 500 instances into 5 requests for 100" is advice
# for capacity; up to this many we ask at once, all or none.
WAVE = 500
# IAM tells EC2 of a new profile within seconds as a rule, but minutes have been seen.
_NEW_PROFILE_S = 300.0
# What others end frees room within seconds; a zone that stays full does so for hours.
_ROOM_S = 20.0
_OLD_PROFILE_S = 20.0
# EC2 tells a new instance to all of itself within seconds as a rule.
_SHOWN_S = 60.0
# How long a request without an answer is repeated, and how many refusals of it in all are
# believed: the first may be of a part of EC2 that has not seen what another part has launched.
_ANSWER_S = 300.0
_REFUSALS = 3
# EC2's code for a token that was used with other parameters: then that request did launch.
USED_ALREADY = "IdempotentParameterMismatch"


@dataclass(frozen=True, slots=True)
class Plan:
    """A launch with everything decided and everything that it needs in place."""

    spec: LaunchSpec
    image: Image
    subnets: tuple[Subnet, ...]
    security_groups: tuple[str, ...]
    profile: Profile
    first_index: int


@dataclass(frozen=True, slots=True)
class Launched:
    """What a launch brought: the instances there are now, and what ended it early, if anything."""

    instances: tuple[Instance, ...]
    problem: AwsRefused | None = None


def prepare(aws: Aws, spec: LaunchSpec) -> Plan:
    """Decide everything about a launch, and make what it needs: role, profile, closed group."""
    ec2 = aws.ec2()
    architectures = ec2.architectures(spec.instance_type)
    image = _image(aws, spec, architectures)
    subnets = _subnets(aws, spec)
    groups = spec.security_groups or (ec2.closed_group(subnets[0].vpc_id),)
    highest = max(
        (one.host_index for one in numbered(ec2.instances(spec.cluster)) if one.state.alive),
        default=-1,
    )
    return Plan(
        spec=spec,
        image=image,
        subnets=subnets,
        security_groups=groups,
        profile=_profile(aws, spec),
        first_index=highest + 1,
    )


def _image(aws: Aws, spec: LaunchSpec, architectures: Sequence[str]) -> Image:
    if spec.image:
        image = aws.ec2().image(spec.image)
        if image.architecture not in architectures:
            raise UsageProblem(
                f"image {image.image_id} is for {image.architecture}, but {spec.instance_type} "
                f"runs {' or '.join(architectures)}",
                "choose another -a/--image or -t/--instance-type",
            )
        return image
    usable = next((one for one in ("x86_64", "arm64") if one in architectures), None)
    if usable is None:
        raise UsageProblem(
            f"{spec.instance_type} runs {' or '.join(architectures)}, for which there is no "
            "Amazon Linux 2023",
            "choose another -t/--instance-type, or name an -a/--image",
        )
    return aws.ec2().newest_image(usable)


def _subnets(aws: Aws, spec: LaunchSpec) -> tuple[Subnet, ...]:
    """Return the subnets to try, in order; more than one only where nothing was asked for."""
    if spec.subnet:
        subnet = aws.ec2().subnet(spec.subnet)
        if spec.zone and subnet.zone != spec.zone:
            raise UsageProblem(
                f"subnet {spec.subnet} lies in {subnet.zone}, not in {spec.zone}",
                "leave out -z/--zone, or choose another --subnet",
            )
        return (subnet,)
    offered = aws.ec2().default_subnets(spec.instance_type)
    fitting = tuple(one for one in offered if spec.zone in {"", one.zone})
    if not fitting:
        where = spec.zone or aws.region
        raise AwsRefused(
            f"no default subnet in {where} in a zone that offers {spec.instance_type}",
            "name a subnet with --subnet, or choose another zone, type or region",
        )
    return fitting


def _profile(aws: Aws, spec: LaunchSpec) -> Profile:
    if spec.instance_profile:
        return Profile(spec.instance_profile)
    profile = aws.iam().ensure_profile(spec.policy_arns, spec.permissions_boundary)
    if profile.is_new:
        try:
            poll(
                lambda: aws.iam().has_profile(profile.name),
                clock=aws.clock,
                timeout_s=_SHOWN_S,
            )
        except TimeoutError as error:
            raise AwsRefused(
                f"IAM does not show the new instance profile {profile.name} yet",
                "repeat the command in a minute; what was made is used again",
            ) from error
    return profile


def launch(aws: Aws, plan: Plan) -> Launched:
    """Launch what was planned: one request for all, in waves of 500 where there are more.

    The host index is settled by the launch itself (a tag with the index of the first one, and
    EC2's own launch index); the Name tags follow, and a later launch adds those that a crash
    left out.

    Raises:
        AwsRefused: nothing was launched. A later refusal is in the answer, with what there is.
    """
    there: list[Instance] = []
    problem: AwsRefused | None = None
    tokens: set[str] = set()
    # What is asked for is planned: what EC2 shows of it, and when, decides nothing.
    for begun in range(0, plan.spec.count, WAVE):
        count = min(WAVE, plan.spec.count - begun)
        try:
            wave, problem = _launch_with_room(aws, plan, count, plan.first_index + begun, tokens)
        except AwsRefused as refusal:
            if not there:
                raise
            wave, problem = [], refusal
        there += wave
        if problem is not None:
            break
    try:
        return Launched(tuple(_named(aws, plan.spec.cluster, there, tokens)), problem)
    except AwsRefused as refusal:
        return Launched(tuple(numbered(there)), problem or refusal)


def _launch_with_room(
    aws: Aws, plan: Plan, count: int, first_index: int, tokens: set[str]
) -> tuple[list[Instance], AwsRefused | None]:
    """Launch one wave, as `_launch_wave`; room that is missing everywhere is waited for shortly."""
    try:
        return poll(
            lambda: _launch_wave(aws, plan, count, first_index, tokens),
            clock=aws.clock,
            timeout_s=_ROOM_S,
            retry_on=(NoCapacity,),
        )
    except TimeoutError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None
        raise


def _launch_wave(
    aws: Aws, plan: Plan, count: int, first_index: int, tokens: set[str]
) -> tuple[list[Instance], AwsRefused | None]:
    """Launch one wave in the first subnet whose zone has room for all of it.

    Returns what there is of it, and why that is not all. `tokens` takes in those of its requests.
    The next subnet is tried only after EC2 has refused the one before it, never after silence.
    """
    for number, subnet in enumerate(plan.subnets, start=1):
        request = LaunchRequest(
            spec=plan.spec,
            count=count,
            first_index=first_index,
            token=str(uuid.uuid4()),
            image=plan.image,
            subnet=subnet,
            security_groups=plan.security_groups,
            profile=plan.profile,
        )
        tokens.add(request.token)
        try:
            return _launch_once(aws, request)
        except NoCapacity:
            if number == len(plan.subnets):
                raise
    raise AssertionError("a plan has at least one subnet")


def _launch_once(aws: Aws, request: LaunchRequest) -> tuple[list[Instance], AwsRefused | None]:
    """Launch one request; the same token is sent until EC2 sees the profile."""
    try:
        made = poll(
            lambda: aws.ec2().launch(request),
            clock=aws.clock,
            timeout_s=_NEW_PROFILE_S if request.profile.is_new else _OLD_PROFILE_S,
            retry_on=(ProfileUnseen,),
        )
    except TimeoutError as error:
        raise AwsRefused(
            f"EC2 does not see the instance profile {request.profile.name}",
            "check --instance-profile; a new one is seen after some minutes",
        ) from error
    except Outage as silence:
        return _launch_again(aws, request, silence)
    return made, None


def _launch_again(
    aws: Aws, request: LaunchRequest, silence: Outage
) -> tuple[list[Instance], AwsRefused | None]:
    """Repeat a request whose answer was lost, until all that it may have launched is seen.

    The same token never launches twice; what it has launched carries it. Returns what was seen,
    and an error where that is not all.

    Raises:
        AwsRefused: EC2 refuses the request, again and again, and shows nothing of it.
        Outage: nothing of it was seen in all that time.
    """
    seen: dict[str, Instance] = {}
    refusals = 0

    def ask() -> bool:
        nonlocal refusals
        try:
            seen.update((one.instance_id, one) for one in aws.ec2().launch(request))
        except (Outage, ProfileUnseen):
            pass
        except AwsRefused as refusal:
            refusals += refusal.code != USED_ALREADY
            if refusals >= _REFUSALS and not seen:
                raise
        if len(seen) < request.count:
            seen.update((one.instance_id, one) for one in _shown(aws, request))
        return len(seen) >= request.count

    try:
        poll(ask, clock=aws.clock, timeout_s=_ANSWER_S, until=bool, longest_s=5.0)
    except TimeoutError:
        if not seen:
            raise silence from None
        problem = NoAnswer(
            f"EC2 has not answered a request for {request.count} instances; it shows {len(seen)} "
            "of them, and the others may come",
            f"pmr list -n {request.spec.cluster} shows them; pmr create only what is missing then",
        )
        return list(seen.values()), problem
    return list(seen.values()), None


def _shown(aws: Aws, request: LaunchRequest) -> list[Instance]:
    """Return what EC2 shows of a request now: all of it only in time."""
    try:
        there = aws.ec2().instances(request.spec.cluster)
    except Outage:
        return []
    return [one for one in there if one.launch_token == request.token]


def _name(aws: Aws, instance: Instance) -> None:
    """Write one Name tag, as soon as EC2 knows the instance."""
    try:
        poll(
            lambda: aws.ec2().name(instance),
            clock=aws.clock,
            timeout_s=_SHOWN_S,
            until=lambda _: True,
            longest_s=5.0,
            retry_on=(InstanceUnseen,),
        )
    except TimeoutError as error:
        raise AwsRefused(
            f"EC2 does not know {instance.instance_id}, which it has launched; it has no name yet",
            f"pmr create -n {instance.cluster} names it when it adds instances",
        ) from error


def _named(
    aws: Aws, cluster: str, there: Sequence[Instance], tokens: Collection[str]
) -> list[Instance]:
    """Write the Name tag of each instance of the cluster that has none; return the new ones.

    Those are `there`, or carry one of the launch's `tokens`.
    """
    seen = {one.instance_id for one in there}
    older = [one for one in aws.ec2().instances(cluster) if one.instance_id not in seen]
    new = seen | {one.instance_id for one in older if one.launch_token in tokens}
    everyone = numbered([*older, *there])
    for instance in everyone:
        if instance.state.alive and not instance.named:
            _name(aws, instance)
    return [one for one in everyone if one.instance_id in new]

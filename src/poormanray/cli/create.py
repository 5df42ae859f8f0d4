"""The command that launches instances."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

import click

from poormanray import cluster, launching
from poormanray.cli.instances import (
    COLUMNS,
    SPARE_COLUMNS,
    facts,
    goes_on,
    left_out_facts,
    row,
    verdict,
    watched,
)
from poormanray.cli.options import (
    COUNT,
    App,
    Command,
    aws_options,
    cluster_option,
    detach_option,
    owner_option,
    ssh_key_option,
    wait_timeout_option,
)
from poormanray.errors import ExitCode, UsageProblem
from poormanray.launching import Launched, Plan
from poormanray.model import LaunchSpec, Reachability

R = TypeVar("R")

_DEFAULT_TYPE = "i4i.xlarge"
_WITH_IOPS = {"gp3", "io1", "io2"}
_SPEC_FIELDS = [field.name for field in fields(LaunchSpec) if field.name != "cluster"]


_LAUNCH_OPTIONS = (
    click.option(
        "-N",
        "--number",
        "count",
        type=COUNT,
        default=1,
        show_default=True,
        help="How many instances.",
    ),
    click.option(
        "-t", "--instance-type", default=_DEFAULT_TYPE, show_default=True, help="EC2 instance type."
    ),
    click.option(
        "-a", "--image", default="", show_default="newest Amazon Linux 2023", help="Image id."
    ),
    click.option("-z", "--zone", default="", help="Availability zone."),
    click.option("--subnet", default="", show_default="of the default VPC", help="Subnet id."),
    click.option(
        "--security-group",
        "security_groups",
        multiple=True,
        metavar="ID",
        show_default="one of ours without inbound rules",
        help="Security group id; repeatable.",
    ),
    click.option("--public-ip", is_flag=True, help="Give each instance a public address."),
    click.option(
        "--instance-profile",
        default="",
        metavar="NAME",
        show_default="one of ours, made where missing",
        help="Instance profile (name or ARN) that lets the agent talk to SSM.",
    ),
    click.option(
        "--policy-arn",
        "policy_arns",
        multiple=True,
        metavar="ARN",
        help="One more policy for the instances' role; repeatable.",
    ),
    click.option(
        "--permissions-boundary",
        default="",
        metavar="ARN",
        help="Permissions boundary of the role, where it is made.",
    ),
    click.option(
        "-E",
        "--storage-type",
        default="gp3",
        show_default=True,
        type=click.Choice(["gp3", "gp2", "io1", "io2"]),
        help="Type of the root volume.",
    ),
    click.option(
        "-Z",
        "--storage-size",
        "storage_gib",
        type=COUNT,
        show_default="the image's",
        help="Size of the root volume, in GiB.",
    ),
    click.option("-I", "--storage-iops", type=COUNT, help="IOPS of the root volume."),
)


def _launch_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that describe a launch; the command gets them as one `spec`."""

    @functools.wraps(command)
    def with_spec(*args: object, **words: object) -> R:
        told = {name: words.pop(name) for name in _SPEC_FIELDS}
        spec = LaunchSpec(cluster=str(words.pop("name")), **told)  # type: ignore[arg-type]  # click made them
        return command(*args, spec=_checked(spec), **words)

    with_options: Callable[..., R] = owner_option(with_spec)
    for option in reversed(_LAUNCH_OPTIONS):
        with_options = option(with_options)
    return cluster_option(with_options)


def _checked(spec: LaunchSpec) -> LaunchSpec:
    """Return the spec if its parts go together.

    Raises:
        UsageProblem: they do not.
    """
    if spec.instance_profile and (spec.policy_arns or spec.permissions_boundary):
        raise UsageProblem(
            "--policy-arn and --permissions-boundary are for a profile of ours, not for one of "
            "yours",
            "leave out --instance-profile, or add the policy to its role yourself",
        )
    if spec.storage_iops is not None and spec.storage_type not in _WITH_IOPS:
        raise UsageProblem(
            f"a {spec.storage_type} volume takes no IOPS", "leave out -I, or choose -E gp3"
        )
    return spec


@click.command(cls=Command)
@_launch_options
@detach_option
@wait_timeout_option
@ssh_key_option
@aws_options
def create(app: App, spec: LaunchSpec, detach: bool, wait_timeout: float) -> int:  # noqa: FBT001 (a flag of the command line)
    """Launch instances, and wait until their agents answer.

    Where the cluster exists, they join it. They get no public address, no key pair and no
    inbound rule; contact is through AWS Systems Manager alone.
    """
    plan = launching.prepare(app.aws, spec)
    app.out.note(
        f"launching {spec.count} x {spec.instance_type} in {app.aws.region}: "
        f"image {plan.image.image_id} ({plan.image.name}), profile {plan.profile.name}"
    )
    with goes_on(app, "some may have been launched", app.command_line("wait", "-n", spec.cluster)):
        launched = launching.launch(app.aws, plan)
    if launched.problem:
        app.out.note(f"{len(launched.instances)} of {spec.count} were launched, then:")
        if not app.out.json:
            app.out.failure(launched.problem)
    reach = Reachability(ready=(), left_out=())
    if not detach:
        reach = watched(app, launched.instances, wait_timeout)
    _tell(app, plan, launched, reach)
    if detach:
        app.out.note(f"{app.command_line('wait', '-n', spec.cluster)} says when they can take work")
    code = ExitCode.OK if detach else verdict(app, reach, spec.count)
    return launched.problem.exit_code if launched.problem else code


def _tell(app: App, plan: Plan, launched: Launched, reach: Reachability) -> None:
    """Show what was launched, and who of it is ready."""
    now = cluster.refreshed(app.aws, launched.instances)
    online = {one.instance_id for one in reach.ready}
    words = {one.instance_id: "online" if one.instance_id in online else "-" for one in now}
    problem = launched.problem
    app.out.table(COLUMNS, [row(one, words[one.instance_id]) for one in now], spare=SPARE_COLUMNS)
    app.out.document(
        {
            "cluster": plan.spec.cluster,
            "image": plan.image.image_id,
            "instance_profile": plan.profile.name,
            "instances": [facts(one, words[one.instance_id]) for one in now],
            **left_out_facts(reach),
            "problem": {"message": problem.message, "hint": problem.hint} if problem else None,
        }
    )

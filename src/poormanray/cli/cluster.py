"""The commands that show, await, pause, resume and end clusters."""

from __future__ import annotations

from collections.abc import Sequence

import click

from poormanray import cluster
from poormanray.cli.instances import (
    COLUMNS,
    SPARE_COLUMNS,
    agent_words,
    facts,
    goes_on,
    left_out_facts,
    many,
    row,
    verdict,
    watched,
)
from poormanray.cli.options import (
    App,
    Command,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    optional_cluster_option,
    ssh_key_option,
    wait_timeout_option,
    yes_option,
)
from poormanray.errors import ExitCode, NotFound
from poormanray.model import Instance, InstanceState, Selection


@click.command("list", cls=Command)
@optional_cluster_option
@aws_options
def list_(app: App, name: str | None) -> None:
    """Show the instances of one cluster, or of all."""
    if name is None:
        instances = cluster.clusters(app.aws)
    else:
        instances = cluster.find(app.aws, Selection(name))
    agents = agent_words(app, instances)
    if instances:
        app.out.table(
            COLUMNS, [row(one, agents[one.instance_id]) for one in instances], spare=SPARE_COLUMNS
        )
    else:
        app.out.note(f"no clusters in {app.aws.region}")
    app.out.document({"instances": [facts(one, agents[one.instance_id]) for one in instances]})


@click.command(cls=Command)
@cluster_option
@instance_option
@wait_timeout_option
@aws_options
def wait(app: App, name: str, instance_ids: tuple[str, ...], wait_timeout: float) -> int:
    """Wait until the agent of every instance is online, so that it can take work."""
    instances = cluster.find(app.aws, Selection(name, instance_ids))
    reach = watched(app, instances, wait_timeout, events=True, chosen=instance_ids)
    code = verdict(app, reach, len(instances))
    if code == ExitCode.OK:
        app.out.line(f"{many(len(reach.ready))} of {name} ready")
    app.out.event(
        {
            "event": "summary",
            "ready": [one.instance_id for one in reach.ready],
            **left_out_facts(reach),
            "exit_code": int(code),
        }
    )
    return code


@click.command(cls=Command)
@cluster_option
@instance_option
@detach_option
@ssh_key_option
@aws_options
def pause(app: App, name: str, instance_ids: tuple[str, ...], detach: bool) -> None:  # noqa: FBT001 (a flag of the command line)
    """Stop the instances; their disks, and the work recorded there, stay."""
    instances = cluster.find(app.aws, Selection(name, instance_ids))
    changed = cluster.pause(app.aws, instances)
    if changed and not detach:
        app.out.progress(f"stopping {many(len(changed))}")
        stopped = {InstanceState.STOPPED, InstanceState.TERMINATED}
        with goes_on(app, "they go on stopping", app.command_line("list", "-n", name)):
            cluster.wait_state(app.aws, changed, stopped.__contains__)
    _tell_changed(app, instances, changed, ("paused", "not running"))


@click.command(cls=Command)
@cluster_option
@instance_option
@detach_option
@wait_timeout_option
@ssh_key_option
@aws_options
def resume(
    app: App,
    name: str,
    instance_ids: tuple[str, ...],
    detach: bool,  # noqa: FBT001 (a flag of the command line)
    wait_timeout: float,
) -> int:
    """Start paused instances again, and wait until their agents answer."""
    instances = cluster.find(app.aws, Selection(name, instance_ids))
    with goes_on(app, "some may not have started", app.command_line("resume", "-n", name)):
        changed = cluster.resume(app.aws, instances)
    reach = None if detach else watched(app, instances, wait_timeout)
    _tell_changed(app, instances, changed, ("resumed", "running"))
    return verdict(app, reach, len(instances)) if reach else ExitCode.OK


@click.command(cls=Command)
@cluster_option
@instance_option
@yes_option
@click.option("--if-exists", is_flag=True, help="No such cluster is no error.")
@ssh_key_option
@aws_options
def terminate(
    app: App,
    name: str,
    instance_ids: tuple[str, ...],
    yes: bool,  # noqa: FBT001 (a flag of the command line)
    if_exists: bool,  # noqa: FBT001 (a flag of the command line)
) -> int:
    """End the instances for good: shows which, and asks."""
    try:
        instances = cluster.find(app.aws, Selection(name, instance_ids))
    except NotFound as missing:
        if not if_exists or any(one.cluster == name for one in cluster.clusters(app.aws)):
            raise
        app.out.note(missing.message)
        app.out.document({"cluster": name, "terminated": []})
        return ExitCode.OK
    app.out.table(COLUMNS, [row(one, "-") for one in instances], spare=SPARE_COLUMNS)
    if not yes and not app.out.confirm(f"Terminate {many(len(instances))} of {name} for good?"):
        app.out.note("nothing was terminated")
        return ExitCode.WORK_FAILED
    cluster.terminate(app.aws, instances)
    app.out.note(f"terminated {many(len(instances))} of {name}")
    app.out.document({"cluster": name, "terminated": [one.instance_id for one in instances]})
    return ExitCode.OK


def _tell_changed(
    app: App,
    instances: Sequence[Instance],
    changed: Sequence[Instance],
    words: tuple[str, str],
) -> None:
    """Say what was done; `words` are for that, and for what was so already."""
    done, already = words
    app.out.progress("")
    if changed:
        app.out.note(f"{done} {many(len(changed))}")
    else:
        app.out.note(f"nothing to do: {many(len(instances))} {already} already")
    app.out.document({done: [one.instance_id for one in changed]})

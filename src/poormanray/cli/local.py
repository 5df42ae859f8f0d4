"""`pmr local`: start, stop and inspect the cloud that runs on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, TypeVar

import click

from poormanray.aws.session import Endpoint
from poormanray.cli.local_daemon import Contact, Daemon, ask, running, state_folder
from poormanray.cli.local_fault import fault
from poormanray.cli.options import Group
from poormanray.cli.output import Output
from poormanray.errors import UsageProblem

C = TypeVar("C", bound=Callable[..., Any])

_PROCESSES = "scripts run with your own rights: this machine has no namespaces for them"
_NETWORK = (
    "scripts use this machine's network, and can reach its metadata service if it has one "
    "(AWS_EC2_METADATA_DISABLED tells the SDKs not to); slirp4netns or passt gives each instance a "
    "network of its own"
)


def endpoint() -> Endpoint:
    """Return the local cloud to talk to, started if it is not running."""
    return Daemon(state_folder()).start()[0].endpoint


def _json_option(command: C) -> C:
    return click.option("--json", is_flag=True, help="Print JSON on stdout.")(command)


@click.group(cls=Group)
def local() -> None:
    """Start, stop and inspect the local cloud.

    It is one process on this machine that stands for AWS and really runs the scripts. What it
    holds lasts until `down`.
    """


@local.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port (0: any free one).")
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0, min_open=True),
    help="How many times faster the cloud's clock goes.",
)
@click.option(
    "--set", "words", multiple=True, metavar="NAME=NUMBER", help="Change a setting; repeatable."
)
@_json_option
def up(port: int, time_scale: float | None, words: tuple[str, ...], json: bool) -> None:  # noqa: FBT001 (a flag)
    """Start the local cloud.

    `pmr local status --json` names the settings that --set changes, such as delivery_s.
    """
    out = Output(json=json)
    wanted = [*words, *([f"time_scale={time_scale}"] if time_scale else [])]
    _check(wanted)
    daemon = Daemon(state_folder())
    contact, started = daemon.start(port=port, words=wanted)
    if not started:
        _same(contact, port, wanted)
    out.line(f"local cloud at {contact.endpoint.url}{'' if started else ' (was up already)'}")
    out.line(f"state folder   {daemon.folder}")
    out.line(f"isolation      {contact.isolation}")
    if contact.isolation == "processes":
        out.note(_PROCESSES + (f" ({contact.isolation_reason})" * bool(contact.isolation_reason)))
    if contact.network == "machine":
        out.note(_NETWORK + (f" ({contact.network_reason})" * bool(contact.network_reason)))
    out.document(
        {
            "url": contact.endpoint.url,
            "state_folder": str(daemon.folder),
            "isolation": contact.isolation,
            "network": contact.network,
            "time_scale": contact.endpoint.time_scale,
            "pid": contact.pid,
            "started": started,
        }
    )


@local.command()
@_json_option
def down(json: bool) -> None:  # noqa: FBT001 (a flag)
    """Stop the local cloud and everything in it."""
    out = Output(json=json)
    ended = Daemon(state_folder()).end()
    out.line("the local cloud is down" if ended else "the local cloud was not running")
    out.document({"was_running": ended})


@local.command()
@_json_option
def status(json: bool) -> None:  # noqa: FBT001 (a flag)
    """Show its instances, and how often each operation was called."""
    out = Output(json=json)
    found = ask("GET", "status")
    out.document(found)
    out.line(f"local cloud at {found['url']}, up for {found['uptime_s']:.0f} s")
    out.line(f"state folder   {found['state_folder']}")
    out.line(f"isolation      {found['isolation']}")
    out.line(f"network        {found['network']}")
    instances = found["instances"]
    if instances:
        rows = [[one["instance_id"], one["state"], one["machine"]] for one in instances]
        out.table(["instance", "state", "agent"], rows)
    calls = [
        [service, operation, str(count)]
        for service, operations in found["calls"].items()
        for operation, count in operations.items()
    ]
    if calls:
        out.table(["service", "operation", "calls"], calls)


@local.command()
@_json_option
def env(json: bool) -> None:  # noqa: FBT001 (a flag)
    """Print the settings for other AWS programs.

    In a shell: eval "$(pmr local env)"
    """
    out = Output(json=json)
    contact = running()
    settings = {
        "AWS_ENDPOINT_URL": contact.endpoint.url,
        "AWS_ACCESS_KEY_ID": contact.endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": contact.endpoint.secret_key,
        "AWS_REGION": contact.region,
        "AWS_DEFAULT_REGION": contact.region,
    }
    out.document(settings)
    out.line("unset AWS_PROFILE AWS_SESSION_TOKEN")
    for name, value in settings.items():
        out.line(f"export {name}={shlex.quote(value)}")


@local.command()
@_json_option
def reset(json: bool) -> None:  # noqa: FBT001 (a flag)
    """Empty it: instances, roles, buckets, commands, counts."""
    out = Output(json=json)
    out.document(ask("POST", "reset"))
    out.line("the local cloud is empty")


local.add_command(fault)


def _check(words: list[str]) -> None:
    for word in words:
        name, _, value = word.partition("=")
        try:
            good = name.isidentifier() and float(value) >= 0
        except ValueError:
            good = False
        if not good:
            raise UsageProblem(f"{word!r} is not NAME=NUMBER", "pmr local up --help")


def _same(contact: Contact, port: int, words: list[str]) -> None:
    """Refuse to call a cloud with other settings the one that was asked for."""
    settings = ask("GET", "status")["settings"]
    changed = [
        word
        for word in words
        if str(settings.get(word.partition("=")[0])) != str(float(word.partition("=")[2]))
    ]
    if port and not contact.address.endswith(f":{port}"):
        changed.append(f"port={port}")
    if changed:
        raise UsageProblem(
            f"the local cloud is up already, without {', '.join(changed)}",
            "pmr local down, then pmr local up again",
        )

"""`pmr local fault`: order that something goes wrong in the local cloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from poormanray.cli.local_daemon import ask
from poormanray.cli.options import SIZE, Group
from poormanray.cli.output import Output

C = TypeVar("C", bound=Callable[..., Any])

KINDS = {
    "throttle": "refused: too many requests",
    "5xx": "refused: the service fails",
    "no-capacity": "RunInstances and StartInstances find no capacity",
    "proxy-page": "answered by a proxy: an HTML page, status 503",
    "proxy-ok": "answered by a proxy: an HTML page, status 200",
    "proxy-empty": "answered by a proxy: no content, status 200",
    "lost-request": "the connection is closed before anything is done",
    "lost-response": "it is done, then the connection is closed",
    "slow": "answered SECONDS late",
    "clock-skew": "the Date of answers is SECONDS ahead (or behind: --seconds=-90)",
    "port-closed": "every connection is refused for SECONDS",
    "sessions-end": "every session that STS has issued is over",
    "agent-stop": "its agent stops, and starts again after SECONDS",
    "agent-start": "its agent starts again",
    "agent-restart": "its agent restarts",
    "agent-hibernate": "its agent sleeps for 5 minutes",
    "agent-kill": "its agent is killed for want of memory, and starts again 90 s later",
    "agent-cut-off": "its agent loses its way to the service for SECONDS",
    "reply-lost": "its agent's next reply is lost; with SECONDS, all of them until then",
    "access-denied": "what SSM sends to it ends as AccessDenied, for SECONDS or until cleared",
    "invalid-platform": "the same, as InvalidPlatform",
    "undeliverable": "the same, as Undeliverable",
    "instance-crash": "it loses its power; EC2 and SSM go on believing that it runs",
    "instance-terminate": "it is terminated",
    "instance-stop": "it is stopped",
    "instance-freeze": "all its processes stop (SIGSTOP), and go on after SECONDS",
    "instance-thaw": "they go on",
    "instance-reboot": "it reboots",
    "instance-reclaim": "it is terminated after a spot notice of SECONDS (120)",
    "disk-full": "the disk of its jobs has FREE bytes left; no job may be running",
    "disk-free": "it has room again",
    "runner-kill": "its job runners are killed (SIGKILL)",
    "screen-kill": "the screens of its job runners are killed (SIGKILL)",
}


def _json_option(command: C) -> C:
    return click.option("--json", is_flag=True, help="Print JSON on stdout.")(command)


def _kinds() -> str:
    lines = "\n".join(f"  {kind:<19} {text}" for kind, text in KINDS.items())
    return f"\b\nKinds:\n{lines}"


@click.group(cls=Group)
def fault() -> None:
    """Order that things go wrong, to see that work survives it.

    Faults of requests are rules that stand until cleared; faults of instances happen at once.
    """


@fault.command(
    epilog=_kinds(),
    help="Order one fault.\n\nWithout --instance, a fault of instances strikes --count of them "
    "(1), drawn by lot. SECONDS are of the cloud's time; a rule that needs none for itself ends "
    "after them.",
)
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@click.option(
    "--operation",
    metavar="SERVICE:OPERATION",
    help="Only such requests, as `pmr local status` names them; * stands for any.",
)
@click.option("--probability", type=click.FloatRange(0, 1), help="Strike only so often (1).")
@click.option("--count", type=click.IntRange(min=1), help="Strike at most so many times.")
@click.option("--after", type=click.IntRange(min=0), help="Let so many pass first.")
@click.option(
    "--instance",
    metavar="ID|NAME",
    help="Only this instance (* stands for any), or requests that name it.",
)
@click.option("--seconds", type=float, help="How late, how far off, or how long.")
@click.option("--free", type=SIZE, help="What disk-full leaves (0).")
@click.option("--seed", type=int, help="The same draws for the same seed.")
@_json_option
def add(kind: str, json: bool, **words: object) -> None:  # noqa: FBT001 (a flag)
    """Order one fault."""
    out = Output(json=json)
    said = ask("POST", "faults", {"kind": kind, **words})
    out.document(said)
    if "id" in said:
        out.line(f"{said['id']}: {kind} (seed {said['seed']})")
    if "sessions" in said:
        out.line(f"{kind}: {said['sessions']} sessions")
    if kind == "port-closed":
        out.line(f"{kind}: for {said['seconds']:g} s")
    for instance_id, count in said.get("instances", {}).items():
        out.line(f"{kind}: {instance_id}{'' if count else ' (nothing there to strike)'}")


@fault.command("list")
@_json_option
def list_(json: bool) -> None:  # noqa: FBT001 (a flag)
    """Show the rules, and how often each struck."""
    out = Output(json=json)
    found = ask("GET", "faults")
    out.document(found)
    rows = [[*_row(one)] for one in found["faults"]]
    if rows:
        out.table(["id", "kind", "requests", "how", "matched", "struck"], rows)
    else:
        out.line("no rules stand")


def _row(rule: Mapping[str, Any]) -> list[str]:
    how = [
        f"{name} {rule[name]:g}"
        for name, usual in (("probability", 1), ("count", None), ("after", 0), ("seconds", None))
        if rule[name] != usual
    ]
    how += [*rule["instance_ids"], *(["spent"] if rule["spent"] else []), f"seed {rule['seed']}"]
    figures = [str(rule["matched"]), str(rule["struck"])]
    return [rule["id"], rule["kind"], rule["operation"], ", ".join(how), *figures]


@fault.command()
@click.argument("rule_id", metavar="[ID]", required=False)
@_json_option
def clear(rule_id: str | None, json: bool) -> None:  # noqa: FBT001 (a flag)
    """Take back one rule, or all of them."""
    out = Output(json=json)
    gone = ask("DELETE", f"faults/{rule_id}" if rule_id else "faults")
    out.document(gone)
    out.line(f"cleared: {', '.join(gone['cleared']) or 'nothing'}")

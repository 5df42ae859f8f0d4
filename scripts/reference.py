"""What the documentation takes from the program: cog runs these, scripts/test checks the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from poormanray.cli import COMMANDS, pmr
from poormanray.errors import ExitCode

REPO = Path(__file__).resolve().parent.parent
WIDTH = 88

MEANINGS = {
    ExitCode.OK: "Done, or there was nothing left to do.",
    ExitCode.WORK_FAILED: "The work ran and failed somewhere, or was cancelled.",
    ExitCode.USAGE: "The command line makes no sense, or what it names cannot be read or written.",
    ExitCode.NOT_FOUND: "No such cluster, instance, job or task.",
    ExitCode.NOT_REACHED: "An instance was not ready, did not take the work, or was lost.",
    ExitCode.AWS_REFUSED: "AWS said no: credentials, permission, quota, capacity.",
    ExitCode.BUG: "A bug in `pmr`.",
    ExitCode.TIMED_OUT: "Every failure was a timeout.",
    ExitCode.HUNG_UP: "SIGHUP, as a terminal that closes sends it; as for 130, the work goes on.",
    ExitCode.INTERRUPTED: "Interrupted; the work goes on, and the command to watch it is printed.",
    ExitCode.READER_GONE: "Nobody reads stdout any more (`head` has ended, say); the work goes on.",
    ExitCode.TERMINATED: "SIGTERM; as for 130, the work goes on.",
}


def commands() -> Iterator[tuple[str, click.Command, str]]:
    """Yield every command that the help shows: name, command, one line."""
    for name, row in COMMANDS.items():
        if not row.help:
            continue
        command = pmr.get_command(click.Context(pmr), name)
        if command is None:
            raise LookupError(name)
        yield f"pmr {name}", command, row.help


def command_table() -> str:
    """Return the README's table of commands."""
    lines = ["| command | what it does |", "| --- | --- |"]
    for name, _command, line in commands():
        anchor = name.replace(" ", "-")
        lines.append(f"| [`{name}`](docs/commands.md#{anchor}) | {line} |")
    return "\n".join(lines)


def exit_code_table() -> str:
    """Return the README's table of exit codes."""
    lines = ["| code | meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {MEANINGS[code]} |" for code in ExitCode]
    return "\n".join(lines)


def command_pages() -> str:
    """Return the help of every command, groups' own commands included."""
    pages = [_page("pmr", pmr)]
    for name, command, _line in commands():
        pages += _pages(name, command)
    return "\n\n".join(pages)


def demo_session() -> str:
    """Return the session that `scripts/demo --record docs/demo-session.txt` wrote."""
    return "```console\n" + (REPO / "docs/demo-session.txt").read_text().rstrip() + "\n```"


def _pages(name: str, command: click.Command) -> Iterator[str]:
    yield _page(name, command)
    if isinstance(command, click.Group):
        for below, part in command.commands.items():
            yield from _pages(f"{name} {below}", part)


def _page(name: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=WIDTH, help_option_names=["-h", "--help"]
    )
    return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```"

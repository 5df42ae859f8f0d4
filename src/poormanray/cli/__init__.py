"""The program `pmr`: a table of commands, and the one place where every error ends.

A command's module is imported when the command is asked for, not before: help, version and
completion of command names need click and this page only.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import click

from poormanray import __version__
from poormanray.errors import ExitCode, PmrError, UsageProblem

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from poormanray.cli.output import Output

# What a shell reports of a program that SIGPIPE ended: 128 + 13.
_PIPE_CLOSED = 141


class ReaderGone(Exception):
    """Nobody reads stdout any more: `pmr list | head` is no error."""


@dataclass(frozen=True, slots=True)
class Row:
    """One command: where it is, and its line in the help (hidden if empty)."""

    where: str
    help: str


COMMANDS = {
    "create": Row("poormanray.cli.create:create", "Launch instances, and wait for their agents."),
    "list": Row("poormanray.cli.cluster:list_", "Show the instances of one cluster, or of all."),
    "wait": Row("poormanray.cli.cluster:wait", "Wait until every instance can take work."),
    "run": Row("poormanray.cli.run:run", "Run one command or script on every instance."),
    "map": Row(
        "poormanray.cli.map:map_", "Spread tasks over the instances: scripts, arrays, lines, JSON."
    ),
    "jobs": Row("poormanray.cli.jobs:jobs", "List the jobs of a cluster."),
    "status": Row("poormanray.cli.status:status", "Show how far a job and its tasks are."),
    "logs": Row("poormanray.cli.logs:logs", "Print or follow what tasks write."),
    "cancel": Row("poormanray.cli.jobs:cancel", "End the tasks of a job."),
    "retry": Row("poormanray.cli.again:retry", "Run tasks of a map again that did not succeed."),
    "results": Row("poormanray.cli.results:results", "Collect every log, and a job log."),
    "report": Row("poormanray.cli.report:report", "Write a job as one page, to look at or keep."),
    "pause": Row("poormanray.cli.cluster:pause", "Stop the instances; their disks stay."),
    "resume": Row("poormanray.cli.cluster:resume", "Start paused instances again."),
    "terminate": Row("poormanray.cli.cluster:terminate", "End the instances for good."),
    "local": Row("poormanray.cli.local:local", "Start, stop and inspect the local cloud."),
    "version": Row("poormanray.cli:version", "Print the version."),
    "ssh": Row("poormanray.cli:ssh", ""),
}


class Commands(click.Group):
    """A group that knows its commands by name, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the names that the help shows, in its order."""
        return [name for name, row in COMMANDS.items() if row.help]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        """Import and return one command."""
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, _, attribute = row.where.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{row.where} is not a command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the words start with; a near miss is answered with a guess."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}{guess}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; click would turn a closed pipe into exit code 1, work that failed."""
        try:
            answer: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        return answer

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help's list of commands from the table."""
        rows = [(name, COMMANDS[name].help) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command from the table, or an option of the program."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=COMMANDS[name].help)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--local", is_flag=True, envvar="PMR_LOCAL", help="Talk to the local cloud, not AWS.")
@click.version_option(__version__, prog_name="pmr", message="%(prog)s %(version)s")
def pmr(local: bool) -> None:  # noqa: FBT001 (each command reads it from the root context)
    """Turn a group of EC2 instances into one place to run work, without SSH."""


@click.command(short_help=COMMANDS["version"].help)
@click.option("--json", is_flag=True, help="Print JSON on stdout.")
def version(json: bool) -> None:  # noqa: FBT001 (a flag of the command line)
    """Print the version."""
    from poormanray.cli.output import Output

    out = Output(json=json)
    out.line(f"pmr {__version__}")
    out.document({"version": __version__})


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def ssh(words: tuple[str, ...]) -> NoReturn:  # noqa: ARG001 (whatever was meant for ssh)
    """Say what to use, as there is no SSH."""
    raise UsageProblem(
        "poormanray uses no SSH: everything goes through AWS Systems Manager",
        "pmr run -n NAME -i ID -- COMMAND runs a command on one instance and shows its output",
    )


def _wants_json(words: Sequence[str]) -> bool:
    """Say whether `--json` was given; asked of the words, as they may be what is wrong."""
    ours = words[: words.index("--")] if "--" in words else words
    return "--json" in ours


def _bad_words(error: click.ClickException) -> UsageProblem:
    """Turn click's complaint into one of ours, which says where the help is."""
    ctx = getattr(error, "ctx", None)
    return UsageProblem(error.format_message(), f"{ctx.command_path if ctx else 'pmr'} --help")


def _ended(error: BaseException, out: Output) -> int:
    """Report an error that ended a command, and return its exit code."""
    code: int = ExitCode.BUG
    if os.environ.get("PMR_DEBUG"):
        traceback.print_exception(error)
    match error:
        case click.exceptions.NoArgsIsHelpError():
            for line in error.format_message().splitlines():
                out.note(line)
            code = ExitCode.USAGE
        case click.ClickException():
            out.failure(_bad_words(error))
            code = ExitCode.USAGE
        case PmrError():
            out.failure(error)
            code = error.exit_code
        case click.Abort() | KeyboardInterrupt():
            code = ExitCode.INTERRUPTED
        case ReaderGone():
            # What Python still holds back for stdout goes nowhere, without another error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = _PIPE_CLOSED
        case _:
            text = f"a bug in poormanray: {type(error).__name__}: {error}"
            out.failure(PmrError(text, "set PMR_DEBUG=1 for the traceback"))
    return code


def _outcome(words: Sequence[str]) -> int:
    """Run the words as a command, and return the exit code."""
    from poormanray.cli.output import Output

    try:
        answer: Any = pmr.main(args=list(words), prog_name="pmr", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the one broad except, at the top)
        return _ended(error, Output(json=_wants_json(words)))
    return answer if isinstance(answer, int) else ExitCode.OK


def main() -> NoReturn:
    """Run the program: the words of the command line in, an exit code out."""
    # Nearly all that a command makes (a tenth of a second of it AWS's models) lives to its end.
    gc.set_threshold(50_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(int(_outcome(sys.argv[1:])))

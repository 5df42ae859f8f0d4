"""The program `pmr`: a table of commands, and the one place where every error ends.

A command's module is imported when the command is asked for, not before: help, version and
completion of command names need click and this page only.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from poormanray import __version__
from poormanray.errors import (
    ExitCode,
    PmrError,
    ReaderGone,
    Signalled,
    Unwritable,
    UsageProblem,
    interruption,
)

if TYPE_CHECKING:
    from types import FrameType

    from click.shell_completion import CompletionItem


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
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone("nobody reads what is written any more") from error

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


def _ended(error: BaseException, *, json: bool) -> int:
    """Report an error that ended a command, and return its exit code."""
    from poormanray.cli.output import Output

    if os.environ.get("PMR_DEBUG"):
        traceback.print_exception(error)
    out = Output(json=json)
    code: int = ExitCode.BUG
    match error:
        case click.exceptions.NoArgsIsHelpError():
            for line in error.format_message().splitlines():
                out.note(line)
            code = ExitCode.USAGE
        case click.ClickException():
            out.failure(_bad_words(error))
            code = ExitCode.USAGE
        case ReaderGone():
            code = error.exit_code
        case Unwritable():
            # It may be stdout itself that cannot be written.
            Output(json=json and not out.lost_stdout).failure(error)
            code = error.exit_code
        case PmrError():
            out.failure(error)
            code = error.exit_code
        case OSError() | MemoryError():
            problem = _of_this_machine(error)
            out.failure(problem)
            code = problem.exit_code
        case click.Abort() | KeyboardInterrupt():
            word, code = interruption(_interrupt(error))
            out.note(f"{word} before it was done")
        case _:
            text = f"a bug in poormanray: {type(error).__name__}: {error}"
            out.failure(PmrError(text, "set PMR_DEBUG=1 for the traceback"))
    return code


def _of_this_machine(error: OSError | MemoryError) -> UsageProblem:
    """Explain what this machine refused to the program: no command knows of it beforehand."""
    try:
        Path.cwd()
    except OSError:
        return UsageProblem("the working directory is gone", "cd to another one, then repeat it")
    if isinstance(error, MemoryError):
        return UsageProblem("this machine has no memory left", "end other programs, then repeat it")
    where = f"{error.filename}: " if error.filename else ""
    return UsageProblem(
        f"this machine does not allow it: {where}{error.strerror or error}",
        "check files, rights, space and limits here; PMR_DEBUG=1 shows where it failed",
    )


def _interrupt(error: BaseException) -> KeyboardInterrupt:
    """Return what interrupted a command; click puts an error of its own around it."""
    inner = error.__cause__ if isinstance(error, click.Abort) else error
    return inner if isinstance(inner, KeyboardInterrupt) else KeyboardInterrupt()


def _outcome(words: Sequence[str]) -> int:
    """Run the words as a command, and return the exit code."""
    try:
        answer: Any = pmr.main(args=list(words), prog_name="pmr", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (the one broad except, at the top)
        return _ended(error, json=_wants_json(words))
    return answer if isinstance(answer, int) else ExitCode.OK


def _heed_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, with a word on what goes on.

    One that whoever started the program ignores (nohup) stays ignored.
    """

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise Signalled(ExitCode.TERMINATED if number == signal.SIGTERM else ExitCode.HUNG_UP)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def main() -> NoReturn:
    """Run the program: the words of the command line in, an exit code out."""
    from poormanray.cli.output import open_streams

    # Nearly all that a command makes (a tenth of a second of it AWS's models) lives to its end.
    gc.set_threshold(50_000, 20, 20)
    open_streams()
    _heed_signals()
    sys.exit(int(_outcome(sys.argv[1:])))

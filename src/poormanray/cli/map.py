"""`pmr map`: a directory of scripts, spread over the instances."""

from __future__ import annotations

from dataclasses import replace

import click

from poormanray.cli.again import join, reassign_option, resume, retries_option
from poormanray.cli.elements import Elements, Sources
from poormanray.cli.elements import program as program_of
from poormanray.cli.headers import Manners, declared, slots_word
from poormanray.cli.inputs import Program, collect_scripts
from poormanray.cli.mapping import MapWatcher, Progress
from poormanray.cli.options import (
    App,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    ssh_key_option,
)
from poormanray.cli.planned import show_plan
from poormanray.cli.rules import RuleWords, rule_options
from poormanray.cli.working import JobWords, Submission, job_options, seconds_of
from poormanray.errors import UsageProblem
from poormanray.jobs.halt import Halt, parse_halt
from poormanray.jobs.moving import Turns
from poormanray.jobs.track import Wanted
from poormanray.model import Selection


def _slots(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return None if value is None else slots_word(value)


def _halt(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Halt | None:
    try:
        return None if value is None else parse_halt(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _program(
    elements: Elements | None,
    command: str | None,
    scripts: tuple[str, ...],
    words: tuple[str, ...],
) -> Program:
    """Return what the tasks run: scripts of directories, or one command for each entry."""
    if elements is not None:
        if len(scripts) > 1:
            raise UsageProblem("-s twice: each entry gets one script", "leave one out")
        script = scripts[0] if scripts else None
        return program_of(elements, command=command, script=script, words=words)
    if command:
        raise UsageProblem(
            "-c says what to run, but not for what",
            "add --array, --each-line, --from-json or ::: ENTRY...",
        )
    if not scripts + words:
        raise UsageProblem("say which directory of scripts to map", "pmr map -n NAME DIR")
    return collect_scripts(scripts + words)


@click.command("map")
@cluster_option
@instance_option
@click.option("-c", "--command", help="Command line for each entry; `{}` is the entry.")
@click.option(
    "-s",
    "--script",
    "scripts",
    multiple=True,
    metavar="PATH",
    help="Directory of scripts; over entries: the script that each of them gets.",
)
@click.option("--array", metavar="IDS", help="Map over numbers: 0-99, 1-7:2, 1,3,9 or 0-99%8.")
@click.option("--each-line", metavar="FILE", help="Map over the lines of a file (`-`: stdin).")
@click.option("--from-json", metavar="FILE", help="Map over a JSON list or JSON Lines.")
@click.option(
    "--slots",
    callback=_slots,
    help="Tasks at a time on each instance (default: 1); `auto`: one for each CPU.",
)
@rule_options
@retries_option
@click.option(
    "--halt",
    callback=_halt,
    metavar="WHEN",
    help="Stop at failures: now,fail=1 ends what runs; soon,fail=10% lets it end.",
)
@click.option(
    "--compat",
    type=click.Choice(["slurm", "batch", "coiled"]),
    help="Give tasks that scheduler's variables too.",
)
@click.option(
    "--static",
    is_flag=True,
    help="Keep the even spread: no task moves, and what fails is retried where it ran.",
)
@detach_option
@job_options
@click.option(
    "--resume", "earlier", metavar="JOB", help="Go on with a map: what did not succeed runs again."
)
@click.option(
    "--changed", is_flag=True, help="With --resume: scripts and entries may differ from JOB's."
)
@click.option(
    "--join",
    "joined",
    metavar="JOB",
    help="Watch a running map, and let instances that came since take part.",
)
@reassign_option
@click.option("--dry-run", is_flag=True, help="Show the tasks and their spread; send nothing.")
@ssh_key_option
@click.argument("words", nargs=-1, metavar="[DIR]... | [-- CMD {}] [::: ENTRY...]")
@aws_options
def map_(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    instance_ids: tuple[str, ...],
    command: str | None,
    scripts: tuple[str, ...],
    array: str | None,
    each_line: str | None,
    from_json: str | None,
    slots: str | None,
    holding: RuleWords,
    retries: int | None,
    halt: Halt | None,
    compat: str | None,
    static: bool,
    detach: bool,
    asked: JobWords,
    earlier: str | None,
    changed: bool,
    joined: str | None,
    reassign: bool,
    dry_run: bool,
    words: tuple[str, ...],
) -> int:
    """Spread tasks over the instances: a directory of scripts, or one command for many entries."""
    elements, before = Sources(array, each_line, from_json).read(words)
    if joined is not None:
        if elements or before or command or scripts or earlier:
            raise UsageProblem("--join takes a job as it is", "pmr map --join JOB")
        return join(app, name, joined, wait_timeout=asked.wait_timeout, reassign=reassign)
    given = earlier is None or bool(elements or before or command or scripts)
    program = _program(elements, command, scripts, before) if given else None
    said = Manners(slots, retries, asked.timeout).over(declared(program.scripts if program else ()))
    _check(detach=detach, halt=halt)
    if changed and earlier is None:
        raise UsageProblem("--changed belongs to --resume", "pmr map --resume JOB DIR --changed")
    if earlier is not None:
        went_on = resume(
            app,
            name,
            earlier,
            program,
            changed=changed,
            retries=said.retries or 0,
            wait_timeout=asked.wait_timeout,
            reassign=reassign,
        )
        if isinstance(went_on, int):
            return went_on
        program = went_on
    at_once = elements.at_once if elements else 0
    work = asked.work("map", program or Program((), ()), slots=said.slots or "1", at_once=at_once)
    # With nobody to choose another instance, each gives its own tasks their turns.
    alone = (said.retries or 0) if detach or static else 0
    rules = holding.rules(retries=alone, timeout=said.timeout)
    work = replace(work, timeout_s=seconds_of(said.timeout), compat=compat or "", rules=rules)
    turns = Turns(said.retries or 0, reassign=reassign)
    manner = asked.manner(detach=detach, turns=None if static else turns)
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    if dry_run:
        return show_plan(app.out, submission.job)
    return _watched(submission, detach=detach, halt=halt)


def _check(*, detach: bool, halt: Halt | None) -> None:
    """Refuse what nobody would decide on.

    Raises:
        UsageProblem: there is a halt, and nobody who watches.
    """
    if halt and detach:
        raise UsageProblem("--halt needs a client that watches", "leave out -d")


def _watched(submission: Submission, *, detach: bool, halt: Halt | None) -> int:
    follower = submission.follower(Wanted())
    total = len(submission.job.tasks)
    progress = None if detach else Progress(submission.app.aws.clock, total)
    watcher = MapWatcher(submission.app.out, progress=progress)
    code = submission.watch(follower, watcher, halt)
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    return submission.conclude(follower, own_code=False)

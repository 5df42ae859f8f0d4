"""`pmr map`: a directory of scripts, spread over the instances."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePath

import click
from click.core import ParameterSource

from poormanray.cli.again import (
    Onward,
    halt_option,
    join,
    reassign_option,
    refuse,
    resume,
    retries_option,
    trust_backups_option,
)
from poormanray.cli.chaining import Chain, Ending, chain_options
from poormanray.cli.elements import Elements, Sources
from poormanray.cli.elements import program as program_of
from poormanray.cli.headers import Manners, Slurm, declared, slots_word, slurm
from poormanray.cli.inputs import Program, Say, collect_scripts, read_file
from poormanray.cli.jobs import job_id_of
from poormanray.cli.mapping import MapWatcher, Progress
from poormanray.cli.options import (
    App,
    Command,
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
from poormanray.jobs.halt import Halt
from poormanray.jobs.moving import Turns
from poormanray.jobs.submit import Work
from poormanray.jobs.track import Wanted
from poormanray.model import Selection

# What a job has from the start: an option that goes on with one cannot choose it any more.
NEW_ONLY = {
    *("instance_ids", "slots", "compat", "static", "detach", "user", "timeout"),
    *("bucket", "deliver_timeout", "env", "files", "job_name", "job_id", "max_load", "memfree"),
}
_COLUMNS = "--each-line FILE, and let the task split $PMR_ENTRY"
_SLOTS = "--slots N runs N tasks at a time on each instance (auto: one for each CPU)"
_LOG = "pmr results JOB -o DIR writes joblog.tsv and all logs"
# Options of GNU parallel, and what to type instead.
_OF_PARALLEL = {
    **dict.fromkeys(("-j", "--jobs", "-P", "--max-procs"), _SLOTS),
    **dict.fromkeys(("-a", "--arg-file"), "--each-line FILE maps over the lines of a file"),
    **dict.fromkeys(("-C", "--colsep", "--header", "--csv", "--link", "--xapply"), _COLUMNS),
    **dict.fromkeys(
        ("-X", "-m", "-N", "--max-args", "--xargs", "-L", "--pipe", "--pipepart"), _COLUMNS
    ),
    **dict.fromkeys(("--joblog", "--results"), _LOG),
    **dict.fromkeys(("--retry-failed", "--resume-failed"), "pmr retry JOB --failed"),
    "--load": "--max-load 150%",
    **dict.fromkeys(
        ("--eta", "--bar", "--progress"), "pmr status --watch shows rate and time left"
    ),
    **dict.fromkeys(("--tag", "--keep-order", "--group"), "pmr logs JOB shows output by task"),
    **dict.fromkeys(("--sshlogin", "--sshloginfile"), "-n NAME names the cluster to run on"),
}
_SLURM_VARIABLE = re.compile(rb"\$\{?SLURM_[A-Z]")
COMMANDLINE = ParameterSource.COMMANDLINE


def _slots(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return None if value is None else slots_word(value)


def _program(
    elements: Elements | None,
    command: str | None,
    scripts: tuple[str, ...],
    words: tuple[str, ...],
    say: Say,
) -> Program:
    """Return what the tasks run: scripts of directories, or one command for each entry."""
    if elements is not None:
        if len(scripts) > 1:
            raise UsageProblem("-s twice: each entry gets one script", "leave one out")
        script = scripts[0] if scripts else None
        return program_of(elements, say, command=command, script=script, words=words)
    if command:
        raise UsageProblem(
            "-c says what to run, but not for what",
            "add --array, --each-line, --from-json or ::: ENTRY...",
        )
    if not scripts + words:
        raise UsageProblem("say which directory of scripts to map", "pmr map -n NAME DIR")
    return collect_scripts(scripts + words, say)


def _declared(
    program: Program | None, scripts: tuple[str, ...], compat: str, asked: JobWords, say: Say
) -> tuple[Manners, JobWords]:
    """Return how the scripts say that they run, and the options with what they say for Slurm."""
    if program is None:
        return Manners(), asked
    # Scripts of directories are tasks of their own; over entries there is one for all.
    entries = any(task.entry is not None for task in program.tasks)
    names = scripts if entries else [task.name for task in program.tasks]
    found = slurm(program.scripts, names, say, compat=compat == "slurm")
    manners = declared(program.scripts, names).over(Manners(timeout=found.time_s))
    if compat == "slurm":
        asked = _for_slurm(asked, found, scripts[0] if scripts and entries else "map")
    elif _SLURM_VARIABLE.search(b"\n".join(program.scripts)):
        say("the tasks name variables of Slurm, which they have with --compat slurm")
    return manners, asked


def _for_slurm(asked: JobWords, found: Slurm, script: str) -> JobWords:
    """Return the options with the name and the variables of Slurm that no instance can know."""
    name = asked.job_name or found.job_name
    cpus = (("SLURM_CPUS_PER_TASK", found.cpus),) if found.cpus else ()
    ours = (("SLURM_JOB_NAME", name or PurePath(script).name), *cpus)
    return replace(asked, job_name=name, env=(*ours, *asked.env))


def _slurm_array(scripts: tuple[str, ...], words: tuple[str, ...], compat: str) -> str | None:
    """Return the array that the only script asks for in an #SBATCH line, if it does."""
    if compat != "slurm" or words or len(scripts) != 1 or not Path(scripts[0]).is_file():
        return None
    return slurm([read_file(Path(scripts[0]))], (), lambda _line: None, compat=True).array or None


class _Map(Command):
    """Answers options of GNU parallel with what there is instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; name what to type instead of an option of GNU parallel."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = _OF_PARALLEL.get(error.option_name)
            if instead is None:
                raise
            raise UsageProblem(
                f"{error.option_name} is an option of GNU parallel, not of pmr map", instead
            ) from error


@click.command("map", cls=_Map)
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
@halt_option
@click.option(
    "--compat",
    type=click.Choice(["slurm", "batch", "coiled"]),
    help="Give tasks that scheduler's variables too; slurm: take #SBATCH lines.",
)
@click.option(
    "--static",
    is_flag=True,
    help="Keep the even spread: no task moves, and what fails is retried where it ran.",
)
@detach_option
@job_options
@chain_options
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
@trust_backups_option
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
    chain: Chain,
    earlier: str | None,
    changed: bool,
    joined: str | None,
    reassign: bool,
    trust_backups: bool,
    dry_run: bool,
    words: tuple[str, ...],
) -> int:
    """Spread tasks over the instances: a directory of scripts, or one command for many entries."""
    say = app.out.note
    if (array, each_line, from_json, command) == (None, None, None, None):
        array = _slurm_array(scripts, words, compat or "")
    elements, before = Sources(array, each_line, from_json).read(words, say)
    wait_s, lost_s = asked.wait_timeout or 0.0, asked.lost_after or 0.0
    if joined is not None:
        how = Onward(retries or 0, wait_s, lost_s, halt, chain, dry_run, reassign, trust_backups)
        given = bool(elements or before or command or scripts or earlier)
        return _joined(app, name, joined, how, given=given)
    given = earlier is None or bool(elements or before or command or scripts)
    program = _program(elements, command, scripts, before, say) if given else None
    manners, asked = _declared(program, scripts, compat or "", asked, say)
    said = Manners(slots, retries, asked.timeout).over(manners)
    fixed = _check_going_on(earlier, changed=changed)
    _check(chain, detach=detach, halt=halt)
    if chain.after and not dry_run:
        earlier = earlier and job_id_of(app, name, earlier)
        if (code := chain.wait(app, name)) is not None:
            return code
    onward = Onward(
        said.retries or 0, wait_s, lost_s, halt, chain, dry_run, reassign, trust_backups, fixed
    )
    if earlier is not None:
        went_on = resume(app, name, earlier, program, changed=changed, onward=onward)
        if isinstance(went_on, int):
            return went_on
        program = went_on
    at_once = elements.at_once if elements else 0
    program = program or Program((), ())
    work = asked.work("map", program, say, slots=said.slots or "1", at_once=at_once)
    # With nobody to choose another instance, each gives its own tasks their turns.
    alone = (said.retries or 0) if detach or static else 0
    rules = holding.rules(retries=alone, timeout=said.timeout)
    work = replace(work, timeout_s=seconds_of(said.timeout), compat=compat or "", rules=rules)
    turns = Turns(said.retries or 0, reassign=reassign, trust_backups=trust_backups)
    manner = asked.manner(detach=detach, turns=None if static else turns)
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    if dry_run:
        return show_plan(app.out, submission.job, asked.bucket, program.shown)
    return _watched(submission, work, chain, detach=detach, halt=halt)


def _joined(app: App, name: str, job: str, how: Onward, *, given: bool) -> int:
    """Watch a running map; `given` says that the command line names what to map, too."""
    if given or how.chain.after:
        raise UsageProblem("--join takes a job as it is", "pmr map --join JOB")
    refuse(_fixed(), job)
    how.chain.check(detach=bool(click.get_current_context().params["detach"]))
    return join(app, name, job, how)


def _check_going_on(earlier: str | None, *, changed: bool) -> tuple[str, ...]:
    """Return the options that hold for a new job only, where a map is to go on.

    Raises:
        UsageProblem: there are such, and the job goes on as it is; or no job is named.
    """
    if earlier is None:
        if changed:
            hint = "pmr map --resume JOB DIR --changed"
            raise UsageProblem("--changed belongs to --resume", hint)
        return ()
    fixed = _fixed()
    if not changed:
        refuse(fixed, earlier)
    return fixed


def _fixed() -> tuple[str, ...]:
    """Return the options that were given and hold for a new job only."""
    context = click.get_current_context()
    return tuple(
        one.opts[-1]
        for one in context.command.params
        if one.name in NEW_ONLY
        and context.params[one.name]
        and context.get_parameter_source(one.name) is COMMANDLINE
    )


def _check(chain: Chain, *, detach: bool, halt: Halt | None) -> None:
    """Refuse what nobody would decide on.

    Raises:
        UsageProblem: there is a halt, or something before or after the job, and nobody watches.
    """
    chain.check(detach=detach)
    if halt and detach:
        raise UsageProblem("--halt needs a client that watches", "leave out -d")


def _watched(
    submission: Submission, work: Work, chain: Chain, *, detach: bool, halt: Halt | None
) -> int:
    app, follower = submission.app, submission.follower(Wanted())
    total = len(submission.job.tasks)
    progress = None if detach else Progress(app.aws.clock, total)
    watcher = MapWatcher(app.out, names=submission.job.task_names, progress=progress)
    code = chain.watched(app, lambda: submission.watch(follower, watcher, halt))
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    ending = Ending(app, submission.job.cluster, submission.job.job_id, work.user, work.env)
    return submission.conclude(follower, own_code=False, then=chain.then(ending))

"""`pmr run`: one command or script on every instance."""

from __future__ import annotations

from dataclasses import replace

import click

from poormanray.cli.chaining import Chain, Ending, chain_options
from poormanray.cli.headers import Manners, declared, slurm
from poormanray.cli.inputs import Program, Say, check_stdin, script_file
from poormanray.cli.options import (
    App,
    Command,
    aws_options,
    cluster_option,
    detach_option,
    instance_option,
    ssh_key_option,
)
from poormanray.cli.watching import Watcher
from poormanray.cli.working import JobWords, Submission, job_options, parallelism_option
from poormanray.errors import UsageProblem
from poormanray.jobs.track import Wanted
from poormanray.model import Selection
from poormanray.shell import command_script, shell_words, words_script


def _script(command: str | None, script: str | None, words: tuple[str, ...], say: Say) -> bytes:
    given = [word for word in (command, script, words) if word]
    if len(given) != 1:
        raise UsageProblem(
            "say what to run, in exactly one way: -c 'COMMAND', -s FILE, or -- COMMAND ARG…",
            "pmr run --help",
        )
    if command or words:
        check_stdin(command or shell_words(words), say)
    if command:
        return command_script(command)
    if script:
        return script_file(script, say)
    return words_script(words)


def _as_declared(asked: JobWords, manners: Manners, say: Say) -> JobWords:
    """Return the options with the time limit that the script names, if they name none."""
    for word, given in (("retries", manners.retries), ("slots", manners.slots)):
        if given is not None:
            say(f"the script's line `#PMR {word}` has no effect: that is for `pmr map`")
    return replace(asked, timeout=manners.timeout) if asked.timeout is None else asked


@click.command(cls=Command)
@cluster_option
@instance_option
@click.option("-c", "--command", help="Command line, run by bash.")
@click.option("-s", "--script", metavar="FILE", help="Any executable: a script or a binary.")
@parallelism_option
@detach_option
@job_options
@chain_options
@click.option(
    "--no-prefix", is_flag=True, help="Show output as it is, without [name] before lines."
)
@ssh_key_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@aws_options
def run(  # noqa: PLR0913 (one for each option)
    app: App,
    *,
    name: str,
    instance_ids: tuple[str, ...],
    command: str | None,
    script: str | None,
    parallelism: int | None,
    detach: bool,
    asked: JobWords,
    chain: Chain,
    no_prefix: bool,
    words: tuple[str, ...],
) -> int:
    """Run one command or script on every instance, and show what it writes.

    On one instance the exit code is the command's own; on several it is 0 only if it was 0 on
    all of them.
    """
    if detach and parallelism:
        raise UsageProblem(
            "-j needs somebody who watches, and -d does not watch", "leave out one of -d and -j"
        )
    chain.check(detach=detach)
    say = app.out.note
    program = Program((_script(command, script, words, say),))
    if script:
        slurm(program.scripts, (script,), say, compat=False)
        asked = _as_declared(asked, declared(program.scripts, (script,)), say)
    work = asked.work("run", program, say)
    manner = asked.manner(detach=detach, parallelism=parallelism)
    if (code := chain.wait(app, name)) is not None:
        return code
    submission = Submission(app, work, Selection(name, instance_ids), manner)
    wanted = Wanted(logs=None if detach else lambda _task: True)
    follower = submission.follower(wanted)
    watcher = Watcher(app.out, prefix=not no_prefix)
    code = chain.watched(app, lambda: submission.watch(follower, watcher))
    if code is not None:
        return code
    if detach:
        return submission.detached(follower)
    alone = len(submission.job.hosts) == 1
    then = chain.then(Ending(app, name, submission.job.job_id, work.user, work.env))
    left_out = len(submission.fleet.left_out)
    return submission.conclude(follower, own_code=alone, left_out=left_out, then=then)

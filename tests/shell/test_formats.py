"""Ledgers of other formats are refused by name, and instances that lack a command say which."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from poormanray import __version__, shell
from poormanray.ledger import LEDGER_FORMAT, EventLog, TaskState
from poormanray.manifest import decode_meta
from poormanray.remote import unable
from tests.support.machine import ME, Machine, made, with_program

# One job's ledger as each format has it; the jobs of all formats have the same id and tasks.
LEDGERS = Path(__file__).parents[1] / "ledgers"
FORMATS = sorted(int(folder.name) for folder in LEDGERS.iterdir())
JOB = "1ma7k0d0abc"
ROW = {ME: f"0 0 0 {shell.LARGE_ANSWER_CHARS} 0.1:0"}
CALLS = {
    "observe": shell.Call("observe", (JOB,), 0, ROW),
    "start": shell.Call("start", (JOB,), 0, ROW),
    "ends": shell.Call("ends", (f"id:{JOB}", "-"), 0, ROW),
    "which by id": shell.Call("which", (f"id:{JOB}", "c"), 0, ROW),
    "which is the last": shell.Call("which", ("last", "c"), 0, ROW),
    "which by name": shell.Call("which", ("name:bmFtZWQ=", "c"), 0, ROW),
    "summary": shell.Call("summary", ("last", "c", "3"), 0),
    "queue": shell.Call("queue", (JOB,), 0, {ME: "0 1.2 - resume"}),
    "cancel": shell.Call("cancel", (JOB, "-", "0"), 0),
    "outputs": shell.Call("outputs", (JOB, "*", "999"), 0, {ME: ""}),
}


def placed(machine: Machine, number: int, change: str = "") -> Path:
    """Put a ledger of that format into a machine, or one that says that it is of another."""
    ledger = machine.root / "jobs" / JOB
    shutil.copytree(LEDGERS / str(number), ledger)
    for name in ("claims", "holes", "slots", "why"):
        (ledger / name).mkdir(exist_ok=True)
    if change:
        (ledger / "format").write_text(change)
    return ledger


def contents(folder: Path) -> dict[Path, bytes]:
    return {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_there_is_a_ledger_of_each_format() -> None:
    assert list(range(1, LEDGER_FORMAT + 1)) == FORMATS
    text = Path(shell.__file__).with_name("ledger.sh").read_text()
    assert f"\nLEDGER_FORMAT={LEDGER_FORMAT}\n" in text


def test_a_new_ledger_says_its_format_and_who_wrote_it(machine: Machine) -> None:
    machine.start(job := made("true"))
    assert (machine.ledger(job) / "format").read_text() == f"{LEDGER_FORMAT} {__version__}\n"


def test_a_ledger_of_the_newest_format_is_read(machine: Machine) -> None:
    placed(machine, LEDGER_FORMAT)
    answer = machine.send(CALLS["observe"])
    log = EventLog()
    assert answer.events is not None
    log.read(answer.events)
    assert [log.newest[task].state for task in (0, 1)] == [TaskState.SUCCEEDED, TaskState.FAILED]
    assert log.damaged_lines == 0
    ((_, told),) = machine.send(CALLS["summary"]).jobs
    assert b"n_succeeded=1\nn_failed=1\n" in told
    ((_, meta),) = machine.send(shell.Call("jobs", ("9",), 0)).jobs
    assert dict(decode_meta(meta).counts)["failed"] == 1


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", ["99 9.8.7", "3 0.2.0", "", *map(str, FORMATS[:-1])])
def test_a_ledger_of_another_format_is_refused_and_left_alone(
    machine: Machine, form: str, call: str
) -> None:
    old = form.isdecimal()
    ledger = placed(machine, int(form) if old else LEDGER_FORMAT, "" if old else f"{form}\n")
    before = contents(ledger)
    words = CALLS[call]
    if call == "start":
        words = replace(words, bundle=shell.Bundle(b"", ""))
    refused = machine.send(words).facts["refused"]
    number, _, version = form.partition(" ")
    assert refused == f"format {JOB} {number or 0} {version or '-'}"
    why = unable(refused)
    assert f"format {number or 0}" in why
    assert f"format {LEDGER_FORMAT}" in why
    assert (f"install poormanray {version}" in why) == bool(version)
    assert contents(ledger) == before


def test_lists_of_jobs_go_past_a_ledger_of_another_format(machine: Machine) -> None:
    ledger = placed(machine, LEDGER_FORMAT, "99 9.8.7\n")
    machine.run(job := made("true"))
    before = contents(ledger)
    answer = machine.send(shell.Call("jobs", ("9",), 0))
    assert [one for one, _ in answer.jobs] == [job.job_id]
    assert answer.facts[f"foreign.{JOB}"] == "99 9.8.7"
    told = machine.send(shell.Call("prune", ("look_over", "c", "0", "0", "9"), 0)).facts
    assert told[f"job.{JOB}"].endswith(" format")
    told = machine.send(shell.Call("prune", ("remove", JOB), 0)).facts
    assert told[f"job.{JOB}"].endswith(" format")
    assert contents(ledger) == before


# --- what an instance lacks ---------------------------------------------------------------------

SHELL = Path(shell.__file__).parent
# Without these everything goes on, or whoever needs them says so by itself.
SPARED = {"chroot", "curl", "screen", "sh", "systemctl", "systemd-run"}
NEEDED = re.search(r"for needed in ([^;]*);", (SHELL / "send.sh").read_text())
NEEDED_NAMES = NEEDED[1].replace("\\\n", "").split() if NEEDED else []
# Where a command can stand: at the start of one, or after words that run others.
BEFORE = (
    r"(?:^|[;&|({!]|\$\(|<\(|\b(?:then|do|else|exec|patiently|if|while|until)|"
    r"timeout [0-9]+|env -i)\s*"
)


def programs() -> set[str]:
    """Return the names of all programs that are installed here."""
    folders = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
    return {one.name for folder in folders for one in Path(folder).iterdir()}


def started() -> set[str]:
    """Return the names of programs that the shell files start."""
    found = set()
    for file in SHELL.glob("*.sh"):
        text = re.sub(r"(?m)(?:^|\s)#.*$", "", file.read_text()).replace("\\\n", " ")
        for _ in range(3):
            # Sums, conditions and values of variables start nothing; patterns of a case neither.
            text = re.sub(r"\$\{[^{}]*\}|\{[A-Z_a-z]+\}", "", text)
        text = re.sub(r"\$?\(\((?:[^()]|\([^()]*\))*\)\)|\[\[ .*? \]\]", "", text)
        text = re.sub(r"(?m)^\s*[a-z_A-Z |@*]+\)", ";", text)
        # Words that are assigned to the list of a command's beginning are a command, too.
        text = re.sub(r"\b(?:scope|switch|SWITCH|run|clean|entries)=\(", ";", text)
        found |= set(re.findall(rf"(?m)(?={BEFORE}([a-z][a-z0-9-]*)(?![\w=(.]))", text))
    return found & programs()


def builtins() -> set[str]:

    told = subprocess.run(
        ["bash", "-c", "compgen -b; compgen -k"], capture_output=True, text=True, check=True
    )
    return set(told.stdout.split())


def functions() -> set[str]:
    texts = [file.read_text() for file in SHELL.glob("*.sh")]
    return {name for text in texts for name in re.findall(r"(?m)^([a-z_]+)\(\)", text)}


def test_all_that_the_shell_starts_is_asked_for() -> None:
    assert started() - builtins() - functions() - SPARED == set(NEEDED_NAMES)


@pytest.mark.parametrize("name", NEEDED_NAMES)
def test_a_missing_command_is_named(machine: Machine, name: str) -> None:
    lacking = without(machine, {name})
    answer = lacking.start(made("true"))
    assert answer.facts == {"refused": f"missing {name}"}
    assert unable(answer.facts["refused"]).startswith(f"it has no {name}: install it (package ")
    assert not (machine.root / "jobs").exists()


def without(machine: Machine, names: set[str]) -> Machine:
    """Return the machine with all programs but some."""
    folder = machine.folder / "some"
    folder.mkdir()
    for place in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for one in Path(place).iterdir():
            if one.name not in names and not (folder / one.name).is_symlink():
                (folder / one.name).symlink_to(one)
    return replace(machine, path=str(folder))


def test_all_missing_commands_are_named_at_once(machine: Machine) -> None:
    answer = without(machine, {"gzip", "flock", "tail"}).start(made("true"))
    why = unable(answer.facts["refused"])
    assert why == "it has no flock, gzip, tail: install them (package coreutils, gzip, util-linux)"


def test_a_bash_that_is_too_old_is_named(machine: Machine) -> None:
    # No old one is at hand: this one is given another version.
    text = 'sed "s/BASH_VERSINFO/OLD/g" "$1" >"$1.old"; OLD=(4 1 17); . "$1.old"\n'
    old = with_program(machine, "bash", text)
    answer = old.start(made("true"))
    assert answer.facts == {"refused": "bash 4.1"}
    assert unable("bash 4.1") == "its bash is 4.1: install bash 4.2 or newer"
    assert not (machine.root / "jobs").exists()

"""5,000 entries of any text, in every supported shape of a command and in the refused ones."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poormanray.errors import UsageProblem
from poormanray.templates import command_template
from tests.support.shapes import ENTRIES, REFUSED, SUPPORTED, Refused, check, instead, told

BATCH, BATCHES = 40, 125
# Each entry starts the programs that a line names.
FEW = 10
ALL_CHECKS = list(HealthCheck)


@settings(max_examples=BATCHES, suppress_health_check=ALL_CHECKS)
@given(entries=st.lists(ENTRIES, min_size=BATCH, max_size=BATCH))
def _arrive(entries: list[str], folder: Path, seen: list[int]) -> None:
    seen.append(len(entries))
    for shape in SUPPORTED:
        check(shape, entries, folder)


@pytest.mark.timeout(1_500)
def test_entries_arrive_as_they_are_in_every_shape(tmp_path: Path) -> None:
    seen: list[int] = []
    _arrive(folder=tmp_path, seen=seen)
    assert sum(seen) >= BATCH * BATCHES


@pytest.mark.parametrize(
    "refused",
    # What takes numbers only has a test of its own.
    [one for one in REFUSED if one.told is not None and len(one.entries) > 3],
    ids=lambda one: str(one.command),
)
@pytest.mark.timeout(600)
@settings(max_examples=5, suppress_health_check=ALL_CHECKS)
@given(entries=st.lists(ENTRIES, min_size=FEW, max_size=FEW))
def test_the_lines_that_refusals_name_execute_no_entry(
    refused: Refused, entries: list[str], tmp_path: Path
) -> None:
    work, tools = tmp_path / "work", tmp_path / "tools"
    for folder in (work, tools):
        folder.mkdir(exist_ok=True)
    (tools / "ssh").write_text(
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift 2; done\nshift\nexec bash -c "$*"\n'
    )
    (tools / "ssh").chmod(0o755)
    told(command_template(instead(refused), numbers=False), entries, work, f"{tools}:", quiet=False)


# What commands are made of, in any order; most that come of it are refused, or no commands.
PIECES = (
    *(
        "echo ",
        "printf '%s' ",
        "'",
        '"',
        "`",
        "$(",
        ")",
        "$((",
        "))",
        "${x:-",
        "}",
        "\\",
        "\n",
        "#",
    ),
    *(
        "<<E\n",
        "\nE\n",
        "<<'E'\n",
        "; ",
        "| ",
        "&& ",
        " ",
        "x=",
        "[[ ",
        " ]]",
        " == ",
        " -eq ",
        "$x",
    ),
    *(
        "case x in ",
        "x) ",
        ";; ",
        "esac",
        "if ",
        "then ",
        "fi",
        "$'",
        '$"',
        "eval ",
        "sh -c ",
        "((",
    ),
    *(
        "a[",
        "]=",
        "<(",
        "for x in ",
        "do ",
        "done",
        "{ ",
        "} ",
        "(",
        "a=(",
        "declare ",
        "-i ",
        "read ",
    ),
    *(
        "<<<",
        "f() ",
        "-v ",
        "test ",
        "{{}}",
        "{.}",
        "export ",
        "let ",
        "trap ",
        " EXIT",
        "bash ",
        "-c ",
    ),
    *("set -- ", '"$1"', "$1", "${x}", "source ", "/dev/stdin", "xargs ", "-I% ", "%", "RANDOM="),
    *("PS4=", "set -x; ", "@P}", "${", "[@]", "mapfile ", "| sh", "exec ", "bash; ", "cat "),
)
ATTACKS = (
    *("$(touch CANARY)", "`touch CANARY`", "a[$(touch CANARY)]", "; touch CANARY #"),
    *("'; touch CANARY;'", '"; touch CANARY;"', "\nE\ntouch CANARY\n", ")touch CANARY("),
)


def _runs_an_entry(text: str, folder: Path) -> bool:
    """Say whether a task with this command executes one of ATTACKS."""
    for one in folder.iterdir():
        one.unlink()
    # A task has no arguments.
    each = 'all=("$@"); set --; for PMR_ENTRY in "${all[@]}"; do export PMR_ENTRY; '
    each += '(eval "$COMMAND"); done'
    with subprocess.Popen(
        ["bash", "-c", each, "x", *ATTACKS],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "COMMAND": text},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        with suppress(subprocess.TimeoutExpired):
            running.wait(timeout=5)
        # Also what it has left behind.
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    return (folder / "CANARY").exists()


@pytest.mark.timeout(900)
@example(pieces=["sh -c ", "sh -c ", "<<<", "{}"])
@example(pieces=["$x", "echo ", "eval ", "{}"])
@example(pieces=["x=", "{}", "echo ", "let ", "case x in "])
@settings(max_examples=2_000, suppress_health_check=ALL_CHECKS)
@given(
    pieces=st.lists(
        st.one_of(st.sampled_from(PIECES), st.just("{}")), min_size=2, max_size=12
    ).filter(lambda some: "{}" in some)
)
def test_no_command_that_is_taken_runs_an_entry(pieces: list[str], tmp_path: Path) -> None:
    try:
        text = command_template("".join(pieces), numbers=False).text("1")
    except UsageProblem:
        return
    assert not _runs_an_entry(text, tmp_path)


# Commands that bash can read, in which an entry goes through variables, arguments and input.
# {w}: a word; {v}: a variable's name; {c}: a command; {p}: a list of commands.
NAMES = ("x", "y", "l", "a")
WORDS = (
    *("{{}}", "{{}}", '"{{}}"', "'{{}}'", "a{{}}", "${v}", '"${v}"', "${{{v}}}", '"${{{v}[0]}}"'),
    *('"$1"', "$1", '"$@"', "$*", '"${{{v}@Q}}"', "x", "y", "-n", "0", "/dev/stdin"),
    *('"$({p})"', "$({p})", "<({p})"),
)
COMMANDS = (
    *("echo {w}", "echo {w}", "printf '%s\\n' {w}", "printf -v {v} %s {w}", "{v}={w}", "{v}+={w}"),
    *("{v}=({w})", "{v}={w} {c}", "read {v} <<<{w}", "read {v}", "mapfile -t {v} <<<{w}"),
    *("declare -i {v}={w}", "declare -n {v}={w}", "declare {v}={w}", "export {v}={w}", "let {w}"),
    *("(({v}++))", "echo $(({v} + 1))", "[[ {w} -eq {w} ]]", "[[ -n {w} ]]", "test -v {w}"),
    *("eval {w}", "eval echo {w}", "trap {w} EXIT", ". {w}", ". {w} <<<{w}", "sh", "bash -s {w}"),
    *("bash -c {w}", "sh -c {w} sh {w}", "bash {w}", "bash <<<{w}", "sh <<E\n{w}\nE\n", "cat"),
    *("sh < <({p})", "{w} {w}", "${v}", "env {w}", "exec {w}", "command {w} {w}", "time {c}"),
    *("xargs {c}", "xargs -I% {c}", "xargs -i {c}", "set -- {w}", "f {w}", "unset {w}", "tee file"),
    *("cat <<E\n{w}\nE\n", "cat {w}", "shift", "exec 3<<<{w}", "bash <&3", "exec <<<{w}"),
    *("echo ${{{v}:{v}}}", "echo ${{{v}[{v}]}}", "echo ${{!{v}}}", "echo ${{{v}@P}}"),
    *("{v}[{v}]=1", "echo ${{{v}:={w}}}", "echo ${{{v}:-$(({v}))}}", "wait -n -p {w}"),
)
LISTS = (
    *(
        "{c}",
        "{c}",
        "{c}",
        "{p}; {p}",
        "{p}; {p}",
        "{p}\n{p}",
        "{p} && {p}",
        "{p} | {p}",
        "{p} | {p}",
    ),
    *(
        "for {v} in {w}; do {p}; done",
        "while read {v}; do {p}; done <<<{w}",
        "for {v}; do {p}; done",
    ),
    *("if {p}; then {p}; fi", "( {p} )", "{{ {p}; }} <<<{w}", "f() {{ {p}; }}; {p}"),
    *("case {w} in {w}) {p} ;; esac", "x={{}}; {p}"),
)


def _made(rng: random.Random, depth: int, forms: Sequence[str]) -> str:
    """Return one of these forms, filled in; at the end of its depth, with little inside."""
    simple = [one for one in forms if "{p}" not in one and "{c}" not in one]
    form = rng.choice(forms if depth else simple or ["echo {w}"])
    return re.sub(
        r"\{([wvcp])\}",
        lambda one: {
            "w": lambda: _made(rng, max(0, depth - 1), WORDS),
            "v": lambda: rng.choice(NAMES),
            "c": lambda: _made(rng, max(0, depth - 1), COMMANDS),
            "p": lambda: _made(rng, max(0, depth - 1), LISTS if depth else COMMANDS),
        }[one[1]](),
        form,
    )


@pytest.mark.timeout(1_500)
@settings(max_examples=2_500, suppress_health_check=ALL_CHECKS)
@given(seed=st.integers(0, 10**9))
def test_no_command_of_a_grammar_that_is_taken_runs_an_entry(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    command = _made(rng, rng.choice((1, 2, 3, 3)), LISTS).replace("{{", "{").replace("}}", "}")
    try:
        text = command_template(command, numbers=False).text("1")
    except UsageProblem:
        return
    assert not _runs_an_entry(text, tmp_path), command

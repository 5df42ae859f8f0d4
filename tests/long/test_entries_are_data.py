"""5,000 entries of any text, in every supported shape of a command and in the refused ones."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poormanray.errors import UsageProblem
from poormanray.templates import command_template
from tests.unit.test_templates import (
    ENTRIES,
    REFUSED,
    SUPPORTED,
    Refused,
    check,
    instead,
    told,
)

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
    for one in tmp_path.iterdir():
        one.unlink()
    # A task has no arguments.
    each = 'all=("$@"); set --; for PMR_ENTRY in "${all[@]}"; do export PMR_ENTRY; '
    each += '(eval "$COMMAND"); done'
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["bash", "-c", each, "x", *ATTACKS],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "COMMAND": text},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
    assert not (tmp_path / "CANARY").exists()

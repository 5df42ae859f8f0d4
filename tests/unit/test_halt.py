"""When a job stops because of what failed, and what a script says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.cli import again
from poormanray.cli.headers import Manners, Slurm, declared, slurm
from poormanray.cli.options import Percent
from poormanray.errors import UsageProblem
from poormanray.jobs.cancel import Cancelled
from poormanray.jobs.halt import Halt, halting, parse_halt
from poormanray.jobs.moving import Mover, Turns
from poormanray.jobs.track import Again, Halted, Happening, Looked, TaskChanged
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host

HOST = Host(0, "i-1", "c-0000", ())
FAILED, SUCCEEDED = TaskState.FAILED, TaskState.SUCCEEDED


def ended(task: int, state: TaskState, attempt: int = 1) -> TaskChanged:
    return TaskChanged(HOST, TaskStatus(task, attempt, state))


def played(text: str, total: int, *happenings: Happening) -> tuple[list[Happening], int]:
    """Return what is told under a halt, and how often the job was stopped."""
    stops: list[int] = []

    def stop() -> tuple[str, ...]:
        stops.append(1)
        return ("c-0001",)

    given_ones: Iterator[Happening] = iter(happenings)
    return list(halting(given_ones, parse_halt(text), total, stop)), len(stops)


@pytest.mark.parametrize(
    ("text", "halt"),
    [
        ("now,fail=1", Halt(now=True, count=1)),
        ("soon,fail=3", Halt(now=False, count=3)),
        ("soon,fail=10%", Halt(now=False, percent=10)),
        ("now,fail=100%", Halt(now=True, percent=100)),
    ],
)
def test_halts_are_read(text: str, halt: Halt) -> None:
    assert parse_halt(text) == halt


@pytest.mark.parametrize(
    "text", ["", "now", "fail=1", "now,fail=0", "now,fail=101%", "later,fail=1", "now,fail=1 "]
)
def test_what_is_no_halt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no halt"):
        parse_halt(text)


@given(percent=st.integers(1, 100), total=st.integers(1, 10_000), failed=st.integers(0, 10_000))
def test_a_part_of_all_tasks_is_enough(percent: int, total: int, failed: int) -> None:
    halt = parse_halt(f"soon,fail={percent}%")
    assert halt.reached(failed, total) == (failed > 0 and failed / total >= percent / 100)


def test_it_stops_once_and_tells_whom_it_missed() -> None:
    told, stops = played(
        "now,fail=2", 9, ended(1, FAILED), Looked(), ended(2, FAILED), Looked(), Looked()
    )
    assert stops == 1
    assert [one for one in told if isinstance(one, Halted)] == [
        Halted(2, now=True, missed=("c-0001",))
    ]
    # What comes after it is still told.
    assert isinstance(told[-1], Looked)


def test_what_gets_another_turn_has_not_failed() -> None:
    again = Again(((1, 2),), "exit code 1")
    told, stops = played(
        "soon,fail=1", 9, ended(1, FAILED), again, Looked(), ended(1, SUCCEEDED, 2), Looked()
    )
    assert stops == 0
    told, stops = played(
        "soon,fail=1", 9, ended(1, FAILED), again, Looked(), ended(1, FAILED, 2), Looked()
    )
    assert stops == 1
    assert told[-1] == Halted(1, now=False, missed=("c-0001",))


def test_no_further_turn_undoes_the_halt_of_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    mover = Mover("1ng8md2c5pz", {}, Turns(again={(0, 2): "i-1"}))
    follower: Any = SimpleNamespace(mover=mover, tracks={}, job_id=mover.job_id)
    seen: Any = SimpleNamespace(fleet=None)
    stopped: list[bool] = []

    def cancel(*_args: object, running: bool) -> list[Cancelled]:
        stopped.append(mover.stopped and running)
        return [Cancelled(HOST), Cancelled(HOST, problem="silent")]

    monkeypatch.setattr(again, "cancel", cancel)
    assert again._stop(seen, follower, parse_halt("now,fail=1")) == (HOST.name,)
    assert stopped == [True]


def test_a_cancelled_task_has_not_failed() -> None:
    assert played("now,fail=1", 3, ended(0, TaskState.CANCELLED), Looked())[1] == 0


def test_scripts_say_how_they_run() -> None:
    script = b"#!/bin/sh\n# a comment\n#PMR retries 2\n#PMR slots auto\n#PMR timeout 1h30m\ntrue\n"
    assert declared([script, b"#!/bin/sh\ntrue\n"]) == Manners("auto", 2, 5400.0)
    assert declared([b"#PMR timeout 200%\n"]).timeout == Percent(200)
    said = Manners(slots="3").over(declared([script]))
    assert said == Manners("3", 2, 5400.0)


@pytest.mark.parametrize(
    ("scripts", "why"),
    [
        ([b"#PMR retry 2\n"], "retries, slots, timeout"),
        ([b"#PMR retries many\n"], "retries"),
        ([b"#PMR slots 0\n"], "slots"),
        ([b"#PMR timeout soon\n"], "timeout"),
        ([b"#PMR slots 2\n", b"#PMR slots 3\n"], "differ"),
    ],
)
def test_headers_that_make_no_sense_are_refused(scripts: list[bytes], why: str) -> None:
    with pytest.raises(UsageProblem) as refused:
        declared(scripts)
    assert why in f"{refused.value.message} {refused.value.hint}"


def test_slurm_s_own_lines_are_taken_or_named() -> None:
    script = b"""#!/bin/bash
#SBATCH --array=0-9%2 -J "my job"   # a comment
#SBATCH -t 1-02:30 --mem=4G
#SBATCH --cpus-per-task 4 --exclusive
#PBS -l walltime=1
echo hi
#SBATCH --mail-type=END
"""
    said: list[str] = []
    found = slurm([script], ["a.sh"], said.append, compat=True)
    assert found == Slurm("0-9%2", 26.5 * 3600, "my job", "4")
    options = "#SBATCH --mem=4G, #SBATCH --exclusive, #PBS -l walltime=1"
    assert said == [f"a.sh: no effect here: {options}"]
    said.clear()
    assert slurm([script, script], ["a.sh", "b.sh"], said.append, compat=False) == Slurm()
    assert len(said) == 1
    assert "--array=0-9%2" in said[0]
    assert "--compat slurm takes --array, --time, --job-name, --cpus-per-task" in said[0]
    said.clear()
    assert (
        slurm([b"\x7fELF\n#SBATCH -c 1\n", b"#!/bin/sh\n"], [], said.append, compat=True) == Slurm()
    )
    assert said == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("1:30", 90),
        ("1:00:30", 3630),
        ("2-3", 183_600),
        ("1-0:1:1", 86_461),
        ("0", None),
    ],
)
def test_times_of_slurm(text: str, seconds: float | None) -> None:
    script = f"#SBATCH --time={text}\n".encode()
    assert slurm([script], [], print, compat=True).time_s == seconds


def test_slurm_s_lines_of_one_job_must_not_differ() -> None:
    for scripts in ([b"#SBATCH -t 1\n", b"#SBATCH -t 2\n"], [b"#SBATCH -t soon\n"]):
        with pytest.raises(UsageProblem, match="--time"):
            slurm(scripts, [], print, compat=True)

"""Every command refuses a ledger of another format by name, with the version that reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from poormanray.errors import ExitCode
from tests.cloud.conftest import Pmr

# Each with the id of the job in place of JOB; `last` and its name mean the same job.
COMMANDS = {
    "status": "status JOB",
    "status of the last": "status",
    "status by name": "status odd",
    "status in full": "status JOB --tasks",
    "logs": "logs JOB",
    "follow": "logs -f JOB",
    "results": "results JOB -o DIR",
    "report": "report JOB -o DIR/page.html",
    "cancel": "cancel JOB",
    "cancel a task": "cancel JOB --task 0",
    "retry": "retry JOB",
    "jobs": "jobs",
    "resume": "map --resume JOB true ::: 1 2",
    "join": "map --join JOB",
}


@pytest.fixture(scope="module")
def other(pmr: Pmr, new_cluster: Callable[[str, int], str]) -> tuple[str, str]:
    """Return a cluster and its one job, the newest, whose ledgers say that they are newer."""
    name = new_cluster("formats", 1)
    ledger = "/var/lib/pmr/jobs/$PMR_JOB_ID"
    newer = f"echo 99 9.8.7 >{ledger}/format.new; mv {ledger}/format.new {ledger}/format"
    words = ("-d", "--job-name", "odd", "-u", "root", "-n", name)
    job = pmr("map", *words, "-c", f": {{}}; {newer}", ":::", "1").stdout.strip()
    deadline_s = time.monotonic() + 60
    while "format 99" not in pmr("status", job, "-n", name, check=False).stderr:
        assert time.monotonic() < deadline_s
    return name, job


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_newer_ledger_is_refused_by_name(
    pmr: Pmr, other: tuple[str, str], tmp_path: Path, words: str
) -> None:
    name, job = other
    args = words.replace("JOB", job).replace("DIR", str(tmp_path)).split()
    told = pmr(args[0], "-n", name, *args[1:], check=False)
    assert told.returncode == ExitCode.NOT_REACHED, told.stdout + told.stderr
    assert f"its ledger of job {job} has format 99" in told.stderr
    assert "poormanray 9.8.7" in told.stderr


def test_a_newer_ledger_is_not_pruned(pmr: Pmr, other: tuple[str, str]) -> None:
    name, job = other
    told = pmr("jobs", "-n", name, "--prune", "--job", job, "-y", check=False)
    assert "another version" in told.stderr + told.stdout

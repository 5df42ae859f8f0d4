"""Going on with a map: when it stops again, what it still can choose, and when nothing is to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.commands import UNLESS_AGAIN, events_of_kind, starts, summary

Sent = Callable[[], list[str]]


@pytest.fixture
def sent(client: ClientFactory) -> Sent:
    """Return what tells which kinds of commands were sent since it was last asked."""
    ssm = client("ssm")
    known: set[str] = set()

    def fresh() -> list[str]:
        pages = ssm.get_paginator("list_commands").paginate()
        commands = [one for page in pages for one in page["Commands"]]
        new = [
            words[1]
            for one in commands
            if one["CommandId"] not in known
            # Other tests of this cloud send commands of their own.
            and (words := one["Comment"].split())[:1] == ["pmr"]
        ]
        known.update(one["CommandId"] for one in commands)
        return new

    fresh()
    return fresh


def test_too_many_failures_stop_what_runs_again(pmr: Pmr, cluster: str) -> None:
    program = f"{UNLESS_AGAIN} || exit 1; [ $PMR_TASK_ID != 0 ] || exit 7; sleep 3"
    first = pmr("map", "-n", cluster, "--json", "--array", "0-11", "-c", program, check=False)
    assert summary(first.stdout)["counts"]["FAILED"] == 12
    job = summary(first.stdout)["job"]
    # Of twelve tasks one runs again: half of what runs again is one failure, not six.
    one = pmr("retry", job, "0", "-n", cluster, "--json", "--halt", "soon,fail=50%", check=False)
    assert starts(one.stdout) == [(0, 2)]
    halted = {"event": "halt", "failed": 1, "now": False, "missed": []}
    assert events_of_kind(one.stdout, "halt") == [halted]
    # That was cancelled for the job, and it can go on all the same.
    told = pmr(
        *("map", "-n", cluster, "--resume", job, "--json", "--halt", "soon,fail=1"), check=False
    )
    assert (told.returncode, events_of_kind(told.stdout, "halt")) == (1, [halted])
    done = summary(told.stdout)
    # What ran went on to its end; what waited did not start, nor does it when looked at again.
    assert done["counts"]["SUCCEEDED"] + 1 == len(starts(told.stdout)) < 12
    assert pmr.json("status", job, "-n", cluster)["counts"] == done["counts"]


def test_without_anything_to_do_nothing_is_sent(pmr: Pmr, cluster: str, sent: Sent) -> None:
    words = ("-n", cluster, "--json", "--array", "0-3")
    job = summary(pmr("map", *words, "-c", "true").stdout)["job"]
    sent()
    told = pmr("retry", job, "-n", cluster, "--failed", "--json")
    assert f"job {job}: nothing to do, no task runs again" in told.stderr
    assert summary(told.stdout)["counts"]["SUCCEEDED"] == 4
    # Nothing starts and nothing moves.
    assert set(sent()) <= {"status", "observe"}
    failed = summary(pmr("map", *words, "-c", "exit $PMR_TASK_ID", check=False).stdout)["job"]
    assert "nothing to do" in pmr("retry", failed, "--lost", "-n", cluster).stderr


def test_a_dry_run_tells_what_would_run_again(pmr: Pmr, cluster: str, sent: Sent) -> None:
    words = ("map", "-n", cluster, "--array", "0-3", "-c", "[ $PMR_TASK_ID != 2 ]")
    job = summary(pmr(*words, "--json", check=False).stdout)["job"]
    sent()
    plan = pmr.json("map", "-n", cluster, "--resume", job, "--dry-run")
    assert plan == {"job": job, "again": [{"task": 2, "name": "2", "attempt": 2}], "waiting": 0}
    told = pmr(*words, "--resume", job, "--dry-run")
    assert f"job {job}: 1 task would run again, 0 not ended yet; nothing was started" in told.stdout
    assert "failed with exit code 1" in told.stdout
    # Nothing starts and nothing moves.
    assert set(sent()) <= {"status", "observe"}


@pytest.mark.parametrize(
    "words",
    [
        *(["--slots", "2"], ["--static"], ["-i", "x-0000"], ["--timeout", "5m"], ["-u", "me"]),
        *(["--env", "A=b"], ["--files", "x"], ["--compat", "slurm"], ["--deliver-timeout", "5m"]),
        *(["--job-name", "x"], ["--job-id", "1ng8md2c5pz"], ["-d"]),
    ],
    ids=" ".join,
)
def test_what_a_job_has_from_the_start_is_not_chosen_again(words: list[str], pmr: Pmr) -> None:
    told = pmr("map", "-n", "no-such-cluster", "--resume", "last", *words, check=False)
    assert told.returncode == 2
    assert "job last goes on" in told.stderr
    assert "  next: leave out " in told.stderr


def test_a_job_of_its_own_can_choose_anew(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("#!/bin/sh\ntrue\n")
    words = ("map", "-n", cluster, "--json", tmp_path)
    job = summary(pmr(*words).stdout)["job"]
    again = (*words, "--resume", job, "--changed", "--slots", "2")
    same = pmr(*again, check=False)
    assert (same.returncode, "nothing has changed" in same.stdout) == (2, True)
    (tmp_path / "b").write_text('#!/bin/sh\necho "$MORE $PMR_ENTRY"\n')
    plan = json.loads(pmr(*again, "--dry-run").stdout)
    assert [task["name"] for task in plan["tasks"]] == ["b"]
    told = pmr(*again, "--env", "MORE=more", "-d", "--job-name", "own")
    assert summary(told.stdout)["detached"] is True
    assert "more" in pmr("logs", "own", "-f", "-n", cluster).stdout


def test_a_map_goes_on_after_another_job(pmr: Pmr, cluster: str) -> None:
    command = f"{UNLESS_AGAIN}"
    words = ("-n", cluster, "--array", "0-2")
    failed = pmr("map", *words, "--json", "-c", command, check=False)
    job = summary(failed.stdout)["job"]
    other = pmr("map", *words, "-d", "-c", "sleep 2").stdout.strip()
    told = pmr(
        *("map", "-n", cluster, "--resume", job, "--json", "--after", other),
        *("--on-done", 'echo "$PMR_JOB_ID is done: $PMR_SUCCEEDED"'),
    )
    assert starts(told.stdout) == [(0, 2), (1, 2), (2, 2)]
    assert f"{job} is done: 3\n" in told.stderr
    ended = [
        at(t["ended_at"]) for t in pmr.json("status", other, "-n", cluster, "--tasks")["tasks"]
    ]
    assert max(ended) <= min(at(t["started_at"]) for t in summary(told.stdout)["tasks"])


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)

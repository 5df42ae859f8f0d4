"""Tasks move to where they run soonest, and run again where they failed or were lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import UNLESS_AGAIN, events_of_kind, ran, starts, summary


def test_what_waits_behind_slow_tasks_moves(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    # Spread evenly, one of three instances would have all that is slow.
    program = 'echo "$PMR_INSTANCE_ID"; [ $((PMR_TASK_ID % 3)) != 0 ] || sleep 1.5'
    told = pmr("map", "-n", cluster, "--json", "--array", "0-23", "-c", program)
    done = summary(told.stdout)
    assert done["counts"]["SUCCEEDED"] == 24
    wrote = ran(pmr, cluster, done["job"], tmp_path)
    assert {name: len(text.split()) for name, text in wrote.items()} == {
        str(n): 1 for n in range(24)
    }
    assert len({wrote[str(number)] for number in range(0, 24, 3)}) > 1
    assert starts(told.stdout) == [(number, 1) for number in range(24)]
    # Whoever asks later finds each task where it ran.
    status = pmr.json("status", done["job"], "-n", cluster, "--tasks")
    assert {str(t["task"]): t["instance"] for t in status["tasks"]} == {
        name: text.strip() for name, text in wrote.items()
    }
    assert (
        pmr("logs", done["job"], "-n", cluster, "--task", "0").stdout.strip() == wrote["0"].strip()
    )


def test_a_retry_is_another_instance_s(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    program = f'echo "$PMR_TASK_ATTEMPT"; [ $PMR_TASK_ID != 1 ] || {UNLESS_AGAIN}'
    words = ("map", "-n", cluster, "--json", "--array", "0-5", "--retries", "2", "-c", program)
    told = pmr(*words)
    done = summary(told.stdout)
    assert [task["attempt"] for task in done["tasks"]] == [1, 2, 1, 1, 1, 1]
    (failed,) = [e for e in events_of_kind(told.stdout, "task") if e["state"] == "FAILED"]
    assert failed["instance"] != done["tasks"][1]["instance"]
    assert events_of_kind(told.stdout, "again") == [
        {"event": "again", "tasks": [{"task": 1, "attempt": 2}], "why": "exit code 1"}
    ]
    assert ran(pmr, cluster, done["job"], tmp_path)["1.2"] == "2\n"


def test_a_static_map_stays_where_it_was_spread(pmr: Pmr, cluster: str) -> None:
    # One instance has all that takes time: left to themselves, the others would help it out.
    program = "[ $((PMR_TASK_ID % 3)) != 0 ] || sleep "
    told = pmr("map", "-n", cluster, "--json", "--static", "--array", "0-11", "-c", program + "2")
    tasks = summary(told.stdout)["tasks"]
    shares = [{task["instance"] for task in tasks if task["task"] % 3 == n} for n in range(3)]
    assert [len(share) for share in shares] == [1, 1, 1]
    assert len(set().union(*shares)) == 3
    # So long that also a busy client gets round to it.
    moving = pmr("map", "-n", cluster, "--json", "--array", "0-11", "-c", program + "9")
    tasks = summary(moving.stdout)["tasks"]
    assert len({task["instance"] for task in tasks if task["task"] % 3 == 0}) > 1


def test_where_nobody_moves_tasks_an_instance_retries_its_own(
    pmr: Pmr, cluster: str, tmp_path: Path
) -> None:
    program = f'echo "$PMR_TASK_ATTEMPT"; [ $PMR_TASK_ID != 1 ] || {UNLESS_AGAIN}'
    words = ("map", "-n", cluster, "--array", "0-5", "--retries", "2", "-c", program)
    told = pmr(*words, "--static", "--json")
    done = summary(told.stdout)
    assert [task["attempt"] for task in done["tasks"]] == [1, 2, 1, 1, 1, 1]
    assert len({e["instance"] for e in events_of_kind(told.stdout, "task") if e["task"] == 1}) == 1
    assert events_of_kind(told.stdout, "again") == [
        {"event": "again", "tasks": [{"task": 1, "attempt": 2}], "why": "exit code 1"}
    ]
    job = pmr(*words, "-d").stdout.strip()
    pmr("logs", "-f", job, "-n", cluster)
    status = pmr.json("status", job, "-n", cluster, "--tasks")
    assert status["counts"]["SUCCEEDED"] == 6
    assert [task["attempt"] for task in status["tasks"]] == [1, 2, 1, 1, 1, 1]
    wrote = ran(pmr, cluster, job, tmp_path)
    assert (wrote["1.2"], wrote["0"]) == ("2\n", "1\n")


def test_turns_come_to_an_end(pmr: Pmr, cluster: str) -> None:
    words = ("--array", "0-2", "--retries", "2", "-c", "exit $PMR_TASK_ID")
    told = pmr("map", "-n", cluster, "--json", *words, check=False)
    assert told.returncode == 1
    assert starts(told.stdout) == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_exactly_what_failed_runs_again(pmr: Pmr, cluster: str) -> None:
    program = f"case $PMR_TASK_ID in 3 | 7) {UNLESS_AGAIN} ;; esac"
    first = pmr("map", "-n", cluster, "--json", "--array", "0-11", "-c", program, check=False)
    assert first.returncode == 1
    job = summary(first.stdout)["job"]
    again = pmr("retry", job, "-n", cluster, "--failed", "--json")
    assert starts(again.stdout) == [(3, 2), (7, 2)]
    assert summary(again.stdout)["counts"]["SUCCEEDED"] == 12
    nothing = pmr("retry", job, "-n", cluster)
    assert "nothing to do" in nothing.stderr
    named = pmr("retry", job, "5", "8-9", "-n", cluster, "--json")
    assert starts(named.stdout) == [(5, 2), (8, 2), (9, 2)]
    unknown = pmr("retry", job, "12", "-n", cluster, check=False)
    assert (unknown.returncode, "no task 12" in unknown.stderr) == (2, True)


def test_gnu_parallel_reads_which_tasks_failed(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    ids = range(20, 60, 2)
    command = "[ $((PMR_TASK_ID % 7)) != 0 ]"
    told = pmr("map", "-n", cluster, "--json", "--array", "20-59:2", "-c", command, check=False)
    pmr("results", summary(told.stdout)["job"], "-n", cluster, "-o", tmp_path)
    other = pmr("run", "-n", cluster, "-d", "-c", "true").stdout.strip()
    refused = pmr("results", other, "-n", cluster, "-o", tmp_path, check=False)
    assert (refused.returncode, "holds the results of job" in refused.stderr) == (2, True)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    known = [
        {key: value for key, value in row.items() if not key.endswith("_bytes")} for row in rows
    ]
    assert known == summary(told.stdout)["tasks"]
    failed = [str(one) for one in ids if one % 7 == 0]
    assert [str(row["task"]) for row in rows if row["state"] == "FAILED"] == failed
    with (tmp_path / "joblog.tsv").open(newline="") as file:
        log = list(csv.DictReader(file, delimiter="\t"))
    assert [row["Seq"] for row in log if row["Exitval"] != "0"] == [
        str(seq) for seq, one in enumerate(ids, start=1) if one % 7 == 0
    ]
    # scripts/test sees to it that it is there.
    words = ["parallel", "--will-cite", "--joblog", "joblog.tsv", "--resume-failed", "-k"]
    again = subprocess.run(
        [*words, "echo", "{}", ":::", *map(str, ids)],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        text=True,
        check=True,
        capture_output=True,
    )
    assert again.stdout.split() == failed


def test_a_cancelled_map_can_go_on(pmr: Pmr, cluster: str) -> None:
    told = pmr("map", "-n", cluster, "-d", "--array", "0-5", "-c", f"{UNLESS_AGAIN} || sleep 60")
    job = told.stdout.strip()
    pmr("cancel", job, "-n", cluster)
    assert summary(pmr("map", "-n", cluster, "--resume", job, "--json").stdout)["exit_code"] == 0


def test_a_cancel_holds_while_somebody_goes_on_with_the_job(pmr: Pmr, cluster: str) -> None:
    told = pmr("map", "-n", cluster, "-d", "--array", "0-11", "-c", "sleep 30")
    job = told.stdout.strip()
    pmr("cancel", job, "-n", cluster)
    with pmr.start("map", "-n", cluster, "--resume", job, "--json") as client:
        assert client.stdout is not None
        lines = [client.stdout.readline().decode()]
        while '"RUNNING"' not in lines[-1]:
            lines.append(client.stdout.readline().decode())
        pmr("cancel", job, "-n", cluster)
        rest = client.stdout.read().decode()
    done = summary(rest)
    assert (client.returncode, done["counts"]["RUNNING"], done["counts"]["PENDING"]) == (1, 0, 0)
    assert done["counts"]["CANCELLED"] == 12


def test_what_changed_does_not_run_as_what_it_was(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    for name, text in {"a": "true", "b": "false", "c": "true", "e": "false"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
    job = summary(pmr("map", "-n", cluster, "--json", tmp_path, check=False).stdout)["job"]
    (tmp_path / "b").write_text("#!/bin/sh\ntrue\n")
    (tmp_path / "d").write_text("#!/bin/sh\ntrue\n")
    refused = pmr("map", "-n", cluster, "--resume", job, tmp_path, check=False)
    assert refused.returncode == 2
    assert "(changed: b; new: d)" in refused.stderr
    # What is unchanged and has failed runs too, and fails again.
    more = pmr("map", "-n", cluster, "--resume", job, "--changed", "--json", tmp_path, check=False)
    told = summary(more.stdout)
    assert (more.returncode, told["job"] == job) == (1, False)
    states = {task["task_name"]: task["state"] for task in told["tasks"]}
    assert states == {"b": "SUCCEEDED", "d": "SUCCEEDED", "e": "FAILED"}
    (tmp_path / "b").write_text("#!/bin/sh\nfalse\n")
    (tmp_path / "d").unlink()
    same = pmr("map", "-n", cluster, "--resume", job, tmp_path, "--json", check=False)
    assert (same.returncode, sorted(starts(same.stdout))) == (1, [(1, 2), (3, 2)])


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    """Return the command, with a cloud in which silence is noticed sooner."""
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": 3}) as command:
        command("create", "-n", "three", "-N", "3", timeout_s=120)
        yield command


def test_a_lost_instance_s_tasks_run_elsewhere(quick: Pmr) -> None:
    words = ("map", "-n", "three", "--json", "--array", "0-8", "--", "sleep", "3")
    with quick.start(*words) as mapping:
        assert mapping.stdout is not None
        told = ""
        while '"RUNNING"' not in told:
            told += mapping.stdout.readline().decode()
        quick("local", "fault", "add", "instance-terminate", "--instance", "three-0000")
        told += mapping.stdout.read().decode()
    assert mapping.returncode == 0
    done = summary(told)
    assert done["counts"]["SUCCEEDED"] == 9
    second = [task for task in done["tasks"] if task["attempt"] == 2]
    assert second
    assert all(task["name"] != "three-0000" for task in second)
    (again,) = events_of_kind(told, "again")
    assert again["why"] == "three-0000 is lost"
    assert {task["task"] for task in again["tasks"]} == {task["task"] for task in second}


def test_what_waits_under_a_spot_notice_moves_away_at_once(quick: Pmr) -> None:
    quick("create", "-n", "spot", "-N", "2", timeout_s=120)
    fault = ("instance-reclaim", "--instance", "spot-0000", "--seconds", "900")
    quick("local", "fault", "add", *fault)
    words = ("map", "-n", "spot", "--json", "--slots", "4", "--array", "0-79", "--", "sleep", "1")
    told = quick(*words, timeout_s=120).stdout
    (notice,) = events_of_kind(told, "interrupted")
    assert (notice["name"], notice["action"]) == ("spot-0000", "terminate")
    done = summary(told)
    assert {(task["state"], task["attempt"]) for task in done["tasks"]} == {("SUCCEEDED", 1)}
    assert len({task["task"] for task in done["tasks"]}) == 80
    there = [task for task in done["tasks"] if task["name"] == "spot-0000"]
    # Its runner looks for a notice after a second; evenly spread, it would have had 40.
    assert 4 <= len(there) <= 24
    shown = quick("status", done["job"], "-n", "spot")
    assert f"EC2 will terminate it at {notice['at']}" in shown.stdout


def test_another_client_goes_on_after_a_kill(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    program = 'echo "$PMR_TASK_ID"; sleep 0.4'
    mapping = pmr.start("map", "-n", cluster, "--json", "--array", "0-29", "-c", program)
    assert mapping.stdout is not None
    job = json.loads(mapping.stdout.readline())["job"]
    for line in mapping.stdout:
        if b'"SUCCEEDED"' in line:
            break
    mapping.send_signal(signal.SIGKILL)
    mapping.communicate()
    done = summary(pmr("map", "-n", cluster, "--resume", job, "--json").stdout)
    assert done["counts"]["SUCCEEDED"] == 30
    assert ran(pmr, cluster, job, tmp_path) == {str(n): f"{n}\n" for n in range(30)}


def test_a_report_tells_what_failed_and_why(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    command = 'echo "working on {}"; [ $PMR_TASK_ID != 2 ] || { echo "no such shard: 77"; exit 9; }'
    told = pmr("map", "-n", cluster, "--json", "--array", "0-5", "-c", command, check=False)
    job = summary(told.stdout)["job"]
    for kind in ("html", "svg", "csv"):
        made = pmr("report", job, "-n", cluster, "-o", tmp_path / f"r.{kind}")
        assert f"6 tasks of job {job}" in made.stdout
    shown = (tmp_path / "r.html").read_text()
    assert "<code>no such shard: 77</code>" in shown
    assert "5 SUCCEEDED" in shown
    assert (tmp_path / "r.svg").read_text().count("<title>") == 6
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 7
    other = pmr("report", job, "-n", cluster, "-o", tmp_path / "r.pdf", check=False)
    assert (other.returncode, "ends in none of" in other.stderr) == (2, True)

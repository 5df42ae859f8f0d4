"""`pmr status`: one screen for few calls, watched, and closer where that is not enough."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud.conftest import PMR, Pmr

PROGRAM = """
echo first; echo "working on $PMR_TASK_ID"
case $PMR_TASK_ID in 3) printf 'ValueError: \\033[31mthree\\n\\n'; exit 7 ;; 4) kill -9 $$ ;; esac
"""
ENDED = {"SUCCEEDED": 10, "FAILED": 2}


@pytest.fixture(scope="module")
def job(pmr: Pmr, cluster: str) -> str:
    """Return the id of a map of 12 tasks of which two fail."""
    words = ("--array", "0-11", "--slots", "2", "--job-name", "some fail", "-c", PROGRAM)
    told = pmr("map", "-n", cluster, "--json", *words, check=False)
    assert told.returncode == 1
    job_id: str = json.loads(told.stdout.splitlines()[-1])["job"]
    return job_id


def ssm_calls(pmr: Pmr) -> Counter[str]:
    return Counter(pmr.json("local", "status")["calls"]["ssm"])


@pytest.mark.parametrize("reference", ["id", "last", "some fail"])
def test_it_costs_four_calls(pmr: Pmr, cluster: str, job: str, reference: str) -> None:
    before = ssm_calls(pmr)
    document = pmr.json("status", job if reference == "id" else reference, "-n", cluster)
    calls = ssm_calls(pmr) - before
    assert document["job"] == job
    assert {key: n for key, n in document["counts"].items() if n} == ENDED
    assert calls["SendCommand"] == calls["DescribeInstanceInformation"] == 1
    assert calls.total() <= 4
    assert "tasks" not in document


def test_one_screen(pmr: Pmr, cluster: str, job: str) -> None:
    told = pmr("status", job, "-n", cluster).stdout
    assert f"job {job} 'some fail': map on 3 instances" in told
    assert "12 tasks: 10 succeeded, 2 failed" in told
    assert re.search(r"tasks/s; slots \d+% busy; [\d.]+ s a task; took ", told)
    assert re.search(rf"^3 +3 +{cluster}-000\d +exit code 7 +ValueError: ", told, re.M)
    assert re.search(r"^4 .* exit code 137 \(signal 9\) +working on 4$", told, re.M)
    assert "\x1b" not in told
    assert len(told.splitlines()) <= 20
    rows = re.findall(rf"^{cluster}-000\d +2 +(\d+) +(\d+) +0 +0 +[\d.]+ +[\d.]+$", told, re.M)
    assert [sum(map(int, column)) for column in zip(*rows, strict=True)] == [10, 2]


def test_every_task_is_listed_when_asked_for(pmr: Pmr, cluster: str, job: str) -> None:
    document = pmr.json("status", job, "-n", cluster, "--tasks")
    quick = pmr.json("status", job, "-n", cluster)
    assert [one["task"] for one in document["tasks"]] == list(range(12))
    assert [one["task"] for one in document["tasks"] if one["state"] == "FAILED"] == [3, 4]
    for key in ("counts", "mean_s", "first_start", "last_end", "slowest"):
        assert document[key] == quick[key]
    for ours, theirs in zip(quick["instances"], document["instances"], strict=True):
        assert ours == theirs
    assert {one["task"]: one["last_line"] for one in quick["failed"]} == {
        3: "ValueError: \x1b[31mthree",
        4: "working on 4",
    }
    told = pmr("status", job, "-n", cluster, "--tasks").stdout
    assert re.search(r"^4 +4 .*FAILED", told, re.M)


@pytest.mark.parametrize("reference", ["id", "last", "some fail"])
def test_every_task_costs_one_round_trip(
    pmr: Pmr, cluster: str, job: str, reference: str, tmp_path: Path
) -> None:
    meant = job if reference == "id" else reference
    before = ssm_calls(pmr)
    assert len(pmr.json("status", "--tasks", meant, "-n", cluster)["tasks"]) == 12
    between = ssm_calls(pmr)
    pmr("report", meant, "-n", cluster, "-o", tmp_path / "page.html")
    assert [(between - before)["SendCommand"], (ssm_calls(pmr) - between)["SendCommand"]] == [1, 1]
    page = (tmp_path / "page.html").read_text()
    assert "working on 4</code>" in page
    assert "three</code>" in page


def test_a_lost_instance_is_told(pmr: Pmr, new_cluster: Callable[[str, int], str]) -> None:
    name = new_cluster("leaves", 2)
    words = (
        "-d",
        "--array",
        "0-5",
        "-c",
        "[ $PMR_TASK_ID = 1 ] || exec sleep 300; echo oops; exit 5",
    )
    job = pmr("map", "-n", name, *words).stdout.strip()
    while pmr.json("status", job, "-n", name)["counts"]["FAILED"] < 1:
        pass
    pmr("terminate", "-n", name, "-i", f"{name}-0000", "--yes")
    document = pmr.json("status", "last", "-n", name)
    assert document["counts"]["LOST"] == 3
    assert (document["counts"]["RUNNING"], document["counts"]["PENDING"]) == (1, 1)
    assert [bool(one["problem"]) for one in document["instances"]] == [True, False]
    assert "oops" in {one["last_line"] for one in document["failed"]}
    pmr("cancel", job, "-n", name)


def test_watching_says_what_changes_and_ends_with_the_job(pmr: Pmr, cluster: str) -> None:
    job = pmr("map", "-n", cluster, "-d", "--array", "0-2", "-c", "sleep 300").stdout.strip()
    with pmr.start("status", "-n", cluster, "--watch", "1", "last") as client:
        assert client.stdout is not None
        assert re.match(rf"job {job}: 3 |job {job}: .* pending", client.stdout.readline().decode())
        assert pmr.json("cancel", job, "-n", cluster)["tasks_cancelled"] == 3
        *_, last = client.stdout.read().decode().splitlines()
    assert client.returncode == 0
    assert last.startswith(f"job {job}: 3 cancelled")
    once = pmr("status", "-n", cluster, "--json", "--watch", job)
    (line,) = once.stdout.splitlines()
    assert json.loads(line)["ended"] is True


def test_ctrl_c_ends_the_watching_alone(pmr: Pmr, cluster: str) -> None:
    job = pmr("map", "-n", cluster, "-d", "--array", "0-2", "-c", "sleep 300").stdout.strip()
    with pmr.start("status", job, "-n", cluster, "--watch=2s") as client:
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline().startswith(f"job {job}: ".encode())
        os.killpg(client.pid, signal.SIGINT)
        said = client.stderr.read().decode()
    assert client.returncode == 130
    assert f"status {job} --watch -n {cluster}" in said
    assert pmr.json("cancel", job, "-n", cluster)["tasks_cancelled"] == 3


def drawn(pmr: Pmr, lines: int, *words: str) -> str:
    """Return what a command draws on a terminal of so many lines, 80 columns wide."""
    primary, secondary = pty.openpty()
    env = {**pmr.environment(), "TERM": "xterm", "COLUMNS": "80", "LINES": str(lines)}
    client = subprocess.Popen(
        [PMR, *words], stdin=secondary, stdout=secondary, stderr=subprocess.DEVNULL, env=env
    )
    os.close(secondary)
    data = b""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and select.select([primary], [], [], 60)[0]:
        try:
            data += os.read(primary, 4096)
        except OSError:
            break
    os.close(primary)
    assert client.wait(timeout=30) == 0
    return data.decode()


def test_it_fits_a_terminal(pmr: Pmr, cluster: str, job: str) -> None:
    told = drawn(pmr, 24, "status", job, "-n", cluster, "--watch")
    assert told.startswith("\x1b[H\x1b[J")
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", told).splitlines()
    assert len(lines) <= 23
    # Who submitted it may have a long name.
    assert max(map(len, lines[1:])) <= 80
    every = drawn(pmr, 60, "status", job, "-n", cluster, "--tasks")
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", every).splitlines()
    assert any("SCRIPT" in line or "script" in line for line in lines)
    assert max(map(len, lines[1:])) <= 80

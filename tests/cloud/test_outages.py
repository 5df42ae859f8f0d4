"""Outages of the cloud's services, of the way to them and of the credentials: work goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import events
from tests.support.outages import BACK, SAID, struck

CLUSTER = "outage"
# How long an outage lasts, and the whole job without it, in the cloud's seconds.
OUTAGE_S = 12
TASKS = 24
OUTAGES = {
    "port-closed": (),
    "5xx": (),
    "proxy-page": (),
    "proxy-ok": (),
    "proxy-empty": (),
    "lost-request": (),
    "lost-response": ("--operation", "ssm:*"),
}


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": 2}) as command:
        command("create", "-n", CLUSTER, "-N", "3", timeout_s=120)
        yield command


def scripts(folder: Path, count: int, seconds: float) -> Path:
    """Write tasks that each print a line for each time that they run; some fail at first."""
    for number in range(count):
        fails = "[ $PMR_TASK_ATTEMPT -gt 1 ] || exit 3" if number % 8 == 0 else ":"
        (folder / f"{number:03}.sh").write_text(f"sleep {seconds}\n{fails}\n")
    return folder


@pytest.mark.parametrize("kind", OUTAGES)
def test_a_map_with_retries_outlasts_it(pmr: Pmr, tmp_path: Path, kind: str) -> None:
    folder = scripts(tmp_path, TASKS, 0.5)
    fault = (kind, *OUTAGES[kind], "--seconds", str(OUTAGE_S))
    words = ["map", "-n", CLUSTER, str(folder), "--retries", "2", "--json"]
    ended = struck(pmr, words, fault, b'"SUCCEEDED"')
    assert ended.code == 0, ended.stderr
    happened = events(ended.stdout)
    summary = happened[-1]
    assert (summary["event"], summary["counts"]["SUCCEEDED"]) == ("summary", TASKS)
    # No attempt was made twice, and no task more often than it had to.
    attempts = {one["task"]: one["attempt"] for one in summary["tasks"]}
    assert attempts == {n: 2 if n % 8 == 0 else 1 for n in range(TASKS)}
    said = [one for one in happened if one["event"] == "outage" and one["service"] == "ssm"]
    assert [one["over"] for one in said] == [False, True], ended.stderr
    assert len(re.findall(SAID.replace("|EC2", ""), ended.stderr)) == 1
    assert len(re.findall(BACK.replace("|EC2", ""), ended.stderr)) == 1
    assert OUTAGE_S / 2 < said[1]["seconds"] < OUTAGE_S * 2.5


def test_a_lost_response_costs_seconds_and_is_reported(pmr: Pmr) -> None:
    silent = f"{CLUSTER}-0001"
    words = ["run", "-n", CLUSTER, "--json", "-c", "echo on; sleep 6; echo end"]
    began_s = time.monotonic()
    ended = struck(pmr, words, ("reply-lost", "--instance", silent), b'"on')
    assert ended.code == 0, ended.stderr
    # The window, a round trip and the patience, in the wall's seconds of this cloud, and slack.
    assert time.monotonic() - began_s < 60
    happened = [one for one in events(ended.stdout) if one.get("name") == silent]
    kinds = [one["event"] for one in happened if one["event"] in ("no_response", "response")]
    assert kinds == ["no_response", "response"]
    assert re.search(rf"\[{silent}\] no response for \d+ s \(asked again\)", ended.stderr)
    # The same output arrives once.
    out = "".join(one["text"] for one in happened if one["event"] == "output")
    assert out == "on\nend\n"


def test_status_asks_again_too(pmr: Pmr) -> None:
    pmr("run", "-n", CLUSTER, "-d", "-c", "true")
    pmr("local", "fault", "add", "reply-lost", "--instance", f"{CLUSTER}-0002")
    began_s = time.monotonic()
    said = pmr("status", "-n", CLUSTER)
    assert time.monotonic() - began_s < 45
    assert f"[{CLUSTER}-0002] no response for" in said.stderr


def test_nobody_waits_for_an_instance_that_has_gone(pmr: Pmr, tmp_path: Path) -> None:
    name = "leaving"
    pmr("create", "-n", name, "-N", "3", timeout_s=120)
    folder = scripts(tmp_path, 18, 2)
    with pmr.start("map", "-n", name, str(folder), "--retries", "2", "--json") as running:
        assert running.stdout is not None
        last_s = 0.0
        read = b""
        while data := os.read(running.stdout.fileno(), 1 << 16):
            if read.count(b'"RUNNING"') < 5 <= (read + data).count(b'"RUNNING"'):
                pmr("local", "fault", "add", "instance-terminate", "--instance", f"{name}-0002")
            read += data
            if b'"ended_at": "' in data and b'"summary"' not in data:
                last_s = time.monotonic()
        running.wait(timeout=30)
        took_s = time.monotonic() - last_s
        assert running.stderr is not None
        said = running.stderr.read().decode()
    pmr("terminate", "-n", name, "--yes")
    assert running.returncode == 0, said
    assert "instance-terminate" not in said
    assert events(read.decode())[-1]["counts"]["SUCCEEDED"] == 18
    # 3 s of the cloud's time on a busy machine.
    assert took_s < 4, said


def test_every_watcher_outlasts_it(pmr: Pmr, tmp_path: Path) -> None:
    folder = scripts(tmp_path, 6, 9)
    job = pmr("map", "-n", CLUSTER, str(folder), "-d", "--retries", "1").stdout.strip()
    watchers = {
        "status": ("status", job, "-n", CLUSTER, "--watch", "1s"),
        "logs": ("logs", "-f", job, "-n", CLUSTER),
        "after": ("run", "-n", CLUSTER, "--after", job, "-c", "echo then"),
    }
    begun = {name: pmr.start(*words) for name, words in watchers.items()}
    time.sleep(4)  # noqa: TID251 (they have begun to watch by then, which no line of theirs shows)
    pmr("local", "fault", "add", "port-closed", "--seconds", str(OUTAGE_S))
    # These begin while nothing answers.
    begun["results"] = pmr.start("results", job, "-n", CLUSTER, "-o", str(tmp_path / "out"))
    begun["list"] = pmr.start("list", "-n", CLUSTER)
    said = {name: one.communicate(timeout=100) for name, one in begun.items()}
    assert {name: one.returncode for name, one in begun.items()} == dict.fromkeys(begun, 0), said
    for name in watchers:
        assert len(re.findall(SAID, said[name][1].decode())) == 1, (name, said[name])
        assert len(re.findall(BACK, said[name][1].decode())) == 1, (name, said[name])


def test_a_lost_answer_launches_nothing_twice(pmr: Pmr) -> None:
    fault = ("lost-response", "--operation", "ec2:RunInstances", "--count", "4")
    pmr("local", "fault", "add", *fault)
    pmr("create", "-n", "twice", "-N", "2", timeout_s=100)
    pmr("local", "fault", "clear")
    assert len(pmr.json("list", "-n", "twice")["instances"]) == 2
    pmr("terminate", "-n", "twice", "--yes")


def test_throttling_of_every_second_call_is_outlasted(pmr: Pmr, tmp_path: Path) -> None:
    folder = scripts(tmp_path, TASKS, 0.5)
    words = ["map", "-n", CLUSTER, str(folder), "--retries", "2", "--json"]
    fault = ("throttle", "--probability", "0.5", "--seconds", "30", "--seed", "1")
    ended = struck(pmr, words, fault, b'"SUCCEEDED"')
    assert ended.code == 0, ended.stderr
    summary = events(ended.stdout)[-1]
    attempts = {one["task"]: one["attempt"] for one in summary["tasks"]}
    assert attempts == {n: 2 if n % 8 == 0 else 1 for n in range(TASKS)}


def test_the_wait_timeout_ends_an_outage_too(pmr: Pmr) -> None:
    words = ["run", "-n", CLUSTER, "--wait-timeout", "14", "-c", "echo on; sleep 40"]
    began_s = time.monotonic()
    ended = struck(pmr, words, ("5xx", "--operation", "ssm:*", "--seconds", "100"), b"on")
    # In seconds of the cloud, which goes twice as fast; the start and the end take a while.
    assert time.monotonic() - began_s < 30
    assert ended.code == 4, ended.stderr
    assert "stopped watching" in ended.stderr
    assert "pmr logs -f" in ended.stderr

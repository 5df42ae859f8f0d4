"""Instances that stop or reboot under a job: what ran is lost, what waited goes on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import events

CLUSTER = "rests"
# A stopped machine keeps its disk; the first time it is there for good.
FIRST = "if mkdir ~/$PMR_JOB_ID.$PMR_TASK_ID; then echo on; exec sleep 300; fi"


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    settings = {"interrupted_report_s": 0.5, "agent_start_s": 0.2}
    with own_cloud(tmp_path_factory.mktemp("home"), settings) as command:
        command("create", "-n", CLUSTER, "-N", "2", timeout_s=120)
        yield command


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Return a folder of six tasks: one for ever, the others short."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}").write_text("echo short\n" if number else f"{FIRST}\n")
    return folder


def cut_off(pmr: Pmr, scripts: Path, how: str) -> tuple[int, list[dict[str, Any]], str]:
    """Map over the scripts, and let something happen to the first instance when all runs."""
    mapping = pmr.start("map", "-n", CLUSTER, scripts, "--json", "--static")
    with mapping:
        assert mapping.stdout is not None
        seen: list[dict[str, Any]] = []
        wanted = {(0, "RUNNING"), *((task, "SUCCEEDED") for task in (1, 3, 5))}
        while not wanted <= {(one.get("task"), one.get("state")) for one in seen}:
            seen += events(mapping.stdout.readline())
        pmr("local", "fault", "add", how, "--instance", f"{CLUSTER}-0000")
        seen += events(mapping.stdout.read())
        assert mapping.stderr is not None
        said = mapping.stderr.read().decode()
    return mapping.returncode, seen, said


def states(summary: dict[str, Any]) -> dict[int, str]:
    return {one["task"]: one["state"] for one in summary["tasks"]}


def went_on(pmr: Pmr) -> str:
    """Return what becomes of tasks that waited: without namespaces no boot can be told."""
    isolated = pmr.json("local", "status")["isolation"] == "namespaces"
    return "SUCCEEDED" if isolated else "LOST"


def after_boot(pmr: Pmr) -> dict[int, str]:
    on_first = {0: "LOST", 2: went_on(pmr), 4: went_on(pmr)}
    return on_first | dict.fromkeys((1, 3, 5), "SUCCEEDED")


def test_a_stopped_instance_is_suspended_not_lost(pmr: Pmr, scripts: Path) -> None:
    code, happened, said = cut_off(pmr, scripts, "instance-stop")
    summary = happened[-1]
    assert (code, summary["exit_code"]) == (4, 4)
    on_first = {0: "LOST", 2: "PENDING", 4: "PENDING"}
    assert states(summary) == on_first | dict.fromkeys((1, 3, 5), "SUCCEEDED")
    assert {
        one["reason"].partition(":")[0] for one in summary["tasks"] if one["task"] in (2, 4)
    } == {"suspended"}
    resume, again = (
        line.partition("pmr ")[2]
        for line in said.splitlines()
        if "pmr " in line and "job" not in line
    )
    assert f"resume -n {CLUSTER}" in resume
    pmr(*shlex.split(resume), timeout_s=120)
    told = pmr(*shlex.split(again), "--json", check=False)
    assert told.returncode == 4
    assert states(events(told.stdout)[-1]) == after_boot(pmr)


def test_after_a_reboot_the_queue_goes_on(pmr: Pmr, scripts: Path) -> None:
    code, happened, _ = cut_off(pmr, scripts, "instance-reboot")
    summary = happened[-1]
    assert code == 4
    assert states(summary) == after_boot(pmr)
    lost = next(one for one in summary["tasks"] if one["task"] == 0)
    assert lost["reason"]
    read = pmr("logs", "--task", "0", "--no-prefix", "last", "-n", CLUSTER, check=False)
    assert read.stdout == "on\n"


def test_a_run_is_found_again_when_an_instance_of_it_has_ended(pmr: Pmr) -> None:
    words = ("run", "-n", CLUSTER, "--json", "-c", "echo $PMR_TASK_ID >>~/found-again")
    first = events(pmr(*words).stdout)[-1]
    pmr("terminate", "-n", CLUSTER, "-i", f"{CLUSTER}-0001", "--yes")
    again = pmr(*words, "--job-id", first["job"], check=False)
    assert again.returncode == 4, again
    assert states(events(again.stdout)[-1]) == {0: "SUCCEEDED", 1: "LOST"}
    ran = pmr("run", "-n", CLUSTER, "--no-prefix", "-c", "cat ~/found-again")
    assert ran.stdout == "0\n"


def test_following_ends_in_time_though_an_instance_is_silent(pmr: Pmr) -> None:
    pmr("create", "-n", "mute", "-N", "2", timeout_s=120)
    job = pmr("run", "-n", "mute", "-d", "-c", "sleep 600").stdout.strip()
    frozen = ("--instance", "mute-0001")
    pmr("local", "fault", "add", "instance-freeze", *frozen)
    began_s = time.monotonic()
    told = pmr("logs", "-f", job, "-n", "mute", "--wait-timeout", "14", check=False)
    took_s = time.monotonic() - began_s
    pmr("local", "fault", "add", "instance-thaw", *frozen)
    assert (told.returncode, "stopped following" in told.stderr) == (4, True), told.stderr
    # One question to it takes a minute and more, and three were asked.
    assert 14 <= took_s < 120
    pmr("terminate", "-n", "mute", "--yes")

"""Instances that come, stop or end while a map runs: who takes over what, and who remembers it."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Protocol

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import events_of_kind, ran, starts, summary


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    """Return the command, with a cloud whose time passes faster."""
    settings = {"time_scale": 4, "interrupted_report_s": 0.5}
    with own_cloud(tmp_path_factory.mktemp("home"), settings) as command:
        yield command


class Until(Protocol):
    """Reads what a map tells until so many lines have a text, or to its end; returns it all."""

    def __call__(self, text: str, count: int = 1) -> str: ...


@contextmanager
def mapping(pmr: Pmr, *words: str) -> Iterator[tuple[Popen[bytes], Until]]:
    """Start a map, and return it with a function that reads its lines until one has a text."""
    with pmr.start("map", "--json", *words) as client:
        assert client.stdout is not None
        told: list[str] = []

        def until(text: str, count: int = 1) -> str:
            while text and sum(text in line for line in told) < count:
                line = client.stdout.readline().decode() if client.stdout else ""
                assert line, f"it ended before {text}: {told[-1:]}"
                told.append(line)
            if not text and client.stdout:
                told.extend(client.stdout.read().decode().splitlines(keepends=True))
            return "".join(told)

        yield client, until


def ended_twice(told: str) -> list[tuple[int, int]]:
    """Return the tasks that were told to have succeeded more than once."""
    good = [one["task"] for one in events_of_kind(told, "task") if one["state"] == "SUCCEEDED"]
    return [pair for pair in Counter(good).items() if pair[1] > 1]


def test_an_instance_that_comes_later_takes_part(quick: Pmr, tmp_path: Path) -> None:
    quick("create", "-n", "grows", "-N", "1", timeout_s=120)
    program = 'echo "$PMR_INSTANCE_ID $PMR_HOST_INDEX"; sleep 0.7'
    with mapping(quick, "-n", "grows", "--array", "0-49", "-c", program) as (client, until):
        until("SUCCEEDED")
        quick("create", "-n", "grows", "-N", "1", timeout_s=120)
        told = until("")
    assert client.returncode == 0
    (joined,) = events_of_kind(told, "joined")
    assert joined["name"] == "grows-0001"
    done = summary(told)
    places = Counter(task["name"] for task in done["tasks"])
    assert places["grows-0001"] > 3
    assert starts(told) == [(number, 1) for number in range(50)]
    # Whoever asks later knows the newcomer too, and what it ran.
    wrote = ran(quick, "grows", done["job"], tmp_path)
    assert {
        f"{t['task']}": f"{t['instance']} {int(t['name'][-4:])}\n" for t in done["tasks"]
    } == wrote
    # The newcomer goes, and with it its ledger: what it ended is remembered, so nothing runs again.
    quick("terminate", "-n", "grows", "-i", "grows-0001", "--yes")
    again = quick("map", "-n", "grows", "--resume", done["job"], "--json")
    assert starts(again.stdout) == []
    assert summary(again.stdout)["counts"]["SUCCEEDED"] == 50


def test_what_a_lost_instance_ended_is_remembered(quick: Pmr) -> None:
    quick("create", "-n", "mirror", "-N", "3", timeout_s=120)
    words = ("-n", "mirror", "--array", "0-59", "--", "sleep", "0.5")
    with mapping(quick, *words) as (client, until):
        told = until('"SUCCEEDED"', 30)
        job = json.loads(told.splitlines()[0])["job"]
        client.send_signal(signal.SIGKILL)
        # It had heard of more than was read here; its last line may be cut.
        told = "".join(one for one in until("").splitlines(keepends=True) if one.endswith("}\n"))
    first = [e for e in events_of_kind(told, "task") if e["name"] == "mirror-0000"]
    quick("local", "fault", "add", "instance-terminate", "--instance", "mirror-0000")
    again = quick("map", "-n", "mirror", "--resume", job, "--json", timeout_s=120)
    done = summary(again.stdout)
    assert done["counts"]["SUCCEEDED"] == 60
    kept = [t for t in done["tasks"] if t["name"] == "mirror-0000"]
    assert kept
    assert {(t["confirmed"], t["reason"]) for t in kept} == {
        ("backup", "confirmed: backup; its log is gone with its instance")
    }
    assert done["confirmed_by_backup"] == len(kept)
    assert f"({len(kept)} confirmed: backup)" in again.stderr
    status = quick("status", job, "-n", "mirror")
    assert f"{len(kept)} confirmed: backup" in status.stdout
    ended = {e["task"] for e in first if e["state"] == "SUCCEEDED"}
    # A success is on record before it is reported, so that nothing which was reported runs again.
    assert ended <= {t["task"] for t in kept}
    assert not {task for task, _ in starts(again.stdout)} & {t["task"] for t in kept}
    assert not ended_twice(again.stdout)
    words = ("map", "-n", "mirror", "--resume", job, "--no-trust-backups", "--json")
    anew = quick(*words, timeout_s=120)
    assert {task for task, _ in starts(anew.stdout)} == {t["task"] for t in kept}
    assert summary(anew.stdout)["counts"]["SUCCEEDED"] == 60
    assert summary(anew.stdout)["confirmed_by_backup"] == 0


def test_what_waits_on_a_stopped_instance_is_given_away_only_when_asked(quick: Pmr) -> None:
    quick("create", "-n", "stops", "-N", "2", timeout_s=120)
    # Whatever runs leaves a line in a home that outlives the stop.
    program = 'echo "$PMR_TASK_ID" >>~/"$PMR_JOB_ID"; sleep 1'
    words = ("-n", "stops", "--static", "--array", "0-23", "-c", program)
    with mapping(quick, *words) as (client, until):
        job = json.loads(until("SUCCEEDED").splitlines()[0])["job"]
        quick("local", "fault", "add", "instance-stop", "--instance", "stops-0000")
        told = until("")
    assert client.returncode == 4
    held = [t for t in summary(told)["tasks"] if t["state"] == "PENDING"]
    assert {t["name"] for t in held} == {"stops-0000"}
    assert len(held) > 2
    given = quick("map", "-n", "stops", "--resume", job, "--reassign", "--json", timeout_s=120)
    done = summary(given.stdout)
    assert done["counts"]["SUCCEEDED"] == 24
    moved = {task for task, _ in starts(given.stdout)}
    assert {t["task"] for t in held} <= moved
    quick("resume", "-n", "stops", timeout_s=120)
    wrote = ("run", "-n", "stops", "-i", "stops-0000", "--no-prefix", "-c", f"cat ~/{job}")
    before = quick(*wrote).stdout
    back = quick("map", "-n", "stops", "--resume", job, "--json", timeout_s=120)
    assert starts(back.stdout) == []
    assert summary(back.stdout)["counts"]["SUCCEEDED"] == 24
    assert quick(*wrote).stdout == before

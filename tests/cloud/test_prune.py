"""`pmr jobs --prune` removes what old jobs left, and nothing of one that may go on."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cloud.conftest import Pmr

SETTLING = "its runner has died, and what that has left running is ended within a minute"


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster that has the jobs of these tests only."""
    return new_cluster("prune", 3)


@pytest.fixture
def old(pmr: Pmr, cluster: str) -> str:
    words = ("map", "-n", cluster, "--array", "0-5", "-c", "head -c 300000 /dev/zero >kept")
    told = pmr(*words, "--json")
    job_id: str = json.loads(told.stdout.splitlines()[-1])["job"]
    return job_id


def test_a_job_that_runs_stays_and_an_old_one_goes(pmr: Pmr, cluster: str, old: str) -> None:
    on = ("jobs", "-n", cluster, "--prune")
    running = pmr("run", "-n", cluster, "-d", "-c", "sleep 300").stdout.strip()
    kept = pmr(*on, "--job", running, "--yes", "--json", check=False)
    assert kept.returncode == 1
    assert json.loads(kept.stdout)["kept"] == [{"job": running, "why": "it still runs"}]
    assert pmr.json(*on)["jobs"] == []  # nothing is a week old
    looked = pmr.json(*on, "--older", "1ms", "--larger", "500k", "--dry-run")
    assert [one["job"] for one in looked["jobs"]] == [old]
    asked = pmr(*on, "--job", old, check=False)
    assert (asked.returncode, "add --yes" in asked.stderr) == (2, True)
    gone = pmr.json(*on, "--older", "1ms", "--larger", "500k", "--yes")
    assert gone["removed"] == [old]
    assert all(one["freed_bytes"] > 600_000 for one in gone["instances"])
    assert gone["freed_bytes"] == sum(one["freed_bytes"] for one in gone["instances"])
    listed = {one["job"] for one in pmr.json("jobs", "-n", cluster)}
    assert running in listed
    assert old not in listed
    left = pmr("run", "-n", cluster, "-u", "root", "--", "ls", "-A", "/var/lib/pmr/work").stdout
    assert old not in left
    assert ".gone" not in left
    assert pmr("status", old, "-n", cluster, check=False).returncode == 3
    assert pmr.json("cancel", running, "-n", cluster)["tasks_cancelled"] == 3
    assert pmr("jobs", "-n", cluster, "--dry-run", check=False).returncode == 2


def test_an_empty_name_removes_and_ends_nothing(pmr: Pmr, cluster: str, old: str) -> None:
    for words in (
        ("jobs", "--prune", "--job", "", "--yes"),
        ("cancel", ""),
        ("retry", " "),
        ("map", "--resume", ""),
        ("map", "--join", "  "),
        ("results", "-o", "", old),
    ):
        told = pmr(words[0], "-n", cluster, *words[1:], check=False)
        assert (told.returncode, "the word is empty" in told.stderr) == (2, True)
    assert old in {one["job"] for one in pmr.json("jobs", "-n", cluster)}


def test_what_a_dead_runner_left_can_go(pmr: Pmr, new_cluster: Callable[[str, int], str]) -> None:
    name = new_cluster("pruned", 1)
    killer = "kill -9 $(cut -d' ' -f1 /var/lib/pmr/jobs/$PMR_JOB_ID/runner)"
    told = pmr("run", "-n", name, "-u", "root", "--json", "-c", killer, check=False)
    job = json.loads(told.stdout.splitlines()[-1])["job"]
    prune = ("jobs", "-n", name, "--prune", "--older", "1ms", "--yes")
    # A slot of the dead runner may still go on: the job stays until that is settled.
    gone = pmr.json(*prune)
    while gone["kept"]:
        assert gone["kept"] == [{"job": job, "why": SETTLING}]
        gone = pmr.json(*prune)
    assert gone["removed"] == [job]

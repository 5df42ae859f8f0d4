"""Root of one instance forges what a job is: the others' word counts; content is verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr
from tests.support.commands import events

# A dozen commands one after another, on a machine that has much else to do.
pytestmark = pytest.mark.timeout(600)
# Each of these is run as root on the instance that lies, with the job's id for JOB.
LEDGER = "cd /var/lib/pmr/jobs/JOB && "
# Another manifest, with its digest: tasks have other names, and another place.
RENAME = (
    LEDGER
    + r"""sed -i 's/^T \([0-9]*\) 0 [^ ]* /T \1 0 Zm9yZ2Vk /; s/-0001/-0009/' manifest
read -r content instances _ <identity
sum=$(grep -v '^H .*joined' manifest | sha256sum)
echo "$content $instances ${sum:0:32}" >identity
sed -i 's/^name=.*/name=Zm9yZ2Vk/' meta"""
)
# The content alone, or the manifest alone: their digests stay as they were.
CONTENT = LEDGER + "sed -i 's/good/evil/' content"
MANIFEST = LEDGER + "sed -i 's/^T 0 /T 0 0/' manifest"


@pytest.fixture(scope="module")
def three(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster of three instances."""
    return new_cluster("three", 3)


def mapped(pmr: Pmr, cluster: str, command: str, *words: str) -> str:
    told = pmr("map", "-n", cluster, "-d", "--job-name", "honest", "-c", command, *words)
    return told.stdout.strip()


def lies(pmr: Pmr, cluster: str, script: str, job: str) -> str:
    """Let root of an instance forge a job's ledger: of the one that is read first, by its id.

    Returns its name.
    """
    there = pmr.json("list", "-n", cluster)["instances"]
    _, name = min((one["instance_id"], one["name"]) for one in there)
    pmr("run", "-n", cluster, "-i", name, "-u", "root", "-c", script.replace("JOB", job))
    return str(name)


@pytest.mark.parametrize("lie", [RENAME, MANIFEST])
def test_a_forged_manifest_renames_and_moves_nothing(
    pmr: Pmr, three: str, tmp_path: Path, lie: str
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(f"entry{number}\n" for number in range(6)))
    job = mapped(pmr, three, "echo {}", "--each-line", str(lines))
    pmr("logs", "-f", job, "-n", three)
    liar = lies(pmr, three, lie, job)
    for command in (("status", "--tasks"), ("status",), ("retry", "5"), ("logs",)):
        told = pmr(command[0], job, *command[1:], "-n", three, "--json", check=False)
        assert "forged" not in told.stdout + told.stderr
    pmr("results", job, "-n", three, "-o", tmp_path / "r", check=False)
    rows = [json.loads(line) for line in (tmp_path / "r/results.jsonl").read_text().splitlines()]
    assert [row["task_name"] for row in rows] == [f"entry{number}" for number in range(6)]
    honest = {f"{three}-{number:04d}" for number in range(3)} - {liar}
    assert {row["name"] for row in rows if row["state"] == "SUCCEEDED"} >= honest
    named = {row["job"]: row["name"] for row in pmr.json("jobs", "-n", three)}
    assert named[job] == "honest"
    assert pmr("status", "forged", "-n", three, check=False).returncode == 3


def test_content_that_differs_is_named_and_read_from_another(
    pmr: Pmr, new_cluster: Callable[[str, int], str], tmp_path: Path
) -> None:
    name = new_cluster("verified", 3)
    job = mapped(pmr, name, "sleep 4; echo good {}", "--array", "0-44")
    liar = lies(pmr, name, CONTENT, job)
    pmr("create", "-n", name, "-N", "1", timeout_s=120)
    told = pmr("map", "--join", job, "-n", name, "--json", timeout_s=110)
    assert f"[{liar}] its content is not the one that the job was submitted with" in told.stderr
    found = events(told.stdout)[-1]["tasks"]
    late = [task["task"] for task in found if task["name"] == f"{name}-0003"]
    assert late
    pmr("results", job, "-n", name, "-o", tmp_path / "r")
    assert all(f"good {task}" in (tmp_path / f"r/{task}.log").read_text() for task in late)


def test_without_a_majority_nothing_joins(pmr: Pmr, new_cluster: Callable[[str, int], str]) -> None:
    name = new_cluster("minority", 3)
    job = mapped(pmr, name, "sleep 300", "--array", "0-9")
    pmr("pause", "-n", name, "-i", f"{name}-0001", "-i", f"{name}-0002")
    told = pmr("map", "--join", job, "-n", name, check=False)
    assert told.returncode == 4
    assert f"1 of 3 instances vouch for the content of job {job}" in told.stderr
    ids = [one["instance_id"] for one in pmr.json("list", "-n", name)["instances"]]
    assert all(key in told.stderr for key in ids)
    pmr("cancel", job, "-n", name, check=False)

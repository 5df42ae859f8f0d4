"""Instances that lie, and ids of jobs that belong elsewhere: refused in words, with their code."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.commands import Words, events

# Ends whatever the agent starts. None of that can answer before: who takes the lock, and who lists
# the ledgers, finds a pipe that nobody else opens.
SILENCER = r"""
ledger=${0%/scripts/*}
rm "${ledger%/jobs/*}/lock" "$ledger/meta"
mkfifo "${ledger%/jobs/*}/lock" "$ledger/meta"
while :; do
  for one in $(grep -slF /send /proc/[0-9]*/cmdline); do
    proc=${one%/cmdline}
    grep -sqzxF "AWS_SSM_INSTANCE_ID=$PMR_INSTANCE_ID" "$proc/environ" && kill -9 "${proc#/proc/}"
  done 2>/dev/null
done
"""
# What root of an instance can make of a ledger: numbers, ids and names that cannot be.
FORGER = r"""
ledger=${0%/scripts/*}
printf 'created=999999999999999\nname=G1szMW0K\nkind=\033[31m\nsubmitter=/w==\n' >>"$ledger/meta"
printf 'E 1.0 0 1 0 exit\nJ 1e9 runner-started x\n\377\376\033]52;c;eA==\007\n' >>"$ledger/events"
echo here
"""
MANIFESTER = (
    FORGER
    + r"""
printf 'Q ../../x 0-99999999999\nH 0 i-0 YwobWzJKCg==\n' >>"$ledger/manifest"
"""
)


@pytest.fixture(scope="module")
def alone(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster of one instance."""
    return new_cluster("alone", 1)


def together(pmr: Pmr, cluster: str, *all_words: Words) -> list[CompletedProcess[str]]:
    """Run several commands side by side; return how they ended."""
    with ThreadPoolExecutor(5) as pool:
        return list(pool.map(lambda w: pmr(*w, "-n", cluster, check=False), all_words))


def test_a_job_of_another_cluster_is_refused(
    pmr: Pmr, cluster: str, alone: str, client: ClientFactory, tmp_path: Path
) -> None:
    job = pmr("run", "-n", alone, "-d", "-c", "sleep 300").stdout.strip()
    asked = [("cancel",), ("status",), ("logs",), ("logs", "-f"), ("results", "-o", tmp_path / "r")]
    asked += [("retry",), ("map", "--resume"), ("report", "-o", tmp_path / "page.html")]

    def refused(by: str, says: str) -> None:
        for told in together(pmr, by, *((*words, job) for words in asked)):
            assert told.returncode == 3
            assert says in told.stderr
            assert f"next: pmr jobs -n {by}" in told.stderr

    refused(cluster, f"cluster {cluster} has no job {job}")
    # An instance that changes its cluster keeps its ledgers.
    (one,) = pmr.json("list", "-n", alone)["instances"]
    tag = client("ec2").create_tags
    tag(Resources=[one["instance_id"]], Tags=[{"Key": "Project", "Value": "moved"}])
    refused("moved", f"it is one of cluster {alone}")
    assert pmr.json("jobs", "-n", "moved") == []
    assert pmr("cancel", "last", "-n", "moved", check=False).returncode == 3
    tag(Resources=[one["instance_id"]], Tags=[{"Key": "Project", "Value": alone}])
    assert pmr.json("status", job, "-n", alone)["counts"]["RUNNING"] == 1
    assert pmr.json("cancel", job, "-n", alone)["tasks_cancelled"] == 1


def test_a_forged_ledger_is_shown_without_harm(pmr: Pmr, alone: str) -> None:
    on = ("-n", alone)
    told = pmr("run", *on, "-u", "root", "--json", "-c", FORGER)
    job = events(told.stdout)[-1]["job"]
    document = pmr.json("status", job, *on)
    assert document["counts"]["SUCCEEDED"] == 1
    assert document["instances"][0]["damaged_lines"] == 3
    asked: list[Words] = [("jobs",), ("status", job), ("logs", job)]
    for said, code in zip(together(pmr, alone, *asked), (0, 0, 4), strict=True):
        assert said.returncode == code
        assert "\x1b" not in said.stdout + said.stderr
    assert "its meta is not the one that the job was submitted with" in said.stderr
    forged = events(pmr("run", *on, "-u", "root", "--json", "-c", MANIFESTER).stdout)[-1]["job"]
    words = [("status", forged, "--tasks"), ("logs", forged), ("cancel", forged)]
    for refused in together(pmr, alone, *words):
        assert refused.returncode == 4
        assert "its answer is damaged" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_an_instance_that_answers_nothing_is_damaged_and_exit_code_4(
    pmr: Pmr, new_cluster: Callable[[str, int], str]
) -> None:
    on = ("-n", new_cluster("silent", 1))
    assert pmr("run", *on, "-d", "-u", "root", "-c", SILENCER, check=False).returncode in {0, 4}
    words = ("--json", "--wait-timeout", "45s", "-c", "echo never")
    told = pmr("run", *on, *words, check=False, timeout_s=120)
    happened = events(told.stdout)
    assert (
        "its answer is damaged" in next(e for e in happened if e["event"] == "no_response")["why"]
    )
    assert (told.returncode, happened[-1]["exit_code"]) == (4, 4)
    (task,) = happened[-1]["tasks"]
    assert task["state"] == "PENDING"
    assert "no response for" in task["reason"]
    listed = pmr("jobs", *on, check=False)
    assert listed.returncode == 4
    assert "its answer is damaged" in listed.stderr


# A ledger whose manifest has no tasks any more.
EMPTIER = r"""
ledger=${0%/scripts/*}
sed -i '/^[QTR] /d' "$ledger/manifest"
"""


def test_a_job_whose_tasks_nobody_has_is_no_success(pmr: Pmr, alone: str, tmp_path: Path) -> None:
    told = pmr("run", "-n", alone, "-u", "root", "--json", "-c", EMPTIER)
    job = events(told.stdout)[-1]["job"]
    asked: list[Words] = [("status", job), ("status", job, "--tasks"), ("status", job, "--watch")]
    asked += [("logs", job), ("logs", "-f", job), ("results", job, "-o", tmp_path / "r")]
    asked += [("report", job, "-o", tmp_path / "page.html"), ("retry", job)]
    asked += [("run", "--after", f"{job}{also}", "-c", "true") for also in ("", ":any")]
    for refused in together(pmr, alone, *asked):
        assert refused.returncode == 4, (refused.args, refused.stderr)
        assert "its answer is damaged" in refused.stderr

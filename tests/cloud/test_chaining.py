"""`--after` and `--on-done`: what comes before a job, and what comes when it has ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import PMR, Pmr
from tests.support.commands import events_of_kind, summary

REPORT = 'echo "$PMR_JOB_ID $PMR_CLUSTER $PMR_EXIT_CODE $PMR_SUCCEEDED $PMR_FAILED $PMR_LOST"'


def job_ids(pmr: Pmr, cluster: str) -> set[str]:
    return {job["job"] for job in pmr.json("jobs", "-n", cluster)}


def test_a_job_starts_after_another_s_success(pmr: Pmr, cluster: str) -> None:
    words = ("-n", cluster, "--array", "0-5")
    first = pmr("map", *words, "-d", "--job-name", "prepare", "-c", "sleep 1; date +%s%N")
    job = first.stdout.strip()
    told = pmr("map", *words, "--json", "--after", "prepare", "-c", "true")
    waiting, earlier, submitted, *_ = map(json.loads, told.stdout.splitlines())
    assert waiting == {"event": "waiting", "job": job, "tasks": 6}
    assert (earlier["job"], earlier["starts"], earlier["counts"]["SUCCEEDED"]) == (job, True, 6)
    assert submitted["event"] == "submitted"
    before = pmr.json("status", job, "-n", cluster, "--tasks")["tasks"]
    after = summary(told.stdout)["tasks"]
    assert max(t["ended_at"] for t in before) <= min(t["started_at"] for t in after)
    # Two are waited for; the second is told of by id.
    again = pmr("run", "-n", cluster, "--after", "last", "--after", job, "--", "true")
    assert again.returncode == 0


def test_nothing_starts_after_a_failure(pmr: Pmr, cluster: str) -> None:
    failed = pmr(
        "map", "-n", cluster, "--json", "--array", "0-2", "-c", "exit $PMR_TASK_ID", check=False
    )
    job = summary(failed.stdout)["job"]
    before = job_ids(pmr, cluster)
    words = ("run", "-n", cluster, "-c", "echo started", "--after", job)
    refused = pmr(*words, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert (
        f"error: nothing was started: job {job} did not succeed (1 SUCCEEDED, 2 FAILED): "
        "task 1 (1) failed with exit code 1\n" in refused.stderr
    )
    assert f"--after {job}:any starts all the same" in refused.stderr
    told = pmr(*words, "--json", check=False)
    assert told.returncode == 1
    assert json.loads(told.stdout.splitlines()[-1])["error"]["kind"] == "EarlierFailed"
    assert job_ids(pmr, cluster) == before
    anyhow = pmr("run", "-n", cluster, "-c", "echo started", "--after", f"{job}:any")
    assert "started" in anyhow.stdout


def test_a_further_turn_is_waited_for(pmr: Pmr, cluster: str) -> None:
    # All has ended for a moment, between the last failure and the turn that follows it.
    program = 'sleep 2; [ "$PMR_TASK_ATTEMPT" = 2 ]'
    words = ("map", "-n", cluster, "--json", "--array", "0", "--retries", "1", "-c", program)
    with pmr.start(*words) as mapping:
        assert mapping.stdout is not None
        job = json.loads(mapping.stdout.readline())["job"]
        told = pmr("run", "-n", cluster, "--json", "--after", job, "--", "true")
        mapping.communicate()
    (earlier,) = events_of_kind(told.stdout, "earlier")
    assert (earlier["starts"], earlier["counts"]["SUCCEEDED"]) == (True, 1)


def test_what_is_interrupted_while_it_waits_starts_nothing(pmr: Pmr, cluster: str) -> None:
    job = pmr("run", "-n", cluster, "-d", "--", "sleep", "60").stdout.strip()
    words = ("run", "-n", cluster, "--after", "last", "-c", "echo 'a b'")
    waiting = pmr.start(*words)
    assert waiting.stderr is not None
    told = b""
    while b"/3 done" not in told:
        told += waiting.stderr.readline()
    assert f"waiting for job {job}: 0/3 done" in told.decode()
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=30)
    assert (waiting.returncode, stdout) == (130, b"")
    assert "interrupted: nothing was started" in stderr.decode()
    # `last` may be another job by then.
    assert f"  pmr run -n {cluster} --after {job} -c 'echo '\"'\"'a b'\"'\"''\n" in stderr.decode()
    pmr("cancel", job, "-n", cluster)
    # Its end is seen to be a cancel, and no success.
    refused = pmr(*words, check=False)
    assert (refused.returncode, "3 CANCELLED" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["run", "--after", "no-such-job", "--", "true"], 3, "has no job named no-such-job"),
        (["run", "--after", "last", "-d", "--", "true"], 2, "--after needs a client"),
        (["map", "--array", "1", "-c", "true", "-d", "--on-done", "x"], 2, "--on-done needs a"),
        (["run", "--on-instance", "--", "true"], 2, "add --on-done CMD"),
        (["run", "--after", ":any", "--", "true"], 2, "names no job"),
    ],
)
def test_what_cannot_be_waited_for(
    words: list[str], code: int, why: str, pmr: Pmr, cluster: str
) -> None:
    command, *rest = words
    told = pmr(command, "-n", cluster, *rest, check=False)
    assert (told.returncode, why in told.stderr) == (code, True), told.stderr


def test_a_command_runs_here_when_the_job_has_ended(pmr: Pmr, cluster: str) -> None:
    words = ("map", "-n", cluster, "--json", "--array", "0-2", "-c", "exit $PMR_TASK_ID")
    # It talks to the same cloud, and to the same cluster.
    command = f'{REPORT}; {PMR} logs "$PMR_JOB_ID" --task 0; exit 7'
    told = pmr(*words, "--on-done", command, check=False)
    job = summary(told.stdout)["job"]
    assert told.returncode == 1
    assert f"{job} {cluster} 1 1 2 0\n" in told.stderr
    assert "--on-done failed with exit code 7" in told.stderr
    assert "error:" not in told.stderr
    (event,) = events_of_kind(told.stdout, "on_done")
    assert event == {"event": "on_done", "command": command, "exit_code": 7}
    one = ("run", "-n", cluster, "-i", f"{cluster}-0000", "-c")
    failing = pmr(*one, "echo out", "--on-done", "echo done; false", check=False)
    assert (failing.returncode, failing.stdout) == (1, f"[{cluster}-0000] out\n")
    assert "done\n" in failing.stderr
    assert pmr(*one, "true", "--on-done", "true").returncode == 0
    own = pmr(*one, "exit 9", "--on-done", REPORT, check=False)
    assert (own.returncode, f"{cluster} 9 0 1 0\n" in own.stderr) == (9, True)


def test_a_command_runs_on_an_instance_when_the_job_has_ended(pmr: Pmr, cluster: str) -> None:
    words = ("map", "-n", cluster, "--json", "--array", "0-3", "-c", "true")
    told = pmr(*words, "--on-done", f'{REPORT}; echo "at $PMR_INSTANCE_ID"', "--on-instance")
    job = summary(told.stdout)["job"]
    (event,) = events_of_kind(told.stdout, "on_done")
    assert f"] {job} {cluster} 0 4 0 0\n" in told.stderr
    assert f"] at {event['instance']}\n" in told.stderr
    listed: dict[str, Any] = {one["job"]: one for one in pmr.json("jobs", "-n", cluster)}
    assert listed[event["job"]]["name"] == f"{job}-done"
    assert (listed[event["job"]]["kind"], listed[event["job"]]["tasks"]) == ("run", 1)
    bad = pmr(*words, "--on-done", "exit 4", "--on-instance", check=False)
    assert (bad.returncode, summary(bad.stdout)["exit_code"]) == (1, 1)
    assert events_of_kind(bad.stdout, "on_done")[0]["exit_code"] == 4


def test_nothing_is_run_at_an_end_that_nobody_saw(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    words = ("map", "-n", cluster, "--array", "0", "-c", "sleep 30", "--job-name", "unseen")
    told = pmr(*words, "--on-done", f"touch {there}", "--wait-timeout", "1s", check=False)
    assert told.returncode == 4
    assert "--on-done was not run, as the job was not seen to end" in told.stderr
    assert not there.exists()
    pmr("cancel", "unseen", "-n", cluster)

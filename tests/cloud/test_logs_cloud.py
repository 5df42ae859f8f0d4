"""`pmr logs` and friends by the front door: every byte, parts of it, and while it is written."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr
from tests.cloud.test_run import events

# 300 KB that compress well, 60 KB that do not, a line that is long, bytes that are no text, and
# no newline at the end; a copy tells the hash.
WRITER = r"""
{
  awk 'BEGIN { for (i = 0; i < 7500; i++) printf "step %06d: everything is as it was\n", i }'
  head -c 45000 /dev/urandom | base64 -w 0
  printf '\n\377\376\000\r\n last'
} | tee "$HOME/said"
"""


@dataclass(frozen=True, slots=True)
class Written:
    """A job that wrote much on one instance, and what `run` showed of it."""

    job: str
    shown: bytes


@pytest.fixture(scope="module")
def written(pmr: Pmr, cluster: str) -> Written:
    """Run the writer on one instance."""
    told = pmr.raw("run", "-n", cluster, "-i", f"{cluster}-0002", "--no-prefix", "-c", WRITER)
    job = told.stderr.decode().partition("job ")[2].partition(":")[0]
    return Written(job, told.stdout)


def test_every_byte_by_run_logs_and_results(
    pmr: Pmr, cluster: str, written: Written, tmp_path: Path
) -> None:
    assert len(written.shown) > 330_000
    with ThreadPoolExecutor() as pool:
        there = ("-i", f"{cluster}-0002", "-c", 'sha256sum "$HOME/said"')
        digest = pool.submit(pmr, "run", "-n", cluster, "--no-prefix", *there)
        logs = pool.submit(pmr.raw, "logs", written.job, "-n", cluster)
        results = pool.submit(pmr, "results", written.job, "-n", cluster, "-o", tmp_path / "r")
        tail = pool.submit(pmr.raw, "logs", written.job, "-n", cluster, "--tail", "3")
    assert hashlib.sha256(written.shown).hexdigest() == digest.result().stdout.split()[0]
    assert logs.result().stdout == written.shown
    results.result()
    assert (tmp_path / "r" / "0.log").read_bytes() == written.shown
    assert tail.result().stdout == b"\n".join(written.shown.split(b"\n")[-3:])


# It goes on when its first line has been seen.
FOLLOWED = """
echo "line 1"
until [ -e ~/"$PMR_JOB_ID" ]; do sleep 0.2; done
for i in $(seq 2 12); do echo "line $i"; sleep 0.1; done
exit $PMR_TASK_INDEX
"""


def test_two_follow_from_other_clients(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for number in range(2):
        (scripts / f"{number}").write_text(FOLLOWED)
    job = pmr("map", "-n", cluster, "-d", scripts).stdout.strip()
    words = ("logs", "-f", job, "-n", cluster)
    with pmr.start(*words) as first, pmr.start(*words) as second:
        read = {}
        for follower in (first, second):
            assert follower.stdout is not None
            # It shows lines while the tasks are still writing.
            read[follower] = [follower.stdout.readline() for _ in range(2)]
        pmr("run", "-n", cluster, "-c", f"touch ~/{job}")
        for follower in (first, second):
            assert follower.stdout is not None
            read[follower] += follower.stdout.readlines()
    expected = [f"[{cluster}-000{n} {n}] line {i}\n" for n in range(2) for i in range(1, 13)]
    for follower, lines in read.items():
        # Each sees every line, once, and the same end.
        assert sorted(line.decode() for line in lines) == sorted(expected)
        assert follower.returncode == 1
    one = pmr("logs", job, "-n", cluster, "--task", "1", "--tail", "2")
    assert one.stdout == "line 11\nline 12\n"


def test_a_task_that_truncates_its_log_confuses_nobody(pmr: Pmr, cluster: str) -> None:
    script = "seq 2000; sleep 1; : >/proc/self/fd/1; echo fresh; sleep 1"
    told = pmr("run", "-n", cluster, "-i", f"{cluster}-0001", "--json", "-c", script)
    happened = events(told.stdout)
    written = "".join(one["text"] for one in happened if one["event"] == "output")
    assert written.endswith("fresh\n")
    assert happened[-1]["exit_code"] == 0


def test_results_that_cannot_be_written(
    pmr: Pmr, cluster: str, written: Written, tmp_path: Path
) -> None:
    words = ("results", written.job, "-n", cluster, "-o")
    for name in ("joblog.tsv", "0.log"):
        (tmp_path / name / name).mkdir(parents=True)
        told = pmr(*words, tmp_path / name, check=False)
        assert told.returncode == 2
        assert f"error: cannot write into {tmp_path / name}: Is a directory" in told.stderr


def test_unknown_jobs_and_tasks(pmr: Pmr, cluster: str, written: Written) -> None:
    asked = (("logs", "no-such-job"), ("logs", written.job, "--task", "7"))
    with ThreadPoolExecutor() as pool:
        for told in pool.map(lambda words: pmr(*words, "-n", cluster, check=False), asked):
            assert told.returncode == 3
            assert told.stderr.count("error:") == 1
            assert "next:" in told.stderr

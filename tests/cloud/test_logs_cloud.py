"""`pmr logs` and friends by the front door: every byte, parts of it, and while it is written."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr
from tests.support.commands import events

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
        assert f"error: {tmp_path / name} hold" in told.stderr
        assert "choose another folder" in told.stderr


def test_unknown_jobs_and_tasks(pmr: Pmr, cluster: str, written: Written) -> None:
    asked = (("logs", "no-such-job"), ("logs", written.job, "--task", "7"))
    with ThreadPoolExecutor() as pool:
        for told in pool.map(lambda words: pmr(*words, "-n", cluster, check=False), asked):
            assert told.returncode == 3
            assert told.stderr.count("error:") == 1
            assert "next:" in told.stderr


# Its middle is gone, as it is after the cap was reached; the bytes of a sparse file cost nothing.
CAPPED = """
seq 100000 | head -c 8192
truncate -s {hole_mib}M /proc/self/fd/1
echo 8192 $(({hole_mib} << 20)) >/var/lib/pmr/jobs/$PMR_JOB_ID/holes/${{PMR_TASK_KEY#*_}}
seq 90000 90999
"""


@pytest.mark.parametrize("hole_mib", [246, 1023])
def test_a_capped_log_is_read_without_its_hole(
    pmr: Pmr, cluster: str, tmp_path: Path, hole_mib: int
) -> None:
    there = ("-i", f"{cluster}-0002", "-u", "root")
    told = pmr("run", "-d", "-n", cluster, *there, "-c", CAPPED.format(hole_mib=hole_mib))
    job = told.stdout.strip()
    pmr("logs", "-f", job, "-n", cluster)
    with ThreadPoolExecutor() as pool:
        logs = pool.submit(pmr.raw, "logs", job, "-n", cluster)
        results = pool.submit(pmr, "results", job, "-n", cluster, "-o", tmp_path / "r")
        tail = pool.submit(pmr.raw, "logs", job, "-n", cluster, "--tail", "1002")
        listed = pool.submit(pmr, "logs", job, "-n", cluster, "--json")
    missing = (hole_mib << 20) - 8192
    mark = b"\n[pmr: %d bytes of this log are missing here: the log had reached its cap]\n"
    mark = mark.replace(b"%d", f"{missing:,}".encode())
    head = "".join(f"{n}\n" for n in range(1, 5000)).encode()[:8192]
    end = "".join(f"{n}\n" for n in range(90_000, 91_000)).encode()
    assert logs.result().stdout == head + mark + end
    assert logs.result().stderr.count(b"missing") == 1
    assert (tmp_path / "r" / "0.log").read_bytes() == head + mark + end
    assert results.result().stderr.count("missing") == 1
    assert "to read: about" not in results.result().stderr
    row = json.loads((tmp_path / "r" / "results.jsonl").read_text())
    assert (row["log_bytes"], row["missing_bytes"]) == (8192 + len(end), missing)
    assert tail.result().stdout == head.split(b"\n")[-1] + mark + end
    gaps = [one for one in events(listed.result().stdout) if one["event"] == "output_gap"]
    assert [one["missing_bytes"] for one in gaps] == [missing]


# The command with another default for the cap of a log: 64 KiB.
SMALL_CAP = """
import inspect
from poormanray import manifest
made = manifest.Job.__init__
words = inspect.signature(made).parameters.values()
names = [one.name for one in words if one.default is not one.empty]
found = zip(names, made.__defaults__, strict=True)
made.__defaults__ = tuple(1 << 16 if name == "log_cap_bytes" else one for name, one in found)
from poormanray.cli import main
main()
"""


def test_a_log_is_followed_while_its_cap_removes_its_middle(
    pmr: Pmr, cluster: str, tmp_path: Path
) -> None:
    writes = "for n in 1 2 3; do seq ${n}00000 ${n}60000; sleep 2.5; done; echo the end"
    words = ("-n", cluster, "-i", f"{cluster}-0001", "--no-prefix", "-c", writes)
    shown = subprocess.run(
        [sys.executable, "-c", SMALL_CAP, "run", *words],
        capture_output=True,
        env=pmr.environment(),
        cwd=pmr.home,
        timeout=120,
        check=True,
    )
    job = shown.stderr.decode().partition("job ")[2].partition(":")[0]
    results = pmr("results", job, "-n", cluster, "-o", tmp_path / "r")
    saved = (tmp_path / "r" / "0.log").read_bytes()
    for text in (shown.stdout, saved):
        assert text.startswith(b"100000\n100001\n")
        assert text.endswith(b"\nthe end\n")
        assert b"\0" not in text
    # What was written is what is there and what is missing.
    marks = re.findall(rb"\[pmr: ([0-9,]+) bytes of this log[^\n]*\n", saved)
    row = json.loads((tmp_path / "r" / "results.jsonl").read_text())
    assert len(marks) == results.stderr.count("missing") == 1
    assert row["missing_bytes"] == int(marks[0].replace(b",", b""))
    assert row["missing_bytes"] + row["log_bytes"] == 3 * 60_001 * 7 + len("the end\n")
    assert row["log_bytes"] < 120_000

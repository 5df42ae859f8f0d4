"""Measure what one look at a job costs its instance, and what many looks at once take."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from poormanray.ledger import new_job_id
from poormanray.manifest import Host, Job, Task, encode_sections
from poormanray.shell import LARGE_ANSWER_CHARS, SMALL_ANSWER_CHARS, Bundle, Call, render
from scripts.measuring import Figure, cloud, cluster

ME = "i-0123456789abcdef0"
TASKS, LOOKS = 10, 20
# The processes that a look may start: half of what each took when it read its files by processes
# (18, 13, 13 and 17; its CPU time was 28, 17, 22 and 24 ms on a machine with a load of 13).
LIMITS = {"status": 9, "observe": 6, "every task": 6, "log": 8}
# Before that, 50 clients took more than 200 s on two CPUs.
CLIENTS, INSTANCES, MOST_S = 50, 200, 200
# In a namespace of its own the numbers of processes tell how many there were.
COUNTED = """
read -r before </proc/sys/kernel/ns_last_pid
for ((n = 0; n < $1; n++)); do sh "$2" >"$2.out" || exit; done
read -r after </proc/sys/kernel/ns_last_pid
echo $(((after - before) / $1))
times
"""


def measure_look() -> Iterator[Figure]:
    """Look at a job of ten tasks that have ended, in the ways in which commands look."""
    with tempfile.TemporaryDirectory(prefix="pmr-look-") as name:
        folder = Path(name)
        job = _ended_job(folder)
        size = (folder / "root" / "jobs" / job / "events").stat().st_size
        rows = {
            "observe": f"{size} 0 1 {SMALL_ANSWER_CHARS} -",
            "every task": f"0 0 0 {SMALL_ANSWER_CHARS}",
            "log": f"- 0 0 {LARGE_ANSWER_CHARS} 0.1:0:0",
        }
        calls = {
            "status": Call("summary", ("last", "c", "3"), 0),
            "observe": Call("observe", (job,), 0, {ME: rows["observe"]}),
            "every task": Call("ends", (f"id:{job}", "-"), 0, {ME: rows["every task"]}),
            "log": Call("observe", (job,), 0, {ME: rows["log"]}),
        }
        for what, call in calls.items():
            count, spent_ms = _cost(folder, call)
            yield Figure(f"look ({what}): processes", count, "", LIMITS[what])
            yield Figure(f"look ({what}): CPU", spent_ms, "ms", None, _load())


def measure_crowd() -> Iterator[Figure]:
    """Let many clients ask at once how far the same job is."""
    with cloud() as own, cluster(own, "crowd", INSTANCES) as name:
        own("run", "-n", name, "--", "true", timeout_s=1200)
        before, began_s, load = own.calls(), time.monotonic(), _load()
        with ThreadPoolExecutor(CLIENTS) as pool:
            asks = [
                pool.submit(own, "status", "-n", name, check=False, timeout_s=1200)
                for _ in range(CLIENTS)
            ]
            failed = sum(ask.result().returncode != 0 for ask in asks)
        seconds = time.monotonic() - began_s
        calls = (own.calls() - before).total()
        what = f"{CLIENTS} x status on {INSTANCES} instances"
        note = f"{calls} calls of SSM; {load} before, {_load()} after"
        yield Figure(what, seconds, "s", MOST_S, note)
        yield Figure(f"{what}: failed", failed, "", 0)


def _load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"


def _script(folder: Path, call: Call) -> Path:
    words = {name: getattr(call, name) for name in ("verb", "arguments", "table", "bundle")}
    script = folder / "look"
    script.write_text(render(Call(**words, not_after_s=int(time.time()) + 900)))
    return script


def _environment(folder: Path) -> Mapping[str, str]:
    kept = {"PATH": os.environ["PATH"], "AWS_SSM_INSTANCE_ID": ME, "PMR_IMDS": "/nowhere"}
    return {**kept, "PMR_ROOT": f"{folder}/root", "TMPDIR": str(folder)}


def _ended_job(folder: Path) -> str:
    """Run a job on this machine; return its id when its runner has ended."""
    tasks = tuple(Task(number, f"task-{number}.sh", 0) for number in range(TASKS))
    hosts = (Host(0, ME, "c-0000", tuple(range(TASKS))),)
    job = Job(new_job_id(), "map", "c", "r", hosts, tasks, (b"#!/bin/sh\necho done\n",))
    sections = encode_sections(job)
    data = gzip.compress(b"".join(part for _, part in sections), mtime=0)
    sizes = tuple((name, len(part)) for name, part in sections)
    bundle = Bundle(data, hashlib.sha256(data).hexdigest(), sizes)
    call = Call("start", (job.job_id,), 0, {ME: f"0 0 1 {SMALL_ANSWER_CHARS}"}, bundle)
    script = _script(folder, call)
    words = ["/bin/sh", str(script)]
    subprocess.run(words, env=_environment(folder), stdout=subprocess.PIPE, check=True)
    done = folder / "root" / "jobs" / job.job_id / "done"
    for _ in range(600):
        if done.exists():
            return job.job_id
        time.sleep(0.1)
    raise RuntimeError("the job does not end")


def _cost(folder: Path, call: Call) -> tuple[int, float]:
    """Return the processes that a look starts (its own `sh` is one), and its CPU time in ms."""
    words = ["unshare", "-Urpf", "--mount-proc", "bash", "-c", COUNTED, "-", str(LOOKS)]
    told = subprocess.run(
        [*words, _script(folder, call)],
        env=_environment(folder),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.split()
    spent_s = sum(_seconds(word) for word in told[3:5])
    return int(told[0]), spent_s / LOOKS * 1000


def _seconds(word: str) -> float:
    minutes, _, rest = word.rstrip("s").partition("m")
    return int(minutes) * 60 + float(rest)

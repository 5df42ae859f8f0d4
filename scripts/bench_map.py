"""Measure maps beside their peers: GNU parallel, xargs, and the best schedule there could be."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench_ledger import spent
from scripts.bench_scale import RATE, play
from scripts.measuring import Cloud, Figure, cloud, cluster, timed

SHORT_TASKS, SLOTS, TURNS = 1000, 2, 3
OURS, PARALLEL, XARGS = "pmr map", "GNU parallel --joblog", "xargs -P2"
TIMED_TASKS, INSTANCES, SEED = 400, 8, 1
MANY, FLEET = 10_000, 50
FAILING = 33  # one in so many of the tasks fails
SCRIPT_BYTES = 2048
REPORTS = 3
# How much slower than the best schedule, with equal instances and with one of half the speed.
BALANCED, BALANCED_SLOW = 1.10, 1.15


def measure_map() -> Iterator[Figure]:
    """Measure all of it."""
    yield from _overhead()
    yield from _makespans()
    yield from _many()
    yield from _limited()


# --- overhead ----------------------------------------------------------------------------------


def _overhead() -> Iterator[Figure]:
    """Run many tasks that do nothing on one instance, and with the same number of slots here.

    Of each the best of some turns: what else the machine does only ever adds to it.
    """
    what = f"{SHORT_TASKS} x true, {SLOTS} slots"
    best: dict[str, float] = {}
    numbers = "\n".join(map(str, range(SHORT_TASKS)))
    array = f"0-{SHORT_TASKS - 1}"
    with cloud() as own, cluster(own, "short", 1) as name:
        joblog = own.folder / "joblog"
        peers = {
            PARALLEL: ["parallel", "-j2", "--joblog", str(joblog), "true"],
            XARGS: ["xargs", "-P2", "-n1", "true"],
        }
        for _ in range(TURNS):
            told = _mapped(own, name, "--slots", str(SLOTS), "--array", array, "--", "true")
            took = {OURS: _makespan_s(told["tasks"])}
            for peer, words in peers.items():
                if shutil.which(words[0]):
                    began_s = time.monotonic()
                    subprocess.run(words, input=numbers, text=True, check=True, cwd=own.folder)
                    took[peer] = time.monotonic() - began_s
            best = {each: min(seconds, best.get(each, seconds)) for each, seconds in took.items()}
    for each, seconds in best.items():
        yield Figure(f"{what}, {each}", seconds, "s", None, f"the best of {TURNS}")
    for peer, limit in ((PARALLEL, 1.0), (XARGS, 6.0)):
        if peer in best:
            yield Figure(f"{what}, by {peer.split(' -')[0]}", best[OURS] / best[peer], "x", limit)


def _mapped(own: Cloud, name: str, *words: str | Path, check: bool = True) -> dict[str, Any]:
    """Map, and return the summary."""
    done = own("map", "-n", name, "--json", *words, timeout_s=1200, check=check)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _makespan_s(tasks: Sequence[dict[str, Any]]) -> float:
    starts = [datetime.fromisoformat(task["started_at"]) for task in tasks]
    ends = [datetime.fromisoformat(task["ended_at"]) for task in tasks]
    return (max(ends) - min(starts)).total_seconds()


# --- makespan ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    """Instances of which the first may be slower than the others."""

    slowness: float

    def ideal_s(self, times: Sequence[float]) -> float:
        """Return when a greedy schedule ends: each task goes to whoever would end it first."""
        ends = [0.0] * INSTANCES
        for seconds in times:
            costs = [seconds * (self.slowness if at == 0 else 1.0) for at in range(INSTANCES)]
            best = min(range(INSTANCES), key=lambda at: ends[at] + costs[at])
            ends[best] += costs[best]
        return max(ends)

    @property
    def command(self) -> str:
        """Return what a task runs for its time."""
        slow = f"""awk 'BEGIN {{ print ENVIRON["PMR_ENTRY"] * {self.slowness} }}'"""
        return f'if [ "$PMR_HOST_INDEX" = 0 ]; then sleep "$({slow})"; else sleep {{}}; fi'


def _makespans() -> Iterator[Figure]:
    """Compare an attached map, and the even split of a detached one, with the best schedule."""
    rng = random.Random(SEED)  # noqa: S311 (not a secret)
    times = [round(rng.lognormvariate(0, 1), 3) for _ in range(TIMED_TASKS)]
    with cloud() as own, cluster(own, "timed", INSTANCES) as name:
        lines = own.folder / "times"
        lines.write_text("".join(f"{seconds}\n" for seconds in times))
        for kind, limit in ((Cluster(1.0), BALANCED), (Cluster(2.0), BALANCED_SLOW)):
            what = f"{TIMED_TASKS} tasks on {INSTANCES}" + ", one slow" * (kind.slowness > 1)
            ideal_s = kind.ideal_s(times)
            yield Figure(f"{what}: the best schedule", ideal_s, "s")
            words = ("--each-line", lines, "-c", kind.command)
            split = _mapped(own, name, "--static", *words)
            split_s = _makespan_s(split["tasks"])
            yield Figure(f"{what}: even static split", split_s / ideal_s, "x")
            took: list[float] = []
            with timed(took):
                told = _mapped(own, name, *words)
            ours_s = _makespan_s(told["tasks"])
            note = f"{ours_s:.1f} s; {took[0]:.1f} s from the command to its end"
            yield Figure(f"{what}: attached", ours_s / ideal_s, "x", limit, note)


# --- many --------------------------------------------------------------------------------------


def _many() -> Iterator[Figure]:
    with cloud() as own, cluster(own, "many", FLEET) as name:
        array = f"0-{MANY - 1}"
        took: list[float] = []
        with timed(took):
            job = own("map", "-n", name, "-d", "--array", array, "--", "true").stdout.strip()
        yield Figure(f"{MANY} array tasks on {FLEET}: submit", took[0], "s", 15)
        own("logs", "-f", job, "-n", name, timeout_s=900)
        yield from _different(own, name)
        yield from _failing(own, name, array)


def _limited() -> Iterator[Figure]:
    """Map in a cloud that allows five calls a second of each operation."""
    what = f"{MANY} tasks on {FLEET}, 5 calls/s"
    with cloud(RATE) as own, cluster(own, "limited", FLEET) as name:
        words = ["map", "-n", name, "--json", "--slots", "2", "--array", f"0-{MANY - 1}"]
        done = play(own, [*words, "--", "true"])
        told = ", ".join(f"{count} {operation}" for operation, count in done.calls.most_common())
        polls = done.calls["ListCommandInvocations"]
        yield Figure(f"{what}: map", done.seconds, "s", None, told)
        yield Figure(f"{what}: SSM calls a poll", done.calls.total() / polls, "", 2)
        yield Figure(f"{what}: complaints", len(done.wrong), "", 0, "; ".join(done.wrong)[:300])


def _different(own: Cloud, name: str) -> Iterator[Figure]:
    """Submit scripts of which each is another."""
    rng = random.Random(SEED)  # noqa: S311 (not a secret)
    for what, alike, limit in (("that compress 10:1", 0.92, 60.0), ("of random text", 0.0, None)):
        folder = own.folder / what
        folder.mkdir()
        same = "x" * int(SCRIPT_BYTES * alike)
        for number in range(MANY):
            size = (SCRIPT_BYTES - len(same)) * 3 // 4
            noise = rng.randbytes(size).hex()[: SCRIPT_BYTES - len(same)]
            (folder / f"{number:05d}").write_text(f"#!/bin/sh\n: {same}{noise}\ntrue\n")
        if limit is None:
            told = own("map", "-n", name, "--dry-run", folder).stdout
            yield Figure(f"{MANY} scripts {what}", 0, "", None, told.replace("\n", "; ")[:200])
            continue
        took: list[float] = []
        with timed(took):
            job = own("map", "-n", name, "-d", folder, timeout_s=900).stdout.strip()
        yield Figure(f"{MANY} scripts {what}: submit", took[0], "s", limit)
        own("cancel", job, "-n", name)


def _failing(own: Cloud, name: str, array: str) -> Iterator[Figure]:
    """Let some tasks fail once, and retry those."""
    program = f"[ $((PMR_TASK_ID % {FAILING})) != 0 ] || [ $PMR_TASK_ATTEMPT -gt 1 ]"
    expected = {number for number in range(MANY) if number % FAILING == 0}
    before, began_s = own.calls(), time.monotonic()
    told = _mapped(own, name, "--slots", "2", "--array", array, "-c", program, check=False)
    seconds = time.monotonic() - began_s
    calls = own.calls() - before
    note = ", ".join(f"{count} {operation}" for operation, count in calls.most_common())
    yield Figure(f"{MANY} tasks, some fail: map", seconds, "s", None, note)
    failed = {task["task"] for task in told["tasks"] if task["state"] == "FAILED"}
    wrong = len(failed ^ expected)
    yield Figure(f"{MANY} tasks: not failed as they should", wrong, "", 0, f"{len(failed)} failed")
    yield _report(own, name, told["job"], f"{len(failed)} failed")
    yield from _joblogs_agree(own, name, told["job"], failed)
    again = own("retry", told["job"], "-n", name, "--failed", "--json", timeout_s=600).stdout
    tasks = json.loads(again.splitlines()[-1])["tasks"]
    ran = {task["task"] for task in tasks if task["attempt"] > 1}
    yield Figure(f"{MANY} tasks: retried wrongly", len(ran ^ expected), "", 0)
    bad = sum(task["state"] != "SUCCEEDED" for task in tasks)
    yield Figure(f"{MANY} tasks: not succeeded after the retry", bad, "", 0)
    yield _report(own, name, told["job"], "all succeeded")


def _report(own: Cloud, name: str, job: str, what: str) -> Figure:
    """Return how long a report takes by the clock, with all that the instances take to tell."""
    page = own.folder / "report.html"
    took: list[float] = []
    cpu_s: list[float] = []
    for _ in range(REPORTS):
        with timed(took):
            cpu_s.append(spent(own, "report", job, "-n", name, "-o", str(page))[0])
    each = ", ".join(f"{seconds:.2f}" for seconds in took)
    note = f"{each}; {median(cpu_s):.2f} s of CPU; {page.stat().st_size / 1024:.0f} KiB"
    return Figure(f"{MANY} tasks, {what}: report", median(took), "s", 3, note)


def _joblogs_agree(own: Cloud, name: str, job: str, failed: set[int]) -> Iterator[Figure]:
    """Let GNU parallel say which tasks of our job log it would run again."""
    if not shutil.which("parallel"):
        return
    folder = own.folder / "results"
    own("results", job, "-n", name, "-o", folder, timeout_s=900, check=False)
    words = ["parallel", "--joblog", str(folder / "joblog.tsv"), "--resume-failed", "echo", "{}"]
    numbers = "\n".join(map(str, range(MANY)))
    said = subprocess.run(words, input=numbers, text=True, capture_output=True, check=False).stdout
    chosen = {int(word) for word in said.split()}
    yield Figure("GNU parallel --resume-failed: other tasks", len(chosen ^ failed), "", 0)

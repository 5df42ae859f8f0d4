"""Measure what it costs to watch and to look at a job of 100,000 tasks."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from scripts.bench_scale import play
from scripts.measuring import PMR, Cloud, Figure, cloud, cluster

TASKS, INSTANCES = 100_000, 50
MOST_CALLS, MOST_CLIENT_S, MOST_MIB = 4, 2.0, 300
SPENT = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def measure_ledger() -> Iterator[Figure]:
    """Map over very many tasks, and look at them."""
    what = f"{TASKS} tasks on {INSTANCES}"
    with cloud() as own, cluster(own, "ledger", INSTANCES) as name:
        words = ["map", "-n", name, "--json", "--slots", "2", "--array", f"0-{TASKS - 1}"]
        done = play(own, [*words, "--", "true"])
        yield Figure(f"{what}: attached map", done.seconds, "s", None, f"exit {done.exit_code}")
        counts = json.loads(done.told.splitlines()[-1])["counts"]
        yield Figure(f"{what}: not succeeded", TASKS - counts["SUCCEEDED"], "", 0)
        # The most that any child has had: those before it, which made the cluster, are small.
        peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        yield Figure(f"{what}: client's memory", peak_kib / 1024, "MiB", MOST_MIB)
        told = ", ".join(f"{count} {operation}" for operation, count in done.calls.most_common())
        polls = done.calls["ListCommandInvocations"]
        yield Figure(f"{what}: SSM calls a poll", done.calls.total() / polls, "", 2, told)
        yield from _looks(own, name, what)


def _looks(own: Cloud, name: str, what: str) -> Iterator[Figure]:
    for words, most_calls, most_s in (
        (("status",), MOST_CALLS, MOST_CLIENT_S),
        (("status", "--tasks"), None, None),
    ):
        before, began_s = own.calls(), time.monotonic()
        spent_s, resident_mib = spent(own, *words, "-n", name, "--json")
        seconds = time.monotonic() - began_s
        calls = own.calls() - before
        told = ", ".join(f"{count} {operation}" for operation, count in calls.most_common())
        look = f"{what}: {' '.join(words)}"
        yield Figure(f"{look}: SSM", calls.total(), "calls", most_calls, told)
        yield Figure(f"{look}: client's CPU", spent_s, "s", most_s, f"{seconds:.1f} s in all")
        yield Figure(f"{look}: client's memory", resident_mib, "MiB", MOST_MIB)


def spent(own: Cloud, *words: str) -> tuple[float, float]:
    """Run `pmr WORDS`; return the CPU seconds that it took, and its memory in MiB at the most."""
    # A process of its own in between: what is told of a child's memory begins with its parent's.
    told = subprocess.run(
        [sys.executable, "-c", SPENT, PMR, *words],
        env=own.environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    spent_s, resident_kib = told.stdout.split()
    return float(spent_s), float(resident_kib) / 1024

"""Measure what it costs to watch and to look at a job of 100,000 tasks."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator

from scripts.bench_scale import play
from scripts.measuring import PMR, Cloud, Figure, cloud, cluster

TASKS, INSTANCES = 100_000, 50
MOST_CALLS, MOST_CLIENT_S, MOST_MIB = 4, 2.0, 300


def measure_ledger() -> Iterator[Figure]:
    """Map over very many tasks, and look at them."""
    what = f"{TASKS} tasks on {INSTANCES}"
    with cloud() as own, cluster(own, "ledger", INSTANCES) as name:
        words = ["map", "-n", name, "--json", "--slots", "2", "--array", f"0-{TASKS - 1}"]
        done = play(own, [*words, "--", "true"], look=True)
        yield Figure(f"{what}: attached map", done.seconds, "s", None, f"exit {done.exit_code}")
        counts = json.loads(done.told.splitlines()[-1])["counts"]
        yield Figure(f"{what}: not succeeded", TASKS - counts["SUCCEEDED"], "", 0)
        yield Figure(f"{what}: client's memory", max(done.resident_mib), "MiB", MOST_MIB)
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
        spent_s, resident_mib = spent([*words, "-n", name, "--json"], own)
        seconds = time.monotonic() - began_s
        calls = own.calls() - before
        told = ", ".join(f"{count} {operation}" for operation, count in calls.most_common())
        look = f"{what}: {' '.join(words)}"
        yield Figure(f"{look}: SSM", calls.total(), "calls", most_calls, told)
        yield Figure(f"{look}: client's CPU", spent_s, "s", most_s, f"{seconds:.1f} s in all")
        yield Figure(f"{look}: client's memory", resident_mib, "MiB", MOST_MIB)


def spent(words: list[str], own: Cloud) -> tuple[float, float]:
    """Run `pmr WORDS`; return the CPU seconds that it took, and its memory in MiB at the most."""
    process = subprocess.Popen([PMR, *words], env=own.environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return cpu_s(usage), usage.ru_maxrss / 1024


def cpu_s(usage: resource.struct_rusage) -> float:
    """Return the CPU seconds of a process, in the program and in the kernel."""
    return usage.ru_utime + usage.ru_stime

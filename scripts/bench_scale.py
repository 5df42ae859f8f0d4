"""Measure large clusters, and a cloud that allows five calls a second of each operation."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.measuring import Cloud, Figure, cloud, cluster

RATE = "ssm_rate=5"
LARGE, TASK_S = 500, 60
MAPPED, TASKS, SHORT_S = 50, 2000, 2
HUGE, HUGE_TASK_S = 2000, 10
SLOWER = 1.5  # times the seconds that it takes without a limit
# What nobody should have to read because of a limit that the client can live with.
COMPLAINT = re.compile(r"error|throttl|rate exceeded|traceback|too many requests", re.IGNORECASE)
LOOK_S = 5.0
MIB = 1 << 10  # in KiB, as /proc has it


@dataclass(slots=True)
class Played:
    """What a command of the program did, seen from outside."""

    seconds: float = 0.0
    exit_code: int = -1
    said: str = ""
    told: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    rates: list[float] = field(default_factory=list)  # calls of SSM a second, by window
    resident_mib: list[float] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """Return the lines that a reader would take for trouble."""
        lines = [*self.told.splitlines()[-1:]] if self.exit_code else []
        lines += [line for line in self.said.splitlines() if COMPLAINT.search(line)]
        return lines if self.exit_code == 0 else [f"exit code {self.exit_code}", *lines]


def play(own: Cloud, words: Sequence[str | Path], *, look: bool = False) -> Played:
    """Run `pmr WORDS` to its end; with `look`, watch its memory and calls as it goes."""
    done = Played()
    before = own.calls()
    began_s = time.monotonic()
    with own.start(*words) as client:
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(own, client.pid, done, over))
        if look:
            watcher.start()
        out, err = client.communicate()
        done.seconds = time.monotonic() - began_s
        over.set()
        if look:
            watcher.join()
    done.exit_code, done.told, done.said = client.returncode, out.decode(), err.decode()
    done.calls = own.calls() - before
    return done


def _watch(own: Cloud, pid: int, done: Played, over: threading.Event) -> None:
    last, last_s = own.calls().total(), time.monotonic()
    while not over.wait(LOOK_S):
        try:
            calls, now_s = own.calls().total(), time.monotonic()
        except subprocess.CalledProcessError:
            continue  # so many machines on this one leave it no time to answer
        done.rates.append((calls - last) / (now_s - last_s))
        last, last_s = calls, now_s
        memory = resident_kib(pid)
        if memory:
            done.resident_mib.append(memory / MIB)


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def measure_scale() -> Iterator[Figure]:
    """Compare a cloud with a limit with one without."""
    free: dict[str, Played] = {}
    limited: dict[str, Played] = {}
    for played, settings in ((free, ()), (limited, (RATE,))):
        with cloud(*settings) as own:
            with cluster(own, "large", LARGE) as name:
                played["run"] = play(own, ["run", "-n", name, "--json", "--", "sleep", str(TASK_S)])
            with cluster(own, "map", MAPPED) as name:
                scripts = _scripts(own.folder / "scripts")
                played["map"] = play(own, ["map", "-n", name, "--json", "-s", scripts])
    for kind, what, count in (
        ("run", f"run of {TASK_S} s on {LARGE} instances", LARGE),
        ("map", f"map of {TASKS} x {SHORT_S} s on {MAPPED} instances", TASKS),
    ):
        yield from _compared(what, free[kind], limited[kind], count)


def measure_huge() -> Iterator[Figure]:
    """Measure 2,000 instances: pages, calls and memory."""
    with cloud() as own:
        yield from _huge(own)


def _scripts(folder: Path) -> Path:
    folder.mkdir()
    for number in range(TASKS):
        script = folder / f"{number:04d}.sh"
        script.write_text(f"#!/bin/sh\nsleep {SHORT_S}\necho {number}\n")
        script.chmod(0o755)
    return folder


def _tasks(told: str) -> list[dict[str, object]]:
    """Return what became of each task, as the summary of a job tells it; none without one."""
    tasks: list[dict[str, object]] = json.loads((told.splitlines() or ["{}"])[-1]).get("tasks", [])
    return tasks


def _succeeded(told: str) -> int:
    """Return how many tasks the summary of a job knows as succeeded."""
    return sum(task["state"] == "SUCCEEDED" for task in _tasks(told))


def _reasons(told: str) -> str:
    """Return why tasks have not succeeded, and how many."""
    reasons = Counter(
        f"{task['state']} ({task['reason']})"
        for task in _tasks(told)
        if task["state"] != "SUCCEEDED"
    )
    return ", ".join(f"{count} {words}" for words, count in reasons.most_common())


def _compared(what: str, free: Played, limited: Played, count: int) -> Iterator[Figure]:
    yield Figure(f"{what}, no limit", free.seconds, "s", None, _calls(free))
    yield Figure(f"{what}, 5 calls/s", limited.seconds, "s", None, _calls(limited))
    yield Figure(f"{what}, by the limit", limited.seconds / free.seconds, "x", SLOWER)
    for how, one in (("no limit", free), ("5 calls/s", limited)):
        wrong = one.wrong
        yield Figure(f"{what}, {how}: complaints", len(wrong), "", 0, "; ".join(wrong)[:300])
        missing = count - _succeeded(one.told) if one.exit_code == 0 else count
        yield Figure(f"{what}, {how}: tasks not succeeded", missing, "", 0)


def _calls(one: Played) -> str:
    return ", ".join(f"{count} {operation}" for operation, count in one.calls.most_common())


def _huge(own: Cloud) -> Iterator[Figure]:
    began_s = time.monotonic()
    with cluster(own, "huge", HUGE) as name:
        yield Figure(f"create of {HUGE} instances", time.monotonic() - began_s, "s")
        pages = own.calls("ec2")
        # Two thousand agents share this machine's processors: some take the job up late.
        words = ["run", "-n", name, "--json", "--deliver-timeout", "20m"]
        done = play(own, [*words, "--", "sleep", str(HUGE_TASK_S)], look=True)
        pages = own.calls("ec2") - pages
        what = f"run of {HUGE_TASK_S} s on {HUGE} instances"
        yield Figure(what, done.seconds, "s", None, _calls(done))
        yield Figure(f"{what}: complaints", len(done.wrong), "", 0, "; ".join(done.wrong)[:300])
        missing = HUGE - _succeeded(done.told)
        yield Figure(f"{what}: tasks not succeeded", missing, "", 0, _reasons(done.told)[:300])
        yield Figure(f"{what}: pages of DescribeInstances", pages["DescribeInstances"], "")
        yield Figure(f"{what}: SSM, busiest {LOOK_S:g} s", max(done.rates), "calls/s", 5)
        half = done.resident_mib[len(done.resident_mib) // 3 :]
        yield Figure(f"{what}: client's memory", max(done.resident_mib), "MiB")
        grew = half[-1] / half[0]
        yield Figure(f"{what}: memory at the end by that after a third", grew, "x", 1.25)

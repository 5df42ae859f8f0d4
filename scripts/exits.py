"""Play every way for a task to end on a local cloud of its own, and compare with what is designed.

    scripts/exits [-o FILE] [--only PATTERN] [--scale N]

Each exit code from 0 to 255 and each signal from 1 to 15 through `run` and `map`; timeouts,
cancels, lost, stopped and rebooted instances, full disks, and agents, runners and screens that end
in the middle, through `run` on one and on two instances and `map`, in text and in JSON. Prints
a table; -o writes what was seen as JSON. Exits 1 when anything is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from scripts import faulting
from scripts.ending import (
    DONE,
    Case,
    Ending,
    Judged,
    by_name,
    judge,
    judge_joblog,
    seen_of,
)
from scripts.killing import Command
from scripts.measuring import Cloud, end_on_sigterm

CODES, SIGNALS = range(256), range(1, 16)
# Codes that mean something to shells, to the agent, or to this program.
SPECIAL = (1, 2, 3, 4, 5, 70, 124, 126, 127, 130, 137, 141, 168, 169, 194, 255)
INSTANCES, CLIENTS, STAGES = 6, 4, 6
QUICK = ("pending_s=0.1", "registration_s=0.2", "profile_visible_s=0.2", "shutting_down_s=0.1")
CASE_S = 900.0


def _ended(code: int) -> Ending:
    return Ending("FAILED", code) if code else DONE


def code_cases(
    folder: Path, codes: Sequence[int], signals: Sequence[int]
) -> Iterator[tuple[str, tuple[str | Path, ...], int]]:
    """Yield, as name, words and exit code, every code and signal in each way to say a program."""
    for code in codes:
        yield f"exit {code} -c", ("-c", f"exit {code}"), code
        yield f"exit {code} --", ("--", "sh", "-c", f"exit {code}"), code
    for number in signals:
        script = folder / f"signal-{number}"
        script.write_text(f"#!/bin/sh\nkill -{number} $$\nsleep 5\n")
        # Bash itself ignores SIGQUIT, always.
        dies = "exec sh -c 'kill -3 $$'" if number == 3 else f"kill -{number} $$; sleep 5"  # noqa: PLR2004 (SIGQUIT)
        yield f"signal {number} -c", ("-c", dies), 128 + number
        yield f"signal {number} -s", ("-s", script), 128 + number
        words = ("--", "sh", "-c", f"kill -{number} $$; sleep 5")
        yield f"signal {number} --", words, 128 + number


def run_cases(
    cluster: str, folder: Path, codes: Sequence[int], signals: Sequence[int]
) -> Iterator[Case]:
    """Yield runs on one instance: the exit code is the task's own, in text and in JSON."""
    for number, (name, words, code) in enumerate(code_cases(folder, codes, signals)):
        in_json = not name.endswith("--")
        where = ("run", "-n", cluster, "-i", f"{cluster}-{number % INSTANCES:04d}")
        yield Case(
            f"run, {name}",
            (*where, *(("--json",) if in_json else ()), *words),
            code,
            {"0/0": _ended(code)},
            code_of="task" if code else "pmr",
            json=in_json,
        )


def unseen_cases(cluster: str) -> Iterator[Case]:
    """Yield jobs that are not watched to their end."""
    words = ("-n", cluster, "-i", f"{cluster}-0000", "--json", "--wait-timeout", "1")
    running = {"0/0": Ending("PENDING|RUNNING")}
    yield Case("run, not watched to its end", ("run", *words, "-c", "sleep 20"), 4, running)


def several_cases(cluster: str, codes: Sequence[int]) -> Iterator[Case]:
    """Yield runs on several instances, of which the first fails: the exit code is 1."""
    for code in (0, *codes):
        for mode in ((), ("--json",)):
            script = f'[ "$PMR_HOST_INDEX" = 0 ] || exit 0; exit {code}'
            yield Case(
                f"run on {INSTANCES}, one exits {code}",
                ("run", "-n", cluster, *mode, "-c", script),
                1 if code else 0,
                {f"{host}/0": DONE if host else _ended(code) for host in range(INSTANCES)},
                json=bool(mode),
            )


def map_endings(codes: Sequence[int], signals: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Return the scripts of a map with every code and signal: name to script and exit code."""
    scripts = {f"code-{code:03d}": (f"#!/bin/bash\nexit {code}\n", code) for code in codes}
    for number in signals:
        script = f"#!/bin/sh\nkill -{number} $$\nsleep 5\n"
        scripts[f"signal-{number:02d}"] = (script, 128 + number)
    return scripts


def play_map(
    pmr: Command, cluster: str, folder: Path, scripts: dict[str, tuple[str, int]]
) -> Judged:
    """Map all the scripts as one job, and judge its summary and its job log."""
    (folder / "scripts").mkdir(parents=True)
    for name, (script, _) in scripts.items():
        (folder / "scripts" / name).write_text(script)
    codes = {name: code for name, (_, code) in scripts.items()}
    case = Case(
        f"map of {len(scripts)} tasks",
        ("map", "-n", cluster, "--slots", "2", "--json", folder / "scripts"),
        1 if any(codes.values()) else 0,
        {name: _ended(code) for name, code in codes.items()},
        label=by_name,
    )
    judged = play(pmr, case)
    job = str(judged.seen.summary.get("job", "last"))
    got = pmr("results", job, "-n", cluster, "-o", folder / "results", check=False)
    log = folder / "results" / "joblog.tsv"
    if got.returncode or not log.exists():
        judged.wrong.append(f"results: exit code {got.returncode}: {got.stderr}")
    else:
        judged.wrong += judge_joblog(log.read_text(), codes)
    return judged


def play(pmr: Command, case: Case) -> Judged:
    """Run one client and judge what it said."""
    began_s = time.monotonic()
    ended = pmr(*case.words, check=False, timeout_s=CASE_S)
    return judge(case, seen_of(ended, time.monotonic() - began_s))


def play_all(pmr: Command, folder: Path, wanted: Callable[[str], bool]) -> Iterator[Judged]:
    """Play the whole matrix, as much side by side as helps; yield each case when it has ended."""
    isolated = json.loads(pmr("local", "status", "--json").stdout)["isolation"] == "namespaces"
    stages = [stage for stage in faulting.stages() if wanted(stage.name)]
    for stage in [] if isolated else [stage for stage in stages if stage.disk]:
        print(f"not played, as plain processes write to the machine's own disk: {stage.name}")
        stages.remove(stage)
    cases = [*run_cases("codes", folder, CODES, SIGNALS), *several_cases("codes", SPECIAL)]
    cases += unseen_cases("codes")
    cases = [case for case in cases if wanted(case.name)]
    maps = {
        "map of all": map_endings(CODES, SIGNALS),
        "map of successes": dict.fromkeys(("a", "b", "c", "d"), ("exit 0\n", 0)),
    }
    maps = {name: scripts for name, scripts in maps.items() if wanted(name)}
    with ThreadPoolExecutor(STAGES) as slow, ThreadPoolExecutor(CLIENTS) as quick:
        jobs = [slow.submit(faulting.play, pmr, stage, folder) for stage in stages]
        if cases or maps:
            pmr("create", "-n", "codes", "-N", str(INSTANCES))
        for name, scripts in maps.items():
            jobs.append(quick.submit(_alone, play_map, pmr, "codes", folder / name, scripts))
        jobs += [quick.submit(_alone, play, pmr, case) for case in cases]
        try:
            for job in as_completed(jobs):
                yield from job.result()
        finally:
            for job in jobs:
                job.cancel()


def _alone(play_one: Callable[..., Judged], *words: object) -> list[Judged]:
    return [play_one(*words)]


@contextmanager
def cloud(scale: float) -> Iterator[Cloud]:
    """Start a cloud whose time passes `scale` times faster, and end it."""
    # A short path: sockets below it must stay under 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="e-"))
    own = Cloud(folder)
    try:
        own("local", "up", *(f"--set={word}" for word in (*QUICK, f"time_scale={scale}")))
        yield own
    finally:
        own("local", "down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def show(one: Judged) -> None:
    """Print a line of the table, and what is wrong."""
    seen, case = one.seen, one.case
    print(
        f"{'WRONG' if one.wrong else 'ok':<5} {case.name:<44} {'json' if case.json else 'text'}  "
        f"expected {case.exit_code:>3}  seen {seen.exit_code:>3}  {seen.took_s:6.1f} s",
        *(f"      {text}" for text in one.wrong),
        sep="\n",
        flush=True,
    )


def written(judged: Sequence[Judged]) -> str:
    """Return all that was seen as JSON."""
    rows = [
        {
            "case": one.case.name,
            "json": one.case.json,
            "words": [str(word) for word in one.case.words],
            "expected": {
                "exit_code": one.case.exit_code,
                "code_of": one.case.code_of,
                "tasks": {key: ending.text for key, ending in one.case.tasks.items()},
            },
            "seen": {"exit_code": one.seen.exit_code, "summary": one.seen.summary},
            "stderr": one.seen.stderr,
            "took_s": round(one.seen.took_s, 3),
            "wrong": one.wrong,
        }
        for one in judged
    ]
    return json.dumps(rows, indent=1) + "\n"


def main() -> int:
    """Play what is asked for."""
    parser = argparse.ArgumentParser(prog="scripts/exits", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="write what was seen as JSON")
    parser.add_argument("--only", default="", help="only cases whose names have this pattern")
    parser.add_argument("--scale", type=float, default=2.0, help="cloud seconds in a second (2)")
    options = parser.parse_args()
    began_s = time.monotonic()
    end_on_sigterm()
    with cloud(options.scale) as own:
        work = own.folder / "work"
        work.mkdir()
        judged: list[Judged] = []
        for one in play_all(own, work, lambda name: bool(re.search(options.only, name))):
            show(one)
            judged.append(one)
    wrong = sum(1 for one in judged if one.wrong)
    if options.output:
        options.output.write_text(written(judged))
    false = sum(one.false_successes for one in judged)
    print(
        f"{len(judged)} cases in {time.monotonic() - began_s:.0f} s: {wrong} not as they must be, "
        f"{false} false successes"
    )
    return 1 if wrong or not judged else 0


if __name__ == "__main__":
    sys.exit(main())

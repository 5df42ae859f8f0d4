"""Measure the main road on a local cloud of its own, and compare with the limits set for it.

    scripts/bench road [-o FILE]     all of the following
    scripts/bench logs               large logs through run, logs and results
    scripts/bench lines              how late a line of a quiet fleet is seen
    scripts/bench fleet              calls and seconds with 50 and 120 instances
    scripts/bench kill [--rounds N]  clients that are killed, and their jobs afterwards
    scripts/bench help               how long help, version and completion take
    scripts/bench map                (not in road) overhead, balance, 10,000 tasks
    scripts/bench ledger             (not in road) 100,000 tasks: calls, time and memory
    scripts/bench look               (not in road) what one look costs an instance
    scripts/bench crowd              (not in road) 50 clients ask 200 instances for a job's status
    scripts/bench trials             (not in road) 20 maps under seeded faults
    scripts/bench scale              (not in road) 500 instances, and 5 calls a second
    scripts/bench huge               (not in road) 2,000 instances

Exits 1 when a limit is missed. -o writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from scripts import killing
from scripts.bench_ledger import measure_ledger
from scripts.bench_look import measure_crowd, measure_look
from scripts.bench_map import measure_map
from scripts.bench_scale import measure_huge, measure_scale
from scripts.bench_trials import measure_trials
from scripts.measuring import PMR, Cloud, Figure, cloud, cluster, end_on_sigterm, timed

# --- logs --------------------------------------------------------------------------------------

# What is written is kept beside, so that its hash can be asked for.
TEXT = (
    "awk 'BEGIN { srand(1); for (i = 0; n < 10000000; i++) { s = sprintf("
    '"step %07d of 2000000  loss %.3f  tokens/s %d\\n", i, 4 / (1 + i / 9000), 8000 + rand() * 40);'
    ' n += length(s); printf "%s", s } }\''
)
RANDOM = "base64 -w 76 </dev/urandom | head -c 1000000"
LOGS = (("10 MB of text", TEXT), ("1 MB of base64 of random bytes", RANDOM))


def measure_logs() -> Iterator[Figure]:
    """Read large logs in three ways."""
    with cloud() as own, cluster(own, "logs", 1) as name:
        for what, program in LOGS:
            yield from _read_in_three_ways(own, name, what, program)


def _read_in_three_ways(own: Cloud, name: str, what: str, program: str) -> Iterator[Figure]:
    took: list[float] = []
    with timed(took):
        by_run = own.raw("run", "-n", name, "--no-prefix", "-c", f'{program} | tee "$HOME/said"')
    with timed(took):
        by_logs = own.raw("logs", "last", "-n", name)
    folder = own.folder / what
    with timed(took):
        told = own("results", "last", "-n", name, "-o", folder)
    # What it says ahead of a long read.
    estimate = next((line for line in told.stderr.splitlines() if "to read" in line), "")
    facts = own.raw("run", "-n", name, "--no-prefix", "-c", "cd; sha256sum said; gzip <said|wc -c")
    digest, _, packed = facts.decode().split()
    ratio = len(by_run) / int(packed)
    yield Figure(f"{what}: how well it compresses", ratio, ": 1")
    read = {"run": by_run, "logs": by_logs, "results": (folder / "0.log").read_bytes()}
    for (way, data), seconds in zip(read.items(), took, strict=True):
        wrong = hashlib.sha256(data).hexdigest() != digest
        note = "hash is another" if wrong else "same hash"
        if way == "results" and estimate:
            note += f"; said: {estimate}"
        yield Figure(f"{what} by {way}", float("inf") if wrong else seconds, "s", 60, note)


# --- lines -------------------------------------------------------------------------------------

LINES = 30
ONE_SPEAKS = f"""
if [ "$PMR_HOST_INDEX" = 3 ]; then
  for i in $(seq {LINES}); do date +%s.%N; sleep 1; done
else
  sleep {LINES + 1}
fi
"""


def delays(stream: IO[bytes], found: list[float]) -> None:
    """Append how late each line arrives that ends with the time when it was written."""
    found.extend(time.time() - float(line.split()[-1]) for line in stream)


def measure_lines() -> Iterator[Figure]:
    """Watch one instance of ten write a line a second, by two clients."""
    with cloud() as own, cluster(own, "lines", 10) as name:
        by_run: list[float] = []
        by_logs: list[float] = []
        with own.start("run", "-n", name, "-c", ONE_SPEAKS) as run:
            threading.Event().wait(4)
            with own.start("logs", "-f", "last", "-n", name) as logs:
                readers = []
                for client, found in ((run, by_run), (logs, by_logs)):
                    reader = threading.Thread(target=delays, args=(client.stdout, found))
                    reader.start()
                    readers.append(reader)
                for reader in readers:
                    reader.join()
                run.communicate()
                logs.communicate()
        # What was written before `logs` or the reader started says nothing.
        for way, found in (("run", by_run), ("logs -f", by_logs)):
            late = found[10:]
            missing = "" if len(found) == LINES else f"{len(found)} of {LINES} lines"
            usual = f"half of them within {statistics.median(late):.1f} s" if late else ""
            worst = float("inf") if missing else max(late)
            yield Figure(f"a line's delay, by {way}", worst, "s", 3, missing or usual)


# --- fleet -------------------------------------------------------------------------------------


def measure_fleet() -> Iterator[Figure]:
    """Count calls for 50 and for 120 instances."""
    with cloud() as own:
        with cluster(own, "fifty", 50) as name:
            calls, seconds = _one_run(own, name, "true")
            yield Figure("50 instances, `true`: SendCommand", calls["SendCommand"], "calls", 1)
            single = calls["GetCommandInvocation"]
            yield Figure("50 instances, `true`: GetCommandInvocation", single, "calls", 0)
            told = ", ".join(f"{count} {operation}" for operation, count in calls.items())
            yield Figure("50 instances, `true`: SSM", calls.total(), "calls", 8, told)
            yield Figure("50 instances, `true`: from the last end to ours", seconds, "s", 3)
            calls, _ = _one_run(own, name, "sleep", "10")
            told = ", ".join(f"{count} {operation}" for operation, count in calls.items())
            yield Figure("50 instances, ten silent seconds: SSM", calls.total(), "calls", 40, told)
        with cluster(own, "many", 120) as name:
            calls, seconds = _one_run(own, name, "true")
            yield Figure("120 instances, `true`: SendCommand", calls["SendCommand"], "calls", 3)
            yield Figure("120 instances, `true`: from the last end to ours", seconds, "s")


def _one_run(own: Cloud, name: str, *words: str) -> tuple[Counter[str], float]:
    """Return the calls of a run, and how many seconds after the last task it ended."""
    before = own.calls()
    told = own("run", "-n", name, "--json", "--", *words)
    now = time.time()
    calls = own.calls() - before
    summary: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    ends = [datetime.fromisoformat(task["ended_at"]).timestamp() for task in summary["tasks"]]
    return calls, now - max(ends)


# --- kill --------------------------------------------------------------------------------------

ROUNDS = 10


def measure_kills(rounds: int = ROUNDS, seed: int = 1) -> Iterator[Figure]:
    """Kill clients at random moments, and look what became of their jobs."""
    rng = random.Random(seed)  # noqa: S311 (not a secret)
    with cloud() as own, cluster(own, "kill", 3) as name:
        for submitting in (False, True):
            wrong = []
            for number in range(rounds):
                folder = own.folder / f"round-{number}-{submitting}"
                folder.mkdir()
                played = killing.play(own, name, folder, rng, submitting=submitting)
                print(f"  {played.job} killed {played.moment}", *played.wrong, file=sys.stderr)
                wrong += [f"{played.job}: {why}" for why in played.wrong]
            when = "during" if submitting else "after"
            what = f"{rounds} clients killed {when} the submit: jobs not right"
            yield Figure(what, len({why[:11] for why in wrong}), "", 0, "; ".join(wrong)[:500])


# --- help --------------------------------------------------------------------------------------

REPEATS = 15
IMPORTS = """
import sys
from poormanray.cli import main
sys.argv = ["pmr", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
loaded = {name.partition(".")[0] for name in sys.modules}
print(*loaded & {"boto3", "botocore", "moto", "rich", "werkzeug"}, file=sys.stderr)
"""
COMPLETION = {"_PMR_COMPLETE": "bash_complete", "COMP_WORDS": "pmr ru", "COMP_CWORD": "1"}


def measure_help() -> Iterator[Figure]:
    """Compare the quick commands with what click alone costs."""
    kinds: dict[str, tuple[list[str], dict[str, str]]] = {
        "pmr --help": (["--help"], {}),
        "pmr --version": (["--version"], {}),
        "completion": ([], COMPLETION),
    }
    click = _median_s([sys.executable, "-c", "import click"], {})
    yield Figure("python -c 'import click'", click * 1000, "ms")
    for what, (words, more) in kinds.items():
        ratio = _median_s([str(PMR), *words], more) / click
        yield Figure(f"{what}, as a multiple of that", ratio, "x", 3)
        said = subprocess.run(
            [sys.executable, "-c", IMPORTS, *words],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = said.stderr.split()
        yield Figure(f"{what}: imported of boto3, moto, rich", len(loaded), "", 0, " ".join(loaded))


def _median_s(words: Sequence[str], more: dict[str, str]) -> float:
    took: list[float] = []
    for _ in range(REPEATS):
        with timed(took):
            subprocess.run(words, env={**os.environ, **more}, capture_output=True, check=True)
    return statistics.median(took)


# --- the program -------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[], Iterator[Figure]]] = {
    "help": measure_help,
    "logs": measure_logs,
    "lines": measure_lines,
    "fleet": measure_fleet,
    "kill": measure_kills,
}
OTHERS: dict[str, Callable[[], Iterator[Figure]]] = {
    "scale": measure_scale,
    "crowd": measure_crowd,
    "huge": measure_huge,
    "map": measure_map,
    "ledger": measure_ledger,
    "look": measure_look,
    "trials": measure_trials,
}


def _row(figure: Figure) -> str:
    limit = "" if figure.limit is None else f"<= {figure.limit:g}"
    verdict = "" if figure.limit is None else ("ok" if figure.met else "MISSED")
    value = f"{figure.value:.2f}".rstrip("0").rstrip(".")
    return f"{figure.what:58} {value:>9} {figure.unit:6} {limit:6} {verdict:6} {figure.note}"


def main() -> int:
    """Measure what the words ask for, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["road", *MEASURES, *OTHERS])
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of clients to kill")
    parser.add_argument("--seed", type=int, default=1, help="of the moments to kill them")
    asked = parser.parse_args()
    end_on_sigterm()

    def kills() -> Iterator[Figure]:
        return measure_kills(asked.rounds, asked.seed)

    measures = {**MEASURES, **OTHERS, "kill": kills}
    figures: list[Figure] = []
    for name in MEASURES if asked.what == "road" else [asked.what]:
        print(f"{name} ...", file=sys.stderr)
        for figure in measures[name]():
            print(_row(figure), flush=True)
            figures.append(figure)
    if asked.output:
        rows = [{**asdict(figure), "met": figure.met} for figure in figures]
        asked.output.write_text(json.dumps(rows, indent=2) + "\n")
    missed = [figure.what for figure in figures if not figure.met]
    print("missed: " + "; ".join(missed) if missed else "every limit is met", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

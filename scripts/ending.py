"""What a job must come to, what it came to, and the difference: the judge of scripts/exits."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task must end; None: any exit code. `state` and `reason` are patterns.

    The one must be the whole state, the other is to be found in the reason.
    """

    state: str
    exit_code: int | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """Return it in a few words."""
        return self.state if self.exit_code is None else f"{self.state} {self.exit_code}"


DONE = Ending("SUCCEEDED", 0)


def by_place(rows: Iterable[Row]) -> dict[str, Row]:
    """Return tasks by instance and order there: `0/1` is the second task of the first one."""
    hosts: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["task"]):
        hosts[row["name"]].append(row)
    return {
        f"{host}/{place}": row
        for host, name in enumerate(sorted(hosts))
        for place, row in enumerate(hosts[name])
    }


def by_name(rows: Iterable[Row]) -> dict[str, Row]:
    """Return tasks by their names."""
    return {row["task_name"]: row for row in rows}


@dataclass(frozen=True, slots=True)
class Case:
    """A job and what it must come to; `label` says what the keys of `tasks` stand for."""

    name: str
    words: tuple[str | Path, ...]
    exit_code: int
    tasks: Mapping[str, Ending]
    code_of: str = "pmr"
    json: bool = True
    label: Callable[[Iterable[Row]], dict[str, Row]] = by_place


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client said of a job."""

    exit_code: int
    stdout: str
    stderr: str
    took_s: float = 0.0

    @property
    def summary(self) -> Mapping[str, Any]:
        """Return the last line of its JSON, or nothing."""
        lines = self.stdout.splitlines()
        try:
            last = json.loads(lines[-1]) if lines else {}
        except ValueError:
            last = {}
        return last if isinstance(last, dict) and last.get("event") == "summary" else {}


@dataclass(slots=True)
class Judged:
    """A case that was played, and all that is not as it must be."""

    case: Case
    seen: Seen
    wrong: list[str] = field(default_factory=list)
    false_successes: int = 0


def judge(case: Case, seen: Seen) -> Judged:
    """Compare what was seen with what must be."""
    judged = Judged(case, seen)
    wrong = judged.wrong
    if seen.exit_code != case.exit_code:
        wrong.append(f"exit code {seen.exit_code}, not {case.exit_code}")
        judged.false_successes += seen.exit_code == 0
    for text in ("Traceback", "a bug in poormanray"):
        if text in seen.stdout + seen.stderr:
            wrong.append(f"it says {text!r}")
    if case.json:
        _judge_summary(judged)
    elif case.exit_code:
        # In text the counts are told: all of these states, and no other.
        told = re.findall(r"([0-9]+) ([A-Z]+)", seen.stderr.rstrip().rpartition("\n")[2])
        states = [state for count, state in told for _ in range(int(count))]
        if not _same_states(states, [ending.state for ending in case.tasks.values()]):
            counts = Counter(ending.state for ending in case.tasks.values())
            wrong.append(f"the text tells of {told}, not of {dict(counts)}")
    return judged


def _same_states(states: Sequence[str], patterns: Iterable[str]) -> bool:
    """Say whether each state is one pattern's, those that leave no choice first."""
    left = list(states)
    for pattern in sorted(patterns, key=lambda pattern: pattern.count("|")):
        found = next((state for state in left if re.fullmatch(pattern, state)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _judge_summary(judged: Judged) -> None:
    case, summary, wrong = judged.case, judged.seen.summary, judged.wrong
    if not summary:
        wrong.append(f"no summary at the end: {judged.seen.stdout[-300:]!r}")
        return
    if summary.get("exit_code") != judged.seen.exit_code:
        wrong.append(f"the summary says exit code {summary.get('exit_code')}")
    if summary.get("code_of") != case.code_of:
        wrong.append(f"the code is said to be {summary.get('code_of')}'s, not {case.code_of}'s")
    rows = case.label(summary["tasks"])
    if rows.keys() != case.tasks.keys():
        wrong.append(f"tasks {sorted(rows)}, not {sorted(case.tasks)}")
    counts = Counter(row["state"] for row in rows.values())
    if counts != Counter({state: n for state, n in summary["counts"].items() if n}):
        wrong.append(f"counts {summary['counts']} are not those of the tasks")
    for key in sorted(rows.keys() & case.tasks.keys()):
        row, ending = rows[key], case.tasks[key]
        judged.false_successes += row["state"] == "SUCCEEDED" != ending.state
        if not re.fullmatch(ending.state, row["state"]) or ending.exit_code not in (
            None,
            row["exit_code"],
        ):
            wrong.append(f"task {key}: {row['state']} {row['exit_code']}, not {ending.text}")
        elif not re.search(ending.reason, row["reason"]):
            wrong.append(f"task {key}: reason {row['reason']!r} has no {ending.reason!r}")


def judge_joblog(text: str, codes: Mapping[str, int]) -> list[str]:
    """Compare a job log with the exit code of each task, by name; return what is wrong."""
    rows = {row["Command"]: row for row in csv.DictReader(text.splitlines(), delimiter="\t")}
    wrong = [] if rows.keys() == codes.keys() else [f"joblog has {sorted(rows)}"]
    for name in rows.keys() & codes.keys():
        code = codes[name]
        signal = code - 128 if 128 < code <= 192 else 0  # noqa: PLR2004 (what a shell shows)
        told = (rows[name]["Exitval"], rows[name]["Signal"])
        if told != (str(code), str(signal)):
            wrong.append(f"joblog, task {name}: {told}, not {(code, signal)}")
    return wrong


def seen_of(ended: subprocess.CompletedProcess[str], took_s: float = 0.0) -> Seen:
    """Return what a client that has ended said."""
    return Seen(ended.returncode, ended.stdout, ended.stderr, took_s)

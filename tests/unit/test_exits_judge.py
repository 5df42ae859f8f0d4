"""The judge of scripts/exits finds what is wrong: forged answers of a client are told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.ending import DONE, Case, Ending, Seen, judge, judge_joblog
from scripts.faulting import WAYS, cases, stages

LOST = Ending("LOST", reason="terminated")
CASE = Case("two", ("run",), 4, {"0/0": LOST, "1/0": DONE})
Summary = dict[str, Any]


def row(task: int, state: str, exit_code: int | None, reason: str = "") -> Summary:
    told = {"task": task, "name": f"c-{task:04d}", "task_name": f"t{task}"}
    return {**told, "state": state, "exit_code": exit_code, "reason": reason}


def honest() -> Summary:
    rows = [row(0, "LOST", None, "i-0 is terminated"), row(1, "SUCCEEDED", 0)]
    counts = {"LOST": 1, "SUCCEEDED": 1, "FAILED": 0}
    return {
        "event": "summary",
        "exit_code": 4,
        "code_of": "pmr",
        "counts": counts,
        "tasks": rows,
    }


def seen(summary: Summary, exit_code: int = 4, stderr: str = "") -> Seen:
    return Seen(exit_code, f'{{"event": "submitted"}}\n{json.dumps(summary)}\n', stderr)


def test_what_is_as_it_must_be_is_not_wrong() -> None:
    judged = judge(CASE, seen(honest()))
    assert (judged.wrong, judged.false_successes) == ([], 0)


def change(path: str, value: object) -> Callable[[Summary], None]:
    def forge(summary: Summary) -> None:
        *outer, last = path.split("/")
        at: Any = summary
        for word in outer:
            at = at[int(word)] if word.isdecimal() else at[word]
        at[last] = value

    return forge


FORGED = {
    "exit code of the summary": change("exit_code", 1),
    "whose code": change("code_of", "task"),
    "state": change("tasks/0/state", "FAILED"),
    "code": change("tasks/1/exit_code", 1),
    "reason": change("tasks/0/reason", "it was a Tuesday"),
    "counts": change("counts/LOST", 2),
    "a task too few": lambda summary: summary["tasks"].pop(),
    "a task too many": lambda summary: summary["tasks"].append(row(2, "SUCCEEDED", 0)),
    "another instance": change("tasks/0/name", "c-0001"),
    "no summary": change("event", "task"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_summary_is_told(name: str) -> None:
    summary = honest()
    FORGED[name](summary)
    assert judge(CASE, seen(summary)).wrong


def test_a_false_success_is_counted() -> None:
    summary = honest()
    summary["tasks"][0] |= {"state": "SUCCEEDED", "exit_code": 0}
    judged = judge(CASE, seen(summary, exit_code=0))
    assert judged.false_successes == 2
    assert "exit code 0, not 4" in judged.wrong


@pytest.mark.parametrize(
    "answer",
    [
        seen(honest(), exit_code=1),
        seen(honest(), stderr="Traceback (most recent call last):"),
        seen(honest(), stderr="error: a bug in poormanray: KeyError"),
        Seen(4, "", ""),
        Seen(4, "no JSON\n", ""),
    ],
)
def test_a_wrong_client_is_told(answer: Seen) -> None:
    assert judge(CASE, answer).wrong


def test_the_counts_of_the_text_are_read() -> None:
    case = Case("two", ("run",), 4, {"0/0": LOST, "1/0": DONE}, json=False)
    assert judge(case, Seen(4, "", "job x: 1 SUCCEEDED, 1 LOST\n")).wrong == []
    for text in ("job x: 2 LOST\n", "job x: 1 SUCCEEDED\n", ""):
        assert judge(case, Seen(4, "", text)).wrong


def test_a_state_that_has_a_choice_takes_what_the_others_leave() -> None:
    either = Ending("LOST|PENDING")
    case = Case("text", ("map",), 4, {"0/0": either, "0/1": Ending("PENDING"), "1/0": DONE})
    for text, fine in (
        ("job x: 1 LOST, 1 PENDING, 1 SUCCEEDED", True),
        ("job x: 2 PENDING, 1 SUCCEEDED", True),
        ("job x: 2 LOST, 1 SUCCEEDED", False),
        ("job x: 2 PENDING, 2 SUCCEEDED", False),
    ):
        in_text = Case(case.name, case.words, 4, case.tasks, json=False)
        assert (not judge(in_text, Seen(4, "", f"{text}\n")).wrong) == fine


def test_a_wrong_job_log_is_told() -> None:
    def log(exitval: str, signal: str) -> str:
        return f"Exitval\tSignal\tCommand\n{exitval}\t{signal}\ta\n0\t0\tb\n"

    codes = {"a": 137, "b": 0}
    assert judge_joblog(log("137", "9"), codes) == []
    for wrong in (log("0", "9"), log("137", "0"), log("0", "0"), "Exitval\tSignal\tCommand\n"):
        assert judge_joblog(wrong, codes)


def test_every_stage_is_a_job_in_each_way(tmp_path: Path) -> None:
    for stage in stages():
        made = cases(stage, "c", tmp_path / stage.name, json=True)
        assert tuple(made) == tuple(way for way in WAYS if way in stage.ways)
        assert all(case.exit_code for case in made.values())

"""What a job waits for, when it does not start, and what a command at the end is told."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.cli.after import Earlier, obstacle, parse_earlier, turn_comes_s, typed_again
from poormanray.cli.chaining import facts_of, instance_for
from poormanray.errors import EarlierFailed, NotReached
from poormanray.jobs.outcome import Outcome, verdict
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host, JobSummary

STATES = {state.value[0]: state for state in TaskState if state is not TaskState.RUNNING}
HOSTS = [Host(number, f"i-{number}", f"c-000{number}", ()) for number in range(2)]


def found(letters: str) -> list[Outcome]:
    """Return an outcome for each first letter of a state; the instances take turns."""
    return [
        Outcome(n, f"t{n}", HOSTS[n % 2], TaskStatus(n, 1, STATES[letter]))
        for n, letter in enumerate(letters)
    ]


def told(letters: str, *, however: bool = False, silent: tuple[str, ...] = ()) -> str:
    """Return what keeps a job from starting after one that came to this: 1, 4 or "-"."""
    many = len(letters)
    summary = JobSummary("1ng8md2c5pz", "map", "c", "", "", 0, many, 2, "", 0.0, "1")
    error = obstacle(summary, found(letters), however=however, silent=silent)
    if error is None:
        return "-"
    assert isinstance(error, EarlierFailed | NotReached)
    assert error.message.startswith("nothing was started: ")
    return str(int(error.exit_code))


@pytest.mark.parametrize(
    ("letters", "succeeds", "ends"),
    [
        *(("S", "-", "-"), ("SS", "-", "-"), ("SF", "1", "-"), ("ST", "1", "-"), ("TT", "1", "-")),
        *(("SC", "1", "-"), ("SL", "4", "-"), ("FL", "4", "-"), ("SP", "4", "4"), ("FP", "4", "4")),
    ],
)
def test_what_keeps_a_job_from_starting(letters: str, succeeds: str, ends: str) -> None:
    assert (told(letters), told(letters, however=True)) == (succeeds, ends)


@pytest.mark.parametrize("however", [False, True])
def test_a_task_that_no_instance_has_keeps_a_job_from_starting(however: bool) -> None:
    summary = JobSummary("1ng8md2c5pz", "map", "c", "", "", 0, 3, 2, "", 0.0, "1")
    for letters in ("", "SS"):
        error = obstacle(summary, found(letters), however=however, silent=())
        assert isinstance(error, NotReached)
        assert f"no instance has {3 - len(letters)} of its 3 tasks" in error.message


def test_what_a_silent_instance_runs_may_not_have_ended() -> None:
    assert told("SL", however=True, silent=("i-0",)) == "-"
    assert told("SL", however=True, silent=("i-1",)) == "4"


def test_a_job_to_come_after_is_read() -> None:
    assert parse_earlier("last") == Earlier("last")
    assert parse_earlier("last:any") == Earlier("last", however=True)
    assert parse_earlier("a:b") == Earlier("a:b")
    for text in ("", ":any"):
        with pytest.raises(ValueError, match="names no job"):
            parse_earlier(text)


def test_what_is_typed_again_means_the_same_jobs() -> None:
    ids = {"last": "1ng8md2c5pz", "x": "1ng8md2c5pa"}
    words = shlex.split("run -n last --after last --after=x:any --after y -- pmr --after last")
    assert shlex.join(typed_again(words, ids)) == (
        "run -n last --after 1ng8md2c5pz --after=1ng8md2c5pa:any --after y -- pmr --after last"
    )


@given(st.lists(st.sampled_from(["--after", "last", "--", "--after=last", "a b", ""])))
def test_only_what_it_waits_for_is_typed_otherwise(words: list[str]) -> None:
    assert typed_again(words, {}) == words
    assert len(typed_again(words, {"last": "1ng8md2c5pz"})) == len(words)


@pytest.mark.parametrize(
    ("state", "attempt", "age_s", "still_s"),
    [
        *((TaskState.SUCCEEDED, 1, 0, 0), (TaskState.CANCELLED, 1, 0, 0)),
        *((TaskState.RUNNING, 1, 0, 0), (TaskState.FAILED, 1, 0, 7), (TaskState.FAILED, 3, 2, 8)),
        *((TaskState.FAILED, 99, 0, 66), (TaskState.TIMEOUT, 1, 60, 0)),
        # Its clock is ahead of ours.
        (TaskState.FAILED, 1, -500, 7),
    ],
)
def test_a_failed_task_may_get_another_turn(
    state: TaskState, attempt: int, age_s: float, still_s: float
) -> None:
    status = TaskStatus(0, attempt, state, ended_at=1000.0)
    assert turn_comes_s(status, 1000.0 + age_s) == still_s


def test_a_lost_task_has_no_age() -> None:
    assert turn_comes_s(TaskStatus(0, 1, TaskState.LOST), 1000.0) == 30


def test_a_command_at_the_end_is_told_of_every_task_once() -> None:
    outcomes = found("SSFTCL")
    assert facts_of("1ng8md2c5pz", "c", outcomes, verdict(outcomes, 6)) == {
        "PMR_JOB_ID": "1ng8md2c5pz",
        "PMR_CLUSTER": "c",
        "PMR_EXIT_CODE": "4",
        "PMR_SUCCEEDED": "2",
        "PMR_FAILED": "3",
        "PMR_LOST": "1",
    }


def test_a_command_at_the_end_runs_where_nothing_was_lost() -> None:
    both = ["i-0", "i-1"]
    assert instance_for(found("SS"), both) == "i-0"
    assert instance_for(found("LSS"), both) == "i-1"
    # One whose tasks have all succeeded may have gone since.
    assert instance_for(found("SS"), ["i-1", "i-2"]) == "i-1"
    for letters, ready in (("LL", both), ("SS", []), ("LS", ["i-0"])):
        with pytest.raises(NotReached, match="no instance"):
            instance_for(found(letters), ready)

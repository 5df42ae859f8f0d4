"""The job log has GNU parallel's columns, and numbers that it can read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from poormanray.errors import UsageProblem
from poormanray.jobs.outcome import Outcome
from poormanray.jobs.results import JOBLOG_COLUMNS, Collection, claim, fresh, joblog
from poormanray.jobs.track import LogText
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host

HOST = Host(0, "i-0", "c-0000", (0,))


def row(status: TaskStatus, name: str = "a b") -> dict[str, str]:
    lines = joblog([Outcome(status.task, name, HOST, status)], {"4.1": 12}).split("\n")
    assert lines[0] == "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"
    assert lines[2:] == [""]
    return dict(zip(JOBLOG_COLUMNS, lines[1].split("\t"), strict=True))


def test_a_task_is_a_row() -> None:
    told = row(TaskStatus(4, 1, TaskState.FAILED, 3, "", 1000.5, 1002.75))
    assert {key: value.strip() for key, value in told.items()} == {
        "Seq": "1",
        "Host": "c-0000",
        "Starttime": "1000.500",
        "JobRuntime": "2.250",
        "Send": "0",
        "Receive": "12",
        "Exitval": "3",
        "Signal": "0",
        "Command": "a b",
    }


@pytest.mark.parametrize(
    ("state", "code", "exitval", "signal"),
    [
        (TaskState.SUCCEEDED, 0, "0", "0"),
        (TaskState.FAILED, 137, "137", "9"),
        (TaskState.TIMEOUT, 143, "143", "15"),
        (TaskState.TIMEOUT, 0, "255", "0"),
        (TaskState.CANCELLED, None, "255", "0"),
        (TaskState.LOST, None, "255", "0"),
        (TaskState.FAILED, 255, "255", "0"),
    ],
)
def test_codes_and_signals(state: TaskState, code: int | None, exitval: str, signal: str) -> None:
    told = row(TaskStatus(0, 1, state, code))
    assert (told["Exitval"], told["Signal"]) == (exitval, signal)


def test_numbers_are_never_negative() -> None:
    # The instance's clock was set back while the task ran.
    told = row(TaskStatus(0, 1, TaskState.SUCCEEDED, 0, "", 1000.0, 900.0))
    for key in JOBLOG_COLUMNS[2:8]:
        assert re.fullmatch(r" *[0-9]+(\.[0-9]+)?", told[key]), key


def test_a_name_stays_one_column() -> None:
    assert row(TaskStatus(0, 1, TaskState.SUCCEEDED, 0), "a\tb\nc")["Command"] == "a b c"
    assert row(TaskStatus(0, 1, TaskState.SUCCEEDED, 0), "")["Command"] == "-"


def test_what_has_not_ended_is_no_row() -> None:
    running = Outcome(0, "a", HOST, TaskStatus(0, 1, TaskState.RUNNING))
    assert joblog([running], {}).count("\n") == 1


def test_each_attempt_has_a_file_of_its_own() -> None:
    collection = Collection(Path("/x"))
    assert collection.path("3.1") == Path("/x/3.log")
    assert collection.path("3.2") == Path("/x/3.2.log")


def test_a_link_where_a_result_goes_is_replaced(tmp_path: Path) -> None:
    aim = tmp_path / "aim"
    aim.write_bytes(b"precious")
    for name in ("0.log", "1.log"):
        (tmp_path / name).symlink_to(aim)
    collection = Collection(tmp_path)
    collection.write(LogText(HOST, "0.1", b"one "))
    collection.write(LogText(HOST, "0.1", b"two"))
    fresh(tmp_path / "1.log").touch()
    assert aim.read_bytes() == b"precious"
    assert (tmp_path / "0.log").read_bytes() == b"one two"
    assert (tmp_path / "1.log").read_bytes() == b""


def test_a_folder_takes_the_results_of_one_job(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    claim(tmp_path, "00000000001")
    (tmp_path / "0.log").write_text("its log")
    claim(tmp_path, "00000000001")
    with pytest.raises(UsageProblem, match="results of job 00000000001") as caught:
        claim(tmp_path, "00000000002")
    assert caught.value.hint == f"choose another folder: -o {tmp_path}-00000000002"
    (tmp_path / ".pmr-job").write_bytes(b"")
    with pytest.raises(UsageProblem, match=r"results of job \?"):
        claim(tmp_path, "00000000001")


@pytest.mark.parametrize("name", ["3.log", "12.2.log", "joblog.tsv", "results.jsonl", "outputs"])
def test_results_replace_no_file_that_may_be_another_s(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageProblem, match=f"holds {name}"):
        claim(tmp_path, "00000000001")
    assert [one.name for one in tmp_path.iterdir()] == [name]

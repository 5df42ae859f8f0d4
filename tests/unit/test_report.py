"""A report tells of every task, and nothing in it is more than text."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

from hypothesis import example, given
from hypothesis import strategies as st

from poormanray.jobs.outcome import Outcome
from poormanray.jobs.report import bars, failure_groups, gantt_svg, report_csv, report_html
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host

HOSTS = [Host(index, f"i-{index}", f"c-000{index}", ()) for index in range(3)]
HOSTILE = "</title><script>alert('1')</script> & \x1b[31m \x00 \ud800 é"
TAG = "{http://www.w3.org/2000/svg}"


def outcome(
    task: int, state: TaskState, began: float | None = None, took: float = 1.0, name: str = ""
) -> Outcome:
    ended = None if began is None or not state.ended else began + took
    code = {TaskState.SUCCEEDED: 0, TaskState.FAILED: 3}.get(state)
    status = TaskStatus(task, 1, state, code, "", began, ended, slot=task % 2)
    return Outcome(task, name or f"t{task}", HOSTS[task % 3], status)


def page(found: list[Outcome], last_lines: dict[int, str] | None = None) -> str:
    slots = {host.name: 2 for host in HOSTS}
    return report_html("a job", found, slots=slots, last_lines=last_lines or {})


states = st.sampled_from(list(TaskState))
many = st.lists(
    st.tuples(states, st.none() | st.floats(0, 1e9), st.floats(0, 1e6), st.text(max_size=20)),
    max_size=30,
)


@given(many)
@example([(TaskState.SUCCEEDED, 0.0, 5e-324, "")])
def test_every_task_that_has_started_is_a_bar(
    told: list[tuple[TaskState, float | None, float, str]],
) -> None:
    found = [
        outcome(n, state, began, took, name) for n, (state, began, took, name) in enumerate(told)
    ]
    # A picture that is no XML is no picture.
    drawn = ElementTree.fromstring(gantt_svg(bars(found)).encode("utf-8"))
    titles = [one for one in drawn.iter(f"{TAG}rect") if one.find(f"{TAG}title") is not None]
    assert len(titles) == sum(one.status.started_at is not None for one in found)
    assert all(bar.upto_s >= bar.from_s >= 0 for bar in bars(found))
    page(found)


@given(many)
def test_the_table_has_every_task(told: list[tuple[TaskState, float | None, float, str]]) -> None:
    found = [
        outcome(n, state, began, took, name) for n, (state, began, took, name) in enumerate(told)
    ]
    rows = list(csv.DictReader(io.StringIO(report_csv(found), newline="")))
    assert [(row["task"], row["state"]) for row in rows] == [
        (str(one.task), one.state.value) for one in found
    ]


def test_what_a_task_wrote_stays_text() -> None:
    shown = page([outcome(0, TaskState.FAILED, 5.0, name=HOSTILE)], {0: HOSTILE})
    assert "<script" not in shown
    assert not re.search("[\x00\x1b\ud800]", shown)
    assert "default-src 'none'" in shown
    # Nothing is asked of a network but the name of a format.
    assert set(re.findall(r"https?://[^\s\"<]*", shown)) == {"http://www.w3.org/2000/svg"}


def test_failures_are_grouped_by_their_last_line() -> None:
    found = [outcome(n, TaskState.FAILED, float(n)) for n in range(5)]
    lines = {0: "row 1 is bad", 1: "row 22 is bad", 2: "no such file", 4: "row 3 is bad"}
    groups = failure_groups([*found, outcome(5, TaskState.SUCCEEDED, 1.0)], lines)
    assert [(line, [one.task for one in group]) for line, group in groups] == [
        ("row 1 is bad", [0, 1, 4]),
        ("no such file", [2]),
        ("(it wrote nothing)", [3]),
    ]


def test_a_job_of_which_nothing_has_started_is_a_page() -> None:
    assert "1 PENDING" in page([outcome(0, TaskState.PENDING)])
    assert "Nothing failed." in page([])


def test_ten_thousand_tasks_are_one_small_file() -> None:
    found = [outcome(n, TaskState.SUCCEEDED, n / 10, 3.0) for n in range(10_000)]
    shown = page(found)
    assert shown.count("<title>") == 10_001
    assert len(shown) < 4 << 20

"""What is shown of logs: whole lines with their place, and no character in halves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poormanray.cli.mapping import Progress
from poormanray.cli.output import Output
from poormanray.cli.watching import (
    LONGEST_LINE,
    Watcher,
    WayBack,
    ending,
    iso,
    unfinished_bytes,
    watched,
)
from poormanray.errors import (
    INTERRUPTIONS,
    CredentialsEnded,
    Denied,
    ExitCode,
    Signalled,
)
from poormanray.jobs.track import (
    Again,
    Contact,
    Happening,
    HostProblem,
    Interrupted,
    LogGap,
    LogText,
    Looked,
    TaskChanged,
    Track,
)
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host
from poormanray.model import readable_s
from poormanray.waiting import Clock

HOST = Host(3, "i-3", "c-0003", (0, 7))
OTHER = Host(4, "i-4", "c-0004", (1,))
Capture = pytest.CaptureFixture[bytes]
ANYWAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def watcher(
    *, json_mode: bool = False, terminal: bool = False, prefix: bool = True, by_task: bool = False
) -> Watcher:
    out = Output(json=json_mode)
    out.is_terminal = terminal
    return Watcher(out, prefix=prefix, by_task=by_task)


def told(seen: Watcher, *parts: bytes, capture: Capture) -> bytes:
    for part in parts:
        seen.show(LogText(HOST, "7.1", part))
    seen.finish()
    return capture.readouterr().out


def events(seen: Watcher, *parts: bytes, capture: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told(seen, *parts, capture=capture).splitlines()]


def test_lines_have_their_place_before_them(capfdbinary: Capture) -> None:
    seen = watcher()
    seen.show(LogText(HOST, "7.1", b"one\ntw"))
    seen.show(LogText(OTHER, "1.1", b"other\n\n"))
    assert told(seen, b"o\nend", capture=capfdbinary) == (
        b"[c-0003] one\n[c-0004] other\n[c-0004] \n[c-0003] two\n[c-0003] end\n"
    )
    assert told(watcher(by_task=True), b"x\n", capture=capfdbinary) == b"[c-0003 7] x\n"


@ANYWAY
@given(parts=st.lists(st.binary(max_size=9), max_size=6))
def test_any_chunks_make_the_same_lines(parts: list[bytes], capfdbinary: Capture) -> None:
    capfdbinary.readouterr()
    whole = told(watcher(), b"".join(parts), capture=capfdbinary)
    assert told(watcher(), *parts, capture=capfdbinary) == whole
    assert told(watcher(prefix=False), *parts, capture=capfdbinary) == b"".join(parts)


def test_a_line_without_an_end_is_shown_in_pieces(capfdbinary: Capture) -> None:
    shown = told(watcher(), b"x" * (2 * LONGEST_LINE + 5), capture=capfdbinary)
    assert [len(line) for line in shown.splitlines()] == [LONGEST_LINE + 9] * 2 + [14]


def test_a_terminal_is_not_obeyed_by_a_log(capfdbinary: Capture) -> None:
    data = b"\x1b[2J\xff\x9b \xe9\x9b\xaa\n"
    shown = told(watcher(terminal=True), data, capture=capfdbinary)
    assert b"\x1b" not in shown
    assert shown.decode().endswith(" 雪\n")
    assert b"\x1b" not in told(watcher(terminal=True, prefix=False), data, capture=capfdbinary)
    assert told(watcher(), data, capture=capfdbinary) == b"[c-0003] " + data


@ANYWAY
@given(text=st.text(max_size=20), cuts=st.lists(st.integers(0, 80), max_size=4))
@pytest.mark.parametrize("json_mode", [True, False])
def test_characters_are_never_cut(
    json_mode: bool, text: str, cuts: list[int], capfdbinary: Capture
) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parts = [data[a:b] for a, b in pairwise(edges)]
    capfdbinary.readouterr()
    seen = watcher(json_mode=json_mode, terminal=not json_mode, prefix=False)
    if json_mode:
        found = events(seen, *parts, capture=capfdbinary)
        assert "".join(event["text"] for event in found) == text
    else:
        assert "\ufffd" in text or "\ufffd" not in told(seen, *parts, capture=capfdbinary).decode()


@ANYWAY
@given(parts=st.lists(st.binary(min_size=1, max_size=6), max_size=5))
def test_json_loses_no_byte(parts: list[bytes], capfdbinary: Capture) -> None:
    capfdbinary.readouterr()
    found = events(watcher(json_mode=True), *parts, capture=capfdbinary)
    bytes_of = [
        event["text"].encode() if "text" in event else base64.b64decode(event["base64"])
        for event in found
    ]
    assert b"".join(bytes_of) == b"".join(parts)
    assert {(event["task"], event["instance"]) for event in found} <= {(7, "i-3")}


@pytest.mark.parametrize(
    ("data", "count"),
    [
        *((b"", 0), (b"ab", 0), (b"a\xc3", 1), (b"\xe9\x9b", 2), (b"\xe9\x9b\xaa", 0)),
        *((b"\xf0\x9f\x98", 3), (b"\xf0\x9f\x98\x80", 0), (b"\x80\x80\x80\x80", 0)),
        *((b"\xff", 0), (b"\xc0", 0), (b"\xc3\xa4", 0), (b"\xf8\x80", 0)),
    ],
)
def test_where_a_character_is_cut(data: bytes, count: int) -> None:
    assert unfinished_bytes(data) == count


def test_a_gap_parts_lines(capfdbinary: Capture) -> None:
    seen = watcher()
    seen.show(LogText(HOST, "7.1", b"before"))
    seen.show(LogGap(HOST, "7.1", 3 << 20, "the cap"))
    seen.show(LogText(HOST, "7.1", b"after\n"))
    both = capfdbinary.readouterr()
    mark = b"[pmr: 3,145,728 bytes of this log are missing here: the cap]\n"
    assert both.out == b"[c-0003] before\n[c-0003] " + mark + b"[c-0003] after\n"
    assert both.err == b"[c-0003] task 7: 3.0 MiB of its output are missing: the cap\n"


def test_what_failed_is_told_and_what_succeeded_is_not(capfdbinary: Capture) -> None:
    seen = watcher()
    for state, code, reason in (
        (TaskState.RUNNING, None, ""),
        (TaskState.SUCCEEDED, 0, ""),
        (TaskState.FAILED, 137, ""),
        (TaskState.TIMEOUT, 143, "timeout"),
        (TaskState.LOST, None, "tomorrow"),
    ):
        seen.show(TaskChanged(HOST, TaskStatus(7, 1, state, code, reason)))
    seen.show(HostProblem(HOST, "\x1b is gone"))
    assert capfdbinary.readouterr().err.decode().splitlines() == [
        "[c-0003] task 7 failed with exit code 137 (signal 9)",
        "[c-0003] task 7 TIMEOUT: the task's time was over",
        "[c-0003] task 7 LOST: tomorrow",
        "[c-0003] \\x1b is gone",
    ]
    assert ending(TaskStatus(1, 1, TaskState.SUCCEEDED, 0)) == "succeeded"


def test_a_spot_notice_is_one_line(capfdbinary: Capture) -> None:
    seen = watcher()
    seen.show(Interrupted(HOST, "terminate", "2026-11-25T18:02:00Z"))
    seen.show(Interrupted(HOST, "stop", "-"))
    assert capfdbinary.readouterr().err.decode().splitlines() == [
        "[c-0003] a spot notice: EC2 will terminate it at 2026-11-25T18:02:00Z: "
        "nothing starts there",
        "[c-0003] a spot notice: EC2 will stop it: nothing starts there",
    ]


def test_times_and_spans() -> None:
    assert (iso(None), iso(0.5)) == (None, "1970-01-01T00:00:00.500Z")
    assert [readable_s(s) for s in (5, 65, 3660)] == ["5 s", "1 min 05 s", "1 h 01 min"]


def cut_off(error: BaseException) -> Iterator[Happening]:
    yield LogText(HOST, "7.1", b"last words")
    raise error


def way_back(*states: TaskState) -> WayBack:
    track, gone = (
        Track(HOST, looked=True),
        Track(OTHER, looked=True, problem="it is gone", contact=Contact.LOST),
    )
    for task, state in zip(HOST.tasks, states, strict=False):
        track.log.newest[task] = TaskStatus(task, 1, state)
        if state.ended:
            del track.log.open[task]
    return WayBack("job1", "pmr logs -f job1", (track, gone))


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([TaskState.RUNNING], "as last seen, 1 running and 1 pending on 1 instances"),
        ([TaskState.SUCCEEDED] * 2, "every task has ended; its logs stay"),
    ],
)
def test_who_stops_watching_learns_what_goes_on(
    states: list[TaskState], said: str, capfdbinary: Capture
) -> None:
    seen = watcher()
    code = watched(seen.out, cut_off(KeyboardInterrupt()), seen, way_back(*states))
    assert code is ExitCode.INTERRUPTED
    both = capfdbinary.readouterr()
    assert both.out == b"[c-0003] last words\n"
    assert said in both.err.decode()
    assert both.err.endswith(b"\n  pmr logs -f job1\n")


def test_ended_credentials_name_the_way_back(capfdbinary: Capture) -> None:
    seen = watcher(json_mode=True)
    unseen = WayBack("job1", "pmr logs -f job1", (Track(HOST),))
    with pytest.raises(CredentialsEnded) as caught:
        watched(seen.out, cut_off(CredentialsEnded("expired", "repeat")), seen, unseen)
    assert caught.value.hint == "log in again, then: pmr logs -f job1"
    both = capfdbinary.readouterr()
    assert b"no instance has told of it yet" in both.err
    last = json.loads(both.out.splitlines()[-1])
    assert (last["event"], last["why"], last["pending"]) == ("unwatched", "lost sight", 2)
    assert last["again"] == "pmr logs -f job1"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_name_of_an_instance_is_never_obeyed(*, terminal: bool, capfdbinary: Capture) -> None:
    seen = watcher(terminal=terminal)
    seen.show(LogText(Host(0, "i-0", "c\x1b[2J\n\udcff", (0,)), "0.1", b"text\n"))
    assert capfdbinary.readouterr().out == b"[c\\x1b[2J\\x0a\\xdcff] text\n"


def test_a_job_that_no_instance_was_sent_does_not_go_on(capfdbinary: Capture) -> None:
    seen = watcher(json_mode=True)
    unsent = WayBack("job1", "pmr logs -f job1", (Track(HOST, started=False),))
    with pytest.raises(Denied):
        watched(seen.out, cut_off(Denied("no permission", "have it allowed")), seen, unsent)
    both = capfdbinary.readouterr()
    assert b"this command has started nothing of job job1" in both.err
    assert b"goes on" not in both.err
    assert json.loads(both.out.splitlines()[-1])["event"] == "not_started"


@pytest.mark.parametrize("code", [ExitCode.HUNG_UP, ExitCode.TERMINATED])
def test_a_signal_that_ends_the_watch_is_named_and_is_the_code(
    code: ExitCode, capfdbinary: Capture
) -> None:
    seen = watcher()
    assert watched(seen.out, cut_off(Signalled(code)), seen, way_back()) is code
    assert f"ended by {INTERRUPTIONS[code]}: job job1" in capfdbinary.readouterr().err.decode()


def redrawing(chunks: list[bytes], pause_s: float, out: Output) -> None:
    """Show chunks of one task's log, so many seconds apart."""
    now = [0.0]
    seen = Watcher(out, now_s=lambda: now[0])
    for chunk in chunks:
        seen.show(LogText(HOST, "0.1", chunk))
        now[0] += pause_s
        seen.show(Looked())
    seen.finish()


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        # As tqdm writes: each state begins with a carriage return.
        ([b"\r 0%", b"\r10%", b"\r20%\r30%", b"\r40%\n"], [b" 0%", b"10%", b"30%", b"40%"]),
        ([b"10%\r", b"20%\r", b"\n", b"end\n"], [b"10%", b"20%", b"end"]),
        ([b"100%\r100%", b"\n"], [b"100%"]),
        ([b"one\r\ntwo\r", b"\nthree\r\n"], [b"one\r", b"two", b"three\r"]),
        ([b"a\rb\rc\n"], [b"a\rb\rc"]),
        ([b"no end"], [b"no end"]),
    ],
)
def test_a_line_that_is_written_anew_is_shown_before_it_ends(
    chunks: list[bytes], shown: list[bytes], capfdbinary: Capture
) -> None:
    redrawing(chunks, 5.0, Output())
    assert capfdbinary.readouterr().out == b"".join(b"[c-0003] %s\n" % one for one in shown)


def test_a_line_is_not_redrawn_all_the_time(capfdbinary: Capture) -> None:
    redrawing([b"\r%d%%" % number for number in range(100)] + [b"\n"], 0.1, Output())
    lines = capfdbinary.readouterr().out.splitlines()
    assert 9 <= len(lines) <= 12
    assert lines[-1] == b"[c-0003] 99%"


def test_a_terminal_shows_how_a_line_stands(capfdbinary: Capture) -> None:
    out = Output()
    out.is_terminal = True
    redrawing([b"a\rb\rc\n", b"\x1b[2Jd\r\n"], 5.0, out)
    assert capfdbinary.readouterr().out == b"[c-0003] c\n[c-0003] \\x1b[2Jd\n"


def test_a_failure_names_the_script(capfdbinary: Capture) -> None:
    failed = TaskStatus(1, 1, TaskState.FAILED, exit_code=2)
    seen = Watcher(Output(), names={1: "train/b.sh"})
    seen.show(TaskChanged(HOST, failed))
    Watcher(Output(), names={1: HOST.name}).show(TaskChanged(HOST, failed))
    first, second = capfdbinary.readouterr().err.decode().splitlines()
    assert first == "[c-0003] task 1 (train/b.sh) failed with exit code 2"
    assert second == "[c-0003] task 1 failed with exit code 2"


def changed(task: int, state: TaskState, began: float, ended: float | None = None) -> TaskChanged:
    code = {TaskState.SUCCEEDED: 0, TaskState.FAILED: 1}.get(state)
    status = TaskStatus(task, 1, state, exit_code=code, started_at=began, ended_at=ended)
    return TaskChanged(HOST, status)


def test_a_task_that_gets_another_turn_has_not_failed() -> None:
    progress = Progress(Clock(monotonic=lambda: 0.0), 3)
    progress.note(changed(0, TaskState.SUCCEEDED, 1.0, 2.0))
    progress.note(changed(1, TaskState.FAILED, 1.0, 2.0))
    progress.note(changed(2, TaskState.FAILED, 1.0, 2.0))
    progress.retry(Again(((1, 2),), "exit code 1"))
    assert progress.text().startswith("2/3 done, 1 failed, 0 running, 1 to run again")
    progress.note(changed(1, TaskState.RUNNING, 3.0))
    assert progress.text().startswith("2/3 done, 1 failed, 1 running, ")
    progress.note(changed(1, TaskState.FAILED, 3.0, 4.0))
    assert progress.text().startswith("3/3 done, 2 failed, 0 running")


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("off_s", [0.0, 5000.0, -5000.0])
def test_a_rate_counts_from_the_first_start_by_the_clock_of_the_instance(
    off_s: float, scale: float
) -> None:
    """Thirty tasks of 5 s are reported at once: 6 a second, whatever our clock says."""
    now = [100.0]
    progress = Progress(Clock(scale, monotonic=lambda: now[0]), 66)
    for task in range(30):
        progress.note(changed(task, TaskState.SUCCEEDED, off_s, off_s + 5.0))
    assert progress.text() == "30/66 done, 0 failed, 0 running, 6.0/s, about 6 s left"
    now[0] += 1.0
    progress.note(changed(30, TaskState.RUNNING, off_s + 5.5))
    assert "1 running, 5.0/s, about 7 s left" in progress.text()

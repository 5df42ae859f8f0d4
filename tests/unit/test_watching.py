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
from poormanray.errors import CredentialsEnded, ExitCode
from poormanray.jobs.track import (
    Contact,
    Happening,
    HostProblem,
    Interrupted,
    LogGap,
    LogText,
    TaskChanged,
    Track,
)
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host
from poormanray.model import readable_s

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

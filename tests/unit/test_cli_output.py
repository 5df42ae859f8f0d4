"""Data on stdout, the rest on stderr; JSON is JSON; a terminal is never obeyed by data."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.cli.instances import COLUMNS, SPARE_COLUMNS
from poormanray.cli.output import Output, aligned, fitted, harmless, json_pieces
from poormanray.errors import AwsRefused, UsageProblem
from poormanray.model import Agent, InvocationStatus

Capture = pytest.CaptureFixture[str]


def test_text_goes_to_stdout_and_notes_to_stderr(capsys: Capture) -> None:
    out = Output()
    out.line("data")
    out.raw(b"bytes\n")
    out.note("a note")
    out.event({"event": "x"})
    out.document({"x": 1})
    told = capsys.readouterr()
    assert (told.out, told.err) == ("data\nbytes\n", "a note\n")


def test_json_mode_writes_json_alone_to_stdout(capsys: Capture) -> None:
    out = Output(json=True)
    out.line("data")
    out.table(["a"], [["b"]])
    out.event({"event": "seen", "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)})
    out.document({"agent": Agent("i-1", online=True), "state": InvocationStatus.DONE})
    lines = capsys.readouterr().out.split("\n", 1)
    assert json.loads(lines[0]) == {"event": "seen", "at": "2026-01-02T03:04:05Z"}
    agent = {"instance_id": "i-1", "online": True, "last_ping_at": None, "version": ""}
    assert json.loads(lines[1]) == {"agent": agent, "state": "done"}


def test_a_failure_is_a_line_and_a_next_step(capsys: Capture) -> None:
    Output().failure(AwsRefused("no\npermission", "ask for it"))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "error: no permission\n  next: ask for it\n")


def test_a_failure_in_json_mode_is_an_object_on_stdout(capsys: Capture) -> None:
    Output(json=True).failure(AwsRefused("no", "ask", code="AccessDenied"))
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "kind": "AwsRefused",
            "message": "no",
            "hint": "ask",
            "code": "AccessDenied",
            "exit_code": 5,
        }
    }


def test_progress_without_a_terminal_is_a_line_per_change(capsys: Capture) -> None:
    out = Output()
    for text in ("0 of 2", "0 of 2", "1 of 2", "", "done"):
        out.progress(text)
    assert capsys.readouterr().err == "0 of 2\n1 of 2\ndone\n"


def test_control_characters_become_visible() -> None:
    assert harmless("a\x1b[31mb\x07\tc\x9b\x7f\r") == "a\\x1b[31mb\\x07\tc\\x9b\\x7f\\x0d"


def test_nothing_turns_the_order_of_letters_around() -> None:
    assert harmless("a\u202egpj.sh\u2066\u2028") == "a\\x202egpj.sh\\x2066\\x2028"


def test_a_name_never_begins_a_line_of_its_own(capsys: Capture) -> None:
    forged = "x\nerror: no\r\ty"
    out = Output()
    out.note(forged)
    out.line(forged)
    out.progress(forged)
    out.table(["name"], [[forged]])
    out.failure(AwsRefused(forged, forged))
    told = capsys.readouterr()
    shown = "x\\x0aerror: no\\x0d\\x09y"
    assert told.out.splitlines() == [shown, "NAME", shown]
    assert told.err.splitlines() == [shown, shown, "error: x error: no y", "  next: x error: no y"]


def test_markup_in_a_name_is_only_text(capsys: Capture) -> None:
    out = Output()
    out.is_terminal = True
    names = ["[red]x[/red]", "[link=http://x]y", "[/]", ":warning:"]
    out.table(["[b]name"], [[name] for name in names])
    told = capsys.readouterr().out
    assert all(name in told for name in ["[b]name", *names])
    assert "\x1b" not in told


def test_tables_are_aligned_and_defused(capsys: Capture) -> None:
    Output().table(["id", "name"], [["i-1", "x"], ["i-22", "\x1b[2J"]])
    assert capsys.readouterr().out == "ID    NAME\ni-1   x\ni-22  \\x1b[2J\n"
    assert aligned(["a", "b"], []) == "A  B"


@pytest.mark.parametrize("json_mode", [False, True])
def test_nobody_there_to_ask_is_an_error_that_names_yes(json_mode: bool) -> None:
    with pytest.raises(UsageProblem) as caught:
        Output(json=json_mode).confirm("Terminate?")
    assert "--yes" in caught.value.hint


def test_names_that_are_not_utf8_can_be_shown(capsys: Capture) -> None:
    out = Output(json=True)
    out.event({"name": "a\udcff"})
    Output().table(["name"], [["a\udcff"]])
    told = capsys.readouterr().out
    assert told == '{"name": "a\\udcff"}\nNAME\na\\xdcff\n'
    told.encode()


def test_a_page_is_drawn_at_once_and_fits_the_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = Output()
    out.is_terminal = True

    def draw() -> None:
        out.line("head")
        out.table(("TASK", "LAST LINE"), [("7", "x" * 100), ("8", "\x1b[31m")], compact=True)
        assert capsys.readouterr().out == ""

    out.page(draw)
    told = capsys.readouterr().out
    assert told.startswith("\x1b[H\x1b[Jhead\n")
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", told).splitlines()
    assert [len(line.rstrip()) <= 40 for line in plain] == [True] * 4
    assert plain[2].rstrip().endswith("xxx…")
    assert "\\x1b[31m" in plain[3]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=3), values, max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from([None, 2]),
)
def test_rows_that_come_one_by_one_read_like_a_list(
    value: dict[str, object], streamed: list[str], indent: int | None
) -> None:
    rows = {key: [value, [], "line\nbreak"][: len(key)] for key in streamed}
    whole = json.dumps({**value, **rows}, indent=indent)
    lazy = {**value, **{key: iter(rows[key]) for key in rows}}
    assert "".join(json_pieces(lazy, indent)) == whole


NARROW = 80
INSTANCE = ["i-0123456789abcdef0", "x" * 30, "c5n.18xlarge", "running", "online", "us-east-1a"]


@given(
    st.lists(
        st.tuples(*(st.text("xy z", min_size=1, max_size=size) for size in (19, 60, 20, 20, 9))),
        min_size=1,
        max_size=4,
    )
)
def test_a_table_of_any_cells_fits_a_narrow_terminal(rows: list[tuple[str, ...]]) -> None:
    names, cut = fitted(("id", "name", "state", "zone", "age"), rows, ("zone", "age"), NARROW)
    widths = [max(map(len, cells)) for cells in zip(names, *cut, strict=True)]
    assert sum(widths) + 3 * (len(widths) - 1) + 2 <= NARROW
    assert [row[0] for row in cut] == [row[0] for row in rows]


def test_ids_stay_whole_at_80_columns(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))
    out = Output()
    out.is_terminal = True
    out.table(COLUMNS, [[*INSTANCE, "172.31.100.200", "12d03h"]], spare=SPARE_COLUMNS)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.strip()]) == 3
    assert any(INSTANCE[0] in line and INSTANCE[1] in line for line in lines)
    monkeypatch.setenv("COLUMNS", "150")
    out.table(COLUMNS, [[*INSTANCE, "172.31.100.200", "12d03h"]], spare=SPARE_COLUMNS)
    assert "172.31.100.200" in capsys.readouterr().out

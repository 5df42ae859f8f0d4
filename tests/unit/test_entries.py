"""What a map goes over: no input loses or doubles a task, and no entry leaves its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.entries import (
    Array,
    header,
    json_entries,
    line_changes,
    line_entries,
    parse_array,
    part,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.mark.parametrize(
    ("text", "ids", "at_once"),
    [
        ("0-3", (0, 1, 2, 3), 0),
        ("1-7:2", (1, 3, 5, 7), 0),
        ("1,3,9", (1, 3, 9), 0),
        ("9,1,3-4,3", (1, 3, 4, 9), 0),
        ("0-99%8", tuple(range(100)), 8),
        (" 5 ", (5,), 0),
        ("0-999999", tuple(range(1_000_000)), 0),
    ],
)
def test_arrays_are_read_as_slurm_means_them(text: str, ids: tuple[int, ...], at_once: int) -> None:
    assert parse_array(text) == Array(ids, at_once)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no id"),
        ("1,", "no id"),
        ("a", "no id"),
        ("1-", "no id"),
        ("-1", "no id"),
        ("٣", "no id"),
        ("1.5", "no id"),
        ("1-2-3", "no id"),
        ("1:2", "no id"),
        ("7-1", "ends before"),
        ("1-7:0", "steps of 0"),
        ("0-9%", "no number"),
        ("0-9%0", "no number"),
        ("0-9%x", "no number"),
        ("0-1000000", "more than"),
        ("0-600000,600001-999999999", "more than"),
        ("9999999999", "no id"),
    ],
)
def test_what_is_no_array_is_told(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_array(text)


@given(st.sets(st.integers(0, 10_000), min_size=1), st.integers(0, 99))
def test_every_id_is_there_once(ids: set[int], at_once: int) -> None:
    text = ",".join(map(str, ids)) + (f"%{at_once}" if at_once else "")
    assert parse_array(text) == Array(tuple(sorted(ids)), at_once)


@given(st.lists(TEXT.filter(lambda text: not set(text) & set("\n\r"))))
def test_each_line_is_an_entry(lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    while lines and not lines[-1]:
        lines.pop()
    assert line_entries(data) == lines
    assert line_entries(data.rstrip(b"\n")) == lines
    assert line_entries(data.replace(b"\n", b"\r\n")) == lines


def test_lines_keep_their_bytes() -> None:
    assert line_entries(b"\xff\n\n a ") == ["\udcff", "", " a "]
    with pytest.raises(ValueError, match="line 2 holds a NUL"):
        line_entries(b"a\nb\0c\n")


def test_what_is_no_part_of_a_line_is_said() -> None:
    assert line_changes(b"a\nb\n") == line_changes(b"a\nb") == []
    assert line_entries(b"\xef\xbb\xbfa\r\n\r\nb\r\n\n\n") == ["a", "", "b"]
    assert line_changes(b"\xef\xbb\xbfa\r\n\r\nb\r\n\n\n") == [
        "the byte order mark before its first line is no part of an entry",
        "each line ends in CR LF: the CR is no part of an entry",
        "2 empty lines at its end left out",
        "1 empty line, each a task with an empty entry (the first: line 2)",
    ]
    assert line_changes(b"a\r\nb\n")[0].startswith("1 of 2 lines end in CR LF")
    with pytest.raises(ValueError, match="iconv"):
        line_entries("a\n".encode("utf-16"))


@given(st.lists(TEXT | st.integers() | st.none() | st.dictionaries(TEXT, st.booleans())))
def test_each_element_is_an_entry(elements: list[object]) -> None:
    found = json_entries(json.dumps(elements).encode())
    assert len(found) == len(elements)
    for entry, element in zip(found, elements, strict=True):
        assert entry == element if isinstance(element, str) else json.loads(entry) == element
    if len(elements) > 1:
        lines = "\n".join(json.dumps(element) for element in elements)
        assert json_entries(lines.encode()) == found


@pytest.mark.parametrize("data", [b"{", b"[1,", b"a b", b'["\\u0000"]', b'["\\ud800"]'])
def test_what_is_no_json_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|element 0"):
        json_entries(data)


@pytest.mark.parametrize(
    ("kind", "entry", "value"),
    [
        ("", "a/b.tar.gz", "a/b.tar.gz"),
        (".", "a/b.tar.gz", "a/b.tar"),
        (".", "a.d/b", "a.d/b"),
        ("/", "a/b.txt", "b.txt"),
        ("//", "a/b.txt", "a"),
        ("//", "b.txt", "."),
        ("/.", "a/b.txt", "b"),
        ("#", "x", "8"),
    ],
)
def test_places_mean_what_they_mean_to_gnu_parallel(kind: str, entry: str, value: str) -> None:
    assert part(kind, entry, 7) == value


def test_a_script_says_how_it_is_run() -> None:
    script = b"""#!/bin/bash
#PMR retries 2

# a comment
#PMR\ttimeout  1h 30m \r
# pmr map -n demo scripts/ runs this
# PMR is the environment's prefix; timeout: see below
#pmrs are none
#PMR slots 4
echo hi
# PMR slots 3
"""
    assert header(script) == {"retries": "2", "timeout": "1h 30m", "slots": "4"}
    assert header(b"\x7fELF\0\n#PMR slots\n") == {}


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("#PMR --retries=2", "#PMR retries 2"),
        ("#PMR --retries 2", "#PMR retries 2"),
        ("#PMR retries=2", "#PMR retries 2"),
        ("#PMR retries: 2", "#PMR retries 2"),
        ("#PMR Retries 2", "#PMR retries 2"),
        ("#PMR retry 2", "#PMR retries 2"),
        ("#PMR retries", "#PMR retries VALUE"),
        ("#PMRretries 2", "#PMR retries 2"),
        ("#PMR: retries 2", "#PMR retries 2"),
        ("#pmr retries 2", "#PMR retries 2"),
        ("#Pmr --slots=4", "#PMR slots 4"),
        ("# PMR timeout 30m", "#PMR timeout 30m"),
        ("# pmr timeout=30m", "#PMR timeout 30m"),
        ("#PMR time-out 30m", "#PMR timeout 30m"),
        ("#PMR", "#PMR retries 2"),
        ("#PMR memory 4G", "#PMR retries 2"),
    ],
)
def test_a_line_that_was_meant_for_pmr_is_refused_with_its_spelling(line: str, right: str) -> None:
    with pytest.raises(ValueError, match="line 2") as caught:
        header(f"#!/bin/sh\n{line}\necho hi\n".encode())
    assert line in str(caught.value)
    assert str(caught.value).endswith(f" `{right}`")


def test_a_line_for_pmr_stands_above_commands_and_once() -> None:
    with pytest.raises(ValueError, match=r"line 2.* below the first command"):
        header(b"echo hi\n#PMR retries 2\n")
    with pytest.raises(ValueError, match=r"line 2.* not understood"):
        header(b"echo hi\n#PMR retries=2\n")
    with pytest.raises(ValueError, match="line 2: it says another retries"):
        header(b"#PMR retries 2\n#PMR retries 3\n")


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 20_000 + b"1"])
def test_json_that_is_nested_too_deeply_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|neither a JSON list"):
        json_entries(data)

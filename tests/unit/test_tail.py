"""The last lines of a log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.jobs.tail import last_lines


@pytest.mark.parametrize(
    ("data", "count", "tail"),
    [
        (b"", 3, b""),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a", 1, b"a"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"a\r\nb\x0bc\n", 1, b"b\x0bc\n"),
    ],
)
def test_last_lines(data: bytes, count: int, tail: bytes) -> None:
    assert last_lines(data, count) == tail


@given(st.binary(max_size=60).map(lambda d: d.replace(b"x", b"\n")), st.integers(1, 9))
def test_the_tail_is_an_end_of_the_log(data: bytes, count: int) -> None:
    tail = last_lines(data, count)
    assert data.endswith(tail)
    assert tail.rstrip(b"\n").count(b"\n") < count
    assert tail == data or len(tail.splitlines()) >= 1

"""Events told shortly tell what the ledger tells."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from poormanray import shell
from poormanray.envelope import Condensed, decode
from poormanray.ledger import EventLog
from tests.cloud.test_shell_ledger import ME, Machine
from tests.cloud.test_shell_summary import (
    ended,
    events,
    job_of,
    ledger,
    line,
    machine,
    torn,
    usual,
)

__all__ = ["machine"]

DRIVER = """
BOX=$1 SMALL=2400 NOT_AFTER=99999999999 CONDENSED=1 WANTED=
shift
while read -r JOB EVENTS_AT room; do
    JOB_DIR=$PMR_ROOT/jobs/$JOB
    (begin_answer; MORE=0; body "$room" >"$BOX/body"
        text=$(gzip -c <"$BOX/body" | base64 -w 0)
        sum=$(printf %s "$text" | sha256sum)
        printf 'PMR1 0 %s %s %s\n' "${#text}" "${sum:0:16}" "$text" >&"$ANSWER_FD"
        cat "$BOX/errors" >&2)
done
"""


def condensed(machine: Machine, asks: list[tuple[str, int, int]]) -> list[Condensed]:
    """Ask for events (job, offset, most bytes), all in one shell: a send for each takes long."""
    files = (*shell.LIBRARY, *shell.RARE["ends"])
    library = "".join(Path(shell.__file__).with_name(name).read_text() for name in files)
    box = machine.folder / "ends"
    box.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "-c", library + DRIVER, "bash", str(box)],
        input="".join(f"{job} {at} {most}\n" for job, at, most in asks).encode(),
        capture_output=True,
        env={"PATH": machine.path, "PMR_ROOT": str(machine.root), "AWS_SSM_INSTANCE_ID": ME},
        check=True,
    )
    assert done.stderr == b""
    parts = [decode(text).events for text in done.stdout.decode().splitlines(keepends=True)]
    assert all(isinstance(part, Condensed) for part in parts)
    return parts  # type: ignore[return-value]


def expecting() -> EventLog:
    log = EventLog()
    log.expect(job_of().hosts[0].tasks)
    return log


odd = st.sampled_from(
    [
        *(line("E 1700000000.500000 0 01 0 exit 1700000000.250000 0"), line(""), b"\0\0\n"),
        *(line("E 1700000000.500000  0 1 0 exit 1700000000.250000 0"), b"E\t1 2 3\n", b"\n"),
        *(line("E 1700000009.500000 2 1 0 exit 1700000009.750000 1"), b"00001505\n"),
        *(line("E 1700000000.500000 0 1 0 exit 99999.2500000000 0"), line("S 1.0 0 1 0 1 1")),
        line("E 1700000000.500000 9999999999 1 0 exit 1700000000.250000 0"),
        line("S 1700000000.500000 4 1 x[$(id)] 77 5"),
    ]
)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(
    ledgers=st.lists(
        st.lists(events | usual | torn | odd, max_size=25).map(b"".join), min_size=6, max_size=12
    ),
    rest=st.sampled_from([b"", b"E 1700000000.5 0 1 0 exit", line("S 1.0 0 1 0 1 1")[:-1]]),
    data=st.data(),
)
def test_told_shortly_it_folds_to_the_same(
    machine: Machine, ledgers: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    jobs = [job_of(job_id=f"{number:011}") for number in range(len(ledgers))]
    asks = []
    for job, text in zip(jobs, ledgers, strict=True):
        ledger(machine, job, text + rest)
        middle = data.draw(st.integers(0, len(text)))
        asks += [(job.job_id, 0, middle), (job.job_id, text.rfind(b"\n", 0, middle) + 1, 99_999)]
    parts = condensed(machine, asks)
    for text, first, second in zip(ledgers, parts[::2], parts[1::2], strict=True):
        raw, log = expecting(), expecting()
        raw.feed(0, text + rest)
        log.read(first)
        assert log.offset == first.end == second.offset
        # An answer that comes twice counts once.
        assert log.read(first) == [] or first.end == first.offset
        log.read(second)
        # A damaged start is left out where a sound end says all that it could.
        assert bool(log.damaged_lines) == bool(raw.damaged_lines)
        assert replace(log, damaged_lines=0) == replace(raw, damaged_lines=0)


def test_two_hundred_tasks_fit_a_small_answer(machine: Machine) -> None:
    count = 200
    own = tuple(range(3, 50 * count, 50))
    job = job_of(50 * count, own)
    at_us = 1_764_000_000_000_000
    text = []
    for number, task in enumerate(own):
        began, at_us = at_us + number * 7919 % 3000, at_us + 4_000 + number * 104_729 % 50_000
        times = [f"{us // 10**6}.{us % 10**6:06d}" for us in (began, at_us)]
        text.append(line(f"S {times[0]} {task} 1 {number % 2} {9000 + 3 * number} {77 * number}"))
        text.append(line(f"E {times[1]} {task} 1 {int(number % 33 == 0)} exit {times[0]} 1"))
    ledger(machine, job, b"".join(text))
    answer = machine.send(shell.Call("ends", (job.job_id,), 0, {ME: "0 0 0 2400"}))
    assert not answer.more
    assert isinstance(answer.events, Condensed)
    assert answer.events.end == int(answer.facts["events"]) == len(b"".join(text))
    raw, log = EventLog(), EventLog()
    raw.feed(0, b"".join(text))
    assert len(log.read(answer.events)) == count
    assert log == raw


def test_what_does_not_fit_comes_with_the_next_answers(machine: Machine) -> None:
    job = job_of(4000, tuple(range(0, 4000, 2)))
    data = b"".join(ended(task, task % 3, 9 + task) for task in range(0, 4000, 2))
    ledger(machine, job, data)
    log, answers = EventLog(), 0
    while log.offset < len(data):
        row = f"{log.offset} 0 0 2400"
        answer = machine.send(shell.Call("ends", (job.job_id,), 0, {ME: row}))
        assert answer.events is not None
        assert answer.more == (answer.events.end < len(data))
        assert answer.events.end > log.offset
        log.read(answer.events)
        answers += 1
        assert answers < 30
    raw = EventLog()
    raw.feed(0, data)
    assert log == raw


@pytest.mark.parametrize(
    "data",
    [
        *(b"1", b"1 2 3", b"1 2 3 4 5", b"x 2 3 4", b"1 -3 2 1", b"1 9999999999999999999 0 1"),
        *(b"=S x 0 1 0 1 1", b"1 1700000000000000 1 1 1 256", b"9 1700000000000000 1 1", b"?"),
        *(b"=J 1700000000.5 held load 9", b"\xff"),
    ],
)
def test_what_is_no_event_is_counted_as_damage(data: bytes) -> None:
    log = expecting()
    assert log.read(Condensed(0, 100, data + b"\n")) == []
    assert (log.damaged_lines, log.tasks, log.offset) == (1, {}, 100)

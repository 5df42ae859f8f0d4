"""Events told shortly tell what the ledger tells."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from poormanray import shell
from poormanray.envelope import Answer, Chunk, Condensed, decode
from poormanray.events import checksum
from poormanray.jobs.logs import told_last_lines
from poormanray.ledger import EventLog
from tests.support.ledgers import ended, events, job_of, ledger, machine, torn, usual
from tests.support.machine import ME, Machine
from tests.support.tracks import line

__all__ = ["machine"]

DRIVER = """
BOX=$1 SMALL=2400 NOT_AFTER=99999999999 CONDENSED=1 WANTED=
shift
while read -r JOB EVENTS_AT room EACH; do
    JOB_DIR=$PMR_ROOT/jobs/$JOB
    size_of "$JOB_DIR/events"
    EVENTS_SIZE=$SIZE
    (begin_answer; MORE=0; body "$room" >"$BOX/body"
        text=$(gzip -c <"$BOX/body" | base64 -w 0)
        sum=$(printf %s "$text" | sha256sum)
        printf 'PMR1 0 %s %s %s\n' "${#text}" "${sum:0:16}" "$text" >&"$ANSWER_FD"
        cat "$BOX/errors" >&2)
done
"""


def condensed(machine: Machine, asks: list[tuple[str, int, int, str]]) -> list[Condensed]:
    """Ask for events (job, offset, most bytes, each), all in one shell: sends take long."""
    files = (*shell.LIBRARY, *shell.RARE["ends"])
    library = "".join(Path(shell.__file__).with_name(name).read_text() for name in files)
    box = machine.folder / "ends"
    box.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "-c", library + DRIVER, "bash", str(box)],
        input="".join(f"{job} {at} {most} {each}\n" for job, at, most, each in asks).encode(),
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
        *(line("E 1700000000.500 0 01 0 exit 1700000000.250 0"), line(""), b"\0\0\n"),
        *(line("E 1700000000.500  0 1 0 exit 1700000000.250 0"), b"E\t1 2 3\n", b"\n"),
        *(line("E 1700000009.500 2 1 0 exit 1700000009.750 1"), b"00001505\n"),
        *(line("E 1700000000.500 0 1 0 exit 99999.25000000 0"), line("S 1.0 0 1 0 1 1")),
        line("E 1700000000.500 9999999999 1 0 exit 1700000000.250 0"),
        line("S 1700000000.500 4 1 x[$(id)] 77 5"),
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
        for at, most in ((0, middle), (text.rfind(b"\n", 0, middle) + 1, 99_999)):
            asks += [(job.job_id, at, most, ""), (job.job_id, at, most, "each")]
    parts = condensed(machine, asks)
    for text, *told in zip(ledgers, *(parts[number::4] for number in range(4)), strict=True):
        raw, log = expecting(), expecting()
        raw.feed(0, text + rest)
        for quick, tried in (told[:2], told[2:]):
            assert (quick.offset, quick.end) == (tried.offset, tried.end)
            assert log.offset == quick.offset
            log.read(quick)
            if log.offset != quick.end:
                # Nothing was folded, as something is damaged.
                assert log.doubted
                assert raw.damaged_lines
                log.read(tried)
            assert log.offset == quick.end
            # An answer that comes twice counts once.
            assert log.read(quick) == [] or quick.end == quick.offset
        # A damaged start is left out where a sound end says all that it could.
        assert bool(log.damaged_lines) == bool(raw.damaged_lines)
        assert replace(log, damaged_lines=0, doubted=False) == replace(raw, damaged_lines=0)


def test_three_hundred_tasks_fit_a_small_answer(machine: Machine) -> None:
    count = 300
    own = tuple(range(3, 50 * count, 50))
    job = job_of(50 * count, own)
    at_ms = 1_764_000_000_000
    text = []
    for number, task in enumerate(own):
        began, at_ms = at_ms + number * 7919 % 9, at_ms + 10 + number * 104_729 % 300
        times = [f"{ms // 1000}.{ms % 1000:03d}" for ms in (began, at_ms)]
        slot, code = number % 2, int(number % 33 == 0)
        text.append(line(f"S {times[0]} {task} 1 {slot} {9000 + 3 * number} {77 * number}"))
        text.append(line(f"E {times[1]} {task} 1 {code} exit {times[0]} {slot}"))
    ledger(machine, job, b"".join(text))
    answer = machine.send(shell.Call("ends", (f"id:{job.job_id}", "-"), 0, {ME: "0 0 0 2400"}))
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
        answer = machine.send(shell.Call("ends", (f"id:{job.job_id}", "-"), 0, {ME: row}))
        assert answer.events is not None
        assert answer.more == (answer.events.end < len(data))
        assert answer.events.end > log.offset
        log.read(answer.events)
        answers += 1
        assert answers < 30
    raw = EventLog()
    raw.feed(0, data)
    assert log == raw


def failing(machine: Machine, logs: dict[int, bytes], budget: int = 2400) -> Answer:
    """Ask for the events of tasks that have failed, all but task 1, having written these logs."""
    job = job_of(max(logs) + 1, tuple(logs))
    data = b"".join(
        line(f"E 1700000009.500 {task} 1 {int(task != 1)} exit 1700000000.250 0") for task in logs
    )
    folder = ledger(machine, job, data)
    for task, log in logs.items():
        (folder / "logs" / f"{task}.1").write_bytes(log)
    row = {ME: f"0 0 0 {budget}"}
    return machine.send(shell.Call("ends", (f"id:{job.job_id}", "-"), 0, row))


def test_last_lines_of_what_failed_come_along(machine: Machine) -> None:
    logs = {
        0: b"a\nno such shard\n",
        1: b"all is well\n",
        2: b"",
        3: b"50 %\r100 %\r\n  \n",
        4: "é ü\n".encode() * 99,
        5: b"x" * 999,
        6: b"$(id) `id` \\n * -n\tz",
    }
    answer = failing(machine, logs)
    assert told_last_lines(answer) == {
        "0.1": b"no such shard",
        "2.1": b"",
        "3.1": b"100 %",
        "4.1": "é ü".encode(),
        "5.1": b"x" * 400,
        "6.1": b"$(id) `id` \\n * -n\tz",
    }
    assert answer.events is not None
    assert len(expecting_all(7).read(answer.events)) == 7


@pytest.mark.parametrize(
    "logs",
    [
        {0: b"a\n", 2: b"binary\0\n"},
        dict.fromkeys(range(0, 500, 2), b"the very same line\n"),
        {task: random.Random(task).randbytes(300).hex().encode() for task in range(0, 60, 2)},
    ],
    ids=["NUL", "too many", "too long for a small answer"],
)
def test_what_cannot_come_along_is_asked_for_later(
    machine: Machine, logs: dict[int, bytes]
) -> None:
    for budget in (2400, shell.LARGE_ANSWER_CHARS):
        answer = failing(machine, logs, budget)
        assert told_last_lines(answer) == {}
        assert answer.events is not None
        assert len(expecting_all(500).read(answer.events)) == len(logs)


@pytest.mark.parametrize("begin", [b"", b"a line\n"])
def test_a_log_of_zeros_is_not_gone_through(machine: Machine, begin: bytes) -> None:
    job = job_of(1, (0,))
    folder = ledger(machine, job, line("E 1700000009.500 0 1 1 exit 1700000000.250 0"))
    log = folder / "logs" / "0.1"
    log.write_bytes(begin)
    os.truncate(log, 64 << 30)
    call = shell.Call("ends", (f"id:{job.job_id}", "-"), 0)
    assert machine.send(replace(call, table={ME: "0 0 0 2400"})).events is not None
    call = shell.Call("observe", (job.job_id,), 0)
    answer = machine.send(replace(call, table={ME: "0 0 0 2400 0.1:0"}))
    (found,) = answer.records
    assert isinstance(found, Chunk)
    assert found.data.startswith(begin + b"\0")
    assert found.size == 64 << 30


def test_an_answer_that_is_large_anyway_holds_them_too(machine: Machine) -> None:
    own = range(0, 2000, 2)
    job = job_of(2000, tuple(own))
    chance = random.Random(7)
    ends = [chance.randrange(1_700_000_000_000, 1_700_000_999_999) for _ in own]
    times = [f"{ms // 1000}.{ms % 1000:03d}" for ms in ends]
    data = [
        line(f"E {at} {n} 1 {int(n % 100 == 0)} exit 1700000000.000 {n % 3}")
        for n, at in zip(own, times, strict=True)
    ]
    folder = ledger(machine, job, b"".join(data))
    for task in own:
        (folder / "logs" / f"{task}.1").write_bytes(b"it was %d\n" % task)
    call = shell.Call("ends", (f"id:{job.job_id}", "-"), 0)
    large = machine.send(replace(call, table={ME: f"0 0 0 {shell.LARGE_ANSWER_CHARS}"}))
    assert told_last_lines(large) == {f"{n}.1": b"it was %d" % n for n in range(0, 2000, 100)}
    small = machine.send(replace(call, table={ME: "0 0 0 2400"}))
    assert small.more
    for answer, count in ((large, 1000), (small, 100)):
        assert answer.events is not None
        assert len(expecting_all(2000).read(answer.events)) >= count


def expecting_all(count: int) -> EventLog:
    log = EventLog()
    log.expect(range(count))
    return log


# When an end was, when it had begun, and its slot.
ONE = b"1700000000000\n1699999999995\n0\n"


@pytest.mark.parametrize(
    ("data", "damaged"),
    [
        (b"\n\n\n1", 1),
        (ONE, 1),
        (ONE + b"2 1", 2),
        (ONE + b"2 1 256", 1),
        (ONE + b"1", 1),
        (ONE + b"2" * 18, 2),
        (ONE.replace(b"5", b"x") + b"2", 1),
        (ONE.replace(b"17", b"x") + b"2", 1),
        (ONE.replace(b"1699999999995", b"-5") + b"2", 1),
        (ONE.replace(b"\n0", b"\n1234567890") + b"2", 1),
        (ONE.replace(b"\n0", b"\n") + b"2", 1),
        (b"\n\n\n=S x 0 1 0 1 1", 1),
        (b"\n\n\n?\n\xff", 2),
        (b"\n\n\n=J 1700000000.5 held load 9", 1),
    ],
)
def test_what_is_no_event_is_counted_as_damage(data: bytes, damaged: int) -> None:
    log = expecting()
    assert log.read(Condensed(0, 100, data + b"\n")) == []
    assert (log.damaged_lines, log.tasks, log.offset) == (damaged, {}, 100)


def test_what_does_not_add_up_is_asked_for_again() -> None:
    log, told = expecting(), ONE + b"2\n"
    sound = "E 1700000000.000 2 1 0 exit 1699999999.995 0"
    wrong = (int(checksum(sound), 16) + 1) % 2**32
    assert log.read(Condensed(0, 100, told, wrong)) == []
    assert (log.doubted, log.offset, log.tasks) == (True, 0, {})
    # Who goes on like that is believed, as there is nothing more to ask: it tells only of its own.
    assert len(log.read(Condensed(0, 100, told, wrong))) == 1
    assert log.offset == 100
    raw = expecting()
    raw.feed(0, line(sound))
    assert len(expecting().read(Condensed(0, 100, told, wrong - 1))) == 1
    assert log.tasks == raw.tasks

"""Ledgers of jobs that ran before, made by hand, and events for them by chance."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

from poormanray.ledger import LEDGER_FORMAT, new_job_id
from poormanray.manifest import (
    Host,
    Job,
    Task,
    encode_sections,
)
from tests.support.machine import ME, Machine
from tests.support.tracks import line

OTHER = "i-0fedcba9876543210"
# Found before its events, so that nobody starts a runner for it.
LEDGER_FILES = {"done": b"", "format": b"%d 0.1.0\n" % LEDGER_FORMAT}


def ledger(machine: Machine, job: Job, events: bytes) -> Path:
    """Make the ledger of a job that ran before, by hand."""
    folder = machine.ledger(job)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    own = next(host.tasks for host in job.hosts if host.instance_id == ME)
    files = {**LEDGER_FILES, **dict(encode_sections(job)), "events": events}
    files["queue"] = "".join(f"{task} 1\n" for task in own).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def job_of(count: int = 6, own: tuple[int, ...] = (0, 2, 4), **changes: object) -> Job:
    other = tuple(sorted(set(range(count)) - set(own)))
    plain = Job(
        job_id=new_job_id(),
        kind="map",
        cluster="c",
        region="us-east-1",
        hosts=(Host(0, ME, "c-0000", own), Host(1, OTHER, "c-0001", other)),
        tasks=tuple(Task(number, f"t{number}.sh", 0) for number in range(count)),
        scripts=(b"true\n",),
        created_at=1_700_000_000,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="pmr-") as folder:
        yield Machine(Path(folder))


moments = st.floats(1_700_000_000, 1_700_000_900).map("{:.3f}".format)
tasks = st.integers(0, 6)
attempts = st.integers(1, 3)
keys = st.lists(st.builds("{}.{}".format, tasks, attempts), min_size=1, max_size=3).map(",".join)
whys = st.sampled_from(["exit", "exit", "exit", "timeout", "cancelled", "lost", "tomorrow"])
codes = st.sampled_from(["0", "0", "1", "137", "-", "256"])
start = st.builds("S {} {} {} {} 77 5".format, moments, tasks, attempts, tasks)
end = st.builds("E {} {} {} {} {}".format, moments, tasks, attempts, codes, whys)
whole_end = st.builds("{} {} 1".format, end, moments)
came = st.builds("A {} {}".format, moments, keys)
went = st.builds("G {} {} {}".format, moments, tasks, keys)
runner = st.sampled_from(
    [
        *("runner-started 3 root screen b", "runner-ended", "runner-lost", "cancelled", "resumed"),
        *("held load 0", "held memory 1", "held memory 7", "freed 0", "freed 1"),
        *("interrupted terminate 2026-01-02T03:04:05Z", "interrupted $(id) -"),
    ]
)


others = st.builds("J {} {}".format, moments, runner)
torn = st.sampled_from([b"\n", b"E 1 2\n", b"S 1700000000.0 0 1 0 77\n", b"\xff\xfe $(id)\n"])
events = st.one_of(start, end, whole_end, came, went, others).map(line)
# Most of what a ledger holds: a task starts and ends.
usual = st.builds(
    lambda task, at, code: (
        line(f"S {at} {task} 1 0 77 5") + line(f"E {float(at) + 1:.3f} {task} 1 {code} exit {at} 0")
    ),
    tasks,
    moments,
    st.sampled_from("0007"),
)


def ended(task: int, code: int, at: int) -> bytes:
    began = f"{1_700_000_000 + at - 2}.250000"
    return line(f"S {began} {task} 1 0 77 5") + line(
        f"E {1_700_000_000 + at}.500000 {task} 1 {code} exit {began} 0"
    )

"""What an instance counts for itself is what a client would count from its events."""

from __future__ import annotations

import hashlib
import subprocess
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from poormanray import shell
from poormanray.envelope import Chunk, decode
from poormanray.jobs.listing import meant
from poormanray.jobs.outcome import BETWEEN, tracks_of
from poormanray.jobs.summary import Share, read_share
from poormanray.jobs.survey import looked_over
from poormanray.ledger import TaskState, ended_counts, new_job_id
from poormanray.manifest import (
    Job,
    Manifest,
    Task,
    decode_meta,
    encode_meta,
)
from tests.support.ledgers import ended, events, job_of, ledger, machine, torn, usual
from tests.support.machine import HOSTILE, ME, Machine
from tests.support.tracks import line, outcomes_of

__all__ = ["machine"]  # the fixture: one folder for all examples


def asked(machine: Machine, reference: str, *, most: int = 5, cluster: str = "c") -> Share:
    words = (reference, cluster, str(most))
    answer = machine.send(shell.Call("summary", words, 0))
    assert set(answer.facts) == {"clock"}
    ((job_id, data),) = answer.jobs
    _, share = read_share(ME, "c-0000", job_id, data)
    return share


DRIVER = """
BOX=$1 SMALL=2400 NOT_AFTER=99999999999
shift
for job; do
    (begin_answer; verb_summary "id:$job" c 5)
done
"""


def asked_all(machine: Machine, jobs: Sequence[Job]) -> list[Share]:
    """Ask for the summaries of many jobs in one shell: a send for each would take long."""
    files = (*shell.LIBRARY, *shell.RARE["summary"])
    library = "".join(Path(shell.__file__).with_name(name).read_text() for name in files)
    box = machine.folder / "box"
    box.mkdir(exist_ok=True)
    ended = subprocess.run(
        ["bash", "-c", library + DRIVER, "bash", str(box), *(job.job_id for job in jobs)],
        capture_output=True,
        env={"PATH": machine.path, "PMR_ROOT": str(machine.root), "AWS_SSM_INSTANCE_ID": ME},
        check=True,
    )
    shares = []
    for text in ended.stdout.decode().splitlines(keepends=True):
        answer = decode(text)
        assert answer.facts == {}, b64decode(answer.facts.get("stderr", ""))
        ((job_id, data),) = answer.jobs
        shares.append(read_share(ME, "c-0000", job_id, data)[1])
    return shares


def compared(job: Job, data: bytes, share: Share) -> None:
    """Fold the events as a client does, and compare."""
    (track, _) = tracks_of(Manifest(job.hosts, {}), {})
    track.log.feed(0, data)
    # One instance alone cannot prove what it claims: that is for whoever hears them all.
    log = track.log
    track.assigned = {*log.tasks, *log.adopted, *log.given, *log.open.items()}
    found = [one for one in outcomes_of([track]) if one.why != BETWEEN]
    assert share.counts == ended_counts(one.status for one in found)
    assert (share.slots, share.detached_by) == (track.log.slots, track.log.detached_by)
    assert (share.held, share.interrupted) == (
        Counter(track.log.held.values()),
        track.log.interrupted,
    )
    assert (share.cancelled, share.damaged_lines) == (track.log.cancelled, track.log.damaged_lines)
    told = looked_over(decode_meta(encode_meta(job)), [track], found, now_s=share.now_s)
    (expected,) = told.shares
    assert share.ran == expected.ran
    assert (share.busy_s, share.last_s, share.under_s) == pytest.approx(
        (expected.busy_s, expected.last_s, expected.under_s), abs=1e-3
    )
    assert [one.seconds for one in share.slowest] == pytest.approx(
        [one.seconds for one in expected.slowest], abs=1e-3
    )
    newest = [one.status.ended_at for one in expected.failed]
    assert len(share.failed) == min(5, len(newest))
    assert {one.status.ended_at for one in share.failed} <= set(newest)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(
    ledgers=st.lists(
        st.lists(events | usual | torn, max_size=25).map(b"".join), min_size=6, max_size=12
    ),
    rest=st.sampled_from([b"", b"E 1700000000.5 0 1 0 exit", line("S 1.0 0 1 0 1 1")[:-1]]),
)
def test_it_is_what_a_client_would_count(
    machine: Machine, ledgers: list[bytes], rest: bytes
) -> None:
    jobs = [job_of(job_id=f"{number:011}") for number in range(len(ledgers))]
    for job, data in zip(jobs, ledgers, strict=True):
        ledger(machine, job, data + rest)
    for job, data, share in zip(jobs, ledgers, asked_all(machine, jobs), strict=True):
        compared(job, data, share)


def test_what_failed_is_named_with_its_last_line(machine: Machine) -> None:
    job = job_of(tasks=tuple(Task(number, HOSTILE, 0, HOSTILE) for number in range(6)))
    folder = ledger(machine, job, ended(0, 0, 10) + ended(2, 7, 20) + ended(4, 3, 30) + b"E 17")
    (folder / "logs" / "2.1").write_bytes(
        b"first\n" + b"\x1b[31m$(id) \xff\0" + b"x" * 500 + b"\n \n"
    )
    (folder / "logs" / "4.1").write_bytes("10 %\r20 % ü\r\n\n".encode())
    share = asked(machine, f"id:{job.job_id}")
    assert [(one.status.task, one.status.exit_code) for one in share.failed] == [(4, 3), (2, 7)]
    newer, older = share.failed
    assert newer.last_line == "20 % ü"
    assert older.last_line.startswith("\x1b[31m$(id) ")
    assert (older.last_line[-1], len(older.last_line.encode("utf-8", "replace")) < 210) == (
        "…",
        True,
    )
    assert older.name.startswith(HOSTILE[:30])
    assert (share.first_s, share.last_s) == (1_700_000_008.25, 1_700_000_030.5)
    assert [one.seconds for one in share.slowest] == [2.25, 2.25, 2.25]


def test_it_fits_a_small_answer_and_counts_what_it_leaves_out(machine: Machine) -> None:
    count = 300
    names = [hashlib.sha256(b"%d" % number).hexdigest() * 2 for number in range(count)]
    job = job_of(
        count, tuple(range(count)), tasks=tuple(Task(n, name, 0) for n, name in enumerate(names))
    )
    events = b"".join(ended(task, 1, task + 5) for task in range(count))
    folder = ledger(machine, job, events)
    for task in range(count):
        (folder / "logs" / f"{task}.1").write_bytes(
            b64encode(hashlib.sha512(b"%d" % task).digest()) * 5
        )
    call = shell.Call("summary", (f"id:{job.job_id}", "c", "10"), int(time.time()) + 60)
    sent = machine.raw(call)
    assert len(sent) <= shell.SMALL_ANSWER_CHARS
    share = asked(machine, f"id:{job.job_id}", most=10)
    assert share.counts[TaskState.FAILED] == share.ran == count
    assert 0 < len(share.failed) < 10
    assert share.failed[0].status.task == count - 1


def test_a_job_is_found_by_name_or_as_the_newest_of_its_cluster(machine: Machine) -> None:
    ids = sorted(new_job_id(1_800_000_000 + number) for number in range(4))
    ledger(machine, job_of(job_id=ids[0], name="old ü"), b"")
    ledger(machine, job_of(job_id=ids[1], name="later"), b"")
    ledger(machine, job_of(job_id=ids[2], name="new"), ended(0, 0, 5))
    ledger(machine, job_of(job_id=ids[3], name="new", cluster="other"), b"")

    def found(verb: str, reference: str) -> tuple[str, ...]:
        call = shell.Call(verb, (reference, "c", "5"), 0, {ME: "- 0 0 2400 @meta:0"})
        answer = machine.send(call)
        if verb == "summary":
            return tuple(job_id for job_id, _ in answer.jobs)
        named = answer.facts.get("job")
        metas = [one.data for one in answer.records if isinstance(one, Chunk)]
        assert [decode_meta(meta).job_id for meta in metas] == [named] * (named is not None)
        return (named,) if named else ()

    words = [meant(one) for one in ("last", "old ü", "later", "new", ids[1], "none", "$(id)")]
    for verb in ("summary", "which"):
        jobs = [found(verb, word) for word in words]
        assert jobs == [(ids[2],), (ids[0],), (ids[1],), (ids[2],), (ids[1],), (), ()]

"""What an instance has on record of others, and when it closes that, under a real bash."""

from __future__ import annotations

from pathlib import Path

import pytest

from poormanray import shell
from poormanray.envelope import Answer, Chunk
from poormanray.jobs.mirror import MIRROR, Backup, Move, decode_hosts
from tests.support.machine import ME, Machine, made


def order(machine: Machine, job_id: str, row: str) -> Answer:
    return machine.send(shell.Call("queue", (job_id,), 0, {ME: row}))


def book(answer: Answer) -> Backup:
    found = Backup()
    for record in answer.records:
        if isinstance(record, Chunk) and record.name == MIRROR:
            found.feed(record.offset, record.data, record.size)
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_closed_records_take_nothing_and_refuse_who_does_not_close_them(machine: Machine) -> None:
    job = made("sleep 30")
    machine.start(job)
    first = order(machine, job.job_id, f"0 - - - 3/0-2/;3>5/7.1;4>0/9.1 {MIRROR}:0")
    assert first.facts["mirrored"] == "1"
    assert "sealed" not in first.facts
    found = book(first)
    assert found.whole
    assert {one.task for one in found.ends[3]} == {0, 1, 2}
    assert found.moves == {Move(3, (7, 1), 5), Move(4, (9, 1), 0)}
    # Whatever comes with the order that closes them is taken before that.
    second = order(machine, job.job_id, f"0 - - 3 3/4/;3=5/8.2,9.2 {MIRROR}:{found.offset}")
    assert decode_hosts(second.facts["sealed"]) == {3}
    (more,) = [one for one in second.records if isinstance(one, Chunk)]
    found.feed(more.offset, more.data, more.size)
    assert {one.task for one in found.ends[3]} == {0, 1, 2, 4}
    # Closed: ends are refused, of adopters the first word counts, and who does not know is refused.
    third = order(machine, job.job_id, f"0 - - 3 3/5/;3=6/8.2,7.2;3>6/1.1 {MIRROR}:0")
    assert "mirrored" not in third.facts
    found = book(third)
    assert {one.task for one in found.ends[3]} == {0, 1, 2, 4}
    assert found.taken == {(3, (8, 2)): 5, (3, (9, 2)): 5, (3, (7, 2)): 6}
    refused = order(machine, job.job_id, f"0 50.1 0:0.1 - 3=9/2.2;4/1/ {MIRROR}:0")
    assert refused.facts["refused"] == "sealed"
    assert decode_hosts(refused.facts["sealed"]) == {3}
    assert (3, (2, 2)) not in book(refused).taken
    log = machine.events(job)
    assert not log.adopted
    assert not log.given
    # What concerns no moves goes on.
    assert "refused" not in order(machine, job.job_id, "0 + - * - -").facts
    looked = machine.look(job, "- 3/6/")
    assert "mirrored" not in looked.facts
    assert decode_hosts(looked.facts["sealed"]) == {3}
    machine.cancel(job)

"""The shell that runs on instances, run by a real bash, outside of any cloud."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.envelope import Answer, Chunk, Hole
from poormanray.jobs.logs import Gap, LogCursor, Text
from poormanray.ledger import TaskState
from poormanray.manifest import (
    SHORT_DIGITS,
    HelperFile,
    Host,
    Job,
    Task,
    encode_sections,
    identity_of,
)
from tests.support.machine import (
    HOSTILE,
    Machine,
    bundled,
    ends,
    environment_has,
    hashed,
    made,
)

OTHER = "i-0fedcba9876543210"


def test_each_task_runs_once_and_its_code_and_output_are_kept(machine: Machine) -> None:
    job = made("echo one; exit 7", "echo two >&2", "kill -9 $$", slots="2")
    log = machine.run(job)
    assert {k: (s.state, s.exit_code) for k, s in log.newest.items()} == {
        0: (TaskState.FAILED, 7),
        1: (TaskState.SUCCEEDED, 0),
        2: (TaskState.FAILED, 137),
    }
    assert (machine.log(job, 0), machine.log(job, 1)) == (b"one\n", b"two\n")
    assert (log.damaged_lines, log.slots) == (0, 2)


def test_a_signal_that_a_task_dies_by_is_told(machine: Machine) -> None:
    scripts = tuple(b"#!/bin/sh\nkill -%d $$\n" % number for number in range(1, 16))
    log = machine.run(made(*["x"] * 15, scripts=scripts, slots="4"))
    assert [log.newest[task].signal for task in range(15)] == list(range(1, 16))


def test_a_task_ignores_and_blocks_no_signal(machine: Machine) -> None:
    words = shell.words_script(["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"])
    machine.run(job := made("x", scripts=(words,)))
    assert machine.log(job).decode().split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_each_of_many_tasks_has_a_folder_of_its_own(machine: Machine) -> None:
    count = 300
    job = made(*(f"pwd; touch {number}; ls" for number in range(count)), slots="3")
    log = machine.run(job)
    assert {status.state for status in log.newest.values()} == {TaskState.SUCCEEDED}
    assert (len(log.tasks), log.damaged_lines) == (count, 0)
    work = machine.root / "work" / job.job_id
    for number in range(count):
        assert machine.log(job, number) == f"{work}/{number}.1\n{number}\n".encode()
    assert {one.name for one in work.parent.iterdir()} == {job.job_id}


def test_a_start_that_comes_again_starts_nothing(machine: Machine) -> None:
    count = machine.folder / "count"
    job = made(*[f"echo x >>{count}; sleep 0.3"] * 4)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(machine.start, [job] * 5))
    assert sorted(a.facts["committed"] for a in answers) == ["before"] * 4 + ["now"]
    machine.ended(job)
    assert machine.start(job).facts["committed"] == "before"
    assert count.read_text() == "x\n" * 4
    events = (machine.ledger(job) / "events").read_text()
    assert events.count("runner-started") == 1


def other_submissions(job: Job) -> dict[str, Job]:
    """Return what is refused under the id of a job, by how."""
    (own,) = job.hosts
    hosts = (replace(own, tasks=()), Host(1, OTHER, "c-0001", own.tasks))
    return {
        "other-content 1": replace(job, scripts=(b"#!/bin/sh\necho other\n",)),
        "other-content 2": replace(job, user="nobody"),
        "other-content 3": replace(job, env={"A": "1"}),
        "other-content 4": replace(job, hosts=(replace(own, slot_cap=1),)),
        "other-content 5": replace(job, scripts=(b"x",), hosts=hosts),
        "other-instances": replace(job, hosts=hosts),
    }


def test_another_submission_under_the_same_id_is_refused_by_name(machine: Machine) -> None:
    job = made("echo hi")
    here = identity_of(encode_sections(job))
    machine.run(job)
    for how, other in other_submissions(job).items():
        answer = machine.start(other)
        assert "committed" not in answer.facts
        assert answer.events is None
        kind, there, sent = answer.facts["refused"].split(" ")
        assert kind == how.split(" ")[0]
        assert there in (here.content[:8], here.instances[:8])
        assert sent != there or how == "other-content 4"
    assert machine.start(replace(job, submitter="x", created_at=5)).facts["committed"] == "before"
    assert machine.log(job) == b"hi\n"


def test_of_two_submissions_at_once_one_is_committed_and_the_other_refused(
    machine: Machine,
) -> None:
    job = made("echo one")
    other = replace(job, scripts=(b"#!/bin/sh\necho two\n",))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(machine.start, [job, other] * 3))
    committed = [one.facts.get("committed", "refused") for one in answers]
    first = committed.index("now") % 2
    assert sorted(committed) == ["before", "before", "now", "refused", "refused", "refused"]
    assert committed[first::2].count("refused") == 0
    machine.ended(job)
    assert machine.log(job) == (b"one\n", b"two\n")[first]


def test_a_start_after_its_time_does_nothing(machine: Machine) -> None:
    job = made("echo hi")
    answer = machine.start(job, not_after_s=int(time.time()) - 5)
    assert answer.facts["refused"] == "expired"
    assert not machine.root.exists()


def test_a_damaged_bundle_is_refused(machine: Machine) -> None:
    job = made("echo hi")
    answer = machine.start(job, bundle=replace(bundled(job), digest="0" * 64))
    assert answer.facts["refused"] == "digest"
    assert not machine.ledger(job).exists()
    machine.run(job)


def test_a_bundle_in_parts_starts_when_all_are_there(machine: Machine) -> None:
    job = made("echo hi")
    whole = bundled(job)
    parts = [whole.data[:100], whole.data[100:200], whole.data[200:]]
    start = replace(whole, data=b"", parts=3)

    def put(number: int, digest: str = "") -> Answer:
        part = shell.Bundle(parts[number], digest or hashlib.sha256(parts[number]).hexdigest())
        words = (job.job_id, str(number), whole.digest[:SHORT_DIGITS])
        return machine.send(shell.Call("put", words, 0, bundle=part))

    # Parts of another submission under the same id are none of this one's.
    other = (job.job_id, "0", "0" * SHORT_DIGITS)
    machine.send(shell.Call("put", other, 0, bundle=shell.Bundle(b"x", hashed(b"x"))))
    assert machine.start(job, bundle=start).facts["missing"] == "0,1,2"
    assert put(1).facts["stored"] == "1"
    assert put(0, "0" * 64).facts["refused"] == "digest"
    assert machine.start(job, bundle=start).facts["missing"] == "0,2"
    assert (put(2).facts["stored"], put(0).facts["stored"], put(0).facts["stored"]) == (
        *("2", "0", "0"),
    )
    assert machine.start(job, bundle=start).facts["committed"] == "now"
    machine.ended(job)
    assert not (machine.root / "stage" / job.job_id).exists()


def test_hostile_words_arrive_as_they_are(machine: Machine) -> None:
    job = made(
        'printf %s "$A" >a; printf "%s" "$EMPTY" | wc -c; cat "sub dir/$B"; ls -l "sub dir"',
        env={"A": HOSTILE, "B": "it's\na `file`", "EMPTY": ""},
        helper_files=(HelperFile("sub dir/it's\na `file`", b"\0\xff data\n", 0o755),),
        tasks=(Task(0, HOSTILE, 0, HOSTILE),),
    )
    machine.run(job)
    work = machine.root / "work" / job.job_id / "0.1"
    assert (work / "a").read_bytes() == HOSTILE.encode()
    assert machine.log(job).startswith(b"0\n\0\xff data\n")
    assert b"-rwxr-xr-x" in machine.log(job)


def test_words_reach_a_program_as_they_were_typed(machine: Machine) -> None:
    words = ["printf", "%s\\0", HOSTILE, "", " ", "-n", "~", "\udcff\udcfe", "!x", "{a,b}"]
    job = made("x", scripts=(shell.words_script(words),))
    machine.run(job)
    told = machine.log(job).split(b"\0")[:-1]
    assert told == [word.encode("utf-8", "surrogateescape") for word in words[2:]]


def test_a_dead_runner_is_told_once_and_leaves_nothing(machine: Machine) -> None:
    job = made("echo begun; sleep 300 & sleep 300", "echo never")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    os.kill(machine.runner(job), signal.SIGKILL)
    assert machine.look(job).facts["runner"] == "unsettled"
    hasty = replace(machine, settle="0")
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(hasty.look, [job] * 3))
    assert "dead" in {answer.facts["runner"] for answer in answers}
    log = machine.events(job)
    assert (log.newest[0].state, log.runner_lost, 1 in log.newest) == (TaskState.LOST, True, False)
    text = (machine.ledger(job) / "events").read_text()
    assert (text.count("lost"), text.count("runner-lost")) == (2, 1)
    mark = f"PMR_JOB_ID={job.job_id}".encode()
    assert not [p for p in Path("/proc").glob("[0-9]*") if environment_has(p, mark)]


def test_a_cancel_ends_what_runs_and_what_waits(machine: Machine) -> None:
    job = made("trap '' TERM; sleep 300 & wait; sleep 300", "echo never")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    answer = machine.cancel(job)
    assert (answer.facts["survivors"], answer.facts["cancelled"]) == ("0", "2")
    log = machine.ended(job)
    assert {status.state for status in log.newest.values()} == {TaskState.CANCELLED}
    assert machine.cancel(job).facts["cancelled"] == "0"
    assert log.cancelled
    assert log.newest[1].started_at is None
    logs = (machine.ledger(job) / "logs").iterdir()
    assert b"never" not in b"".join(one.read_bytes() for one in logs)


def test_one_task_is_cancelled_and_the_others_go_on(machine: Machine) -> None:
    job = made("sleep 300", "echo hi", "sleep 300")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    machine.cancel(job, "2")
    machine.cancel(job, "0")
    log = machine.ended(job)
    assert [log.newest[task].state for task in range(3)] == [
        TaskState.CANCELLED,
        TaskState.SUCCEEDED,
        TaskState.CANCELLED,
    ]


def test_a_time_limit_ends_a_task(machine: Machine) -> None:
    job = made("sleep 300", "sleep 0.1", timeout_s=2, slots="2")
    log = machine.run(job)
    assert log.newest[0].state is TaskState.TIMEOUT
    assert log.newest[1].state is TaskState.SUCCEEDED


def test_a_long_time_limit_is_not_a_short_one(machine: Machine) -> None:
    job = made("sleep 0.5", timeout_s=2_000_000)
    assert machine.run(job).newest[0].state is TaskState.SUCCEEDED


def test_a_log_over_its_cap_keeps_head_and_tail(machine: Machine) -> None:
    cap = 1 << 16
    job = made(
        "seq 1 60000; sleep 2.5; echo the end",
        log_cap_bytes=cap,
    )
    machine.run(job)
    log = machine.log(job)
    cursor, items = LogCursor("0.1"), list[Text | Gap]()
    while not items or cursor.delivered < cursor.size:
        cursor.todo.clear()
        for record in machine.look(job, f"0.1:{cursor.delivered}:0").records:
            assert isinstance(record, Chunk | Hole)
            items += cursor.receive(record)
    at = next(number for number, item in enumerate(items) if isinstance(item, Gap))
    head, tail = (
        b"".join(item.data for item in some if isinstance(item, Text))
        for some in (items[:at], items[at + 1 :])
    )
    gap = items[at]
    assert isinstance(gap, Gap)
    assert len(head) + gap.missing_bytes + len(tail) == len(log)
    assert head.startswith(b"1\n2\n3\n")
    assert tail.endswith(b"60000\nthe end\n")
    assert len(head) >= cap // 2
    assert len(tail) >= cap // 2
    assert b"\0" not in head + tail


def test_a_task_that_truncates_its_own_output_is_understood(machine: Machine) -> None:
    job = made("echo a long line of text; : >/proc/self/fd/1; echo new")
    machine.run(job)
    assert machine.log(job) == b"new\n"
    assert machine.look(job, "0.1:20:0").records[-1] == Chunk("0.1", 0, b"new\n", 4)


def test_events_of_many_slots_stay_whole(machine: Machine) -> None:
    job = made(*["true"] * 60, slots="12")
    log = machine.run(job)
    assert (log.damaged_lines, ends(log)) == (0, 60)
    text = (machine.ledger(job) / "events").read_text()
    assert sum(line.startswith("S ") for line in text.splitlines()) == 60


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_task_of_another_user_cannot_write_the_ledger(machine: Machine) -> None:
    ours = Path(tempfile.gettempdir())
    for folder in (machine.folder, *machine.folder.parents):
        if ours in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o111)
    ledger = f"{machine.root}/jobs/$PMR_JOB_ID"
    job = made(
        f"id -un; echo 'E 1 0 1 0 exit' >>{ledger}/events; ls {ledger}; ls {ledger}/logs; "
        f"rm -f {ledger}/logs/0.1; touch {ledger}/claims/1.1; touch mine && echo wrote",
        user="nobody",
    )
    log = machine.run(job)
    told = machine.log(job).decode()
    assert told.startswith("nobody\n")
    assert told.endswith("wrote\n")
    assert told.lower().count("permission denied") == 5
    assert (log.damaged_lines, len(log.tasks)) == (0, 1)


def test_without_screen_the_runner_holds_nothing_of_the_command(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    found = {one.name: one for place in ("/usr/sbin", "/usr/bin") for one in Path(place).iterdir()}
    for name in found.keys() - {"screen"}:
        (programs / name).symlink_to(found[name])
    machine = Machine(tmp_path / "m", str(programs))
    machine.folder.mkdir()
    slow, quick = made("sleep 300"), made("exit 3")
    # It returns although the runner goes on, and the next start does not wait for that runner.
    machine.start(slow)
    machine.start(quick)
    assert machine.ended(quick).newest[0].exit_code == 3
    assert machine.until(slow, lambda log: bool(log.tasks)).detached_by == "setsid"
    assert machine.cancel(slow).facts["survivors"] == "0"


def test_an_unknown_user_is_told(machine: Machine) -> None:
    log = machine.run(made("true", user="no-such-user-here"))
    status = log.newest[0]
    assert (status.state, status.reason) == (TaskState.LOST, "no-user")


def test_the_library_needs_no_epochrealtime() -> None:
    text = Path(shell.__file__).with_name("ledger.sh").read_text()
    script = f"{text}\nunset EPOCHREALTIME\nJOB_DIR=/nowhere\nnow\necho $NOW\n"
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    whole, _, fraction = told.stdout.strip().partition(".")
    assert abs(int(whole) - time.time()) < 5
    assert len(fraction) == 3


def test_a_full_disk_keeps_no_end_off_the_record(small_disk: Machine) -> None:
    job = made("cat /dev/zero >fill; exit 9", *["true"] * 40)
    log = small_disk.run(job)
    assert (log.newest[0].state, log.newest[0].exit_code) == (TaskState.FAILED, 9)
    rest = {log.newest[task].state for task in range(1, 41)}
    assert rest <= {TaskState.SUCCEEDED, TaskState.LOST}
    assert log.damaged_lines <= 1
    assert small_disk.look(job).facts["runner"] in ("running", "done")


def test_a_disk_that_is_filled_at_once_whenever_there_is_room(small_disk: Machine) -> None:
    hog = "trap 'exit 0' TERM; while :; do cat /dev/zero >>fill; done"
    job = made(hog, *["sleep 0.01"] * 30, slots="2", timeout_s=3)
    log = small_disk.run(job)
    # It was ended for its time, whatever it says itself.
    assert (log.newest[0].state, log.newest[0].exit_code) == (TaskState.TIMEOUT, 0)
    rest = {log.newest[task].state for task in range(1, 31)}
    assert rest <= {TaskState.SUCCEEDED, TaskState.LOST}
    assert log.damaged_lines == 0


def test_a_ledger_that_does_not_fit_is_refused(small_disk: Machine) -> None:
    (small_disk.root / "fill").write_bytes(bytes((1 << 20) - 20_000))
    job = made("true")
    assert small_disk.start(job).facts["refused"] == "unpack"
    assert not small_disk.ledger(job).exists()
    (small_disk.root / "fill").unlink()
    assert small_disk.run(job).newest[0].state is TaskState.SUCCEEDED

"""A machine that fails in small ways: nothing of it becomes a result of a task."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.envelope import Chunk, Hole
from poormanray.events import checksum
from poormanray.jobs.pack import Store
from poormanray.ledger import TaskState, new_job_id
from poormanray.manifest import Job, decode_meta
from tests.support.machine import ME, Machine, ends, made, said, with_program


def runner_ends(machine: Machine, job: Job) -> None:
    """Wait until no process has the lock of the job's runner: until then a second one gives way."""
    lock = machine.ledger(job) / "runner.lock"
    subprocess.run(["flock", "-w", "60", str(lock), "true"], check=True)


def test_content_that_is_cut_short_starts_nothing(machine: Machine) -> None:
    job = made("echo whole")
    # It dies in the middle of a job's content, and does all else right.
    dies = (
        '"$REAL" "$@" >"$0.out"\nread -r -n 3 first <"$0.out"\n'
        'if [[ $first == id= ]]; then head -c -9 "$0.out"; exit 1; fi\ncat "$0.out"\n'
    )
    assert with_program(machine, "gzip", dies).start(job).facts["refused"] == "unpack"
    machine.run(job)
    assert machine.log(job) == b"whole\n"


def test_a_script_that_is_cut_short_is_none(machine: Machine) -> None:
    # The first that cuts one out of the content dies in the middle of it.
    dies = (
        'if mkdir "$0.once"; then "$REAL" "$@" | head -c 13; exit 1; fi 2>/dev/null\n'
        'exec "$REAL" "$@"\n'
    )
    failing = with_program(machine, "dd", dies)
    log = failing.run(job := made("echo whole", "echo next"))
    assert (machine.folder / "programs" / "dd.once").exists()
    assert [log.newest[task].state for task in (0, 1)] == [TaskState.SUCCEEDED] * 2
    assert [machine.log(job, task) for task in (0, 1)] == [b"whole\n", b"next\n"]


def test_what_a_power_loss_has_torn_is_placed_again(machine: Machine) -> None:
    job = made("sleep 300", "echo whole")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    ledger = machine.ledger(job)
    for _ in range(100):
        if (ledger / "placed").exists():
            break
        machine.look(job)
    os.kill(machine.runner(job), signal.SIGKILL)
    # As after a crash: another boot, and a script that never came to the disk.
    pid, start, _ = (ledger / "runner").read_text().split()
    (ledger / "runner").write_text(f"{pid} {start} another-boot\n")
    (ledger / "placed-in").write_text("another-boot\n")
    assert (ledger / "scripts" / "1").stat().st_size
    (ledger / "scripts" / "1").write_bytes(b"")
    assert machine.look(job).facts["waits"] == "1"
    machine.send(shell.Call("queue", (job.job_id,), 0, {ME: "0 + -"}))
    log = machine.until(job, lambda log: len(log.newest) == 2 and not log.open)
    assert log.newest[0].state is TaskState.LOST
    assert (log.newest[1].state, machine.log(job, 1)) == (TaskState.SUCCEEDED, b"whole\n")


@pytest.mark.parametrize(
    ("way", "state"),
    [
        ("", "running"),
        ("fields_of() { FIELDS=(); return 1; }", "running"),
        ("boot_id() { BOOT=none; }", "running"),
        ("printf '%s 1 %s\\n' $$ $BOOT >$JOB_DIR/runner", "unsettled"),
        ("printf '4194305 1 %s\\n' $BOOT >$JOB_DIR/runner", "unsettled"),
        ("boot_id() { BOOT=other; }", "unsettled"),
    ],
)
def test_what_cannot_be_read_is_no_death(tmp_path: Path, way: str, state: str) -> None:
    script = (
        f"JOB_DIR={tmp_path}; boot_id; started_at $$\n"
        f"printf '%s %s %s\\n' $$ $STARTED $BOOT >$JOB_DIR/runner\n{way}\n"
        "runner_state; echo $RUNNER"
    )
    assert said(script) == state


def test_a_cancel_that_cannot_be_written_down_is_refused(machine: Machine) -> None:
    job = made("sleep 300", "true")
    machine.start(job)
    (machine.ledger(job) / "cancel").symlink_to("/nowhere/at/all")
    assert machine.cancel(job).facts["refused"] == "disk"
    assert not machine.events(job).cancelled
    (machine.ledger(job) / "cancel").unlink()
    assert machine.cancel(job).facts["survivors"] == "0"
    assert machine.events(job).cancelled


def test_a_log_whose_size_cannot_be_told_is_left_out(machine: Machine) -> None:
    job = made("seq 9000")
    machine.run(job)
    fails = '[[ $* != *logs/0.1* ]] || exit 1\nexec "$REAL" "$@"\n'
    assert with_program(machine, "stat", fails).look(job, "0.1:4:6").records == ()
    assert machine.look(job, "0.1:4:6").records == (Chunk("0.1", 4, b"3\n4\n5\n", 43_893),)


@pytest.mark.parametrize("name", ["meta", "manifest"])
def test_no_runner_goes_on_without_knowing_its_job(machine: Machine, name: str) -> None:
    machine.run(job := made("true"))
    runner_ends(machine, job)
    ledger = machine.ledger(job)
    (ledger / name).unlink()
    words = ["bash", str(ledger / "library.sh"), "runner", job.job_id]
    environment = {"PATH": machine.path, "PMR_ROOT": str(machine.root)}
    ran = subprocess.run(words, env=environment, capture_output=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert (ledger / "events").read_text().count("runner-started") == 1


def test_no_runner_goes_on_that_cannot_say_that_it_lives(small_disk: Machine) -> None:
    small_disk.run(job := made("true"))
    runner_ends(small_disk, job)
    ledger = small_disk.ledger(job)

    def rerun() -> tuple[int, int]:
        (ledger / "done").unlink(missing_ok=True)
        (ledger / "runner").unlink()
        subprocess.run(f"cat /dev/zero >>{small_disk.root}/fill", shell=True, check=False)
        words = ["bash", str(ledger / "library.sh"), "runner", job.job_id]
        environment = {"PATH": small_disk.path, "PMR_ROOT": str(small_disk.root)}
        ran = subprocess.run(words, env=environment, capture_output=True, timeout=60, check=False)
        return ran.returncode, (ledger / "events").read_text().count("runner-started")

    assert rerun() == (0, 2)
    assert (ledger / "runner").stat().st_size
    (ledger / "reserve").unlink(missing_ok=True)
    assert rerun() == (1, 2)


def test_nothing_is_lost_where_the_events_cannot_be_read(tmp_path: Path) -> None:
    script = (
        f"JOB_DIR={tmp_path}/there JOB=j; mkdir $JOB_DIR $JOB_DIR/claims; : >$JOB_DIR/claims/0.1\n"
        "mkdir $JOB_DIR/why; end_slots() { :; }; end_processes() { :; }; PMR_SETTLE=0\n"
        "runner_state() { RUNNER=unsettled FATE=lost WHICH_DIED=a/1/2 BOOT=a; }\n"
        "settle; [[ -e $JOB_DIR/settled ]] || echo open\n"
        ": >$JOB_DIR/events; settle; [[ ! -e $JOB_DIR/settled ]] || cat $JOB_DIR/events\n"
    )
    first, lost, ended = said(script).splitlines()
    assert (first, lost.split()[2:6]) == ("open", ["0", "1", "-", "lost"])
    assert "runner-lost" in ended


@pytest.mark.parametrize(("holes", "punched"), [("holes", "punched"), ("none", "")])
def test_no_hole_is_made_that_is_not_on_record(tmp_path: Path, holes: str, punched: str) -> None:
    script = (
        f"JOB_DIR={tmp_path}; META_log_cap=8192\n"
        f"mkdir $JOB_DIR/slots $JOB_DIR/logs $JOB_DIR/{holes}\n"
        "head -c 100000 /dev/zero >$JOB_DIR/logs/0.1; echo 0.1 $$ >$JOB_DIR/slots/0\n"
        "fallocate() { said=punched; }\n"
        "cap_logs; echo ${said-}"
    )
    assert said(script) == punched


def test_a_log_that_was_truncated_after_its_cap_has_no_hole(machine: Machine) -> None:
    job = made("echo new")
    machine.run(job)
    (machine.ledger(job) / "holes" / "0.1").write_text("4 4096\n")
    assert machine.look(job, "0.1:0:0").records == (Chunk("0.1", 0, b"new\n", 4),)


def test_what_a_hole_swallows_while_it_is_read_is_not_taken_for_the_log(machine: Machine) -> None:
    job = made("seq 9000")
    machine.run(job)
    hole = machine.ledger(job) / "holes" / "0.1"
    # The cap removes the middle just when it is read.
    text = f'[ -e {hole} ] || echo 4096 40960 >{hole}\nexec "$REAL" "$@"\n'
    slow = with_program(machine, "tail", text)
    hole_told, head = slow.look(job, "0.1:0:0").records
    assert hole_told == Hole("0.1", 4096, 40_960)
    assert isinstance(head, Chunk)
    assert (head.offset, head.end) == (0, 4096)


def test_without_its_environment_no_task_begins() -> None:
    assert said("JOB_DIR=/nowhere; SWITCH=(); load_environment 2>&- || echo no") == "no"


def test_a_task_that_cannot_begin_has_no_code_of_its_own(machine: Machine) -> None:
    breaks = "rm $J/logs/1.1; mkdir $J/logs/1.1"
    job = made("", "true")
    placed = f"J={machine.ledger(job)}; until [[ -e $J/placed ]]; do sleep 0.05; done"
    first = shell.command_script(f"{placed}; {breaks}")
    log = machine.run(replace(job, scripts=(first, job.scripts[1])))
    told = [(log.newest[task].state, log.newest[task].exit_code) for task in (0, 1)]
    assert told == [(TaskState.SUCCEEDED, 0), (TaskState.LOST, None)]
    assert log.newest[1].reason == "unstartable"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("program", "text", "user", "reason"),
    [
        ("getent", "exit 1", "no-such-user-here", "unstartable"),
        ("getent", "exit 2", "no-such-user-here", "no-user"),
        ("getent", '[[ ! -e $0.1 ]] || exec "$REAL" "$@"\n: >$0.1; exit 1', "x-x", "no-user"),
        ("id", "exit 1", "nobody", "unstartable"),
        ("chroot setpriv", "exit 127", "nobody", "unstartable"),
    ],
)
def test_a_look_up_that_fails_makes_no_other_user(
    machine: Machine, program: str, text: str, user: str, reason: str
) -> None:
    for name in program.split():
        machine = with_program(machine, name, f"{text}\n")
    log = machine.run(made("true", user=user))
    assert (log.newest[0].state, log.newest[0].reason) == (TaskState.LOST, reason)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_where_chroot_cannot_switch_setpriv_does(machine: Machine) -> None:
    for folder in (machine.folder, *machine.folder.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o111)
    job = made("id -u; id -G", user="nobody")
    both = []
    for one in (machine, with_program(machine, "chroot", "exit 125\n")):
        job = replace(job, job_id=new_job_id())
        one.run(job)
        both.append(one.log(job))
    assert both[0] == both[1] == b"65534\n65534\n"


def test_what_another_instance_has_got_is_not_counted(machine: Machine) -> None:
    gate = machine.folder / "gate"
    job = made(f"until [[ -e {gate} ]]; do sleep 0.05; done", "true", "exit 3", "true")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))

    def counts() -> dict[str, int]:
        ((_, meta),) = machine.send(shell.Call("jobs", ("9",), 0)).jobs
        return dict(decode_meta(meta).counts)

    assert counts() == {"queued": 4, "running": 1, "succeeded": 0, "failed": 0}
    machine.send(shell.Call("queue", (job.job_id,), 0, {ME: "0 - 7:1.1/3.1"}))
    gate.touch()
    machine.until(job, lambda log: ends(log) == 2)
    assert counts() == {"queued": 2, "running": 0, "succeeded": 1, "failed": 1}
    # One comes back, and one gets another turn, which ends well.
    with (machine.ledger(job) / "events").open("a") as events:
        for text in (
            "A 9.0 3.2,2.2",
            "E 9.1 2 2 0 exit 9.0 0",
            "S 9.0 2 2 0 1 1",
            "S 9.2 3 2 0 1 1",
        ):
            events.write(f"{text} {checksum(text)}\n")
    assert counts() == {"queued": 3, "running": 1, "succeeded": 2, "failed": 0}


OUTPUTS = (
    "cd $PMR_OUTPUT_DIR; for n in a b c d e f; do head -c 100000 /dev/zero >$n; done; : >empty"
)
# What takes the place of the files when they have been looked at, and before they are read.
SWAPS = (
    "mkfifo a b; sleep 30 <>b & ln -s /etc/passwd c; : >d; head -c 200000 /dev/zero >e; ln -s . f"
)


def test_what_takes_the_place_of_an_output_holds_nothing_up(
    machine: Machine, tmp_path: Path
) -> None:
    machine.run(job := made(OUTPUTS))
    folder = machine.root / "work" / job.job_id / "0.1.out"
    swap = f'"$REAL" "$@"; code=$?; [[ $* != *printf* ]] || {{ cd {folder}; rm [a-f]; {SWAPS}; }} '
    swapped = with_program(machine, "stat", swap + ">&- 2>&-; exit $code\n")
    began_s = time.monotonic()
    answer = swapped.send(shell.Call("outputs", (job.job_id, "*", "9999999"), 0, {ME: ""}))
    assert time.monotonic() - began_s < 30
    assert answer.facts["found"] == "7 600000"
    pack = (machine.ledger(job) / "pack").read_bytes()
    left_out = Store(tmp_path).take(io.BytesIO(pack), {"0.1"}, count=7, most=1 << 20)
    assert sorted(one.name for one in (tmp_path / "0").iterdir()) == ["e", "empty"]
    assert (tmp_path / "0" / "e").read_bytes() == bytes(100_000)
    assert [one.endswith("it changed while it was read") for one in left_out] == [True] * 5

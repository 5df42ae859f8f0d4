"""Whose processes a ledger's verbs end, and what a dead runner or slot leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from poormanray import shell
from poormanray.ledger import TaskState
from poormanray.manifest import Job, Rules
from tests.support.hosting import pause, soon
from tests.support.machine import ME, Machine, ends, environment_has, made, said, with_program

ANOTHER_BOOT = "00000000-0000-4000-8000-000000000000"


@contextmanager
def stranger(command: str = "sleep 300", **words: object) -> Iterator[psutil.Process]:
    """Run something that is none of ours, as the leader of a session of its own."""
    running = subprocess.Popen(
        ["bash", "-c", f"{command}; :"],
        start_new_session=True,
        **words,  # type: ignore[call-overload]
    )
    try:
        yield psutil.Process(running.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def lives(process: psutil.Process) -> bool:
    """Say whether a process runs: that of a machine whose first process collects none is left."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def group_of(leader: int) -> list[psutil.Process]:
    """Return the processes of a group that run."""
    found = []
    for one in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(one.pid) == leader and lives(one):
                found.append(one)
    return found


def killed(machine: Machine, job: Job) -> None:
    """Kill everything of a job, as the end of its machine does."""
    marks = (f"PMR_JOB_ID={job.job_id}".encode(), f"PMR_RUNNER={job.job_id}".encode())
    # The runner first, which would go on with another slot.
    os.kill(machine.runner(job), signal.SIGKILL)

    def left() -> bool:
        found = [
            proc
            for proc in Path("/proc").glob("[0-9]*")
            if any(environment_has(proc, mark) for mark in marks)
        ]
        for proc in found:
            with suppress(ProcessLookupError):
                os.kill(int(proc.name), signal.SIGKILL)
        return bool(found)

    soon(lambda: not left())


def begun(machine: Machine, *commands: str, **changes: object) -> Job:
    """Start a job whose first task never ends, and wait until that runs."""
    job = made(*(commands or ("sleep 300", "echo never")), **changes)
    machine.start(job)
    machine.until(job, lambda log: (0, 1) in log.tasks)
    claim = machine.ledger(job) / "claims" / "0.1"
    soon(lambda: claim.read_text().strip())
    return job


def reboot(machine: Machine, job: Job) -> None:
    """Let a ledger look as one of before a boot."""
    for path in (machine.ledger(job) / "runner", *(machine.ledger(job) / "claims").iterdir()):
        words = path.read_text().split()
        if len(words) > 2:
            path.write_text(" ".join([*words[:2], ANOTHER_BOOT, *words[3:]]) + "\n")


def with_pid(machine: Machine, job: Job, pid: int) -> None:
    """Let the number of a task's process be another's, as after a reboot or a wrap."""
    claim = machine.ledger(job) / "claims" / "0.1"
    claim.write_text(" ".join([str(pid), *claim.read_text().split()[1:]]) + "\n")


def look(machine: Machine, job: Job) -> None:
    replace(machine, settle="0").look(job)
    replace(machine, settle="0").look(job)


def cancel(machine: Machine, job: Job) -> None:
    machine.send(shell.Call("cancel", (job.job_id, "-", "0"), 0))


@pytest.mark.parametrize("verb", [look, cancel])
@pytest.mark.parametrize("when", ["reboot", "wrap"])
def test_whoever_has_the_number_of_a_task_now_lives_on(
    machine: Machine, when: str, verb: Callable[[Machine, Job], None]
) -> None:
    job = begun(machine)
    killed(machine, job)
    with stranger("sleep 300 & sleep 300") as other:
        with_pid(machine, job, other.pid)
        if when == "reboot":
            reboot(machine, job)
        verb(machine, job)
        assert len(other.children()) == 2
        assert lives(other)
    look(machine, job)
    state = machine.events(job).newest[0].state
    assert state is (TaskState.CANCELLED if verb is cancel else TaskState.LOST)


@pytest.mark.parametrize("verb", [look, cancel])
def test_a_group_whose_leader_has_ended_is_no_proof(
    machine: Machine, verb: Callable[[Machine, Job], None]
) -> None:
    job = begun(machine)
    killed(machine, job)
    with stranger("sleep 300 & sleep 300 & exit") as other:
        other.wait(10)
        with_pid(machine, job, other.pid)
        verb(machine, job)
        assert len(group_of(other.pid)) == 2


def test_whoever_only_stands_in_a_tasks_folder_lives_on(machine: Machine) -> None:
    job = begun(machine)
    work = machine.root / "work" / job.job_id / "0.1"
    marks = {"PMR_JOB_ID": job.job_id, "PMR_TASK_KEY": f"{job.job_id}_0.1"}
    elsewhere = {**os.environ, **marks, "PMR_INSTANCE_ID": "i-another"}
    with stranger(cwd=work) as other, stranger(env=elsewhere) as third:
        assert machine.cancel(job).facts["survivors"] == "0"
        assert lives(other)
        assert lives(third)
    assert machine.ended(job).newest[0].state is TaskState.CANCELLED


def test_what_a_task_leaves_in_its_group_is_ended(machine: Machine) -> None:
    # Its environment is empty, and its output elsewhere: what remains is the group.
    job = begun(machine, "env -i sleep 299 >/dev/null 2>&1 & sleep 0.2; kill -9 $$", "sleep 300")
    log = machine.until(job, lambda log: ends(log) == 1)
    assert log.newest[0].exit_code == 137
    claim = machine.ledger(job) / "claims" / "0.1"
    leader = int(claim.read_text().split()[0])
    assert len(group_of(leader)) == 1
    script = f"{PREPARED}; end_processes 0.1 0"
    said(script.format(root=machine.root, job=job.job_id))
    assert group_of(leader) == []


PREPARED = "PMR_ROOT={root}; AWS_SSM_INSTANCE_ID=" + ME + "; open_job {job}"


def test_a_number_that_changes_hands_between_scan_and_signal_gets_none() -> None:
    with stranger() as other:
        said(
            f"PIDS=({other.pid}); SINCE[{other.pid}]=1; signal_all KILL; signal_it KILL {other.pid}"
        )
        assert lives(other)
        said(f"started_at {other.pid}; signal_it KILL {other.pid} $STARTED")
        other.wait(10)


def test_a_slot_whose_number_is_anothers_has_no_task(tmp_path: Path) -> None:
    with stranger() as other:
        (tmp_path / "slots").mkdir()
        (tmp_path / "slots" / "1").write_text(f"7.1 {other.pid} 1\n")
        holding = Path(shell.__file__).with_name("holding.sh").read_text()
        script = f"{holding}\nJOB_DIR={tmp_path} SLOT=0; ! others_run"
        assert said(script) == ""


def test_the_folder_of_a_send_stays_while_that_send_runs(machine: Machine) -> None:
    with stranger() as other:
        since = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        boxes = [machine.folder / f"pmr.{other.pid}{rest}" for rest in ("", "-1", f"-{since}")]
        for box in boxes:
            box.mkdir()
        machine.send(shell.Call("probe", (), 0))
        assert [box.exists() for box in boxes] == [False, False, True]
    assert [path for path in machine.folder.glob("pmr.*") if path not in boxes] == []


# --- slots -----------------------------------------------------------------------------------


def slot_of(machine: Machine, job: Job) -> int:
    """Return the process of slot 0."""
    return int((machine.ledger(job) / "slots" / "0").read_text().split()[1])


def test_a_task_whose_slot_is_killed_is_ended_before_its_next_attempt(machine: Machine) -> None:
    beat = machine.folder / "beat"
    alone = f"mkdir {beat} || echo both; trap 'exit 1' TERM; sleep 300 & wait"
    again = "[ $PMR_TASK_ATTEMPT = 1 ] || exit 0"
    job = begun(machine, f"{again}; {alone}", "echo next", rules=Rules(retries=1))
    task = psutil.Process(pid_of(machine, job))
    os.kill(slot_of(machine, job), signal.SIGKILL)
    log = machine.until(job, lambda log: (0, 2) in log.tasks and not log.open)
    assert log.tasks[0, 1].state is TaskState.LOST
    assert log.tasks[0, 2].state is TaskState.SUCCEEDED
    assert log.newest[1].state is TaskState.SUCCEEDED
    assert not lives(task)
    ledger = machine.ledger(job)
    soon((ledger / "done").exists)
    assert "runner-ended" in (ledger / "events").read_text()


def pid_of(machine: Machine, job: Job) -> int:
    """Return the process of task 0, as its start tells it."""
    lines = (machine.ledger(job) / "events").read_text().splitlines()
    return int(next(words[5] for line in lines if (words := line.split())[::2][:2] == ["S", "0"]))


@pytest.mark.parametrize("slots", ["1", "3"])
def test_no_runner_ends_with_an_attempt_that_has_no_end(machine: Machine, slots: str) -> None:
    job = begun(machine, "sleep 300", "true", "true", "true", slots=slots)
    task = psutil.Process(pid_of(machine, job))
    number = next(
        path.name
        for path in (machine.ledger(job) / "slots").iterdir()
        if path.read_text().startswith("0.1 ")
    )
    slot = int((machine.ledger(job) / "slots" / number).read_text().split()[1])
    os.kill(slot, signal.SIGKILL)
    log = machine.ended(job)
    assert [log.newest[task].state for task in range(4)] == [
        TaskState.LOST,
        *[TaskState.SUCCEEDED] * 3,
    ]
    assert not lives(task)


def test_a_claim_of_a_command_that_was_killed_gets_an_end(machine: Machine) -> None:
    gate = machine.folder / "gate"
    job = begun(machine, f"until [ -e {gate} ]; do sleep 0.05; done", "echo never")
    (machine.ledger(job) / "claims" / "1.1").touch()
    gate.touch()
    log = machine.ended(job)
    assert [log.newest[task].state for task in (0, 1)] == [TaskState.SUCCEEDED, TaskState.LOST]
    assert b"never" not in b"".join(
        path.read_bytes() for path in (machine.ledger(job) / "logs").iterdir()
    )


def test_slots_start_nothing_once_their_runner_is_dead(machine: Machine) -> None:
    gate = machine.folder / "gate"
    job = begun(machine, f"until [ -e {gate} ]; do sleep 0.05; done", "echo never")
    os.kill(machine.runner(job), signal.SIGKILL)
    slot = psutil.Process(slot_of(machine, job))
    gate.touch()
    soon(lambda: not lives(slot))
    log = machine.events(job)
    assert log.newest[0].state is TaskState.SUCCEEDED
    assert 1 not in log.newest
    look(machine, job)
    assert machine.events(job).runner_lost


def test_a_monitor_that_is_killed_is_replaced(machine: Machine) -> None:
    job = begun(machine, "sleep 300", timeout_s=0)
    runner = psutil.Process(machine.runner(job))
    slot = slot_of(machine, job)
    soon(lambda: len(runner.children()) == 2)
    (monitor,) = (one for one in runner.children() if one.pid != slot)
    monitor.kill()
    soon(lambda: {one.pid for one in runner.children()} - {slot, monitor.pid})


# --- a runner that is dead ---------------------------------------------------------------------


def events_text(machine: Machine, job: Job) -> str:
    return (machine.ledger(job) / "events").read_text()


def test_a_dead_runner_is_reported_first_and_settled_later(machine: Machine) -> None:
    job = begun(machine)
    os.kill(machine.runner(job), signal.SIGKILL)
    before = events_text(machine, job)
    patient = replace(machine, settle="250")
    first = patient.look(job)
    assert (first.facts["runner"], first.facts["settles"]) == ("unsettled", "3")
    at_s = time.monotonic()
    for verb in (
        shell.Call("summary", (f"id:{job.job_id}", "c", "9"), 0),
        shell.Call("jobs", ("9",), 0),
    ):
        patient.send(verb)
    assert patient.look(job).facts["runner"] == "unsettled"
    assert events_text(machine, job) == before
    soon(lambda: patient.look(job).facts["runner"] == "dead")
    assert time.monotonic() - at_s > 2
    log = machine.events(job)
    assert (log.newest[0].state, log.runner_lost) == (TaskState.LOST, True)


def test_while_the_machine_shuts_down_nothing_is_settled(machine: Machine) -> None:
    job = begun(machine)
    os.kill(machine.runner(job), signal.SIGKILL)
    state = machine.folder / "state"
    state.write_text("stopping\n")
    hasty = replace(machine, settle="0", systemd=str(machine.folder))
    going = with_program(hasty, "systemctl", f"cat {state}; exit 1\n")
    for _ in range(3):
        assert going.look(job).facts["runner"] == "unsettled"
    assert not machine.events(job).runner_lost
    state.write_text("degraded\n")
    assert going.look(job).facts["runner"] == "dead"


@pytest.mark.parametrize("settled", [True, False])
def test_no_settlement_outlives_the_boot(machine: Machine, settled: bool) -> None:
    job = begun(machine)
    killed(machine, job)
    if settled:
        look(machine, job)
        assert machine.events(job).runner_lost
        (machine.ledger(job) / "settled").write_text(f"{ANOTHER_BOOT}\n")
    reboot(machine, job)
    answer = machine.look(job)
    assert (answer.facts["runner"], answer.facts["waits"]) == ("new", "1")
    log = machine.events(job)
    assert (log.newest[0].state, log.runner_lost) == (TaskState.LOST, False)
    machine.send(shell.Call("queue", (job.job_id,), 0, {ME: "0 + -"}))
    log = machine.ended(job)
    assert log.newest[1].state is TaskState.SUCCEEDED


def test_what_is_brought_to_a_dead_runner_runs_once_that_is_settled(machine: Machine) -> None:
    job = begun(machine)
    task = psutil.Process(pid_of(machine, job))
    os.kill(machine.runner(job), signal.SIGKILL)
    machine.look(job)
    answer = machine.send(shell.Call("queue", (job.job_id,), 0, {ME: "0 5.1 -"}))
    assert answer.facts["runner"] == "unsettled"
    assert lives(task)
    look(machine, job)
    log = machine.until(job, lambda log: 1 in log.newest and log.newest[1].state.ended)
    assert (log.newest[0].state, log.newest[1].state) == (TaskState.LOST, TaskState.SUCCEEDED)
    assert not log.runner_lost


# --- cgroups -----------------------------------------------------------------------------------

# A daemon that has cut all ties: no marker, no group, no session, no log, no folder of the task's.
CUT_OFF = "cd / && env -i setsid -f sleep {0} </dev/null >/dev/null 2>&1"


def real_cgroups() -> Path | None:
    """Return where this machine lets us make cgroups (version 2), if anywhere."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        trial = root / f"pmr-trial-{os.getpid()}"
        try:
            trial.mkdir()
            killable = (trial / "cgroup.kill").exists()
            trial.rmdir()
        except OSError:
            continue
        if killable:
            return root
    return None


@pytest.fixture
def grouped(machine: Machine) -> Iterator[Machine]:
    """Return a machine whose root makes cgroups."""
    root = real_cgroups()
    if root is None:
        pytest.skip("this machine lets us make no cgroups")
    yield replace(machine, cgroup=str(root))
    jobs = machine.root / "jobs"
    for ledger in jobs.iterdir() if jobs.is_dir() else []:
        for folder in root.glob(f"pmr-{ledger.name}.*"):
            (folder / "cgroup.kill").write_text("1")
            state = folder / "cgroup.events"
            while "populated 1" in state.read_text():
                pause(0.02)
            for below in [*folder.glob("*/"), folder]:
                below.rmdir()


def sleeping(seconds: float) -> list[psutil.Process]:
    """Return what sleeps for just so long, and runs."""
    words = ["sleep", str(seconds)]
    return [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == words]


def test_a_daemon_that_cut_all_ties_ends_with_its_task_and_no_other(grouped: Machine) -> None:
    first, second = (CUT_OFF.format(seconds) for seconds in (301.25, 302.25))
    job = begun(grouped, f"{first}; sleep 300", f"{second}; sleep 300", slots="2")
    grouped.until(job, lambda log: len(log.tasks) == 2)
    soon(lambda: len(sleeping(301.25) + sleeping(302.25)) == 2)
    assert grouped.cancel(job, "0").facts["survivors"] == "0"
    assert (len(sleeping(301.25)), len(sleeping(302.25))) == (0, 1)
    assert grouped.cancel(job).facts["survivors"] == "0"
    assert sleeping(302.25) == []


def test_what_an_ended_task_left_goes_on_beside_the_next_and_ends_with_the_job(
    grouped: Machine,
) -> None:
    job = made(f"{CUT_OFF.format(303.25)}", "true", *["sleep 300"] * 2)
    grouped.start(job)
    grouped.until(job, lambda log: 2 in log.newest)
    assert len(sleeping(303.25)) == 1
    grouped.cancel(job, "2")
    grouped.until(job, lambda log: 3 in log.newest)
    assert len(sleeping(303.25)) == 1
    assert grouped.cancel(job).facts["survivors"] == "0"
    assert sleeping(303.25) == []


def test_a_time_limit_and_a_dead_runner_end_such_a_daemon_too(grouped: Machine) -> None:
    job = made(f"{CUT_OFF.format(304.25)}; sleep 300", timeout_s=2)
    assert grouped.run(job).newest[0].state is TaskState.TIMEOUT
    assert sleeping(304.25) == []
    job = begun(grouped, f"{CUT_OFF.format(305.25)}; sleep 300")
    soon(lambda: sleeping(305.25))
    os.kill(grouped.runner(job), signal.SIGKILL)
    look(grouped, job)
    assert grouped.events(job).runner_lost
    assert sleeping(305.25) == []


def test_no_cgroup_is_left_by_a_job(grouped: Machine) -> None:
    job = made(*["true"] * 40, slots="2")
    grouped.run(job)
    soon((grouped.ledger(job) / "done").exists)
    assert list(Path(grouped.cgroup).glob(f"pmr-{job.job_id}.*")) == []
    claim = (grouped.ledger(job) / "claims" / "39.1").read_text()
    assert f"/pmr-{job.job_id}." in claim


def test_without_a_cgroup_of_the_jobs_own_none_is_made(machine: Machine) -> None:
    machine.run(job := made("true"))
    assert "/pmr-" not in (machine.ledger(job) / "claims" / "0.1").read_text()

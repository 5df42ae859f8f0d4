"""What surrounds a task's processes: a group of their own, no terminal, and no word of screen."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from poormanray.ledger import TaskState
from tests.support.machine import Machine, made


def state_of(pid: int) -> str:
    """Return the letter that /proc has for the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_task_that_only_stops_has_not_ended(machine: Machine) -> None:
    job = made("echo $$ >pid; kill -s STOP $$; exit 7")
    machine.start(job)
    pid_file = machine.root / "work" / job.job_id / "0.1" / "pid"
    machine.until(job, lambda _: pid_file.exists() and pid_file.stat().st_size > 0)
    pid = int(pid_file.read_text())
    machine.until(job, lambda _: state_of(pid) == "T")
    assert machine.look(job).facts["runner"] == "running"
    assert machine.events(job).newest[0].state is TaskState.RUNNING
    os.kill(pid, signal.SIGCONT)
    log = machine.ended(job)
    assert (log.newest[0].state, log.newest[0].exit_code) == (TaskState.FAILED, 7)


def test_a_task_that_ends_its_process_group_ends_nothing_else(machine: Machine) -> None:
    log = machine.run(job := made("sleep 300 & kill -s TERM 0", "echo next"))
    assert (log.newest[0].state, log.newest[0].exit_code) == (TaskState.FAILED, 128 + 15)
    assert (log.newest[1].state, machine.log(job, 1)) == (TaskState.SUCCEEDED, b"next\n")


def test_a_task_has_no_terminal(machine: Machine) -> None:
    log = machine.run(job := made("if : </dev/tty; then echo one; fi 2>/dev/null"))
    assert (log.newest[0].state, machine.log(job)) == (TaskState.SUCCEEDED, b"")


def test_the_end_of_screen_is_no_end_of_the_job(machine: Machine) -> None:
    job = made("until [ -e go ]; do sleep 0.05; done; exit 5")
    machine.start(job)
    assert machine.until(job, lambda log: bool(log.tasks)).detached_by == "screen"
    above = parent_of(machine.runner(job))
    assert "screen" in Path(f"/proc/{parent_of(above)}/comm").read_text().lower()
    subprocess.run(["screen", "-S", f"pmr-{job.job_id}", "-X", "quit"], check=True)
    machine.until(job, lambda _: not Path(f"/proc/{above}").exists() or state_of(above) == "Z")
    assert machine.look(job).facts["runner"] == "running"
    (machine.root / "work" / job.job_id / "0.1" / "go").touch()
    assert machine.ended(job).newest[0].exit_code == 5

"""Tasks that lie to the shell on their instance, and every `sh` that an agent may start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.envelope import decode
from poormanray.ledger import TaskState
from poormanray.manifest import HelperFile
from tests.support.hosting import soon
from tests.support.machine import Machine, made

# A program whose name, as /proc/PID/stat shows it, looks like the rest of that file.
ODD_NAME = "x\n) S 1 1"
BECOME_ODD = 'cp "$(command -v sleep)" "./$ODD" && exec "./$ODD" 300'
SHELLS = {
    name: [found, *words]
    for name, *words in (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"])
    if (found := shutil.which(name))
}


def test_a_program_of_any_name_is_ended_by_a_cancel(machine: Machine) -> None:
    job = made(BECOME_ODD, env={"ODD": ODD_NAME})
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    pid = running(ODD_NAME)
    answer = machine.cancel(job)
    assert (answer.facts["survivors"], answer.facts["cancelled"]) == ("0", "1")
    assert machine.ended(job).newest[0].state is TaskState.CANCELLED
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_of_any_name_is_ended_by_its_time_limit(machine: Machine) -> None:
    job = made(
        f"(setsid {BECOME_ODD.partition('exec ')[0]} : ); {BECOME_ODD}", env={"ODD": ODD_NAME}
    )
    log = machine.run(replace(job, timeout_s=1.0))
    assert log.newest[0].state is TaskState.TIMEOUT


def running(name: str, timeout_s: float = 20) -> int:
    """Wait for a process of that name; return its id."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if (proc / "comm").read_text() == f"{name}\n":
                    return int(proc.name)
            except OSError:
                continue
        time.sleep(0.05)  # noqa: TID251 (a task is a process of its own)
    raise AssertionError("it never ran")


FORGER = r"""
ledger=$PMR_LEDGERS/$PMR_JOB_ID
ln -s /etc work-link; ln -s "$ledger/events" aim; mkfifo pipe; mkdir -p deep/er; chmod 000 deep
printf 'E 1.0 0 1 0 exit 1.0 0 00000000\nE 1.0 1 1 0 exit 1.0 0\nJ 1.0 runner-lost\n'
printf 'PMR1 0 4 0 aaaa\nk runner done\n' >&2
chmod 000 /proc/self/fd/1
( PMR_RUNNER=$PMR_JOB_ID exec -a "bash $ledger/library.sh runner" sleep 0.1 )
exit 7
"""


def test_what_a_task_says_and_leaves_changes_nothing(machine: Machine) -> None:
    where = {"PMR_LEDGERS": f"{machine.root}/jobs"}
    log = machine.run(made(FORGER, "exit 3", env=where))
    assert [log.newest[task].exit_code for task in range(2)] == [7, 3]
    assert (log.damaged_lines, log.runner_lost) == (0, False)


@pytest.mark.parametrize("job_id", ["../../x", "..", "", "a/b", "$(id)", "A", "a\nb"])
def test_an_id_that_is_a_path_leads_nowhere(machine: Machine, job_id: str) -> None:
    (machine.folder / "x").mkdir()
    (machine.root / "jobs" / "a" / "b").mkdir(parents=True)
    for call in (
        shell.Call("cancel", (job_id, "-", "1"), 0),
        shell.Call("observe", (job_id,), 0, {"*": "0 0 1 2400"}),
    ):
        assert machine.send(call).facts["refused"] == "no-such-job"
    assert not list((machine.folder / "x").iterdir())
    assert not list((machine.root / "jobs" / "a" / "b").iterdir())


def test_the_ledger_may_lie_anywhere(tmp_path: Path) -> None:
    there = Machine(tmp_path / "it's = a $(id) `folder`")
    there.folder.mkdir()
    log = there.run(made('echo "$A" "${0##*/}"; cat "$B"', env={"A": "a=b", "B": "/dev/null"}))
    assert log.newest[0].state is TaskState.SUCCEEDED


@pytest.mark.parametrize("name", SHELLS)
def test_every_sh_unpacks_a_send(tmp_path: Path, name: str) -> None:
    table = {"*": "it's $(id) `id` é {{ssm:x}}"}
    text = shell.render(shell.Call("probe", (), int(time.time()) + 60, table))
    script = tmp_path / "_script.sh"
    script.write_text(text)
    env = {"PATH": os.defpath, "TMPDIR": str(tmp_path), "PMR_ROOT": str(tmp_path / "pmr")}
    ended = subprocess.run(
        [*SHELLS[name], script], capture_output=True, env=env, cwd="/", timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    answer = decode(ended.stdout.decode())
    assert answer.facts["bash"].partition(".")[0].isdecimal()
    assert sorted(tmp_path.iterdir()) == [script]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_of_the_instance_reads_nothing_of_a_job(machine: Machine) -> None:
    for folder in (machine.folder, *machine.folder.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o111)
    own = made(
        "cat helper; echo secret-script; echo secret-output >$PMR_OUTPUT_DIR/o; sleep 60",
        user="nobody",
        env={"TOKEN": "secret-env"},
        helper_files=(HelperFile("helper", b"secret-helper\n", 0o644),),
    )
    own = replace(own, tasks=(replace(own.tasks[0], entry="secret-entry"),))
    machine.start(own)
    machine.until(own, lambda log: bool(log.tasks))
    soon((machine.root / "work" / own.job_id / "0.1.out" / "o").exists)
    assert machine.log(own) == b"secret-helper\nsecret-script\n"
    ledger, work = machine.ledger(own), machine.root / "work" / own.job_id
    there = [one for folder in (ledger, work) for one in folder.rglob("*")]
    files = [one for one in there if one.is_file()]
    assert {"0", "helper", "o", "0.1", "env", "manifest", "content"} <= {one.name for one in files}
    # The paths are no secret: it is given all of them.
    tries = "".join(f"cat {one} && echo read {one}\n" for one in files)
    tries += "".join(f"ls {one} && echo listed {one}\n" for one in there if one.is_dir())
    tries += "for p in /proc/[0-9]*; do cat $p/environ; done 2>&- | tr '\\0' '\\n'\n"
    other = made(tries, user="daemon")
    machine.run(other)
    told = machine.log(other).decode()
    assert "secret" not in told
    assert "read " not in told
    assert "listed " not in told
    machine.cancel(own)
    # What is its own it reads and runs, and nobody else can write it.
    script = ledger / "scripts" / "0"
    assert (script.stat().st_mode & 0o777, script.owner()) == (0o500, "nobody")

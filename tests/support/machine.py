"""The shell that runs on instances, run by a real bash in a folder, outside of any cloud."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.envelope import Answer, decode
from poormanray.ledger import EventLog, new_job_id
from poormanray.manifest import (
    Host,
    Job,
    Task,
    encode_sections,
    identity_of,
)

ME = "i-0123456789abcdef0"
HOSTILE = "a\nb='c' \"d\" $HOME `id` $(id) \\ ü 雪 =x *"


def ends(log: EventLog) -> int:
    """Return how many tasks have ended."""
    return sum(status.state.ended for status in log.newest.values())


@dataclass(frozen=True, slots=True)
class Machine:
    """A ledger in a folder, and the verbs that act on it."""

    folder: Path
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    # Where a runner reads load and memory, and asks for a spot notice.
    proc: str = "/proc"
    imds: str = "/nowhere"
    # For how long a runner has to be dead before that is put on record, in 1/100 s.
    settle: str = "3000"
    # The folder that is there where systemd runs.
    systemd: str = "/nowhere"
    # Where cgroups are mounted, if tasks are to have their own.
    cgroup: str = ""

    @property
    def root(self) -> Path:
        return self.folder / "pmr"

    def send(self, call: shell.Call) -> Answer:
        """Run a send as the agent does; return what its envelope says."""
        return decode(self.raw(call))

    def raw(self, call: shell.Call) -> str:
        """Run a send; it exits 0 and prints one envelope and nothing else."""
        text = shell.render(replace(call, not_after_s=call.not_after_s or int(time.time()) + 60))
        ended = subprocess.run(
            ["sh"],
            input=text.encode(),
            capture_output=True,
            env={
                "PATH": self.path,
                "PMR_ROOT": str(self.root),
                "PMR_HOME": str(self.folder),
                "TMPDIR": str(self.folder),
                "AWS_SSM_INSTANCE_ID": ME,
                "PMR_PROC": self.proc,
                "PMR_IMDS": self.imds,
                "PMR_SETTLE": self.settle,
                "PMR_SYSTEMD": self.systemd,
                "PMR_CGROUP": self.cgroup,
            },
            cwd="/usr/bin",
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        return ended.stdout.decode()

    def start(self, job: Job, window_s: int = 0, **changes: object) -> Answer:
        words = (job.job_id, *identity_of(encode_sections(job)).words)
        call = shell.Call("start", words, 0, {ME: f"0 {window_s} 1 2400"}, bundled(job))
        return self.send(replace(call, **changes))  # type: ignore[arg-type]

    def look(self, job: Job, specs: str = "", at: int = 0) -> Answer:
        row = f"{at} 0 1 {shell.LARGE_ANSWER_CHARS} {specs}".strip()
        return self.send(shell.Call("observe", (job.job_id,), 0, {ME: row}))

    def cancel(self, job: Job, task: str = "-") -> Answer:
        return self.send(shell.Call("cancel", (job.job_id, task, "2"), 0))

    def ledger(self, job: Job) -> Path:
        return self.root / "jobs" / job.job_id

    def events(self, job: Job) -> EventLog:
        log = EventLog()
        log.feed(0, (self.ledger(job) / "events").read_bytes())
        return log

    def log(self, job: Job, task: int = 0) -> bytes:
        return (self.ledger(job) / "logs" / f"{task}.1").read_bytes()

    def until(self, job: Job, ready: Callable[[EventLog], bool], timeout_s: float = 30) -> EventLog:
        """Wait until the events are as they should be."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if (self.ledger(job) / "events").exists() and ready(events := self.events(job)):
                return events
            time.sleep(0.05)  # noqa: TID251 (a runner is a process of its own)
        raise AssertionError(f"it never came: {(self.ledger(job) / 'events').read_text()}")

    def ended(self, job: Job) -> EventLog:
        return self.until(job, lambda log: ends(log) == len(job.tasks))

    def run(self, job: Job) -> EventLog:
        self.start(job)
        return self.ended(job)

    def runner(self, job: Job) -> int:
        return int((self.ledger(job) / "runner").read_text().split()[0])


def made(*commands: str, **changes: object) -> Job:
    count = len(commands)
    plain = Job(
        job_id=new_job_id(),
        kind="map",
        cluster="c",
        region="us-east-1",
        hosts=(Host(0, ME, "c-0000", tuple(range(count))),),
        tasks=tuple(Task(number, f"t{number}", number) for number in range(count)),
        scripts=tuple(map(shell.command_script, commands)),
        user="root",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def bundled(job: Job) -> shell.Bundle:
    sections = encode_sections(job)
    data = gzip.compress(b"".join(part for _, part in sections), mtime=0)
    sizes = tuple((name, len(part)) for name, part in sections)
    return shell.Bundle(data, hashlib.sha256(data).hexdigest(), sizes)


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def environment_has(proc: Path, mark: bytes) -> bool:
    try:
        return mark in (proc / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "m"
    folder.mkdir()
    yield Machine(folder)
    end_jobs(folder)


def end_jobs(folder: Path) -> None:
    """Kill what still runs of the jobs of a machine in that folder."""
    jobs = folder / "pmr" / "jobs"
    for ledger in jobs.iterdir() if jobs.is_dir() else []:
        marks = (f"PMR_JOB_ID={ledger.name}".encode(), f"PMR_RUNNER={ledger.name}".encode())
        for proc in Path("/proc").glob("[0-9]*"):
            if any(environment_has(proc, mark) for mark in marks):
                with suppress(ProcessLookupError):
                    os.kill(int(proc.name), signal.SIGKILL)


@pytest.fixture
def small_disk(machine: Machine) -> Iterator[Machine]:
    machine.root.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(machine.root)]
    if os.getuid() != 0 or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be made here")
    try:
        yield machine
    finally:
        subprocess.run(["umount", "--lazy", str(machine.root)], check=True)


NAMES = ("base.sh", "ledger.sh", "queue.sh", "holding.sh", "runner.sh")
PARTS = [Path(shell.__file__).with_name(name) for name in NAMES]


def with_program(machine: Machine, name: str, text: str) -> Machine:
    """Return the machine with another program of that name; `$REAL` is the one that it had."""
    folder = machine.folder / "programs"
    folder.mkdir(exist_ok=True)
    real = shutil.which(name, path=machine.path)
    (folder / name).write_text(f"#!/bin/bash\nREAL={real}\n{text}")
    (folder / name).chmod(0o755)
    return replace(machine, path=f"{folder}:{machine.path}")


def said(script: str) -> str:
    """Return what bash says that has read the library."""
    text = "\n".join(part.read_text() for part in PARTS)
    words = ["bash", "-c", f"{text}\n{script}"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    # The text of the library would be most of what is told.
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()

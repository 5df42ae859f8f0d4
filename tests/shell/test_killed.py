"""A send that is killed behind any of its steps: the next one takes up what it has left."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from poormanray import shell
from poormanray.ledger import EventLog, TaskState
from poormanray.manifest import Job, encode_sections, identity_of
from tests.support.machine import ME, Machine, bundled, end_jobs, made
from tests.support.until import until

LIST = re.compile(r"for needed in ((?:.|\n)*?); do")
# Counts what the send's own session starts. Behind the one that is meant, all of the session is
# killed; what it has detached goes on.
COUNTS = """#!/bin/bash
read -r -a STAT </proc/self/stat
if [[ ${STAT[5]} == "$(<FOLDER/session)" ]]; then
    printf x >>FOLDER/count
    if [[ $(STAT -c %s FOLDER/count) == "$(<FOLDER/at)" ]]; then
        REAL "$@"
        kill -s KILL -- "-${STAT[4]}"
    fi
fi
exec REAL "$@"
"""


def counting(machine: Machine) -> Machine:
    """Return the machine with programs that count, and may kill who has started them."""
    needed = LIST.search(Path(shell.__file__).with_name("send.sh").read_text())
    assert needed
    folder = machine.folder / "programs"
    folder.mkdir()
    (machine.folder / "session").write_text("none yet")
    stat = shutil.which("stat", path=machine.path) or ""
    for name in {*needed[1].replace("\\\n", " ").split(), "screen"} - {"bash"}:
        if real := shutil.which(name, path=machine.path):
            text = COUNTS.replace("$(STAT", f"$({stat}").replace("REAL", real)
            (folder / name).write_text(text.replace("FOLDER", str(machine.folder)))
            (folder / name).chmod(0o755)
    return replace(machine, path=f"{folder}:{machine.path}")


def killed(machine: Machine, call: shell.Call, at: int) -> int:
    """Run a send that is killed behind the program of that number; return how many there were."""
    (machine.folder / "at").write_text(str(at))
    (machine.folder / "count").write_text("")
    text = shell.render(replace(call, not_after_s=int(time.time()) + 60))
    subprocess.run(
        ["sh", "-c", f'echo $$ >"{machine.folder}/session"; exec sh'],
        input=text.encode(),
        env={
            "PATH": machine.path,
            "PMR_ROOT": str(machine.root),
            "PMR_HOME": str(machine.folder),
            "TMPDIR": str(machine.folder),
            "AWS_SSM_INSTANCE_ID": ME,
            "PMR_PROC": "/proc",
            "PMR_IMDS": "/nowhere",
            "PMR_SYSTEMD": "/nowhere",
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    return (machine.folder / "count").stat().st_size


def machines(parent: Machine) -> Iterator[Machine]:
    """Yield one machine after another, each with nothing on it."""
    while True:
        with tempfile.TemporaryDirectory(dir=parent.folder, ignore_cleanup_errors=True) as folder:
            try:
                yield counting(Machine(Path(folder)))
            finally:
                # A test that fails leaves what it was about.
                end_jobs(Path(folder))


def start_of(job: Job) -> shell.Call:
    words = (job.job_id, *identity_of(encode_sections(job)).words)
    return shell.Call("start", words, 0, {ME: "0 0 1 2400"}, bundled(job))


def done(machine: Machine, job: Job) -> bool:
    return (machine.ledger(job) / "done").exists()


def begun_once(machine: Machine, job: Job) -> EventLog:
    log = machine.ended(job)
    starts = re.findall(rb"^S \S+ (\d+ \d+) ", (machine.ledger(job) / "events").read_bytes(), re.M)
    assert sorted(starts) == [b"%d 1" % task for task in range(len(job.tasks))]
    return log


def test_a_start_that_is_killed_anywhere_is_taken_up_by_the_next(machine: Machine) -> None:
    for at, one in enumerate(machines(machine), 1):
        job = made("echo whole", "echo next", slots="2")
        count = killed(one, start_of(job), at)
        one.start(job)
        log = begun_once(one, job)
        assert {status.state for status in log.newest.values()} == {TaskState.SUCCEEDED}, at
        assert [one.log(job, task) for task in (0, 1)] == [b"whole\n", b"next\n"], at
        if count < at:
            break
    assert at > 20


def test_a_cancel_that_is_killed_anywhere_is_taken_up_by_the_next(machine: Machine) -> None:
    for at, one in enumerate(machines(machine), 1):
        job = made("sleep 300", "echo never")
        one.start(job)
        one.until(job, lambda log: bool(log.tasks))
        count = killed(one, shell.Call("cancel", (job.job_id, "-", "2"), 0), at)
        assert one.cancel(job).facts["survivors"] == "0", at
        log = one.ended(job)
        assert {status.state for status in log.newest.values()} == {TaskState.CANCELLED}, at
        if count < at:
            break
    assert at > 3


def test_a_removal_that_is_killed_anywhere_is_taken_up_by_the_next(machine: Machine) -> None:
    for at, one in enumerate(machines(machine), 1):
        job = made("true")
        one.run(job)
        until(partial(done, one, job))
        count = killed(one, shell.Call("prune", ("remove", job.job_id), 0), at)
        found = one.send(shell.Call("prune", ("look_over", job.cluster, "0", "0", "9"), 0)).facts
        named = [fact.removeprefix("job.") for fact in found if fact.startswith("job.")]
        one.send(shell.Call("prune", ("remove", *named), 0))
        left = [
            path for place in ("jobs", "work", "stage") for path in (one.root / place).iterdir()
        ]
        assert left == [], at
        if count < at:
            break
    assert at > 3

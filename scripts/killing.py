"""Killing the client at a random moment, and what must be true of its job afterwards.

Used by the tests with one round or so, and by scripts/bench with many.
"""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

TASKS = 60
SLOTS = 3
# Each task says on its instance, outside its folder, that it ran.
SCRIPT = """\
#!/bin/sh
echo "$PMR_TASK_INDEX" >>"$HOME/ran-$PMR_JOB_ID"
sleep 0.2
echo "result of $PMR_TASK_INDEX"
exit 0
"""
# How long after the job was announced the submit may still be going on, and how long after its
# first sign of progress the job.
SUBMIT_S = 2.0
WORK_S = 3.0


class Command(Protocol):
    """The real `pmr`, in a process of its own with an empty home."""

    def __call__(self, *args: str | Path, check: bool = True, timeout_s: float = 60) -> Any:  # noqa: ANN401 (a completed process of text)
        """Run `pmr ARGS`."""

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start `pmr ARGS` as the leader of a process group."""


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one job whose client was killed; `wrong` says what is not as it must be."""

    job: str
    moment: str
    wrong: tuple[str, ...]


def write_scripts(folder: Path, rng: random.Random, *, padding_bytes: int = 0) -> Path:
    """Write the scripts of a map; padding makes its content too large for one send."""
    folder.mkdir()
    for number in range(TASKS):
        padding = base64.b64encode(rng.randbytes(padding_bytes)).decode()
        (folder / f"task {number:02d}").write_text(f"{SCRIPT}# {padding}\n")
    return folder


@dataclass(slots=True)
class Signs:
    """What a client says on stderr, read by a thread so that it never waits for a reader."""

    stream: IO[bytes]
    lines: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    over: bool = False

    def read(self) -> None:
        """Take in lines until the stream ends."""
        for line in self.stream:
            with self.news:
                self.lines.append(line.decode(errors="replace"))
                self.news.notify_all()
        with self.news:
            self.over = True
            self.news.notify_all()

    def wait(self, wanted: Callable[[str], bool]) -> str:
        """Return the first line that is wanted."""

        def found() -> list[str]:
            return [line for line in self.lines if wanted(line)]

        with self.news:
            self.news.wait_for(lambda: self.over or found(), timeout=60)
            if not found():
                raise RuntimeError("the client said only: " + "".join(self.lines))
            return found()[0]


def killed_client(
    pmr: Command, cluster: str, scripts: Path, rng: random.Random, *, submitting: bool
) -> tuple[str, str]:
    """Submit a map and SIGKILL its client; return the job's id and the moment, in words."""
    words = ("map", "-n", cluster, scripts, "--slots", str(SLOTS))
    with pmr.start(*words) as client:
        signs = Signs(cast("IO[bytes]", client.stderr))
        reader = threading.Thread(target=signs.read, daemon=True)
        reader.start()
        job = signs.wait(lambda line: line.startswith("job ")).split()[1].rstrip(":")
        if not submitting:
            signs.wait(lambda line: " done, " in line)
        after_s = rng.uniform(0, SUBMIT_S if submitting else WORK_S)
        threading.Event().wait(after_s)
        os.killpg(client.pid, signal.SIGKILL)
        reader.join(10)
    since = "the announcement" if submitting else "the first progress"
    return job, f"{after_s:.2f} s after {since}"


def play(
    pmr: Command, cluster: str, folder: Path, rng: random.Random, *, submitting: bool
) -> Round:
    """Kill a client, come back from another home, and check that nothing is lost or done twice."""
    padding_bytes = rng.choice((0, 3000)) if submitting else 0
    scripts = write_scripts(folder / "scripts", rng, padding_bytes=padding_bytes)
    job, moment = killed_client(pmr, cluster, scripts, rng, submitting=submitting)
    if submitting:
        words: tuple[str | Path, ...] = ("map", scripts, "--slots", str(SLOTS), "--job-id", job)
        how = "resubmitted"
    else:
        words, how = ("logs", "-f", job), "followed"
    back = pmr(*words, "-n", cluster, check=False, timeout_s=120)
    wrong = [] if back.returncode == 0 else [f"{how}: exit code {back.returncode}: {back.stderr}"]
    return Round(job, f"{moment}, {how}", (*wrong, *_wrong(pmr, cluster, job, folder)))


def _wrong(pmr: Command, cluster: str, job: str, folder: Path) -> Sequence[str]:
    said = pmr("run", "-n", cluster, "--no-prefix", "-c", f'cat "$HOME/ran-{job}"', check=False)
    ran = Counter(said.stdout.split())
    times = [(number, ran[str(number)]) for number in range(TASKS)]
    wrong = [f"task {number} ran {count} times" for number, count in times if count != 1]
    got = pmr("results", job, "-n", cluster, "-o", folder / "results", check=False)
    if got.returncode != 0:
        wrong.append(f"results: exit code {got.returncode}: {got.stderr}")
    for number in range(TASKS):
        log = folder / "results" / f"{number}.log"
        if not log.exists() or log.read_text() != f"result of {number}\n":
            wrong.append(f"task {number} has no result")
    return wrong

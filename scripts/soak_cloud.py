"""A local cloud for the soak, the clients that it starts, and what both leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from poormanray.aws.local_admin import ask
from poormanray.aws.session import Endpoint
from scripts.soak_check import Ran
from scripts.soak_plan import TIME_SCALE

PMR = Path(sys.executable).with_name("pmr")
KEPT_VARIABLES = ("PATH", "TMPDIR", "LANG", "LC_ALL", "USER", "LOGNAME")
# Delays that a round would only wait for.
QUICK = ("pending_s", "registration_s", "profile_visible_s", "stopping_s", "shutting_down_s")
QUICK_S = 0.3
DUMP_S = 5.0
KEY_NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def pause(seconds: float) -> None:
    """Let time pass for others."""
    threading.Event().wait(seconds)


@dataclass(slots=True)
class Client:
    """One `pmr` and what it has said so far."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes]
    files: Path
    began_s: float
    deadline_s: float
    kill_at_s: float | None = None
    killed: bool = False
    hung: bool = False

    def look(self) -> bool:
        """Say whether it has ended; kill it where that is planned or its deadline has passed."""
        if self.process.poll() is not None:
            return True
        took_s = time.monotonic() - self.began_s
        if self.kill_at_s is not None and took_s >= self.kill_at_s:
            self.killed = True
            self._end(signal.SIGKILL)
        elif took_s >= self.deadline_s:
            self.hung = True
            # The interpreter's fault handler writes where every thread stands.
            os.kill(self.process.pid, signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(DUMP_S)
            self._end(signal.SIGKILL)
        return self.process.poll() is not None

    def _end(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(30)

    @property
    def code(self) -> int:
        """Return the exit code."""
        return self.process.returncode

    @property
    def stdout(self) -> str:
        """Return what it wrote to its stdout."""
        return self.files.with_suffix(".out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """Return what it wrote to its stderr."""
        return self.files.with_suffix(".err").read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """Return its JSON Lines; a last line that was cut off by its death is left out."""
        found = []
        for line in self.stdout.splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]


@dataclass(slots=True)
class Cloud:
    """One local cloud in a folder of its own."""

    folder: Path
    contact: dict[str, Any] = field(default_factory=dict)
    clients: int = 0

    def environment(self) -> dict[str, str]:
        """Return the environment of `pmr`: an empty home, no settings of the user's."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        ours = {"HOME": self.folder / "home", "PMR_LOCAL": "1", "PMR_LOCAL_DIR": self.state}
        return {**kept, **{k: str(v) for k, v in ours.items()}, "PYTHONFAULTHANDLER": "1"}

    @property
    def state(self) -> Path:
        """Return the cloud's state folder."""
        return self.folder / "c"

    def pmr(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `pmr WORDS`."""
        return subprocess.run(
            [PMR, *words],
            capture_output=True,
            text=True,
            errors="replace",
            env=self.environment(),
            timeout=120,
            check=False,
        )

    def environment_of_keys(self) -> dict[str, str]:
        """Return the environment of a `pmr` that takes the cloud for AWS, with keys in a file."""
        ours = {
            "PMR_LOCAL": "0",
            "AWS_ENDPOINT_URL": self.contact["url"],
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "keys"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return {**self.environment(), **ours}

    def write_keys(self, *, lasting: bool) -> None:
        """Write keys where clients find them: of a new session, or such that never end."""
        import boto3

        mine = (self.contact["access_key"], self.contact["secret_key"])
        keys = dict(zip(KEY_NAMES, mine, strict=False))
        if not lasting:
            sts = boto3.Session(*mine, region_name=self.contact["region"]).client(
                "sts", endpoint_url=self.contact["url"]
            )
            issued = sts.get_session_token()["Credentials"]
            words = (issued["AccessKeyId"], issued["SecretAccessKey"], issued["SessionToken"])
            keys = dict(zip(KEY_NAMES, words, strict=True))
        lines = ["[default]", *(f"{name} = {value}" for name, value in keys.items())]
        fresh = self.folder / "keys.new"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(self.folder / "keys")

    def start(
        self,
        *words: str,
        deadline_s: float,
        kill_at_s: float | None = None,
        keyed: bool = False,
    ) -> Client:
        """Start `pmr WORDS` as the leader of a process group; it writes into files."""
        self.clients += 1
        files = self.folder / f"client-{self.clients}.x"
        with files.with_suffix(".out").open("wb") as out, files.with_suffix(".err").open("wb") as e:
            process = subprocess.Popen(
                [PMR, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=e,
                env=self.environment_of_keys() if keyed else self.environment(),
                cwd=self.folder / "home",
                start_new_session=True,
            )
        return Client(words, process, files, time.monotonic(), deadline_s, kill_at_s)

    def ask(self, method: str, route: str, document: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 (JSON)
        """Ask the daemon by a route of its own."""
        endpoint = Endpoint(*(self.contact[key] for key in ("url", "access_key", "secret_key")))
        return ask(endpoint, method, route, document)

    def machines(self) -> dict[str, str]:
        """Return how each instance that is not terminated is: off, on or online."""
        told = self.ask("GET", "status")["instances"]
        return {one["instance_id"]: one["machine"] for one in told if one["state"] in ALIVE}

    @property
    def is_nested(self) -> bool:
        """Whether instances are machines of their own."""
        return bool(self.contact["isolation"] == "namespaces")

    def log_size(self) -> int:
        """Return the size of the daemon's log."""
        return (self.state / "cloud.log").stat().st_size

    def trouble(self, since: int) -> str:
        """Return what the daemon's log says of bugs from this place on."""
        with (self.state / "cloud.log").open("rb") as log:
            log.seek(since)
            said = log.read().decode(errors="replace")
        at = said.find("Traceback")
        return said[max(0, at - 300) : at + 3000] if at >= 0 else ""

    # What tasks witness: a file of each instance, written by them alone, that outlives it.

    @property
    def witness_inside(self) -> str:
        """Return the folder where tasks find the file named like their instance."""
        return "/var/tmp" if self.is_nested else str(self.folder / "w")  # noqa: S108 (an instance's)

    def lay_witness(self, instance_id: str) -> None:
        """Make the file that an instance's tasks write to."""
        ours = self.folder / "w" / instance_id
        ours.touch()
        ours.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | 0o622)
        if self.is_nested:
            within = self.state / "instances" / instance_id / "var" / "tmp"
            owner = within.stat()
            # A link without its folder's owner may not be opened by others (protected_regular).
            os.chown(ours, owner.st_uid, owner.st_gid)
            with suppress(FileExistsError):
                (within / instance_id).hardlink_to(ours)

    def witnessed(self, instance_ids: Iterator[str] | list[str]) -> dict[str, list[Ran]]:
        """Return what tasks of each job have witnessed."""
        found: dict[str, list[Ran]] = {}
        for instance_id in instance_ids:
            ends: dict[tuple[str, ...], float] = {}
            path = self.folder / "w" / instance_id
            lines = path.read_text().splitlines() if path.exists() else []
            rows = [line.split() for line in lines]
            for word, job, task, attempt, when in (row for row in rows if len(row) == ROW):
                if word == "end":
                    ends[job, task, attempt] = float(when)
            for word, job, task, attempt, when in (row for row in rows if len(row) == ROW):
                if word == "start":
                    end = ends.get((job, task, attempt))
                    ran = Ran(int(task), int(attempt), instance_id, float(when), end)
                    found.setdefault(job, []).append(ran)
        return found

    def left_of(self, words: list[str]) -> list[str]:
        """Return the processes whose environment or command line has one of these words."""
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit() or int(path.name) == os.getpid():
                continue
            with suppress(OSError):
                said = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
                if any(word.encode() in said for word in words):
                    line = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(f"{path.name}: {line[:150].decode(errors='replace')}")
        return found

    def descendants(self) -> list[psutil.Process]:
        """Return the daemon and every process below it."""
        daemon = psutil.Process(int(self.contact["pid"]))
        return [daemon, *daemon.children(recursive=True)]


ALIVE = ("pending", "running", "stopping", "stopped")
# A line of a witness: start or end, job, task, attempt, time.
ROW = 5


@contextmanager
def cloud(wrong: list[str]) -> Iterator[Cloud]:
    """Start a cloud, and end it; what it leaves behind is told in `wrong`."""
    # A short path: sockets below it must stay under 108 characters.
    own = Cloud(Path(tempfile.mkdtemp(prefix="s-")))
    for name in ("home", "w"):
        (own.folder / name).mkdir()
    try:
        settings = [f"--set={name}={QUICK_S}" for name in QUICK]
        up = own.pmr("local", "up", "--time-scale", str(TIME_SCALE), *settings)
        if up.returncode != 0:
            raise RuntimeError(f"the local cloud does not start: {up.stderr}")
        own.contact = json.loads((own.state / "cloud.json").read_text())
        yield own
    finally:
        there = own.descendants() if own.contact else []
        down = own.pmr("local", "down")
        if down.returncode != 0:
            wrong.append(f"local down: exit code {down.returncode}: {down.stderr}")
        _, alive = psutil.wait_procs(there, timeout=10)
        wrong += [f"a process is left: {process}" for process in alive]
        wrong += [f"a process is left: {line}" for line in own.left_of([str(own.folder)])]
        shutil.rmtree(own.folder, ignore_errors=True)

"""A local cloud for the whole test session, and the real `pmr` command to talk to it."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.command_server import CommandServer

PMR = Path(sys.executable).with_name("pmr")
# Delays that a test only waits for; those of a command (`delivery_s` and the like) stay real.
QUICK = {
    "pending_s": 0.1,
    "registration_s": 0.2,
    "profile_visible_s": 1,
    "stopping_s": 0.1,
    "shutting_down_s": 0.1,
    "jobs_end_s": 0.3,
    "settle_s": 3,
}
# All else that the user has set must not change what a test sees.
KEPT_VARIABLES = ("PATH", "TMPDIR", "LANG", "LC_ALL", "USER", "LOGNAME")

# Whatever a shell starts in the background ignores these, and so would all that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@dataclass(frozen=True, slots=True)
class Pmr:
    """The real command, in a process of its own, with an empty home and no AWS settings."""

    home: Path
    state: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the whole environment that the command gets."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        ours = {"HOME": str(self.home), "PMR_LOCAL": "1", "PMR_LOCAL_DIR": str(self.state)}
        return {**kept, **ours, **self.env}

    def __call__(
        self, *args: str | Path, check: bool = True, stdin: str = "", timeout_s: float = 150
    ) -> subprocess.CompletedProcess[str]:
        """Run `pmr ARGS`; with `check`, anything but exit code 0 fails the test."""
        ended = self.raw(*args, check=check, stdin=stdin.encode(), timeout_s=timeout_s)
        stdout, stderr = (data.decode(errors="replace") for data in (ended.stdout, ended.stderr))
        return subprocess.CompletedProcess(ended.args, ended.returncode, stdout, stderr)

    def raw(
        self, *args: str | Path, check: bool = True, stdin: bytes = b"", timeout_s: float = 150
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `pmr ARGS` and return its output as it is."""
        ended = command_server().run(
            [str(arg) for arg in args],
            stdin=stdin,
            env=self.environment(),
            cwd=self.home,
            timeout=timeout_s,
        )
        if check and ended.returncode != 0:
            words = " ".join(str(arg) for arg in args)
            both = (ended.stdout + ended.stderr).decode(errors="replace")
            pytest.fail(f"`pmr {words}` exited {ended.returncode}:\n{both}")
        return ended

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start `pmr ARGS` as the leader of a new process group; the caller ends it."""
        return subprocess.Popen(
            [PMR, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
            cwd=self.home,
            start_new_session=True,
        )

    def json(self, *args: str | Path, check: bool = True) -> Any:  # noqa: ANN401 (JSON is Any)
        """Run `pmr ARGS --json` and return its one document."""
        return json.loads(self(*args, "--json", check=check).stdout)

    def with_env(self, **variables: str) -> Pmr:
        """Return the same command with more environment variables."""
        return Pmr(self.home, self.state, {**self.env, **variables})


class ClientFactory(Protocol):
    """Makes boto3 clients that speak to the local cloud."""

    def __call__(self, service: str) -> Any:  # noqa: ANN401 (each service has its own type)
        """Return a client of one service."""


@cache
def command_server() -> CommandServer:
    """Return what starts commands for this process, for as long as it lives."""
    server = CommandServer()
    atexit.register(server.close)
    return server


@contextmanager
def own_cloud(
    home: Path,
    settings: Mapping[str, float] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Pmr]:
    """Start a local cloud, and end it at the end of the block or of this process."""
    chosen = {**QUICK, **(settings or {})}
    # A short path: sockets below it must stay under 108 characters.
    state = Path(tempfile.mkdtemp(prefix="pmr-"))
    command = Pmr(home, state, env or {})
    guard = _end_with_us(command)
    try:
        command("local", "up", *(f"--set={name}={delay}" for name, delay in chosen.items()))
        yield command
    finally:
        guard.communicate(timeout=60)
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    """Return the command, with a local cloud of this test session's own behind it."""
    with own_cloud(tmp_path_factory.mktemp("home")) as command:
        yield command


# The shell ends at once, so that the process is nobody's child: tests here count their own.
WHEN_STDIN_CLOSES = 'exec 3<&0; (cat <&3; "$0" local down) >&2 &'


def _end_with_us(command: Pmr) -> subprocess.Popen[bytes]:
    """Start a process that ends the cloud when its stdin closes: now, or when we are killed."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", WHEN_STDIN_CLOSES, PMR],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=command.environment(),
        start_new_session=True,
    )
    guard.wait(timeout=10)
    return guard


@pytest.fixture(scope="session")
def client(pmr: Pmr) -> ClientFactory:
    """Return a maker of boto3 clients for the local cloud."""
    import boto3

    contact = json.loads((pmr.state / "cloud.json").read_text())

    def make(service: str) -> Any:  # noqa: ANN401 (each service has its own type)
        session: Any = boto3.Session(
            aws_access_key_id=contact["access_key"],
            aws_secret_access_key=contact["secret_key"],
            region_name=contact["region"],
        )
        return session.client(service, endpoint_url=contact["url"])

    return make


@pytest.fixture(scope="session")
def new_cluster(pmr: Pmr) -> Iterator[Callable[[str, int], str]]:
    """Return a maker of clusters of ready instances; they end with the test session."""
    names: list[str] = []

    def make(name: str, count: int) -> str:
        pmr("create", "-n", name, "-N", str(count), timeout_s=120)
        names.append(name)
        return name

    yield make
    for name in names:
        pmr("terminate", "-n", name, "--yes", check=False)


@pytest.fixture(scope="session")
def cluster(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster of 3 ready instances; leave them as they are."""
    return new_cluster("shared", 3)

"""What the benchmarks share: figures with their limits, and a local cloud to measure on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PMR = Path(sys.executable).with_name("pmr")
KEPT_VARIABLES = ("PATH", "TMPDIR", "LANG", "LC_ALL", "USER", "LOGNAME")
TYPE = "t3.micro"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; it must not exceed the limit (none: it is only told)."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Say whether the limit is met."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Cloud:
    """A local cloud of this program's own, and `pmr` to talk to it, with an empty home."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Return the environment of `pmr`."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        state = str(self.folder / "cloud")
        return {**kept, "HOME": str(self.folder), "PMR_LOCAL": "1", "PMR_LOCAL_DIR": state}

    def __call__(
        self, *args: str | Path, check: bool = True, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `pmr ARGS`."""
        return subprocess.run(
            [PMR, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=self.environment(),
            timeout=timeout_s,
            check=check,
        )

    def raw(self, *args: str | Path) -> bytes:
        """Run `pmr ARGS` and return its stdout as it is."""
        return subprocess.run(
            [PMR, *args], capture_output=True, env=self.environment(), timeout=600, check=True
        ).stdout

    def start(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start `pmr ARGS` as the leader of a process group."""
        return subprocess.Popen(
            [PMR, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
            start_new_session=True,
        )

    def start_into(self, path: Path, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start `pmr ARGS`; its stdout goes to a file, and its stderr to one beside it."""
        with path.open("wb") as out, path.with_suffix(".err").open("wb") as err:
            return subprocess.Popen(
                [PMR, *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment(),
                start_new_session=True,
            )

    def calls(self, service: str = "ssm") -> Counter[str]:
        """Return how often each operation of a service was called so far."""
        told = json.loads(self("local", "status", "--json").stdout)
        return Counter(told["calls"].get(service, {}))


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as an error does, so that it leaves no cloud behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def cloud(*settings: str) -> Iterator[Cloud]:
    """Start a cloud with settings such as `ssm_rate=5`, and end it."""
    # A short path: sockets below it must stay under 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="b-"))
    own = Cloud(folder)
    try:
        own("local", "up", *(word for setting in settings for word in ("--set", setting)))
        yield own
    finally:
        own("local", "down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(own: Cloud, name: str, count: int) -> Iterator[str]:
    """Launch a cluster, and end it."""
    own("create", "-n", name, "-N", str(count), "-t", TYPE, timeout_s=1200)
    try:
        yield name
    finally:
        own("terminate", "-n", name, "--yes", timeout_s=1200)


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Append how long the block took."""
    began = time.monotonic()
    yield
    seconds.append(time.monotonic() - began)

"""Instances as plain processes with the user's own rights, where there are no namespaces."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

from poormanray.local.executions import Errand
from poormanray.local.folder import CONTROL, NOTICE, Directory, InstanceFolder
from poormanray.local.inside import with_variable
from poormanray.local.namespaces import ENTER
from poormanray.local.network import PATH

# Passed on by the shell that runs on instances, whatever else it drops.
MARKER = "PMR_HOST_MARK"
# A socket's path has at most 104 bytes (macOS; 108 on Linux); screen adds its pid and our name.
LONGEST_SCREEN_FOLDER = 50
LOST_CODE = 137
END_TIMEOUT_S = 10.0


def search_path(environ: Mapping[str, str]) -> str:
    """Return where scripts find programs: as on every Linux, whatever the caller has set.

    Where the usual folders have no shell (as on NixOS), the caller's folders follow them.
    """
    if shutil.which("bash", path=PATH) is not None:
        return PATH
    return f"{PATH}:{environ.get('PATH', '')}".rstrip(":")


class Supervised:
    """A running instance made of plain processes."""

    def __init__(self, folder: InstanceFolder, standins: Path) -> None:
        self._folder = folder
        self._standins = standins
        self._lock = threading.Lock()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._screens = folder.path / "run" / "screen"

    def boot(self) -> None:
        """Start the supervisor."""
        program = Path(__file__).with_name("supervisor.py")
        ours, theirs = socket.socketpair()
        with theirs:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        self._connection = ours
        if len(str(self._screens)) > LONGEST_SCREEN_FOLDER:
            name = hashlib.sha256(str(self._screens).encode()).hexdigest()[:12]
            self._screens = Path(tempfile.gettempdir(), f"pmr-{os.getuid()}-{name}")
            # Anybody may make a folder of this name there: then there is no instance.
            self._remove_screens()
            with Directory.at(self._screens.parent) as temporary:
                temporary.make_new(self._screens.name, 0o700).close()
        else:
            with self._folder.part("run") as run:
                run.make("screen", 0o700).close()

    def _remove_screens(self) -> None:
        if self._screens.parent != self._folder.path / "run":
            with Directory.at(self._screens.parent) as temporary:
                temporary.remove(self._screens.name)

    def launch(self, errand: Errand, outputs: tuple[int, int]) -> Started:
        """Start a script with the user's own rights."""
        report_read, report_write = os.pipe()
        run_id = uuid.uuid4().hex
        script = str(self._folder.path / errand.script)
        request = {
            "run": run_id,
            "argv": ["/bin/sh", "-c", ENTER, errand.working_directory, script],
            "env": {**errand.environment, **self._additions()},
        }
        try:
            self._send(request, [*outputs, report_write])
        except OSError:
            os.close(report_read)
            raise
        finally:
            os.close(report_write)
        return Started(self, run_id, report_read)

    def kill(self, run_id: str) -> None:
        """Send one SIGKILL to a script's process group."""
        # When the supervisor has gone, so has the script.
        with contextlib.suppress(OSError):
            self._send({"kill": run_id}, [])

    def limit_disk(self, free: int) -> None:
        """Raise OSError: plain processes write to the machine's own disk."""
        raise OSError(
            f"a disk with {free} bytes free needs namespaces, which are not to be had here"
        )

    def pids(self) -> list[int]:
        """Return the instance's processes."""
        return with_variable(MARKER, str(self._folder.path))

    def end(self) -> None:
        """End every process of the instance and wait until they are gone."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is None or self._supervisor is None:
            return
        connection.close()
        try:
            self._supervisor.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        sweep(self._folder.path)
        self._remove_screens()

    def _send(self, request: Mapping[str, object], descriptors: list[int]) -> None:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            if self._connection is None:
                raise OSError(f"{self._folder.instance_id} is not running")
            sent = socket.send_fds(self._connection, [line], descriptors)
            self._connection.sendall(line[sent:])

    def _additions(self) -> dict[str, str]:
        path = self._folder.path
        return {
            "PATH": f"{self._standins}:{search_path(os.environ)}",
            "PMR_ROOT": str(path / "var" / "lib" / "pmr"),
            "PMR_HOME": str(path / "root"),
            "PMR_INITCTL": str(path / CONTROL),
            "PMR_IMDS": str(path / NOTICE),
            "SCREENDIR": str(self._screens),
            "TMPDIR": str(path / "tmp"),
            MARKER: str(path),
        }


class Started:
    """A script that the supervisor started."""

    def __init__(self, machine: Supervised, run_id: str, report: int) -> None:
        self._machine = machine
        self._run_id = run_id
        self._report = report

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the script ends."""
        return self._report

    def exit_code(self) -> int | None:
        """Return the script's exit code once it has ended."""
        words = os.read(self._report, 64).split()
        # A supervisor that ends has killed everything, and reports nothing.
        return int(words[1]) if words else LOST_CODE

    def kill(self) -> None:
        """Send one SIGKILL to the script's process group."""
        self._machine.kill(self._run_id)

    def release(self) -> None:
        """Forget the script."""
        os.close(self._report)


def sweep(folder: Path) -> None:
    """Kill what still carries the marker of an instance in or below a folder."""
    prefix = f"{folder}/"
    for process in psutil.process_iter():
        try:
            marker = process.environ().get(MARKER, "")
            if f"{marker}/".startswith(prefix) and process.pid != os.getpid():
                process.send_signal(signal.SIGKILL)
        except (psutil.Error, OSError):
            continue  # not ours to read, or it has ended meanwhile

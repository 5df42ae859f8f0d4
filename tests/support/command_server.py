"""Start `pmr` by forking a process that has imported it: half a second less for each command.

The command is a process as always, with its own environment, folder, streams, signals and exit
code; only its imports are done beforehand. `CommandServer.run` is `subprocess.run` for it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).parents[2]
# What Python reads at its start only: a command that sets these differently needs one of its own.
AT_START = ("PYTHON", "LC_", "LANG")
FDS = 5  # stdin, stdout, stderr, the pipe for the exit code, and the request


@dataclass(slots=True)
class CommandServer:
    """A process that forks commands for as long as this object is not closed."""

    _socket: socket.socket = field(init=False)
    _env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Start the server, in an environment without settings of Python for the tests."""
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.run(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=REPO,
                env=self._env,
                check=True,
            )

    def close(self) -> None:
        """End the server; commands that still run go on."""
        self._socket.close()

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: bytes,
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `pmr WORDS` to its end, as `subprocess.run` with `capture_output` does."""
        if _at_start(env) != _at_start(self._env):
            return subprocess.run(
                [Path(sys.executable).with_name("pmr"), *words],
                input=stdin,
                capture_output=True,
                env=env,
                cwd=cwd,
                timeout=timeout,
                check=False,
            )
        until_s = time.monotonic() + timeout
        into, stdout, stderr, ended = (os.pipe() for _ in range(4))
        asked = os.memfd_create("command")
        os.write(asked, json.dumps([list(words), dict(env), str(cwd)]).encode())
        theirs = [into[0], stdout[1], stderr[1], ended[1], asked]
        try:
            socket.send_fds(self._socket, [b"."], theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        said = [bytearray(), bytearray()]
        streams = [
            threading.Thread(target=_write, args=(into[1], stdin), daemon=True),
            threading.Thread(target=_read, args=(stdout[0], said[0]), daemon=True),
            threading.Thread(target=_read, args=(stderr[0], said[1]), daemon=True),
        ]
        for stream in streams:
            stream.start()
        with open(ended[0], "rb", buffering=0) as told:  # noqa: PTH123 (a descriptor)
            pid = int(told.readline())
            for stream in streams:
                stream.join(max(0.0, until_s - time.monotonic()))
            if any(stream.is_alive() for stream in streams):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["pmr", *words], timeout, *map(bytes, said))
            code = int(told.readline())
        return subprocess.CompletedProcess(["pmr", *words], code, *map(bytes, said))


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(AT_START)}


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(fd, "wb") as stream:
        stream.write(data)


def _read(fd: int, into: bytearray) -> None:
    with open(fd, "rb", buffering=0) as stream:
        while data := stream.read(65536):
            into += data


# --- the server's process ----------------------------------------------------------------------


def _import_everything() -> None:
    from poormanray.cli import COMMANDS

    for row in COMMANDS.values():
        importlib.import_module(row.where.partition(":")[0])
    for name in ("boto3", "rich.console", "rich.table", "rich.progress", "tenacity"):
        importlib.import_module(name)


def _read_models() -> None:
    """Read the files that botocore has for our services; each command finds them read.

    Each command makes its sessions and clients as always.
    """
    import boto3
    import botocore.session
    from botocore import loaders

    session = botocore.session.get_session()
    ours = boto3.Session("none", "none", region_name="us-east-1", botocore_session=session)
    for service in ("ec2", "iam", "s3", "ssm", "sts"):
        ours.client(service)
    read = session.get_component("data_loader")
    create = loaders.create_loader

    def create_or_share(search_path_string: str | None = None) -> loaders.Loader:
        return create(search_path_string) if search_path_string else read

    loaders.create_loader = create_or_share


def _fork(requests: socket.socket) -> tuple[int, int] | None:
    """Fork a command; return its pid and the pipe for its exit code, or None in the command.

    EOFError: nobody asks any more.
    """
    data, fds, _, _ = socket.recv_fds(requests, 1, FDS)
    if not data:
        raise EOFError
    *streams, ended, asked = fds
    words, env, cwd = json.loads(os.pread(asked, os.fstat(asked).st_size, 0))
    pid = os.fork()
    if pid:
        for fd in (*streams, asked):
            os.close(fd)
        os.write(ended, f"{pid}\n".encode())
        return pid, ended
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = ["pmr", *words]
    return None


def _serve(requests: socket.socket) -> bool:
    """Fork commands until nobody asks any more; true in a command."""
    with selectors.DefaultSelector() as news:
        news.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in news.select():
                if key.fileobj is requests:
                    try:
                        started = _fork(requests)
                    except EOFError:
                        return False
                    if started is None:
                        return True
                    news.register(os.pidfd_open(started[0]), selectors.EVENT_READ, started)
                    continue
                pid, ended = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                news.unregister(key.fileobj)
                os.close(key.fd)
                with contextlib.suppress(BrokenPipeError):
                    os.write(ended, f"{code}\n".encode())
                os.close(ended)


def _main() -> None:
    if os.fork():
        # The server is nobody's child: tests count the processes that they have started.
        os._exit(0)
    requests = socket.socket(fileno=int(sys.argv[1]))
    # Ctrl-C is for the tests, which end this process by closing their side.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_everything()
    _read_models()
    if _serve(requests):
        # What the server has open is none of the command's.
        requests.detach()
        os.closerange(3, 1024)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from poormanray.cli import main

        main()


if __name__ == "__main__":
    _main()

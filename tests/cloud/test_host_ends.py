"""Nothing outlives an instance, nor the process that hosts it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import psutil
import pytest

from poormanray.local.host import Host
from tests.support.hosting import ONE, Guests, descendants, guests, pause, require, soon, still

# Beats into files from all sorts of daemons, in the folder that is a file on the machine too.
DAEMONS = """
cd ${PMR_ROOT:-/var/lib/pmr}
beat='while :; do echo >>"$0"; sleep 0.05; done'
setsid sh -c "$beat" setsid >/dev/null 2>&1 &
env -i PATH="$PATH" setsid sh -c "$beat" bare >/dev/null 2>&1 &
(setsid sh -c "env -i setsid sh -c '$beat' twice & " >/dev/null 2>&1 &)
screen -dmS beats sh -c "$beat" screen
nohup sh -c "$beat" nohup >/dev/null 2>&1 &
trap '' TERM HUP INT
"""
# Root inside takes hold of all that could keep the instance's first process from its end.
HOLD = """
cat >/var/tmp/hold.py <<'END'
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for at in ("/proc/1/fd", "/proc/1/task/1/fd"):
    for name in os.listdir(at) if os.access(at, os.R_OK) else ():
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            try:
                os.set_inheritable(os.open(f"{at}/{name}", flags | os.O_NONBLOCK), True)
            except OSError:
                pass
first = os.pidfd_open(1)
for number in range(8):
    libc.syscall(438, first, number, 0)  # pidfd_getfd
seized = libc.ptrace(0x4206, 1, None, None)  # PTRACE_SEIZE
stopped = libc.ptrace(0x4207, 1, None, None)  # PTRACE_INTERRUPT
os.kill(1, 19)
open("/var/lib/pmr/held", "w").write(f"{seized} {stopped}")
while True:
    open("/var/lib/pmr/beat", "a").write("x")
    time.sleep(0.05)
END
setsid python3 /var/tmp/hold.py >/dev/null 2>&1 </dev/null &
until test -s /var/lib/pmr/held; do sleep 0.05; done
"""
NAMES = ("setsid", "bare", "twice", "screen", "nohup")
CHILD = """
import sys, threading
from pathlib import Path
from poormanray.local.host import Host
host = Host(Path(sys.argv[1]))
host.boot(sys.argv[2], facts={})
ended = threading.Event()
host.execute(sys.argv[2], command_id="c", script=sys.stdin.buffer.read(), working_directory="",
    timeout_s=60, on_end=lambda how: ended.set())
ended.wait()
print("started", flush=True)
threading.Event().wait()
"""


@pytest.fixture(params=["namespaces", "processes"])
def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    require(cast("str", request.param), monkeypatch)
    with tempfile.TemporaryDirectory() as folder, guests(Path(folder)) as running:
        yield running


def beating(folder: Path) -> list[Path]:
    """Wait until all daemons beat; return their files."""
    files = [folder / "var" / "lib" / "pmr" / name for name in NAMES]
    soon(lambda: all(path.exists() for path in files))
    return files


@pytest.mark.parametrize("how", ["power_off", "close"])
def test_daemons_end_with_their_instance(on: Guests, how: str) -> None:
    on.says(DAEMONS)
    files = beating(on.path(""))
    if how == "close":
        on.host.close()
    else:
        on.host.power_off(ONE)
    assert all(still(path, 0.3) for path in files)
    assert descendants() == []


def test_daemons_end_when_the_instance_is_destroyed(on: Guests) -> None:
    on.says(DAEMONS)
    beating(on.path(""))
    on.host.destroy(ONE)
    pause(0.3)
    assert not on.path("").exists()
    assert descendants() == []


def test_unruly_folders_are_removed_too(on: Guests) -> None:
    on.says(
        "cd ${PMR_ROOT:-/var/lib/pmr}; mkdir -p a/b; touch a/b/c; chmod 0 a/b a; ln -s /usr link"
    )
    on.host.destroy(ONE)
    assert not on.path("").exists()
    assert Path("/usr").exists()


@pytest.mark.parametrize("isolation", ["namespaces", "processes"])
def test_nothing_survives_sigkill_to_the_host(
    isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(isolation, monkeypatch)
    with tempfile.TemporaryDirectory() as name:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, name, ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(DAEMONS.encode())
            child.stdin.close()
            assert child.stdout.readline() == b"started\n"
            files = beating(Path(name, ONE))
            family = psutil.Process(child.pid).children(recursive=True)
            family += beaters(name, isolation)
            assert family
            child.send_signal(signal.SIGKILL)
        soon(lambda: not any(alive(process) for process in family))
        assert all(still(path, 0.3) for path in files)
        # The next host cleans up what is left of the folders.
        Host(Path(name)).close()
        assert not Path(name, ONE).exists()


def test_root_inside_cannot_outlive_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    require("namespaces", monkeypatch)
    with tempfile.TemporaryDirectory() as name:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, name, ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(HOLD.encode())
            child.stdin.close()
            assert child.stdout.readline() == b"started\n"
            family = psutil.Process(child.pid).children(recursive=True)
            assert family
            child.send_signal(signal.SIGKILL)
        beat = Path(name, ONE, "var/lib/pmr/beat")
        try:
            soon(lambda: still(beat, 0.3))
            soon(lambda: not any(alive(process) for process in family))
        finally:
            for process in family:
                if alive(process):
                    process.kill()
        Host(Path(name)).close()


def beaters(folder: str, isolation: str) -> list[psutil.Process]:
    """Return the processes that work in an instance's folder, whoever their parent is."""
    place = "/var/lib/pmr" if isolation == "namespaces" else f"{folder}/{ONE}/var/lib/pmr"
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == place:
                found.append(process)
        except psutil.Error:
            continue
    return found


def alive(process: psutil.Process) -> bool:
    """Tell whether a process is more than a name in a table."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_many_instances_at_once(on: Guests) -> None:
    ids = [f"i-{number:017x}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda instance_id: on.host.boot(instance_id, facts={}), ids))
        running = [on.start(f"echo {instance_id}; exit 3", on=instance_id) for instance_id in ids]
        ends = [one.wait() for one in running]
        list(pool.map(on.host.destroy, ids))
    assert [(end.exit_code, end.stdout.decode().strip()) for end in ends] == [(3, i) for i in ids]


def test_isolation_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("poormanray.local.namespaces.PATH", str(tmp_path))
    monkeypatch.delenv("PMR_LOCAL_ISOLATION", raising=False)
    with guests(tmp_path / "state") as on:
        assert on.host.isolation == "processes"
        assert "nsenter is not installed" in on.host.isolation_reason
    monkeypatch.setenv("PMR_LOCAL_ISOLATION", "namespaces")
    with pytest.raises(OSError, match="nsenter is not installed"):
        Host(tmp_path / "state")
    monkeypatch.setenv("PMR_LOCAL_ISOLATION", "cells")
    with pytest.raises(OSError, match="expected namespaces or processes"):
        Host(tmp_path / "state")


@pytest.mark.parametrize("isolation", ["namespaces", "processes"])
def test_the_search_path_of_the_caller_decides_nothing(
    isolation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    require(isolation, monkeypatch)
    marker, own = tmp_path / "marker", tmp_path / "bin"
    own.mkdir()
    for name in ("bash", "cat", "cp", "nsenter", "python3", "screen", "setpriv", "setsid", "sh"):
        (own / name).write_text(f"#!/bin/sh\necho {name} >>{marker}\n")
        (own / name).chmod(0o755)
    for path in (f"{own}:{os.environ['PATH']}", str(own), ""):
        monkeypatch.setenv("PATH", path)
        with guests(tmp_path / "state") as on:
            said = on.says("bash -c 'echo ok'; setsid sh -c 'echo ok'; command -v screen")
            assert said.splitlines()[:2] == ["ok", "ok"]
            assert str(own) not in said
    assert not marker.exists()

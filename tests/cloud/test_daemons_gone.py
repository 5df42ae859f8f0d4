"""However the local cloud ends, no process and no port of it is left."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from poormanray.waiting import Clock, poll
from tests.cloud.conftest import Pmr, own_cloud

# Every way for a task to leave processes behind that its job knows nothing of.
PLANT = """
MARK=$1
env -i setsid -f sleep $MARK </dev/null >/dev/null 2>&1
env -i setsid sh -c "cd /; sleep $MARK & exec sleep $MARK" </dev/null >/dev/null 2>&1 &
nohup sh -c "trap '' TERM HUP INT; sleep $MARK; :" >/dev/null 2>&1 &
env -i screen -dmS planted sleep $MARK </dev/null >/dev/null 2>&1
sleep $MARK
"""


def sleepers(mark: str) -> list[int]:
    """Return the processes of this machine that have the mark among their words."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


@pytest.mark.parametrize("how", ["down", "SIGKILL"])
def test_nothing_is_left(tmp_path: Path, how: str) -> None:
    mark = f"{os.getpid()}.{7 if how == 'down' else 8}77"
    script = tmp_path / "plant.sh"
    script.write_text(PLANT.replace("$1", mark))
    with own_cloud(tmp_path) as command:
        contact = json.loads((command.state / "cloud.json").read_text())
        command("create", "-n", "planted", "-N", "1")
        command("run", "-n", "planted", "-d", "-u", "root", "-s", script)
        poll(lambda: len(sleepers(mark)) >= 5, clock=Clock(), timeout_s=20)
        processes = family(contact["pid"])
        if how == "down":
            command("local", "down")
            assert sleepers(mark) == []
        else:
            os.kill(contact["pid"], signal.SIGKILL)
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert alive == []
        poll(lambda: not sleepers(mark), clock=Clock(), timeout_s=10, first_s=0.1)
        assert _refused(contact["url"])


def _refused(url: str) -> bool:
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_daemonised_task_ends_with_terminate(pmr: Pmr, tmp_path: Path) -> None:
    mark = f"{os.getpid()}.979"
    script = tmp_path / "plant.sh"
    script.write_text(PLANT.replace("$1", mark))
    pmr("create", "-n", "ending", "-N", "1")
    pmr("run", "-n", "ending", "-d", "-u", "root", "-s", script)
    poll(lambda: len(sleepers(mark)) >= 5, clock=Clock(), timeout_s=20)
    pmr("terminate", "-n", "ending", "--yes")
    poll(lambda: not sleepers(mark), clock=Clock(), timeout_s=10, first_s=0.1)

"""`pmr local`: one daemon per folder, up and down, also after the worst."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.cloud.conftest import PMR, Pmr, own_cloud
from tests.support.until import until


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Pmr]:
    """Return the command with a state folder of the test's own."""
    state = Path(tempfile.mkdtemp(prefix="pmr-"))
    command = Pmr(tmp_path, state)
    yield command
    command("local", "down")
    shutil.rmtree(state)


def contact_of(command: Pmr) -> dict[str, Any]:
    contact: dict[str, Any] = json.loads((command.state / "cloud.json").read_text())
    return contact


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(contact: dict[str, Any]) -> bool:
    port = int(contact["url"].rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_up_and_down(own: Pmr) -> None:
    said = own.json("local", "up", "--time-scale", "5", "--set", "delivery_s=0.1")
    contact = contact_of(own)
    assert (said["started"], said["url"]) == (True, contact["url"])
    assert (
        own.state.stat().st_mode & 0o777,
        (own.state / "cloud.json").stat().st_mode & 0o777,
    ) == (
        0o700,
        0o600,
    )
    again = own.json("local", "up")
    assert (again["started"], again["url"]) == (False, contact["url"])
    refused = own("local", "up", "--time-scale", "7", check=False)
    assert refused.returncode == 2
    status = own.json("local", "status")
    assert status["settings"]["delivery_s"] == 0.1
    assert status["settings"]["time_scale"] == 5
    assert own.json("local", "down") == {"was_running": True}
    assert not answers(contact)
    assert not lives(contact["pid"])
    assert not (own.state / "cloud.json").exists()
    assert own.json("local", "down") == {"was_running": False}


def test_two_starters_make_one_cloud(own: Pmr) -> None:
    starters = [own.start("local", "up", "--json") for _ in range(3)]
    said = [json.loads(starter.communicate(timeout=60)[0]) for starter in starters]
    assert len({one["pid"] for one in said}) == 1
    assert sorted(one["started"] for one in said) == [False, False, True]


def test_after_sigkill(own: Pmr) -> None:
    own("local", "up")
    contact = contact_of(own)
    os.kill(contact["pid"], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(contact["pid"])] if psutil.pid_exists(contact["pid"]) else [])
    refused = own("local", "status", check=False)
    assert refused.returncode == 4
    assert own.json("local", "down") == {"was_running": False}
    assert not (own.state / "cloud.json").exists()
    assert own.json("local", "up")["pid"] != contact["pid"]


def test_sigterm_is_a_clean_stop(own: Pmr) -> None:
    own("local", "up")
    process = psutil.Process(contact_of(own)["pid"])
    process.terminate()
    psutil.wait_procs([process], timeout=20)
    assert not (own.state / "cloud.json").exists()
    assert not (own.state / "instances").exists()


def test_env_serves_other_clients(own: Pmr) -> None:
    own("local", "up")
    script = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    shell = f'eval "$("$0" local env)" && "$1" -c "{script}"'
    ended = subprocess.run(
        [
            "/bin/sh",
            "-c",
            shell,
            PMR,
            sys.executable,
        ],
        env=own.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "123456789012\n"


def test_reset_empties_the_cloud(own: Pmr) -> None:
    import boto3

    own("local", "up")
    contact = contact_of(own)
    session: Any = boto3.Session(
        aws_access_key_id=contact["access_key"],
        aws_secret_access_key=contact["secret_key"],
        region_name="us-east-1",
    )
    s3 = session.client("s3", endpoint_url=contact["url"])
    s3.create_bucket(Bucket="here-today")
    own("local", "reset")
    assert s3.list_buckets()["Buckets"] == []
    assert own.json("local", "status")["calls"] == {"s3": {"GET service": 1}}


@pytest.mark.parametrize("word", ["nonsense", "delivery_s=soon", "delivery_s=-1"])
def test_bad_settings_are_usage_errors(own: Pmr, word: str) -> None:
    refused = own("local", "up", "--set", word, check=False)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_an_unknown_setting_does_not_start(own: Pmr) -> None:
    refused = own("local", "up", "--set", "colour=1", check=False)
    assert refused.returncode == 4
    assert "colour" in refused.stderr


@pytest.mark.parametrize("where", ["/etc/passwd", "/proc/nowhere"])
def test_a_folder_that_cannot_be_one(tmp_path: Path, where: str) -> None:
    refused = Pmr(tmp_path, Path(where))("local", "up", check=False)
    assert refused.returncode == 2
    assert "PMR_LOCAL_DIR" in refused.stderr


def test_a_port_can_be_chosen(own: Pmr) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert own.json("local", "up", "--port", str(port))["url"] == f"http://127.0.0.1:{port}"


def _listens(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0


def test_a_daemon_that_does_not_answer_is_waited_for_and_not_replaced(tmp_path: Path) -> None:
    with own_cloud(tmp_path) as pmr:
        before = pmr.json("local", "status")["pid"]
        port = urlsplit(pmr.json("local", "status")["url"]).port
        pmr("local", "fault", "add", "port-closed", "--seconds", "15")
        # The fault's own answer still gets out.
        until(lambda: not _listens(port))
        assert pmr("local", "up", check=False).returncode == 4
        assert pmr("list", timeout_s=90).returncode == 0
        assert pmr.json("local", "status")["pid"] == before


def test_a_stranger_with_the_number_of_the_daemon_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cloud"
    folder.mkdir(mode=0o700)
    lock = folder / "running.lock"
    with subprocess.Popen(["sleep", "300"]) as stranger:
        try:
            lock.write_text(str(stranger.pid))
            lock.chmod(0o600)
            with lock.open() as file:
                # So it is where a process that the daemon left behind still holds its lock.
                fcntl.flock(file, fcntl.LOCK_EX)
                told = Pmr(tmp_path, folder)("local", "down", check=False, timeout_s=90)
            assert (told.returncode, "does not end" in told.stderr) == (4, True)
            assert stranger.poll() is None
        finally:
            stranger.kill()

"""The fixtures do what the other tests here rely on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from poormanray.waiting import Clock, poll
from tests.cloud.conftest import ClientFactory, Pmr


def test_the_cluster_is_ready_and_boto3_sees_it(
    pmr: Pmr, cluster: str, client: ClientFactory
) -> None:
    listed = pmr("list", "-n", cluster).stdout
    assert listed.count("online") == 3
    tag = {"Name": "tag:Project", "Values": [cluster]}
    found = client("ec2").describe_instances(Filters=[tag])["Reservations"]
    assert sum(len(reservation["Instances"]) for reservation in found) == 3


SESSION = """
import sys
from pathlib import Path
from tests.cloud.conftest import own_cloud

with own_cloud(Path(sys.argv[1])) as command:
    print(command.state, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_test_session_leaves_no_cloud(tmp_path: Path, sent: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    ) as session:
        assert session.stdout is not None
        state = Path(session.stdout.readline().strip())
        pid = json.loads((state / "cloud.json").read_text())["pid"]
        session.send_signal(sent)
    poll(lambda: not psutil.pid_exists(pid), clock=Clock(), timeout_s=30, longest_s=0.5)
    shutil.rmtree(state)

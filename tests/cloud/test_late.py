"""A send that an agent hands over late, after its cancel and a restart: refused, nothing runs."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from poormanray.envelope import decode
from poormanray.remote import SLACK_S
from tests.cloud.conftest import Pmr, own_cloud
from tests.support.until import until

CLUSTER = "late"
DELIVER_S = 30
# The client then believes that it is so much earlier: its send is good for 5 s more.
SKEW_S = DELIVER_S + SLACK_S - 5


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": 3}) as command:
        command("create", "-n", CLUSTER, "-N", "1", timeout_s=120)
        yield command


@pytest.fixture(scope="module")
def ssm(pmr: Pmr) -> Any:  # noqa: ANN401 (boto3 has no type of it)
    contact = json.loads((pmr.state / "cloud.json").read_text())
    session: Any = boto3.Session(contact["access_key"], contact["secret_key"])
    return session.client("ssm", endpoint_url=contact["url"], region_name=contact["region"])


def starts(ssm: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (boto3 has no type of it)
    return [one for one in ssm.list_commands()["Commands"] if one["Comment"].startswith("pmr run")]


def not_after_s(command: dict[str, Any]) -> int:
    packed = re.search(r"PMR_SEND='(.*?)'", command["Parameters"]["commands"][0])
    assert packed is not None
    script = gzip.decompress(base64.b64decode(packed[1]))
    found = re.search(rb"^NOT_AFTER=(\d+)$", script, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_the_last_moment_is_told_in_real_seconds(pmr: Pmr, ssm: Any) -> None:  # noqa: ANN401 (as above)
    before_s = time.time()
    pmr("run", "-n", CLUSTER, "--deliver-timeout", f"{DELIVER_S}s", "--", "true")
    (command,) = starts(ssm)
    assert -1.5 < not_after_s(command) - before_s - DELIVER_S - SLACK_S < time.time() - before_s + 1


def test_what_comes_late_is_refused_and_nothing_runs(pmr: Pmr, ssm: Any) -> None:  # noqa: ANN401 (as above)
    (one,) = [host["instance_id"] for host in pmr.json("list", "-n", CLUSTER)["instances"]]
    known = {command["CommandId"] for command in starts(ssm)}

    def status(command_id: str) -> str:
        rows = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
        return str(rows[0]["Status"]) if rows else ""

    full = [
        ssm.send_command(
            InstanceIds=[one],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["exec sleep 600"]},
        )["Command"]["CommandId"]
        for _ in range(5)
    ]
    until(lambda: {status(command_id) for command_id in full} == {"InProgress"})
    pmr("local", "fault", "add", "clock-skew", "--operation", "ssm:*", f"--seconds=-{SKEW_S}")
    words = ("run", "-n", CLUSTER, "--deliver-timeout", f"{DELIVER_S}s", "--", "touch", "/tmp/late")
    with pmr.start(*words) as running:
        (late,) = until(lambda: [c for c in starts(ssm) if c["CommandId"] not in known])
        command_id = late["CommandId"]
        until(lambda: status(command_id) == "InProgress")  # accepted, and waits for its turn
        running.kill()
        running.communicate(timeout=20)
    pmr("local", "fault", "clear")
    ssm.cancel_command(CommandId=command_id)
    until(lambda: status(command_id) == "Cancelling")
    for each in full:
        ssm.cancel_command(CommandId=each)
    until(lambda: {status(each) for each in full} == {"Cancelled"})
    until(lambda: time.time() > not_after_s(late) + 1)
    pmr("local", "fault", "add", "agent-restart", "--instance", one)
    until(lambda: status(command_id) not in ("Cancelling", "InProgress"))
    told = ssm.get_command_invocation(CommandId=command_id, InstanceId=one)
    assert decode(told["StandardOutputContent"]).facts["refused"] == "expired"
    assert pmr("run", "-n", CLUSTER, "--", "test", "!", "-e", "/tmp/late").returncode == 0
    jobs = pmr.json("jobs", "-n", CLUSTER)
    assert late["Comment"].split()[-1] not in json.dumps(jobs)

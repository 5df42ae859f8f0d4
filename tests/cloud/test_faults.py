"""Orders for faults, seen by a foreign client and by `pmr run`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.until import until

CLUSTER = "faulty"


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), {"agent_start_s": 0.2}) as command:
        command("create", "-n", CLUSTER, "-N", "3", timeout_s=120)
        yield command


@pytest.fixture(scope="module")
def once(pmr: Pmr) -> Callable[[str], Any]:
    """Return a maker of clients that try each call once."""
    contact = json.loads((pmr.state / "cloud.json").read_text())
    session: Any = boto3.Session(contact["access_key"], contact["secret_key"])

    def make(service: str) -> Any:  # noqa: ANN401 (each service has its own type)
        config = Config(retries={"total_max_attempts": 1}, read_timeout=30)
        where = {"endpoint_url": contact["url"], "region_name": contact["region"]}
        return session.client(service, config=config, **where)

    return make


@pytest.fixture
def order(pmr: Pmr) -> Iterator[Callable[..., Any]]:
    """Return what orders a fault; all are taken back at the end."""
    yield lambda *words: pmr.json("local", "fault", "add", *words)
    pmr("local", "fault", "clear")


def hosts(pmr: Pmr) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in pmr.json("list", "-n", CLUSTER)["instances"]}


def code_of(call: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call()
    said = caught.value.response
    return said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]


CALLS: dict[str, Callable[[Any], object]] = {
    "ssm": lambda ssm: ssm.list_commands(),
    "ec2": lambda ec2: ec2.describe_instances(),
    "iam": lambda iam: iam.list_roles(),
    "s3": lambda s3: s3.list_buckets(),
}


def test_throttled_and_failing_in_the_words_of_each_service(
    once: Callable[[str], Any], order: Callable[..., Any]
) -> None:
    order("throttle", "--count", "4")
    order("5xx", "--count", "4")
    throttled = {service: code_of(lambda s=service: CALLS[s](once(s))) for service in CALLS}  # type: ignore[misc]
    assert throttled == {
        "ssm": ("ThrottlingException", 400),
        "ec2": ("RequestLimitExceeded", 503),
        "iam": ("Throttling", 400),
        "s3": ("SlowDown", 503),
    }
    # Of each service one call was throttled: now it fails, and then it works.
    failing = {service: code_of(lambda s=service: CALLS[s](once(s))) for service in CALLS}  # type: ignore[misc]
    assert failing == {
        "ssm": ("InternalServerError", 500),
        "ec2": ("InternalError", 500),
        "iam": ("ServiceFailure", 500),
        "s3": ("InternalError", 500),
    }
    for service, call in CALLS.items():
        call(once(service))


def test_no_capacity(once: Callable[[str], Any], order: Callable[..., Any]) -> None:
    order("no-capacity")
    ec2 = once("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    launch = {"ImageId": image, "MinCount": 1, "MaxCount": 1}
    assert code_of(lambda: ec2.run_instances(**launch)) == ("InsufficientInstanceCapacity", 500)


def test_lost_before_and_after(once: Callable[[str], Any], order: Callable[..., Any]) -> None:
    s3 = once("s3")
    for kind, made in (("lost-request", False), ("lost-response", True)):
        order(kind, "--operation", "s3:PUT bucket", "--count", "1")
        with pytest.raises(BotoCoreError, match=r"[Cc]onnection"):
            s3.create_bucket(Bucket=kind)
        assert (kind in [one["Name"] for one in s3.list_buckets()["Buckets"]]) is made


def test_slow_and_with_another_clock(
    pmr: Pmr, once: Callable[[str], Any], order: Callable[..., Any]
) -> None:
    order("slow", "--operation", "ssm:ListCommands", "--seconds", "0.7", "--count", "1")
    order("clock-skew", "--operation", "ssm:*", "--seconds=-3600")
    started_s = time.monotonic()
    said = once("ssm").list_commands()["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert time.monotonic() - started_s > 0.7
    off_s = parsedate_to_datetime(said).timestamp() - time.time()
    assert -3605 < off_s < -3595
    listed = pmr.json("local", "fault", "list")["faults"]
    assert [(one["kind"], one["struck"], one["spent"]) for one in listed] == [
        ("slow", 1, True),
        ("clock-skew", 1, False),
    ]


def test_a_run_survives_what_a_bad_day_has(pmr: Pmr, order: Callable[..., Any]) -> None:
    order("throttle", "--operation", "ssm:*", "--probability", "0.3", "--seed", "11")
    order("lost-response", "--operation", "ssm:*", "--probability", "0.15", "--seed", "12")
    order("5xx", "--operation", "ec2:*", "--count", "1")
    ended = pmr("run", "-n", CLUSTER, "--", "sh", "-c", "echo once >>~/starts; wc -l ~/starts")
    assert len(re.findall(r"\] 1 /\S*/starts$", ended.stdout, re.MULTILINE)) == 3


def test_a_killed_runner_is_told_and_a_killed_screen_outlived(
    pmr: Pmr, order: Callable[..., Any]
) -> None:
    one, two, three = sorted(hosts(pmr))
    waits = "echo on; until [ -e /var/tmp/go ]; do sleep 0.2; done"
    running = pmr.start("run", "-n", CLUSTER, "--", "sh", "-c", waits)
    with running:
        assert running.stdout is not None
        # Before that a runner of an earlier job may be all that there is to kill.
        assert all(running.stdout.readline().endswith(b"] on\n") for _ in range(3))
        until(lambda: all(order("runner-kill", "--instance", one)["instances"].values()))
        until(lambda: all(order("screen-kill", "--instance", two)["instances"].values()))
        until(lambda: all(order("runner-kill", "--instance", three)["instances"].values()))
        until(lambda: not any(order("screen-kill", "--instance", two)["instances"].values()))
        pmr("run", "-n", CLUSTER, "-i", two, "--", "touch", "/var/tmp/go")
        said = running.communicate(timeout=60)
    assert running.returncode == 4, said
    summary = said[1].decode().splitlines()[-1]
    assert ("1 SUCCEEDED" in summary, "2 LOST" in summary) == (True, True), said


def test_frozen_and_thawed(pmr: Pmr, order: Callable[..., Any]) -> None:
    name = min(hosts(pmr))
    frozen = order("instance-freeze", "--instance", name, "--seconds", "2")
    assert min(frozen["instances"].values()) > 0
    assert pmr("run", "-n", CLUSTER, "--", "true").returncode == 0


def test_a_full_disk_is_told_and_outlives_a_reboot(pmr: Pmr, order: Callable[..., Any]) -> None:
    if pmr.json("local", "status")["isolation"] != "namespaces":
        pytest.skip("plain processes write to the machine's own disk")
    name = max(hosts(pmr))
    one = ("-n", CLUSTER, "-i", hosts(pmr)[name]["instance_id"])
    order("disk-full", "--instance", name)
    refused = pmr("run", *one, "--", "true", check=False)
    assert refused.returncode == 4
    assert "disk" in refused.stderr
    order("disk-full", "--instance", name, "--free", "256k")
    cut = pmr("run", *one, "--", "sh", "-c", "seq 200000 || exit 9", check=False)
    assert cut.returncode != 0, cut.stderr
    order("disk-free", "--instance", name)
    before = pmr.json("jobs", "-n", CLUSTER)
    assert before
    order("instance-reboot", "--instance", name)
    until(lambda: pmr("run", *one, "--", "true", check=False).returncode == 0)
    assert len(pmr.json("jobs", "-n", CLUSTER)) > len(before)


def test_agents_stop_and_start(
    pmr: Pmr, once: Callable[[str], Any], order: Callable[..., Any]
) -> None:
    one = hosts(pmr)[min(hosts(pmr))]["instance_id"]
    ssm = once("ssm")

    def status_of(command_id: str) -> str:
        rows = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
        return str(rows[0]["Status"]) if rows else ""

    for kind in ("agent-stop", "agent-hibernate"):
        order(kind, "--instance", one)
        sent = ssm.send_command(
            InstanceIds=[one],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["true"]},
        )
        command_id = sent["Command"]["CommandId"]
        until(lambda at=command_id: status_of(at) in ("Pending", "Delayed"))  # type: ignore[misc]
        order("agent-start", "--instance", one)
        until(lambda at=command_id: status_of(at) == "Success")  # type: ignore[misc]


def test_instances_come_to_their_end(
    pmr: Pmr, once: Callable[[str], Any], order: Callable[..., Any]
) -> None:
    one, two, three = (hosts(pmr)[name]["instance_id"] for name in sorted(hosts(pmr)))
    ec2 = once("ec2")

    def now(instance_id: str) -> tuple[str, str]:
        found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"]
        return found[0]["State"]["Name"], found[0].get("StateReason", {}).get("Code", "")

    pmr("run", "-n", CLUSTER, "-i", one, "--", "touch", "/tmp/before")
    order("instance-reboot", "--instance", one)
    order("instance-reclaim", "--instance", two, "--seconds", "0.5")
    order("instance-stop", "--instance", three)
    until(lambda: now(two) == ("terminated", "Server.SpotInstanceTermination"))
    until(lambda: now(three) == ("stopped", "Server.ScheduledStop"))
    order("instance-terminate", "--instance", three)
    pmr("wait", "-n", CLUSTER, "-i", one)
    gone = pmr("run", "-n", CLUSTER, "-i", one, "--", "test", "!", "-e", "/tmp/before")
    assert gone.returncode == 0


def test_bad_orders_are_refused(pmr: Pmr) -> None:
    assert pmr("local", "fault", "add", "bogus", check=False).returncode == 2
    assert pmr("local", "fault", "add", "slow", check=False).returncode == 2
    nobody = ("--instance", "nobody")
    assert pmr("local", "fault", "add", "instance-stop", *nobody, check=False).returncode == 3
    assert pmr("local", "fault", "clear", "f99", check=False).returncode == 3

"""The AWS CLI, unmodified, as a foreign client of the local cloud."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from poormanray.waiting import Clock, poll
from tests.cloud.conftest import Pmr, own_cloud

AWS = Path(sys.executable).with_name("aws")
CLUSTER = "foreign"


@dataclass(frozen=True)
class Cli:
    """The `aws` command with the settings that `pmr local env` prints."""

    env: dict[str, str]
    home: Path

    def __call__(self, *words: str) -> str:
        ended = subprocess.run(
            [AWS, *words], env=self.env, cwd=self.home, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"aws {' '.join(words)}: {ended.stderr}"
        return ended.stdout

    def json(self, *words: str) -> Any:  # noqa: ANN401 (JSON is Any)
        return json.loads(self(*words, "--output", "json"))


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home")) as command:
        command("create", "-n", CLUSTER, "-N", "1", timeout_s=120)
        yield command


@pytest.fixture(scope="module")
def aws(pmr: Pmr) -> Cli:
    env = {**pmr.environment(), **pmr.json("local", "env"), "AWS_EC2_METADATA_DISABLED": "true"}
    return Cli(env, pmr.home)


@pytest.fixture(scope="module")
def instance(pmr: Pmr) -> str:
    return str(pmr.json("list", "-n", CLUSTER)["instances"][0]["instance_id"])


def send(aws: Cli, instance: str, script: str) -> str:
    sent = aws.json(
        *("ssm", "send-command", "--document-name", "AWS-RunShellScript"),
        *("--instance-ids", instance, "--parameters", json.dumps({"commands": [script]})),
    )
    return str(sent["Command"]["CommandId"])


def test_run_instances(aws: Cli) -> None:
    image = aws.json(
        *("ssm", "get-parameter", "--name"),
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    )["Parameter"]["Value"]
    launch = ("--image-id", image, "--instance-type", "t3.micro", "--count", "2")
    made = aws.json("ec2", "run-instances", *launch)["Instances"]
    assert [one["State"]["Name"] for one in made] == ["pending"] * 2
    ids = [one["InstanceId"] for one in made]
    gone = aws.json("ec2", "terminate-instances", "--instance-ids", *ids)
    assert len(gone["TerminatingInstances"]) == 2


def test_a_command_is_sent_waited_for_and_read(aws: Cli, instance: str) -> None:
    command_id = send(aws, instance, "echo out; echo err >&2")
    which = ("--command-id", command_id)
    aws("ssm", "wait", "command-executed", *which, "--instance-id", instance)
    read = aws.json("ssm", "get-command-invocation", *which, "--instance-id", instance)
    assert (read["Status"], read["StandardOutputContent"]) == ("Success", "out\n")
    assert read["StandardErrorContent"] == "err\n"
    rows = aws.json("ssm", "list-command-invocations", *which, "--details")["CommandInvocations"]
    assert [(row["InstanceId"], row["Status"]) for row in rows] == [(instance, "Success")]


def test_a_command_is_cancelled(aws: Cli, instance: str) -> None:
    command_id = send(aws, instance, "sleep 60")

    def shown(status: str) -> bool:
        listed = aws.json("ssm", "list-command-invocations", "--command-id", command_id)
        return [row["Status"] for row in listed["CommandInvocations"]] == [status]

    poll(lambda: shown("InProgress"), clock=Clock(), timeout_s=20)
    aws("ssm", "cancel-command", "--command-id", command_id)
    poll(lambda: shown("Cancelled"), clock=Clock(), timeout_s=20)


def test_files_are_copied_both_ways(aws: Cli, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    # Above 8 MB the CLI uploads in parts, and downloads by ranges.
    there.write_bytes(bytes(range(256)) * 40_000)
    aws("s3", "mb", "s3://foreign")
    aws("s3", "cp", str(there), "s3://foreign/a file")
    aws("s3", "cp", "s3://foreign/a file", str(back))
    assert back.read_bytes() == there.read_bytes()

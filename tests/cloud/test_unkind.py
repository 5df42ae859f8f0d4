"""The commands of a working day, against a cloud that is as slow and as strict as AWS can be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cloud.conftest import Pmr, own_cloud

CLUSTER = "patient"
UNKIND = {
    "time_scale": 3,
    "page_max": 2,
    "instance_visible_s": 2,
    "tags_visible_s": 3,
    "profile_visible_s": 6,
    "visibility_s": 2,
    "registration_s": 2,
    "ec2_throttle": 1,
    "iam_rate": 2,
    "ssm_rate": 5,
    "stopped_accepted": 1,
    "pending_invocations_max": 6,
}


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), UNKIND) as command:
        command("create", "-n", CLUSTER, "-N", "5", timeout_s=120)
        yield command


def client_of(pmr: Pmr, service: str) -> Any:  # noqa: ANN401 (each service has its own type)
    contact = json.loads((pmr.state / "cloud.json").read_text())
    session: Any = boto3.Session(contact["access_key"], contact["secret_key"])
    return session.client(service, endpoint_url=contact["url"], region_name=contact["region"])


def commands(pmr: Pmr) -> list[dict[str, Any]]:
    pages = client_of(pmr, "ssm").get_paginator("list_commands").paginate()
    return [one for page in pages for one in page["Commands"]]


def test_all_are_listed_run_and_mapped_over_small_pages(pmr: Pmr, tmp_path: Path) -> None:
    listed = pmr.json("list", "-n", CLUSTER)["instances"]
    assert len(listed) == 5
    ran = pmr("run", "-n", CLUSTER, "--", "hostname")
    assert len(set(ran.stdout.splitlines())) == 5
    for number in range(12):
        (tmp_path / f"{number}.sh").write_text(f"echo {number} >&2\n")
    mapped = pmr("map", "-n", CLUSTER, tmp_path)
    assert "12 SUCCEEDED" in mapped.stderr


def test_a_command_that_is_one_too_many_is_sent_again(pmr: Pmr) -> None:
    words = ("run", "-n", CLUSTER, "--")
    with pmr.start(*words, "sleep", "2") as first, pmr.start(*words, "true") as second:
        said = [one.communicate(timeout=60) for one in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "RateExceeded" in {one["StatusDetails"] for one in commands(pmr)}


def test_an_instance_that_may_not_be_asked_is_named_and_spoils_nothing(pmr: Pmr) -> None:
    pmr("local", "fault", "add", "access-denied", "--instance", f"{CLUSTER}-0001")
    try:
        ran = pmr("run", "-n", CLUSTER, "--", "hostname", check=False)
    finally:
        pmr("local", "fault", "clear")
    assert ran.returncode == 4
    assert len(set(ran.stdout.splitlines())) == 4
    assert "not delivered (AccessDenied)" in ran.stderr
    assert f"{CLUSTER}-0001" in ran.stderr


def test_stopped_ones_that_are_taken_are_waited_for_no_longer_than_said(pmr: Pmr) -> None:
    pmr("pause", "-n", CLUSTER, "-i", f"{CLUSTER}-0004")
    assert pmr("run", "-n", CLUSTER, "--", "true", check=False).returncode == 4
    pmr("resume", "-n", CLUSTER, timeout_s=120)
    assert pmr("run", "-n", CLUSTER, "--", "true").returncode == 0


LATE = {"tags_visible_s": 12, "ec2_throttle": 0}


@pytest.mark.timeout(600)
def test_a_launch_whose_answers_get_lost_is_one_launch(tmp_path: Path) -> None:
    with own_cloud(tmp_path, LATE) as command:
        # More than botocore tries by itself; of what was launched, EC2 shows a part at first.
        lost = ("--operation", "ec2:RunInstances", "--count", "8")
        command("local", "fault", "add", "lost-response", *lost)
        told = command.json("create", "-n", "lost", "-N", "4", "-d")
        assert len(told["instances"]) == 4
        assert told["problem"] is None
        assert sorted(one["name"] for one in told["instances"]) == [
            f"lost-000{number}" for number in range(4)
        ]
        # By what it launched, not by its tags: nothing has to come in time.
        found = client_of(command, "ec2").describe_instances()["Reservations"]
        assert sum(len(one["Instances"]) for one in found) == 4

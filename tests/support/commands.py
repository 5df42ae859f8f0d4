"""What tests of commands share: their words, and the documents that they print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.cloud.conftest import Pmr


def events(text: str | bytes) -> list[dict[str, Any]]:
    """Return the JSON Lines of a command that streams."""
    return [json.loads(line) for line in text.splitlines()]


Words = tuple[str | Path, ...]
UNLESS_AGAIN = '[ "$PMR_TASK_ATTEMPT" -gt 1 ]'


def summary(stdout: str) -> dict[str, Any]:
    """Return the last line of a command that streams JSON."""
    told: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return told


def events_of_kind(stdout: str, kind: str) -> list[dict[str, Any]]:
    """Return what a command that streams JSON told of one kind."""
    return [event for line in stdout.splitlines() if (event := json.loads(line))["event"] == kind]


def starts(stdout: str) -> list[tuple[int, int]]:
    """Return every start of an attempt that was told."""
    told = events_of_kind(stdout, "task")
    return sorted((e["task"], e["attempt"]) for e in told if e["state"] == "RUNNING")


TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        },
    }
)


def ran(pmr: Pmr, cluster: str, job: str, folder: Path) -> dict[str, str]:
    """Return what each attempt wrote."""
    pmr("results", job, "-n", cluster, "-o", folder, check=False)
    return {path.stem: path.read_text() for path in folder.glob("*.log")}


ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

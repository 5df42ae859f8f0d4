"""Choosing instances and jobs: nothing that was named and is not there is passed over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from poormanray import cli
from poormanray.ledger import new_job_id
from tests.cloud.conftest import Pmr
from tests.support.commands import Words

# A dozen commands one after another, on a machine that has much else to do.
pytestmark = pytest.mark.timeout(600)
# What each command that takes -i needs beside it. A new one has to be added here.
WITH_INSTANCES: dict[str, Words] = {
    "run": ("-c", "true"),
    "map": ("--array", "0-3", "-c", "true"),
    "wait": (),
    "pause": (),
    "resume": (),
    "terminate": ("--yes",),
    "cancel": ("JOB",),
    "logs": ("JOB",),
}
AHEAD = """
import time
real = time.time
time.time = lambda: real() + 240
from poormanray.cli import main
main()
"""


@pytest.fixture(scope="module")
def pair(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster of two instances."""
    return new_cluster("pair", 2)


def submitted(pmr: Pmr, cluster: str, *words: str) -> str:
    return pmr("run", "-n", cluster, "-d", *words, "-c", "sleep 300").stdout.strip()


def test_an_unknown_instance_beside_a_known_one_is_an_error(pmr: Pmr, pair: str) -> None:
    context = click.Context(cli.pmr)
    commands = {name: cli.pmr.get_command(context, name) for name in cli.COMMANDS}
    taking = {
        name
        for name, command in commands.items()
        if command and any(param.name == "instance_ids" for param in command.params)
    }
    assert taking == WITH_INSTANCES.keys()
    job = submitted(pmr, pair)
    for name, needs in WITH_INSTANCES.items():
        words = [job if word == "JOB" else str(word) for word in needs]
        chosen = ("-i", f"{pair}-0000", "-i", "i-0abcdef0abcdef0ab")
        told = pmr(name, *chosen, *words, "-n", pair, check=False)
        assert told.returncode == 3, (name, told.stderr)
        assert "i-0abcdef0abcdef0ab" in told.stderr
    assert pmr.json("status", job, "-n", pair)["counts"]["RUNNING"] == 2
    assert pmr.json("cancel", job, "-n", pair)["tasks_cancelled"] == 2


def test_a_name_that_looks_like_an_id_or_last_can_be_addressed(pmr: Pmr, pair: str) -> None:
    odd = new_job_id()
    by_name = {name: submitted(pmr, pair, "--job-name", name) for name in (odd, "last")}
    newest = submitted(pmr, pair)
    assert pmr("status", f"id:{odd}", "-n", pair, check=False).returncode == 3
    assert pmr.json("status", odd, "-n", pair)["job"] == by_name[odd]
    assert pmr.json("status", "last", "-n", pair)["job"] == newest
    meant = {f"name:{odd}": by_name[odd], "name:last": by_name["last"], f"id:{newest}": newest}
    for reference, job in meant.items():
        ended = pmr.json("cancel", reference, "-n", pair)
        assert (ended["job"], ended["tasks_cancelled"]) == (job, 2)


def test_a_client_that_is_ahead_does_not_own_last(pmr: Pmr, pair: str) -> None:
    words = ["run", "-n", pair, "-d", "--json", "-c", "true"]
    ended = subprocess.run(
        [sys.executable, "-c", AHEAD, *words],
        capture_output=True,
        env=pmr.environment(),
        cwd=pmr.home,
        timeout=60,
        check=True,
    )
    ahead = json.loads(ended.stdout.splitlines()[-1])["job"]
    after = pmr("run", "-n", pair, "-d", "-c", "true").stdout.strip()
    assert ahead < after
    assert pmr.json("status", "last", "-n", pair)["job"] == after

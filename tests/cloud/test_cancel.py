"""A cancel is done where it is confirmed: every other instance is named, with what to type next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.hosting import soon

CLUSTER = "ends"


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    settings = {"time_scale": 10, "agent_start_s": 0.5, "ping_lost_s": 9999}
    with own_cloud(tmp_path_factory.mktemp("home"), settings) as command:
        command("create", "-n", CLUSTER, "-N", "3", timeout_s=120)
        yield command


@pytest.mark.timeout(600)
def test_an_instance_that_does_not_confirm_is_named(pmr: Pmr) -> None:
    job = pmr("map", "-n", CLUSTER, "--array", "0-2", "-d", "-c", "sleep 987.5").stdout.strip()
    soon(lambda: pmr.json("status", job, "-n", CLUSTER)["counts"].get("RUNNING") == 3, 60)
    pmr("local", "fault", "add", "agent-stop", "--instance", f"{CLUSTER}-0001")
    pmr("terminate", "-n", CLUSTER, "-i", f"{CLUSTER}-0002", "--yes")
    told = pmr("cancel", job, "-n", CLUSTER, "--json", check=False, timeout_s=240)
    assert told.returncode == 4
    done = json.loads(told.stdout)
    assert (done["tasks_cancelled"], done["missed"]) == (1, [f"{CLUSTER}-0001"])
    notes = told.stderr.splitlines()
    assert sum(f"[{CLUSTER}-0001] not cancelled" in note for note in notes) == 1
    assert not any(f"[{CLUSTER}-0002] not cancelled" in note for note in notes)
    (following,) = (note.partition("pmr ")[2] for note in notes if "  next: pmr cancel" in note)
    assert f"-i {CLUSTER}-0001" in following
    pmr("local", "fault", "add", "agent-start", "--instance", f"{CLUSTER}-0001")
    # The first cancel may still arrive there, within its time: either way it is confirmed now.
    assert pmr(*shlex.split(following), timeout_s=240).returncode == 0
    soon(
        lambda: pmr.json("status", job, "-n", CLUSTER, check=False)["counts"]["CANCELLED"] == 2, 60
    )
    # What EC2 shows as terminated has confirmed it.
    assert pmr("cancel", job, "-n", CLUSTER).returncode == 0

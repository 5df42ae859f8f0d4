"""Outages of two minutes of the cloud's time during a map of 200 tasks with retries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import events
from tests.support.outages import BACK, SAID, struck

CLUSTER = "long-outage"
TASKS, FAILING = 200, 25
OUTAGE_S = 120
THROTTLED = r"AWS has throttled calls to SSM for \d+ s \(.+\), still trying"
THROTTLED_NO_MORE = r"AWS throttles calls to SSM no more, after \d+ s"
# By name: the fault, how many times faster the cloud goes, and the lines at each end.
OUTAGES = {
    "5xx": (("5xx",), 3, SAID, BACK),
    "port closed": (("port-closed",), 3, SAID, BACK),
    "connections dropped before": (("lost-request",), 3, SAID, BACK),
    "connections dropped after": (("lost-response", "--operation", "ssm:*"), 3, SAID, BACK),
    "proxy": (("proxy-page",), 3, SAID, BACK),
    "every second call throttled": (
        ("throttle", "--probability", "0.5", "--seed", "3"),
        1,
        THROTTLED,
        THROTTLED_NO_MORE,
    ),
}


@pytest.fixture(params=OUTAGES)
def outage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Pmr]]:
    """Return the name of an outage, and a cloud for it."""
    scale = OUTAGES[request.param][1]
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": scale}) as command:
        command("create", "-n", CLUSTER, "-N", "3", timeout_s=120)
        yield request.param, command


def starts(pmr: Pmr) -> Counter[str]:
    """Return how often each attempt of each task has started, on all instances together."""
    said = pmr("run", "-n", CLUSTER, "-c", "cat /var/tmp/starts").stdout
    return Counter(line.partition("] ")[2] for line in said.splitlines())


@pytest.mark.timeout(600)
def test_a_map_outlasts_it(outage: tuple[str, Pmr], tmp_path: Path) -> None:
    name, pmr = outage
    (kind, *words), scale, begun, over = OUTAGES[name]
    # Tasks take real time: the job lasts longer than the outage on all slots together.
    # An end of throttling shows when there was none for a while.
    longer = 1.3 if begun == SAID else 1.7
    seconds = OUTAGE_S / scale * longer / (TASKS / 6)
    for number in range(TASKS):
        fails = "[ $PMR_TASK_ATTEMPT -gt 1 ] || exit 3" if number % (TASKS // FAILING) == 0 else ":"
        text = f"echo $PMR_TASK_ID.$PMR_TASK_ATTEMPT >>/var/tmp/starts\nsleep {seconds}\n{fails}\n"
        (tmp_path / f"{number:03}.sh").write_text(text)
    options = ("-n", CLUSTER, str(tmp_path), "--slots", "2", "--retries", "2", "--json")
    fault = (kind, *words, "--seconds", str(OUTAGE_S))
    ended = struck(pmr, ["map", *options], fault, b'"SUCCEEDED"', timeout_s=500)
    assert ended.code == 0, ended.stderr
    summary = events(ended.stdout)[-1]
    assert summary["counts"]["SUCCEEDED"] == TASKS
    attempts = {one["task"]: one["attempt"] for one in summary["tasks"]}
    assert Counter(attempts.values()) == {1: TASKS - FAILING, 2: FAILING}
    wanted = {f"{task}.{n}" for task, last in attempts.items() for n in range(1, last + 1)}
    assert starts(pmr) == dict.fromkeys(wanted, 1)
    of_ssm = [line for line in ended.stderr.splitlines() if "SSM" in line]
    assert len([line for line in of_ssm if re.fullmatch(begun, line)]) == 1, ended.stderr
    assert len([line for line in of_ssm if re.fullmatch(over, line)]) == 1, ended.stderr

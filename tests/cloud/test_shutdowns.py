"""A shutdown ends a job's processes first, and is recorded as what it is (more in tests/long)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.shutdowns import Round, check, play

CLUSTER = "falls"


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    settings = {"jobs_end_s": 1, "settle_s": 30, "interrupted_report_s": 1}
    with own_cloud(tmp_path_factory.mktemp("home"), settings) as command:
        command("create", "-n", CLUSTER, "-N", "2", timeout_s=180)
        yield command


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "one",
    [Round(0, "stop", True, 1.3, 0), Round(1, "reboot", False, 0.8, 1)],
    ids=["stop-attached", "reboot-detached"],
)
def test_what_ran_is_lost_and_the_queue_goes_on(pmr: Pmr, one: Round) -> None:
    check(pmr, CLUSTER, one, play(pmr, CLUSTER, one))

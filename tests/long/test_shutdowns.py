"""Shutdowns at moments of chance: `SHUTDOWNS=50 pytest -s tests/long/test_shutdowns.py` for all."""

from __future__ import annotations

import os

import pytest

from tests.cloud.conftest import own_cloud
from tests.support.shutdowns import rounds, shutdowns

COUNT = int(os.environ.get("SHUTDOWNS", "12"))
SEED = int(os.environ.get("SHUTDOWNS_SEED", "20261127"))


@pytest.mark.timeout(300 + 120 * COUNT)
def test_no_shutdown_costs_more_than_what_ran(tmp_path_factory: pytest.TempPathFactory) -> None:
    # The runner goes a second before the agent's script, and counts as dead after 30 s.
    settings = {"jobs_end_s": 1, "settle_s": 30, "interrupted_report_s": 1}
    with own_cloud(tmp_path_factory.mktemp("home"), settings) as pmr:
        pmr("create", "-n", "falls", "-N", "2", timeout_s=180)
        shutdowns(pmr, "falls", rounds(COUNT, SEED))

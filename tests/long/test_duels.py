"""Two clients with an instance that is terminated, and clients that are killed: nothing is lost."""

from __future__ import annotations

import pytest

from scripts.bench import measure_kills
from scripts.bench_duels import measure_duels

ROUNDS = 20


@pytest.mark.timeout(ROUNDS * 240)
def test_two_clients_and_a_terminated_instance_lose_and_repeat_nothing() -> None:
    wrong = [figure for figure in measure_duels(ROUNDS, 1, 2) if not figure.met]
    assert wrong == []


@pytest.mark.timeout(ROUNDS * 120)
def test_killed_clients_lose_and_repeat_nothing() -> None:
    # A round kills two clients: one while it submits, one while the job runs.
    wrong = [figure for figure in measure_kills(ROUNDS // 2, 1) if not figure.met]
    assert wrong == []

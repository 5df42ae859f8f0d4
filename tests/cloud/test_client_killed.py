"""A client that is killed loses nothing: its job goes on, and nothing of it runs twice."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts import killing
from tests.cloud.conftest import Pmr

# scripts/bench kill plays ten of each.
ROUNDS = int(os.environ.get("PMR_KILL_ROUNDS", "1"))
SEED = int(os.environ.get("PMR_KILL_SEED", "7"))


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_killed_client_loses_nothing(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    def play(number: int) -> killing.Round:
        rng = random.Random(SEED + number)
        folder = tmp_path / f"{number}"
        # A home that holds nothing of the client that is killed.
        (folder / "home").mkdir(parents=True)
        elsewhere = Pmr(folder / "home", pmr.state, pmr.env)
        return killing.play(elsewhere, cluster, folder, rng, submitting=number % 2 == 0)

    with ThreadPoolExecutor(2) as pool:
        wrong = [played for played in pool.map(play, range(2 * ROUNDS)) if played.wrong]
    assert wrong == []

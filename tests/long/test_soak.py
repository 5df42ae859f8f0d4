"""A slice of scripts/soak: rounds of commands under faults and killed clients."""

from __future__ import annotations

import pytest

from scripts import soak

SEED = 83
SECONDS = 60
WORKERS = 2


@pytest.mark.timeout(400)
def test_a_slice_of_the_soak() -> None:
    numbers = iter(range(1000))
    done = soak.soak(SEED, numbers, workers=WORKERS, seconds=SECONDS, say=print)
    assert not done.wrong
    assert [(one.number, one.wrong) for one in done.failed] == []
    assert len(done.rounds) >= WORKERS
    assert done.commands["create"] == len(done.rounds)
    assert any(tally.took for one in done.rounds for tally in one.faults.values())

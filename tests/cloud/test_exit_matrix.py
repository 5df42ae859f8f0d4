"""A slice of scripts/exits: each code and signal once.

Elsewhere: what else a task can do at its end, its timeout, and Ctrl-C (test_run); runners and
screens that are killed, and a disk that is full before (test_faults); faults in the middle
(tests/long).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts import exits
from tests.cloud.conftest import Pmr, own_cloud

CODES = (0, 4, 124, 255)
SIGNALS = (2, 3, 13)


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": 2}) as command:
        yield command


@pytest.fixture(scope="module")
def codes(pmr: Pmr) -> str:
    pmr("create", "-n", "codes", "-N", str(exits.INSTANCES))
    return "codes"


def test_every_code_and_signal_through_one_map(pmr: Pmr, codes: str, tmp_path: Path) -> None:
    scripts = exits.map_endings(exits.CODES, exits.SIGNALS)
    assert len(scripts) == 256 + 15
    judged = exits.play_map(pmr, codes, tmp_path, scripts)
    assert judged.wrong == []
    assert len(judged.seen.summary["tasks"]) == 256 + 15


def test_codes_and_signals_through_run(pmr: Pmr, codes: str, tmp_path: Path) -> None:
    cases = [
        *(case for case in exits.run_cases(codes, tmp_path, CODES, SIGNALS) if case.json),
        *(case for case in exits.several_cases(codes, (194,)) if not case.json),
        *exits.unseen_cases(codes),
    ]
    with ThreadPoolExecutor(6) as pool:
        judged = list(pool.map(lambda case: exits.play(pmr, case), cases))
    assert {one.case.name: one.wrong for one in judged if one.wrong} == {}

"""Tasks that a fault meets in the middle: each fault of scripts/exits in one of its ways."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import faulting
from scripts.ending import Judged
from tests.cloud.conftest import Pmr, own_cloud

WAY_OF = {
    "content does not arrive": "several",
    "instance terminated": "several",
    "instance rebooted": "map",
    "disk full in the middle": "map",
    "agent restarted": "one",
    "cancel": "several",
    "cancel of one task": "map",
    "timeout and failures": "map",
}


@pytest.mark.timeout(300)
def test_faults_in_the_middle(tmp_path: Path) -> None:
    with own_cloud(tmp_path, {"time_scale": 2}) as pmr:
        _play_all(pmr, tmp_path)


def _play_all(pmr: Pmr, tmp_path: Path) -> None:
    isolated = pmr.json("local", "status")["isolation"] == "namespaces"
    chosen = [
        replace(stage, ways=(WAY_OF[stage.name],))
        for stage in faulting.stages()
        if stage.name in WAY_OF and (isolated or not stage.disk)
    ]
    assert len(chosen) == len(WAY_OF) - (0 if isolated else 1)

    def play(stage: faulting.Stage) -> list[Judged]:
        cluster = stage.name.replace(" ", "-")
        return faulting.play_mode(pmr, stage, tmp_path, cluster, json=True)

    with ThreadPoolExecutor(len(chosen)) as pool:
        judged = [one for played in pool.map(play, chosen) for one in played]
    assert {one.case.name: one.wrong for one in judged if one.wrong} == {}
    assert len(judged) == len(chosen)

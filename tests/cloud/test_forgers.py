"""Root of one instance forges its ledger and its records: no command takes its word on others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from poormanray.events import checksum
from poormanray.schedule import spread
from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import summary
from tests.support.forgeries import FORGERIES, LIAR, SHARES

TASKS = 12
# The liar's tasks succeed and forge, once; those of the others fail.
PROGRAM = """
[ "$PMR_HOST_INDEX" = 1 ] || exit 3
ledger=${0%%/scripts/*}
mkdir "$ledger/forged" 2>/dev/null || exit 0
printf '%%s\\n' %s >>"$ledger/events"
printf '%%s\\n' %s >>"$ledger/mirror"
"""


def quoted(texts: list[str]) -> str:
    return " ".join(f"'{text} {checksum(text)}'" for text in texts)


def program() -> str:
    """Return what every task runs: all forgeries are made by one of them."""
    events = [text for some, _ in FORGERIES.values() for text in some]
    words = [word for _, some in FORGERIES.values() for word in some]
    return PROGRAM % (quoted(events), quoted(words))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    """Return the command, with a cloud whose time passes faster."""
    with own_cloud(tmp_path_factory.mktemp("home"), {"time_scale": 4}) as command:
        yield command


def test_no_command_believes_what_one_instance_says_of_others(quick: Pmr, tmp_path: Path) -> None:
    shares = spread(range(TASKS), len(SHARES))
    assert [set(share) for share in shares] == [set(share) for share in SHARES]
    on = ("-n", "forged")
    quick("create", *on, "-N", "3", timeout_s=120)
    words = ("--static", "--array", f"0-{TASKS - 1}", "-u", "root", "-c", program())
    told = quick("map", *on, "--json", *words, check=False, timeout_s=120)
    # What it claims to have adopted never ends there: its own tasks may count as lost for that.
    assert told.returncode in {1, 4}
    done = summary(told.stdout)
    job, own = done["job"], {*SHARES[LIAR]}

    def judge(rows: Iterable[Mapping[str, Any]]) -> None:
        states = {row["task"]: row["state"] for row in rows}
        assert {states[task] for task in states.keys() - own} == {"FAILED"}
        assert len(states) == TASKS

    judge(done["tasks"])
    counts = quick.json("status", job, *on)["counts"]
    assert counts["SUCCEEDED"] <= len(own)
    assert counts["FAILED"] >= TASKS - len(own)
    judge(quick.json("status", job, *on, "--tasks")["tasks"])
    quick("results", job, *on, "-o", tmp_path / "results", check=False)
    lines = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    judge(map(json.loads, lines))
    quick("report", job, *on, "-o", tmp_path / "report.csv", check=False)
    assert (tmp_path / "report.csv").read_text().count('"FAILED"') == TASKS - len(own)
    after = quick("run", *on, "--after", job, "-c", "true", check=False, timeout_s=120)
    assert after.returncode in {1, 4}
    assert "nothing was started" in after.stderr

"""How far instances are from being ready, in few words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from poormanray.cli.instances import row, verdict
from poormanray.cli.options import App
from poormanray.cli.output import Output
from poormanray.errors import ExitCode
from poormanray.model import Instance, InstanceState, Reachability, instance_name

Capture = pytest.CaptureFixture[str]


def some(count: int, state: InstanceState) -> tuple[Instance, ...]:
    return tuple(
        Instance(f"i-{n}", instance_name("demo", n), "demo", n, state) for n in range(count)
    )


def said_of(reach: Reachability, capsys: Capture) -> str:
    app = App(out=Output(), region=None, profile=None, local=False)
    assert verdict(app, reach, len(reach.ready) + len(reach.left_out)) == ExitCode.NOT_REACHED
    return capsys.readouterr().err


def test_all_ready_needs_no_words(capsys: Capture) -> None:
    app = App(out=Output(), region=None, profile=None, local=False)
    ready = Reachability(some(2, InstanceState.RUNNING), ())
    assert verdict(app, ready, 2) == ExitCode.OK
    assert capsys.readouterr().err == ""


def test_who_was_expected_and_is_not_there_is_not_ready() -> None:
    app = App(out=Output(), region=None, profile=None, local=False)
    assert verdict(app, Reachability(some(2, InstanceState.RUNNING), ()), 3) == 4
    assert verdict(app, Reachability((), ()), 0) == 4


def test_many_with_one_obstacle_take_one_line(capsys: Capture) -> None:
    left_out = tuple((one, "terminated (no room)") for one in some(28, InstanceState.TERMINATED))
    said = said_of(Reachability(some(2, InstanceState.RUNNING), left_out), capsys)
    assert said.splitlines() == [
        "demo-0000 (i-0), demo-0001 (i-1), demo-0002 (i-2), demo-0003 (i-3) and 24 more: "
        "terminated (no room)",
        "error: 28 of 30 instances not ready",
        "  next: pmr create -n demo -N 28 makes up for those that ended",
    ]


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (InstanceState.RUNNING, "ssmmessages"),
        (InstanceState.PENDING, "pmr wait -n demo"),
        (InstanceState.STOPPED, "pmr resume -n demo"),
    ],
)
def test_the_advice_fits_the_obstacle(state: InstanceState, advice: str, capsys: Capture) -> None:
    said = said_of(Reachability((), ((some(1, state)[0], "why"),)), capsys)
    assert advice in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "age"), [(5, "5s"), (150, "2m"), (7500, "2h05m"), (4 * 86400 + 7200, "4d02h")]
)
def test_age_is_told_in_two_units_at_most(seconds: int, age: str) -> None:
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    one = replace(some(1, InstanceState.RUNNING)[0], launched_at=since)
    assert row(one, "-")[-1] == age
    assert row(some(1, InstanceState.RUNNING)[0], "-")[-1] == "-"

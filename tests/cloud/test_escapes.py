"""Root of an instance plants traps in its own files: nothing outside of the instance changes.

Each attack runs on an instance of its own, as root inside, and is then met by everything that the
daemon does to an instance's files: scripts, spot notices, a full disk, stop, start, reboot, end.
All of them aim at a folder that was made for the test.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from tests.support.escapes import (
    ATTACKS,
    INSIDE_ATTACKS,
    LONGEST_S,
    PRELUDE,
    Outside,
    outsides,
)
from tests.support.hosting import Guests, guests, require


@pytest.fixture
def outside() -> Iterator[Outside]:
    with outsides() as found:
        yield found


@pytest.fixture(scope="module", params=["namespaces", "processes"])
def on(request: pytest.FixtureRequest) -> Iterator[Guests]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        require(cast("str", request.param), patch)
        with guests(Path(folder)) as running:
            yield running


def meet(on: Guests, attack: str, name: str, out: Path) -> None:
    """Run an attack on an instance of its own, and all that the daemon does to such a one."""
    at = "" if on.nested else str(on.path("", on=name))
    script = f"AT={shlex.quote(at)}\nOUT={shlex.quote(str(out))}\n{PRELUDE}\n{attack}\nexit 0\n"

    def go(*, limit: bool) -> None:
        # What an instance has spoilt of its own may fail, as long as it fails cleanly.
        if limit:
            with contextlib.suppress(OSError):
                on.host.boot(name, facts={})
                on.host.limit_disk(name, 1 << 20)
        with contextlib.suppress(OSError):
            on.start(script, on=name).wait(LONGEST_S)
        for command in ("next", "next"):
            with contextlib.suppress(OSError):
                on.start("true", on=name, command_id=command).wait(LONGEST_S)
        with contextlib.suppress(OSError):
            on.host.notify(name, "an end")
        with contextlib.suppress(OSError):
            on.host.limit_disk(name, -1)

    for limit in (True, False):
        go(limit=limit)
        on.host.power_off(name)
        with contextlib.suppress(OSError):
            go(limit=limit)
        on.host.power_off(name)
        on.host.destroy(name)
        assert not on.path("", on=name).exists()
    assert on.says("echo as new", on=name) == "as new"
    on.host.destroy(name)


def contained(on: Guests, attack: str, outside: Outside) -> None:
    """Fail where an attack changes anything outside, or keeps the daemon from going on."""
    before = outside.state()
    name = f"i-{abs(hash(attack)) % 16**17:017x}"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(meet, on, attack, name, outside.folder).result(LONGEST_S)
    assert outside.state() == before


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_changes(on: Guests, outside: Outside, attack: str) -> None:
    contained(on, ATTACKS[attack], outside)


# Plain processes have the user's own rights.
@pytest.mark.parametrize("on", ["namespaces"], indirect=True, scope="module")
@pytest.mark.parametrize("attack", INSIDE_ATTACKS)
def test_nothing_outside_changes_from_inside(on: Guests, outside: Outside, attack: str) -> None:
    contained(on, INSIDE_ATTACKS[attack], outside)

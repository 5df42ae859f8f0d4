"""Signals of the local cloud reach the processes that were meant, and no others."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from poormanray.local import inside, supervisor


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as running:
        yield running
        running.kill()


def test_what_is_no_member_any_more_gets_no_signal(sleeper: subprocess.Popen[bytes]) -> None:
    assert inside.signal_all([sleeper.pid], signal.SIGKILL, list) == 0
    assert sleeper.poll() is None
    assert inside.signal_all([sleeper.pid], signal.SIGKILL, lambda: [sleeper.pid]) == 1
    assert sleeper.wait(10) == -signal.SIGKILL


def test_a_supervisor_kills_no_other_that_has_the_number_now(
    sleeper: subprocess.Popen[bytes],
) -> None:
    facts = supervisor._facts(sleeper.pid)
    assert facts is not None
    supervisor._kill(sleeper.pid, facts[2] + 1)
    assert sleeper.poll() is None
    supervisor._kill(sleeper.pid, facts[2])
    assert sleeper.wait(10) == -signal.SIGKILL

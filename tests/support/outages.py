"""Outages of a cloud's services, and what commands print about them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.cloud.conftest import Pmr

SAID = r"no answer from (SSM|EC2) for (\d+) s \((.+)\), still trying"
BACK = r"(SSM|EC2) answers again, after (\d+) s"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended that an outage struck."""

    code: int
    stdout: str
    stderr: str


def struck(
    pmr: Pmr, words: list[str], fault: tuple[str, ...], sign: bytes, timeout_s: float = 110
) -> Ended:
    """Run a command, and order a fault as soon as it has printed a sign on stdout."""
    with pmr.start(*words) as running:
        assert running.stdout is not None
        read = b""
        while sign not in read:
            # Past Python's buffer, which `communicate` would not read.
            read += (data := os.read(running.stdout.fileno(), 1 << 16))
            assert data, running.communicate()
        pmr("local", "fault", "add", *fault)
        out, err = running.communicate(timeout=timeout_s)
    pmr("local", "fault", "clear")
    return Ended(running.returncode, (read + out).decode(), err.decode())

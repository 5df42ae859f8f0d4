"""Unit tests take no time and touch no network."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import pytest


def _no_network(*_args: object, **_options: object) -> NoReturn:
    raise AssertionError("a unit test must not use the network: put it in tests/cloud")


@pytest.fixture(autouse=True)
def _sealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("bind", "connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _no_network)
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    guard = time.sleep  # noqa: TID251 (the SleepGuard of tests/conftest.py)
    guard.forbidden = True  # type: ignore[attr-defined]
    yield
    guard.forbidden = False  # type: ignore[attr-defined]

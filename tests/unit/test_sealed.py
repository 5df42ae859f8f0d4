"""The seal around unit tests holds."""

from __future__ import annotations

import socket
import time

import pytest

from poormanray.waiting import Clock


def test_sleeping_raises_even_through_a_kept_reference() -> None:
    with pytest.raises(AssertionError, match="must not sleep"):
        time.sleep(0)  # noqa: TID251 (that it raises is the point)
    with pytest.raises(AssertionError, match="must not sleep"):
        Clock().sleep(0.001)


def test_sockets_raise() -> None:
    with pytest.raises(AssertionError, match="must not use the network"):
        socket.create_connection(("127.0.0.1", 9))
    with socket.socket() as sock, pytest.raises(AssertionError, match="must not use the network"):
        sock.connect(("127.0.0.1", 9))

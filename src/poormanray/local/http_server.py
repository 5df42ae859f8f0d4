"""The HTTP server: waitress, kept from stumbling over what no client sends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server

THREADS = 32
# Source: S3 user guide: one PUT carries at most 5 GiB. What is long goes to a temporary file.
BODY_MAX_BYTES = 5 * 2**30
CHANNEL_TIMEOUT_S = 300
CONNECTIONS_MAX = 1000


class _Parser(HTTPRequestParser):
    # waitress writes the path of a request that fails into its log, parsed or not.
    path = ""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)  # type: ignore[no-untyped-call]  # waitress has no types
        except ValueError as problem:
            raise ParsingError(f"Content-Length is invalid: {problem}") from problem
        if not self.chunked and not self.content_length:
            # After `100 Continue` waitress waits for a body, also where none is to come.
            self.expect_continue = False


class _Channel(HTTPChannel):
    parser_class = _Parser


def make_server(application: Callable[..., Any], listening: socket.socket) -> Any:  # noqa: ANN401 (waitress has no types)
    """Return a server that answers on a listening socket once its `run` is called."""
    server = create_server(  # type: ignore[no-untyped-call]  # waitress has no types
        application,
        sockets=[listening],
        threads=THREADS,
        ident=None,
        channel_timeout=CHANNEL_TIMEOUT_S,
        connection_limit=CONNECTIONS_MAX,
        asyncore_use_poll=True,
        max_request_body_size=BODY_MAX_BYTES,
    )
    server.channel_class = _Channel
    return server


def close_port(server: Any) -> None:  # noqa: ANN401 (waitress has no types)
    """Refuse new connections, and cut those that there are, until `open_port`."""

    def close() -> None:
        server.accepting = False
        server.del_channel()
        server.socket.close()
        for channel in list(server.active_channels.values()):
            channel.handle_close()

    # In the thread that polls the sockets.
    server.trigger.pull_trigger(close)


def open_port(server: Any, listening: socket.socket) -> None:  # noqa: ANN401 (waitress has no types)
    """Take connections again, on a new listening socket."""

    def reopen() -> None:
        listening.settimeout(0.0)
        server.set_socket(listening)
        server.accept_connections()

    server.trigger.pull_trigger(reopen)

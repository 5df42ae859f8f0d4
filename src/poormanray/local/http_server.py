"""The HTTP server: waitress, kept from stumbling over what no client sends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import WSGITask

from poormanray.local.front import CLOSE

THREADS = 32
# Source: S3 user guide: one PUT carries at most 5 GiB. What is long goes to a temporary file.
BODY_MAX_BYTES = 5 * 2**30
CHANNEL_TIMEOUT_S = 300
CONNECTIONS_MAX = 1000
# From so many on, each new connection ends one that is idle.
CROWDED = CONNECTIONS_MAX - 100


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


class _Task(WSGITask):
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()  # type: ignore[no-untyped-call]  # waitress has no types
        environ[CLOSE] = self.set_close_on_finish
        return environ


class _Channel(HTTPChannel):
    parser_class = _Parser
    task_class = _Task
    # Whether a whole request has come. A connection whose request was refused is closed, so that
    # this is a connection of somebody who has the key.
    used = False

    def __init__(self, server: Any, sock: socket.socket, addr: Any, adj: Any, map: Any) -> None:  # noqa: A002, ANN401 (waitress's own)
        super().__init__(server, sock, addr, adj, map)  # type: ignore[no-untyped-call]  # waitress has no types
        if len(map) > CROWDED:
            make_room(server.active_channels.values())

    def received(self, data: bytes) -> bool:
        """Take in what has come."""
        taken: bool = super().received(data)  # type: ignore[no-untyped-call]  # waitress has no types
        self.used = self.used or bool(self.requests)
        return taken


def make_room(channels: Iterable[_Channel]) -> None:
    """Close the connection that has been idle longest; those that were never used go first."""
    idle = [one for one in channels if not one.requests and not one.total_outbufs_len]
    if idle:
        min(idle, key=lambda one: (one.used, one.last_activity)).handle_close()  # type: ignore[no-untyped-call]  # waitress has no types


class Server:
    """Answers on a listening socket, and on connections that were made elsewhere."""

    def __init__(self, application: Callable[..., Any], listening: socket.socket) -> None:
        self._server: Any = create_server(  # type: ignore[no-untyped-call]  # waitress has no types
            application,
            sockets=[listening],
            threads=THREADS,
            ident=None,
            channel_timeout=CHANNEL_TIMEOUT_S,
            connection_limit=CONNECTIONS_MAX,
            asyncore_use_poll=True,
            max_request_body_size=BODY_MAX_BYTES,
        )
        self._server.channel_class = _Channel

    def run(self) -> None:
        """Answer until the server is closed."""
        self._server.run()

    def adopt(self, connection: socket.socket) -> None:
        """Answer on a connection too; from any thread."""
        server = self._server

        def take() -> None:
            if server.accepting:
                _Channel(server, connection, ("127.0.0.1", 0), server.adj, map=server._map)
            else:
                connection.close()

        # In the thread that polls the sockets.
        server.trigger.pull_trigger(take)

    def close_port(self) -> None:
        """Refuse new connections, and cut those that there are, until `open_port`."""
        server = self._server

        def close() -> None:
            server.accepting = False
            server.del_channel()
            server.socket.close()
            for channel in list(server.active_channels.values()):
                channel.handle_close()

        server.trigger.pull_trigger(close)

    def open_port(self, listening: socket.socket) -> None:
        """Take connections again, on a new listening socket."""
        server = self._server

        def reopen() -> None:
            listening.settimeout(0.0)
            server.set_socket(listening)
            server.accept_connections()

        server.trigger.pull_trigger(reopen)

    def close(self) -> None:
        """Close the listening socket."""
        self._server.close()

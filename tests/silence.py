"""A way to a server that can be cut, or fall silent: what is open then hears nothing any more, and is not told so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from django.db import connections

from . import databases


class Way:
    """Leads to the server at ``address``, a host and port or a socket's path, inside the ``with`` block.

    ``port`` is its beginning.
    """

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address = address
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._open: list[dict[str, bool]] = []
        self._sockets: list[socket.socket] = []
        self._is_cut = False

    @property
    def opened(self) -> int:
        return len(self._open)

    def fall_silent(self) -> None:
        """As a firewall that forgets, or a failover to another address: new connections work."""
        for state in self._open:
            state["silent"] = True

    def cut(self) -> None:
        """As a server that is stopped: what is open ends, and new connections are refused."""
        self._is_cut = True
        self._hang_up()

    def mend(self) -> None:
        self._is_cut = False

    def __enter__(self) -> Way:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._door.close()
        self._hang_up()

    def _hang_up(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _address = self._door.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = self._connect()
                state = {"silent": False}
                self._open.append(state)
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target, state), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self.address, tuple):
            return socket.create_connection(self.address)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.address)
        return server

    def _forward(self, source: socket.socket, target: socket.socket, state: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not state["silent"]:
                    target.sendall(data)
        if not state["silent"]:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)


@contextmanager
def silent_way(change: Callable[..., None], url: str) -> Iterator[Way]:
    """Lead all new connections to the database over a way; ``change`` is the fixture ``elsewhere``."""
    with Way(databases.way_in(url)) as way:
        change(HOST="127.0.0.1", PORT=way.port)
        yield way
        connections.close_all()

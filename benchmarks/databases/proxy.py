"""A door in front of a server that counts: connections, and the statements that come through them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO
from urllib.parse import urlsplit

from .base import Database

#: What PostgreSQL's clients ask before they begin: encrypt with TLS, with GSSAPI?
ENCRYPTION_REQUESTS = (80877103, 80877104)
COM_QUERY, COM_STMT_EXECUTE = 0x03, 0x17
Answer = Callable[[bytes], None]
#: A message as it came, and whether it has a statement run.
Message = tuple[bytes, bool]


def postgresql_messages(stream: BinaryIO, answer: Answer) -> Iterator[Message]:
    """What a client of PostgreSQL sends. Encryption is declined: what is encrypted cannot be counted."""
    while True:
        head = read(stream, 4)
        body = read(stream, int.from_bytes(head) - 4)
        if int.from_bytes(body[:4]) not in ENCRYPTION_REQUESTS:
            yield head + body, False
            break
        answer(b"N")
    while True:
        head = read(stream, 5)
        yield head + read(stream, int.from_bytes(head[1:]) - 4), head[:1] in (b"Q", b"E")


def mysql_messages(stream: BinaryIO, answer: Answer) -> Iterator[Message]:
    """What a client of MariaDB or MySQL sends: a packet with number 0 is a command."""
    while True:
        head = read(stream, 4)
        body = read(stream, int.from_bytes(head[:3], "little"))
        yield head + body, head[3] == 0 and body[0] in (COM_QUERY, COM_STMT_EXECUTE)


MESSAGES = {"postgresql": postgresql_messages, "mariadb": mysql_messages}


def read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


class Proxy:
    """Forwards to the database's server inside the ``with`` block; ``url`` leads through it."""

    def __init__(self, database: Database) -> None:
        self.server, self.messages = database.address(), MESSAGES[database.kind]
        self.connections = self.statements = 0
        self._door = socket.create_server(("127.0.0.1", 0))
        parts = urlsplit(database.url)
        user, at, _host = parts.netloc.rpartition("@")
        host = f"127.0.0.1:{self._door.getsockname()[1]}"
        self.url = parts._replace(netloc=f"{user}{at}{host}").geturl()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # wakes the thread that waits for the next client
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _address = self._door.accept()
                self.connections += 1
                server = self._connect()
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self.server, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.server)
            return server
        return socket.create_connection(self.server)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, EOFError), client.makefile("rb") as stream:
            for message, is_statement in self.messages(stream, client.sendall):
                self.statements += is_statement
                server.sendall(message)
        close(server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        close(client)


def close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

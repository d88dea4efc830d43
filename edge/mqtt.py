"""MQTT 5 as both ends speak it: paho-mqtt driven from outside, by one thread, with as few system calls as it takes.

The device's link (`edge.link`) and the aggregator's (`broker.link`) stand on this. Nothing here decides anything.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

LOG = logging.getLogger("potstill.mqtt")

CONNECT_TIMEOUT_S = 5.0
TAKEN_OVER = 0x8E
"""Reason code of a DISCONNECT: another client has come with our identifier (MQTT 5, section 4.13)."""
READ_BYTES = 16 * 2**10
"""What is asked of a socket at once: a hundred small packets, or the largest TLS record (RFC 8446, section 5.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker is, and how to be let in."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: Path | None = None
    """The CA that signed the broker's certificate; None: the system's."""
    cert: Path | None = None
    key: Path | None = None


def parse_url(url: str) -> Address:
    """`mqtt://host[:1883]` or `mqtts://host[:8883]`. Raises ValueError that says what is wrong."""
    wanted = f"the broker is mqtt://HOST[:PORT] or mqtts://HOST[:PORT], not {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise ValueError(wanted) from problem
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "no password in a broker's URL, where every user of this machine sees it: "
            "a device takes --credentials FILE, an aggregator --username and --password-file"
        )
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(wanted)
    tls = parts.scheme == "mqtts"
    return Address(host=parts.hostname, port=port or (8883 if tls else 1883), tls=tls)


class Client(paho.Client):
    """paho without its thread and its own reconnecting, that reads as much as is there in one call.

    By itself paho asks its socket for the first byte of a packet, for each byte of its length, and for the rest:
    two thirds of the system calls of a device's round.
    """

    def __init__(self, address: Address, client_id: str) -> None:
        """Raises ValueError if the TLS files cannot be used. Connects to nothing yet."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        self._ahead, self._taken = b"", 0
        self.connect_timeout = CONNECT_TIMEOUT_S
        if address.user is not None:
            self.username_pw_set(address.user, address.password)
        if address.tls:
            self.tls_set_context(_tls_context(address))

    @property
    def waiting(self) -> bool:
        """Whether there is something to read that a wait for the socket does not tell of."""
        if self._taken < len(self._ahead) or not self._ssl:
            return self._taken < len(self._ahead)
        connection: Any = self.socket()
        return connection is not None and connection.pending() > 0

    def read_socket(self, size: int) -> bytes:
        """At most `size` of the bytes that have arrived; b"" at their end. Raises BlockingIOError if there are none."""
        return super()._sock_recv(size)

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._taken == len(self._ahead):
            self._ahead, self._taken = self.read_socket(max(bufsize, READ_BYTES)), 0
        taken = self._ahead[self._taken : self._taken + bufsize]
        self._taken += len(taken)
        return taken

    def _sock_close(self) -> None:
        self._ahead, self._taken = b"", 0
        super()._sock_close()


def properties(packet: int, **values: Any) -> Properties:
    """Of one kind of packet (`paho.mqtt.packettypes`)."""
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


def no_delay(connection: Any) -> None:
    """Packets leave when they are written: with Nagle's algorithm and the peer's delayed acknowledgement a round takes
    40 ms longer.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def together(connection: Any) -> Iterator[None]:
    """What is written within leaves in as few segments as it fits in (Linux's TCP_CORK; elsewhere one by one)."""
    _cork(connection, on=True)
    try:
        yield
    finally:
        _cork(connection, on=False)


def _cork(connection: Any, *, on: bool) -> None:
    if connection is None or not hasattr(socket, "TCP_CORK"):
        return
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(on))
    except OSError as problem:  # a connection that has died: the next look at it finds out
        LOG.debug("cork: %s", problem)


def _tls_context(address: Address) -> Any:
    import ssl

    try:
        context = ssl.create_default_context(cafile=None if address.cafile is None else str(address.cafile))
        if address.cert is not None:
            context.load_cert_chain(address.cert, address.key)
    except OSError as problem:
        files = ", ".join(str(file) for file in (address.cafile, address.cert, address.key) if file is not None)
        raise ValueError(f"TLS: cannot use {files}: {problem}") from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

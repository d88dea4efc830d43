"""MQTT 5 as both ends speak it: paho-mqtt driven from outside, by one thread, with as few system calls as it takes.

The device's link (`edge.link`) and the aggregator's (`broker.link`) stand on this. Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

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


class Arrival(NamedTuple):
    """A message as it came, not yet acknowledged."""

    topic: str
    payload: bytes
    mid: int
    """Its packet identifier; 0 at QoS 0."""
    qos: int
    retained: bool
    """Sent because we subscribed."""


class Client(paho.Client):
    """paho without its thread and its own reconnecting, in fewer steps (docs/adr/0036):

    - it reads what has arrived in one call; paho asks its socket for the first byte of a packet, for each byte of its
      length and for the rest, two thirds of the system calls of a device's round;
    - a PUBLISH without properties, as all of ours are, and its PUBACK are taken from what was read, past paho, which
      spends half of an aggregator's time between two uploads on making empty properties of them.
    """

    def __init__(self, address: Address, client_id: str, on_arrival: Callable[[Arrival], None]) -> None:
        """Raises ValueError if the TLS files cannot be used. Connects to nothing yet."""
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        self._ahead, self._taken = b"", 0
        self._on_arrival = on_arrival
        self.on_message = self._arrive
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

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """The next packet. Ours without paho, if it has been read whole; any other, or a part of one, paho's way."""
        if not self._in_packet["command"] and self._read_ahead() and self._take_packet():
            self._last_bytes_received = time.monotonic()  # what paho's keepalive goes by
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super().loop_read(max_packets)

    def _read_ahead(self) -> bool:
        """Whether something has been read and not taken. An error is left to paho, which meets it again."""
        if self._taken == len(self._ahead):
            with contextlib.suppress(OSError):
                self._ahead, self._taken = self.read_socket(READ_BYTES), 0
        return self._taken < len(self._ahead)

    def _take_packet(self) -> bool:
        """Handle the next packet; False, and nothing is taken, if it is not all there or not one of ours."""
        head, length = self._ahead[self._taken], parse_length(self._ahead, self._taken + 1)
        if length is None or length[1] > len(self._ahead):
            return False
        start, end = length
        body = self._ahead[start:end]
        if head & 0xF0 == _PUBLISH:
            arrival = parse_publish(head, body)
            if arrival is None:
                return False
            self._taken = end
            self._on_arrival(arrival)
        elif head == _PUBACK and len(body) == _MID_BYTES:
            self._taken = end
            self._acknowledged(int.from_bytes(body, "big"))
        else:
            return False
        return True

    def _acknowledged(self, mid: int) -> None:
        with self._out_message_mutex:
            if mid in self._out_messages:
                self._do_on_publish(mid, _SUCCESS, _NO_PROPERTIES)

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._taken == len(self._ahead):
            self._ahead, self._taken = self.read_socket(max(bufsize, READ_BYTES)), 0
        taken = self._ahead[self._taken : self._taken + bufsize]
        self._taken += len(taken)
        return taken

    def _arrive(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._on_arrival(
            Arrival(message.topic, bytes(message.payload), message.mid, message.qos, retained=message.retain)
        )

    def _sock_close(self) -> None:
        self._ahead, self._taken = b"", 0
        super()._sock_close()


def parse_length(data: bytes, at: int) -> tuple[int, int] | None:
    """Where a packet's rest begins and ends, its length being at `at` (MQTT 5, section 2.1.4).

    None where the length is not all there, or of more than four bytes.
    """
    length = 0
    for place, byte in enumerate(data[at : at + 4]):
        length += (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            start = at + place + 1
            return start, start + length
    return None


def parse_publish(head: int, packet: bytes) -> Arrival | None:
    """A PUBLISH (MQTT 5, section 3.3): its first byte, and what follows its length.

    None where it has properties, a QoS of 2 or a topic that is not UTF-8: more than ours have.
    """
    qos = head >> 1 & 3
    end = 2 + int.from_bytes(packet[:2], "big")
    at = end + (_MID_BYTES if qos else 0)
    if qos > 1 or packet[at : at + 1] != b"\0":
        return None
    try:
        topic = packet[2:end].decode()
    except UnicodeDecodeError:
        return None
    return Arrival(topic, packet[at + 1 :], int.from_bytes(packet[end:at], "big"), qos, retained=bool(head & 1))


def properties(packet: int, **values: Any) -> Properties:
    """Of one kind of packet (`paho.mqtt.packettypes`)."""
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


_PUBLISH, _PUBACK = 0x30, 0x40
"""First byte of a packet, without the flags of a PUBLISH (MQTT 5, section 2.1.2)."""
_MID_BYTES = 2
_SUCCESS, _NO_PROPERTIES = ReasonCode(PacketTypes.PUBACK), properties(PacketTypes.PUBACK)
"""What an acknowledgement of two bytes says (MQTT 5, section 3.4.2.1)."""


def no_delay(connection: Any) -> None:
    """Packets leave when they are written: with Nagle's algorithm and the peer's delayed acknowledgement a round takes
    40 ms longer.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextlib.contextmanager
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

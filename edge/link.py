"""A device's MQTT connection, which comes back by itself.

Bytes on the link (docs/wire.md has the sums for a round):

- TCP_NODELAY: with Nagle's algorithm and the peer's delayed acknowledgement a round takes 40 ms longer.
- A message's PUBACK waits until the message has been acted on and leaves in one segment with the upload it caused
  (TCP_CORK): one Ethernet frame less up, and one acknowledgement less down, in every round.
- The parameters' topic is subscribed only while a plan's method sends them (FL, FLD).
"""

from __future__ import annotations

import logging
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge import mqtt
from edge.meter.stream import Stream, read_stream
from edge.meter.traffic import Traffic
from edge.session import LinkDown, LinkUp
from edge.wire import topics
from edge.wire.codec import encode
from edge.wire.messages import Gone

LOG = logging.getLogger("potstill.edge")

KEEPALIVE_S = 300
"""A PINGREQ, its answer and the TCP acknowledgement are 202 Ethernet bytes: at 300 s 40 bytes a minute while idle."""
SESSION_EXPIRY_S = 3600
"""How long a broker that can is asked to queue for an absent device; the retained plan covers a longer absence."""
BACKOFF_S = (1.0, 60.0)
"""Least and most between two attempts to connect, before jitter."""
UNACKNOWLEDGED_MS = 60_000
"""A link on which sent bytes stay unacknowledged for this long is taken for dead (RFC 5482)."""
FAREWELL_S = 2.0
"""How long the client waits at its end for the broker to acknowledge `Gone`."""
IDLE_S = 30.0
"""How often the keepalive is looked at while nothing happens, at the least: a broker waits one and a half keepalives
(MQTT 5, section 3.1.2.10), so a short one is looked at every quarter of it."""
_LOST = (MQTTErrorCode.MQTT_ERR_CONN_LOST, MQTTErrorCode.MQTT_ERR_NO_CONN)


def backoff_s(attempt: int, jitter: float) -> float:
    """Seconds before attempt 1, 2, ... to connect again: doubled each time, times 0.5 to 1.5 (jitter 0..1)."""
    least, most = BACKOFF_S
    return float(min(most, least * 2 ** min(attempt - 1, 16)) * (0.5 + jitter))


Happening: TypeAlias = LinkUp | LinkDown | mqtt.Arrival


class _Metered(mqtt.Client):
    """With every byte that goes to the socket and comes from it shown to the packet counters.

    TCP_INFO sees the stream and not the packets in it, TLS hides them, and paho tells of neither keepalives nor what
    it sends again: so they are counted where paho reads and writes (docs/adr/0024). Tests hold the sums against the
    kernel's.
    """

    def __init__(
        self, address: mqtt.Address, client_id: str, on_arrival: Callable[[mqtt.Arrival], None], traffic: Traffic
    ) -> None:
        super().__init__(address, client_id, on_arrival)
        self._counted = traffic

    def read_socket(self, size: int) -> bytes:
        data = super().read_socket(size)
        self._counted.heard.feed(data)
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        count = super()._sock_send(buf)
        self._counted.sent.feed(bytes(buf[:count]))
        return count


class Link:
    """One MQTT 5 connection that comes back by itself, and says so: `LinkUp` once subscribed, `LinkDown`."""

    def __init__(self, address: mqtt.Address, *, fleet: str, device: str, keepalive_s: int, traffic: Traffic) -> None:
        """Raises ValueError if the TLS files cannot be used. Connects at the first `poll`."""
        self._address = address
        self._traffic = traffic
        self._parameters_topic = topics.parameters(fleet)
        self._filters = {topics.plan(fleet): _keep_retained(), topics.command(fleet, device): _keep_retained()}
        self._happened: list[Happening] = []
        self._unacknowledged: list[int] = []
        self._outstanding: set[int] = set()
        self._subscribing: int | None = None
        self._up = False
        self._closing = False
        self._attempt = 0
        self._retry_at_s = 0.0
        self._idle_s = min(IDLE_S, keepalive_s / 4)
        client_id = f"{fleet}.{device}"  # rumqttd refuses one with a slash
        self._mqtt = _Metered(address, client_id, self._on_arrival, traffic)
        self._mqtt.will_set(topics.birth(fleet, device), encode(Gone()), qos=1, retain=True)
        self._listen()
        self._mqtt.connect_async(
            address.host,
            address.port,
            keepalive=keepalive_s,
            clean_start=False,
            properties=mqtt.properties(PacketTypes.CONNECT, SessionExpiryInterval=SESSION_EXPIRY_S),
        )
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    def _listen(self) -> None:
        client = self._mqtt
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close

    # ------------------------------------------------------------ for the client

    @property
    def tls(self) -> bool:
        return self._address.tls

    @property
    def wake_fd(self) -> int:
        """A byte written here ends a waiting `poll`; it is where Python reports signals."""
        return self._wake_writer.fileno()

    def poll(self, timeout_s: float) -> list[Happening]:
        """What has happened, after waiting for it for at most `timeout_s`. Connects where there is no connection."""
        connection = self._mqtt.socket()
        if connection is None:
            self._connect_or_wait(timeout_s)
        else:
            self._exchange(connection, timeout_s)
        happened, self._happened = self._happened, []
        return happened

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        info = self._mqtt.publish(topic, payload, qos=qos, retain=retain)
        if info.rc in _LOST:  # the next poll finds out, and paho sends what has a QoS again on the next connection
            return
        if qos and not info.is_published():
            self._outstanding.add(info.mid)

    def acknowledge(self) -> None:
        """Everything heard so far has been acted on. In the order of arrival, as brokers want it (rumqttd insists)."""
        heard, self._unacknowledged = self._unacknowledged, []
        for mid in heard:
            self._mqtt.ack(mid, 1)

    def together(self) -> AbstractContextManager[None]:
        """What is published and acknowledged within leaves in as few segments as it fits in."""
        return mqtt.together(self._mqtt.socket())

    def want_parameters(self, *, wanted: bool, now: bool) -> None:
        """Subscribe to the parameters' topic or leave it; `now`: those retained on the broker are needed."""
        topic = self._parameters_topic
        if wanted == (topic in self._filters):
            return
        if wanted:
            self._filters[topic] = _keep_retained()  # after a reconnect it may be the next round's: asked for then
            self._mqtt.subscribe(topic, options=_keep_retained() if now else _without_retained())
        else:
            del self._filters[topic]
            self._mqtt.unsubscribe(topic)

    def stream(self) -> Stream | None:
        """Of the connection that is open now, zeros if there is none; None where the kernel does not say."""
        connection: Any = self._mqtt.socket()
        return Stream() if connection is None else read_stream(connection)

    def part(self, topic: str, farewell: bytes) -> None:
        """Publish a retained farewell, wait for its acknowledgement, disconnect without setting off the will."""
        if self._up:
            self.acknowledge()
            self.publish(topic, farewell, qos=1, retain=True)
            end_s = time.monotonic() + FAREWELL_S
            while self._outstanding and self._up and time.monotonic() < end_s:
                self.poll(0.1)
            self._closing = True
            self._mqtt.disconnect()

    def close(self) -> None:
        """Let go of every socket; a connection that is still open is broken off, and the broker sends the will."""
        connection = self._mqtt.socket()
        if connection is not None:
            connection.close()
        self._wake_reader.close()
        self._wake_writer.close()

    # ------------------------------------------------------------ network

    def _connect_or_wait(self, timeout_s: float) -> None:
        wait_s = self._retry_at_s - time.monotonic()
        if wait_s > 0:
            self._wait([], [], min(timeout_s, wait_s))
            return
        try:
            self._mqtt.reconnect()
        except OSError as problem:
            self._traffic.failed += 1
            self._try_later(f"cannot connect to {self._address.host}:{self._address.port}: {problem}")

    def _exchange(self, connection: Any, timeout_s: float) -> None:
        client = self._mqtt
        readable: list[Any] = [connection]
        writable: list[Any] = []
        if not client.waiting:
            writing = [connection] if client.want_write() else []
            readable, writable = self._wait([connection], writing, min(timeout_s, self._idle_s))
        if readable:
            client.loop_read()
        if writable or (client.socket() is connection and client.want_write()):
            client.loop_write()
        client.loop_misc()

    def _wait(self, reading: list[Any], writing: list[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        """Those of both that can be read and written; a `wake_fd` that was written to ends the waiting too."""
        readable, writable, _ = select.select([*reading, self._wake_reader], writing, [], max(0.0, timeout_s))
        if self._wake_reader in readable:
            self._wake_reader.recv(4096)
            readable.remove(self._wake_reader)
        return readable, writable

    def _try_later(self, why: str) -> None:
        self._attempt += 1
        wait_s = backoff_s(self._attempt, random.random())
        self._retry_at_s = time.monotonic() + wait_s
        LOG.warning("%s; trying again in %.1f s", why, wait_s)

    # ------------------------------------------------------------ paho's callbacks

    def _on_socket_open(self, _client: paho.Client, _userdata: Any, connection: Any) -> None:
        self._traffic.connects += 1
        mqtt.no_delay(connection)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)

    def _on_socket_close(self, _client: paho.Client, _userdata: Any, connection: Any) -> None:
        self._traffic.disconnected(read_stream(connection, closing=True))

    def _on_connect(
        self, client: paho.Client, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            LOG.error("the broker refuses this device: %s; check its name, password and certificate", reason)
            return
        if flags.session_present and self._parameters_topic not in self._filters:
            client.unsubscribe(self._parameters_topic)  # the broker's session may be of an FL run before a restart
        _, self._subscribing = client.subscribe(list(self._filters.items()))

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                LOG.error("the broker refuses a subscription: %s; check its access rules for this device", reason)
        if mid == self._subscribing:
            self._subscribing, self._up, self._attempt = None, True, 0
            self._traffic.subscribed(self.stream())
            self._happened.append(LinkUp())

    def _on_disconnect(
        self, _client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self._up:
            self._happened.append(LinkDown())
        self._up = False
        if self._closing:
            return
        self._unacknowledged.clear()  # the broker sends them again; on a new connection these numbers mean nothing
        self._outstanding.clear()
        if reason.value == mqtt.TAKEN_OVER:
            LOG.error("another client has this device's name: give every device its own --device")
        self._try_later(f"the connection is gone ({reason})")

    def _on_arrival(self, arrival: mqtt.Arrival) -> None:
        if arrival.qos:
            self._unacknowledged.append(arrival.mid)
        self._happened.append(arrival)

    def _on_publish(
        self, _client: paho.Client, _userdata: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._outstanding.discard(mid)
        if reason.is_failure:
            LOG.error("the broker refuses a message: %s; check its access rules and limits", reason)


def _keep_retained() -> SubscribeOptions:
    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)


def _without_retained() -> SubscribeOptions:
    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)

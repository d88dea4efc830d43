"""The aggregator's MQTT connection, and orders to devices that go without a run.

Nothing is acknowledged by itself: a letter is, once the ledger has it (docs/adr/0007).
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge import mqtt
from edge.wire import topics
from edge.wire.codec import FrameError, decode, encode
from edge.wire.messages import Command, Gone, Order

BATCH = 500
"""Messages a transaction at most: at 500 the commit's share of a message is 1 us (benchmarks/bench_aggregator.py)."""
KEEPALIVE_S = 30
SESSION_S = 86400
"""For how long a broker keeps the uploads that arrive while the aggregator is away."""
RETRY_S = (0.05, 2.0)
"""First and longest pause between two attempts to connect."""
BRIEF_S, MOST_BRIEF = 2.0, 5
"""So many connections in a row, each shorter than this: somebody with our client identifier takes them. Mosquitto
2.0.11 and rumqttd 0.20 close the older connection without MQTT 5's word for it (0x8E)."""


class BrokerError(Exception):
    """The MQTT broker cannot be reached or does not let us in; the message says what to do."""


def filters(fleet: str) -> list[str]:
    """What an aggregator's link subscribes to."""
    return [topics.every_upload(fleet), topics.every_birth(fleet), topics.every_report(fleet)]


def client_id(fleet: str) -> str:
    """One a fleet: a second aggregator takes the first one's connection, which then ends with an error."""
    return f"ps-{fleet}-aggregator"


class Letter(NamedTuple):
    """One message as it came, not yet acknowledged."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    connection: int
    """Counts connections: a message identifier means nothing to the next one."""


class Link:
    """A paho client driven from one thread: nothing happens outside `poll`, `settle` and `close`.

    `resumable` keeps the broker's queue for this client identifier (from before, and for later).
    """

    def __init__(self, address: mqtt.Address, client_id: str, filters: list[str], *, resumable: bool) -> None:
        """Raises `BrokerError` if the TLS files cannot be used."""
        self._address = address
        self._filters = filters
        try:
            self._client = mqtt.Client(address, client_id, self._on_arrival)
        except ValueError as problem:
            raise BrokerError(str(problem)) from problem
        self._client.on_socket_open = _no_delay
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._resumable = resumable
        self._poll = select.poll()
        self._inbox: deque[Letter] = deque()
        self._unsent: deque[paho.MQTTMessageInfo] = deque()
        self._connection = 0
        self._came_up = False
        self._failure: str | None = None
        self._retry_at = 0.0
        self._pause_s = RETRY_S[0]
        self._tried_at = 0.0
        self._brief = 0

    # ---- callbacks, all from within poll

    def _on_connect(
        self, client: paho.Client, _user: object, _flags: paho.ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        if code.is_failure:
            self._failure = f"it refuses us: {code} (see --username, --password-file, --cert)"
            return
        self._connection += 1
        client.subscribe([(name, SubscribeOptions(qos=1)) for name in self._filters])

    def _on_subscribe(
        self, _client: paho.Client, _user: object, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        if any(code.is_failure for code in codes):
            self._failure = "it does not let us subscribe: see the aggregator's access rights"
        self._came_up = True

    def _on_disconnect(
        self, _client: paho.Client, _user: object, _flags: paho.DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        if code.value == mqtt.TAKEN_OVER:
            self._failure = "another aggregator of this fleet has connected: only one may run"
        brief = time.monotonic() - self._tried_at < BRIEF_S
        self._brief = self._brief + 1 if brief else 0
        if not brief:
            self._pause_s = RETRY_S[0]
        if self._brief == MOST_BRIEF:
            self._failure = (
                f"the connection was lost {MOST_BRIEF} times as soon as it was up: is there another aggregator of this "
                f"fleet? only one may run{_certificate_hint(self._address)}"
            )

    def _on_arrival(self, arrival: mqtt.Arrival) -> None:
        self._inbox.append(Letter(arrival.topic, arrival.payload, arrival.mid, arrival.qos, self._connection))

    # ---- what the aggregator calls

    def connect(self) -> None:
        """Raises `BrokerError` when nobody answers."""
        a = self._address
        properties = mqtt.properties(PacketTypes.CONNECT, SessionExpiryInterval=SESSION_S, ReceiveMaximum=65535)
        self._tried_at = time.monotonic()
        try:
            self._client.connect(a.host, a.port, KEEPALIVE_S, clean_start=not self._resumable, properties=properties)
        except (OSError, ValueError) as problem:
            raise BrokerError(f"no broker at {a.host}:{a.port} ({problem}): is it running, and the URL right?") from (
                problem
            )
        if self._client.socket() is None:
            raise BrokerError(f"broker at {a.host}:{a.port}: it closes the connection at once{_certificate_hint(a)}")
        self._watch()

    def poll(self, timeout_s: float) -> bool:
        """Wait for something to read, read it, write what waits. True when the link has just come up.

        Raises `BrokerError` for what will not pass by itself.
        """
        if self._client.socket() is None:
            self._reconnect(timeout_s)
        else:
            self._exchange(timeout_s)
        if self._failure is not None:
            raise BrokerError(f"broker at {self._address.host}:{self._address.port}: {self._failure}")
        came_up, self._came_up = self._came_up, False
        return came_up

    def letters(self) -> list[Letter]:
        """At most BATCH, in order."""
        return [self._inbox.popleft() for _ in range(min(BATCH, len(self._inbox)))]

    @property
    def more(self) -> bool:
        """Whether letters wait."""
        return bool(self._inbox)

    def acknowledge(self, letters: list[Letter]) -> None:
        for letter in letters:
            if letter.qos and letter.connection == self._connection:
                self._client.ack(letter.mid, letter.qos)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """At QoS 1; written at once as far as the socket takes it."""
        while self._unsent and self._unsent[0].is_published():
            self._unsent.popleft()
        self._unsent.append(self._client.publish(topic, payload, 1, retain))

    def together(self) -> AbstractContextManager[None]:
        """What is written within leaves in as few segments as it fits in."""
        return mqtt.together(self._client.socket())

    def settle(self, timeout_s: float) -> bool:
        """Until the broker has acknowledged all that was published. False after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while any(not info.is_published() for info in self._unsent):
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.poll(min(left, 0.1))
        return True

    def close(self, *, forget: bool) -> None:
        """`forget`: the broker may drop this client's session."""
        if self._client.socket() is None:
            return
        expiry_s = 0 if forget else SESSION_S
        self._client.disconnect(properties=mqtt.properties(PacketTypes.DISCONNECT, SessionExpiryInterval=expiry_s))
        end = time.monotonic() + 1.0
        while self._client.socket() is not None and time.monotonic() < end:
            self._exchange(0.05)

    # ---- inside

    def _watch(self) -> None:
        sock = self._client.socket()
        assert sock is not None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def _reconnect(self, timeout_s: float) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            time.sleep(min(self._retry_at - now, timeout_s))
            return
        self._tried_at, self._retry_at = now, now + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_S[1])
        with contextlib.suppress(OSError):
            self._client.reconnect()
            if self._client.socket() is not None:
                self._watch()

    def _exchange(self, timeout_s: float) -> None:
        client, inbox = self._client, self._inbox
        sock = client.socket()
        assert sock is not None
        if client.want_write():
            self._poll.modify(sock, select.POLLIN | select.POLLOUT)
        ready = client.waiting or self._poll.poll(max(0.0, timeout_s) * 1000)
        if client.want_write():
            client.loop_write()
            if client.socket() is sock:
                self._poll.modify(sock, select.POLLIN)
        while ready and len(inbox) < BATCH:
            if client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return  # the link is down, and on_disconnect has been called
            ready = client.waiting or self._poll.poll(0)
        client.loop_misc()


def _certificate_hint(address: mqtt.Address) -> str:
    """TLS 1.3 lets a client find out only after its handshake that it lacks a certificate."""
    return "; or does it want a certificate? give --cert and --key" if address.tls and address.cert is None else ""


def _no_delay(_client: paho.Client, _user: object, sock: Any) -> None:
    mqtt.no_delay(sock)


# ---------------------------------------------------------------- orders


def order(link: Link, fleet: str, devices: list[str], what: Order) -> None:
    """Give devices an order, whether a run is under way or not. Raises `BrokerError`."""
    for device in devices:
        link.publish(topics.command(fleet, device), encode(Command(order=what)))
    if not link.settle(5.0):
        raise BrokerError("the broker has not acknowledged the order within 5 s: is it overloaded?")


def present_devices(link: Link, *, quiet_s: float = 0.3) -> list[str]:
    """Devices whose birth the broker retains, by name; `link` subscribes to `topics.every_birth`.

    Retained messages follow the subscription at once; no more are waited for after `quiet_s` without one.
    """
    found: dict[str, bool] = {}
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        if link.poll(0.05):
            until = min(until, time.monotonic() + quiet_s)
        for letter in link.letters():
            link.acknowledge([letter])
            with contextlib.suppress(ValueError, FrameError):
                message = decode(letter.payload, limit=2**16)
                found[topics.parse_device(letter.topic)] = not isinstance(message, Gone)
                until = time.monotonic() + quiet_s
    return sorted(device for device, here in found.items() if here)

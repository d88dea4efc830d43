"""What both ends make of paho: reading ahead, and packets without properties on a way of their own."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes

from broker.servers.embedded import EmbeddedBroker
from edge.mqtt import READ_BYTES, Address, Arrival, Client, parse_length, parse_publish, parse_url, properties

CONNACK = bytes.fromhex("2003000000")
PLAIN = bytes.fromhex("3209 0003 612f62 0010 00 ff")
"""MQTT 5, section 3.3.2: PUBLISH at QoS 1 to a/b, packet identifier 16, no properties, payload ff."""


def publish(payload: bytes, *, mid: int = 16) -> bytes:
    """The same with another payload."""
    rest = PLAIN[2:7] + mid.to_bytes(2, "big") + b"\0" + payload
    length, left = b"", len(rest)
    while left or not length:
        length += bytes([left % 128 | (128 if left > 127 else 0)])
        left //= 128
    return PLAIN[:1] + length + rest


@contextmanager
def connected(heard: list[Arrival]) -> Iterator[tuple[Client, socket.socket, socket.socket]]:
    """A client, its listening "broker" and their connection, past CONNECT."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(Address(host="127.0.0.1", port=server.getsockname()[1]), "c", heard.append)
        client.connect("127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            yield client, server, peer
        connection = client.socket()
        if connection is not None:
            connection.close()


def readable(client: Client, patience_s: float) -> bool:
    connection: Any = client.socket()
    return client.waiting or (connection is not None and bool(select.select([connection], [], [], patience_s)[0]))


def read(client: Client, patience_s: float = 0.2) -> None:
    """All that has arrived, and write what waits."""
    if client.want_write():
        client.loop_write()
    while readable(client, patience_s):
        client.loop_read()


def test_a_packet_of_the_standard() -> None:
    assert parse_publish(PLAIN[0], PLAIN[2:]) == Arrival("a/b", b"\xff", 16, 1, retained=False)
    assert parse_publish(0x31, bytes.fromhex("0003612f6200ff")) == Arrival("a/b", b"\xff", 0, 0, retained=True)


@pytest.mark.parametrize(
    ("head", "packet"),
    [
        pytest.param(0x32, "0003612f62 0010 020101 ff", id="with a property"),
        pytest.param(0x34, "0003612f62 0010 00 ff", id="at QoS 2"),
        pytest.param(0x30, "0001ff 00 ff", id="a topic that is not UTF-8"),
        pytest.param(0x32, "0003612f62 00", id="cut off"),
        pytest.param(0x32, "ffff61", id="a length beyond its end"),
        pytest.param(0x30, "", id="empty"),
    ],
)
def test_what_else_comes_is_left_to_paho(head: int, packet: str) -> None:
    assert parse_publish(head, bytes.fromhex(packet)) is None


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ("00", 0),
        ("7f", 127),
        ("8001", 128),
        ("ff7f", 16_383),
        ("808001", 16_384),
        ("ffff7f", 2_097_151),
        ("80808001", 2_097_152),
        ("ffffff7f", 268_435_455),
    ],
)
def test_lengths_of_the_standard(written: str, length: int) -> None:
    """MQTT 5, table 1-1."""
    width = len(written) // 2
    assert parse_length(b"\x30" + bytes.fromhex(written) + b"rest", 1) == (1 + width, 1 + width + length)
    assert parse_length(bytes.fromhex(written)[:-1], 0) is None


def test_a_length_of_five_bytes_is_none() -> None:
    assert parse_length(bytes.fromhex("ffffffff7f"), 0) is None


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=30), st.data())
def test_packets_arrive_whole_however_they_are_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = CONNACK + b"".join(publish(payload, mid=n + 1) for n, payload in enumerate(payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=3)))
    heard: list[Arrival] = []
    with connected(heard) as (client, _, peer):
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            peer.sendall(stream[start:end])
            read(client, 0)
        while len(heard) < len(payloads):
            read(client)
    assert [(arrival.mid, arrival.payload) for arrival in heard] == list(enumerate(payloads, 1))


def test_a_message_of_many_reads() -> None:
    heard: list[Arrival] = []
    payload = bytes(range(256)) * (READ_BYTES // 100)
    with connected(heard) as (client, _, peer):
        peer.sendall(CONNACK + publish(payload) + publish(b"after"))
        while len(heard) < 2:
            read(client)
    assert [arrival.payload for arrival in heard] == [payload, b"after"]


def test_nothing_of_a_connection_is_left_for_the_next() -> None:
    heard: list[Arrival] = []
    with connected(heard) as (client, server, peer):
        peer.sendall(CONNACK + publish(b"one") + publish(b"two")[:-1])
        peer.close()
        read(client)
        assert client.socket() is None
        client.reconnect()
        with server.accept()[0] as again:
            again.sendall(CONNACK + publish(b"three"))
            read(client)
    assert [arrival.payload for arrival in heard] == [b"one", b"three"]


def test_a_message_with_properties_from_a_real_broker() -> None:
    heard: list[Arrival] = []
    with EmbeddedBroker() as broker:
        address = parse_url(broker.url)
        client = Client(address, "c", heard.append)
        client.connect(address.host, address.port)
        subscribed: list[int] = []
        client.on_subscribe = lambda _c, _u, mid, *_: subscribed.append(mid)
        while not client.is_connected():
            read(client)
        client.subscribe("t", qos=1)
        while not subscribed:
            read(client)
        other = paho.Client(CallbackAPIVersion.VERSION2, "other", protocol=paho.MQTTv5)
        other.connect(address.host, address.port)
        other.loop_start()
        told = properties(PacketTypes.PUBLISH, ContentType="text/plain")
        other.publish("t", b"with", 1, properties=told).wait_for_publish(20)
        other.publish("t", b"without", 1).wait_for_publish(20)
        while len(heard) < 2:
            read(client)
        other.disconnect()
        other.loop_stop()
        client.disconnect()
        connection = client.socket()
        if connection is not None:
            connection.close()
    assert [(arrival.topic, arrival.payload, arrival.qos) for arrival in heard] == [
        ("t", b"with", 1),
        ("t", b"without", 1),
    ]


def test_what_was_read_ahead_of_a_lost_connection_is_dropped() -> None:
    heard: list[Arrival] = []
    with connected(heard) as (client, server, peer):
        peer.sendall(CONNACK + publish(b"one") + publish(b"two"))
        while not heard:
            assert readable(client, 5)
            client.loop_read()
        assert client.waiting  # the second is read and not handled
        client.reconnect()
        assert not client.waiting
        with server.accept()[0] as again:
            again.sendall(CONNACK + publish(b"three"))
            read(client)
    assert [arrival.payload for arrival in heard] == [b"one", b"three"]


def _refuse(*_: object) -> MQTTErrorCode:
    raise AssertionError("paho's own way was taken")


def test_what_has_no_properties_does_not_go_pahos_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paho.Client, "_handle_publish", _refuse)
    monkeypatch.setattr(paho.Client, "_handle_pubackcomp", _refuse)
    heard: list[Arrival] = []
    with connected(heard) as (client, _, peer):
        peer.sendall(CONNACK + publish(b"one"))
        read(client)
        sent = [client.publish("a/b", b"x", 1) for _ in range(3)]
        peer.sendall(b"\x40\x02" + sent[1].mid.to_bytes(2, "big"))
        read(client)
        assert [info.is_published() for info in sent] == [False, True, False]
    assert [arrival.payload for arrival in heard] == [b"one"]


def test_an_acknowledgement_counts_once_and_one_with_a_reason_is_told() -> None:
    told: list[tuple[int, bool]] = []
    with connected([]) as (client, _, peer):
        client.on_publish = lambda _c, _u, mid, reason, _p: told.append((mid, reason.is_failure))
        peer.sendall(CONNACK)
        read(client)
        first, second = (client.publish("a/b", b"x", 1).mid for _ in range(2))
        acknowledged = b"\x40\x02" + first.to_bytes(2, "big")
        peer.sendall(acknowledged + acknowledged)
        peer.sendall(b"\x40\x03" + second.to_bytes(2, "big") + b"\x87")  # not authorized
        read(client)
    assert told == [(first, False), (second, True)]

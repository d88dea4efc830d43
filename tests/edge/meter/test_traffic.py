from __future__ import annotations

import socket

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.meter.stream import StreamBytes, parse_tcp_info, read_stream
from edge.meter.traffic import Traffic, publish_bytes, traffic_from_plain


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname(), timeout=5)
        far, _ = server.accept()
    return near, far


def _receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += connection.recv(count - len(received))
    return received


def test_the_kernel_counts_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.sendall(b"x" * 1000)
    _receive(far, 1000)
    far.sendall(b"y" * 77)
    _receive(near, 77)
    assert read_stream(near) == StreamBytes(sent=1000, received=77)
    assert read_stream(far) == StreamBytes(sent=77, received=1000)
    near.close()
    far.close()
    assert read_stream(near) is None


def test_a_short_structure_says_nothing() -> None:
    assert parse_tcp_info(bytes(104)) is None
    assert parse_tcp_info(b"") is None


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("payload_bytes", [0, 1, 110, 115, 122, 16370, 16390, 400_000])
def test_a_publish_is_as_long_as_paho_writes_it(
    pair: tuple[socket.socket, socket.socket], qos: int, payload_bytes: int
) -> None:
    near, far = pair
    near.close()
    far.close()
    topic = "ps/f/m/d0"
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.connect("127.0.0.1", server.getsockname()[1])
        far, _ = server.accept()
        connect = far.recv(4096)
        far.sendall(bytes([0x20, 3, 0, 0, 0]))  # CONNACK
        while not client.is_connected():
            client.loop(timeout=5)
        client.publish(topic, bytes(payload_bytes), qos=qos)
        expected = publish_bytes(topic=topic, payload_bytes=payload_bytes, qos=qos)
        far.setblocking(False)
        received = 0
        while received < expected:
            client.loop(timeout=0.01)
            try:
                received += len(far.recv(1 << 20))
            except BlockingIOError:
                continue
        counted = read_stream(far)  # the sender's own count may hold retransmissions
        assert not client.want_write()
        far.close()
        client.loop(timeout=5)  # notices
    assert counted is not None
    assert counted.received == len(connect) + expected


def test_payload_is_counted_by_kind_and_reports_are_left_out() -> None:
    traffic = Traffic()
    for kind, size in (("Upload", 100), ("Upload", 20), ("Birth", 50), ("Report", 40)):
        traffic.sent(kind, size)
    for kind, size in (("Plan", 200), ("Parameters", 3000), ("Seat", 5)):
        traffic.heard(kind, size)
    assert (traffic.payload_up, traffic.payload_down) == (120, 3200)
    assert traffic.up == {"Upload": 120, "Birth": 50, "Report": 40}


def test_the_stream_adds_up_over_connections_without_own_reports() -> None:
    traffic = Traffic()
    traffic.disconnected(StreamBytes(sent=500, received=700))
    traffic.disconnected(None)
    assert traffic.stream(StreamBytes(sent=100, received=30)) == StreamBytes(sent=600, received=730)
    traffic.reported(packet_bytes=60, tls=False)
    assert traffic.stream(StreamBytes(sent=160, received=34)) == StreamBytes(sent=600, received=730)
    traffic.reported(packet_bytes=60, tls=True)  # 22 more for its record and for that of its acknowledgement
    assert traffic.stream(StreamBytes(sent=242, received=60)) == StreamBytes(sent=600, received=730)


def test_a_run_begins_with_the_plan_that_brought_it() -> None:
    traffic = Traffic()
    traffic.sent("Birth", 50)
    traffic.heard("Plan", 90)
    traffic.refuse("not CBOR")
    traffic.disconnected(StreamBytes(sent=500, received=700))
    traffic.reported(packet_bytes=60, tls=False)
    traffic.restart(kind="Plan", payload_bytes=90, now=StreamBytes(sent=80, received=130))
    assert (traffic.up, traffic.payload_up, traffic.payload_down) == ({}, 0, 90)
    assert traffic.stream(StreamBytes(sent=80, received=130)) == StreamBytes(sent=0, received=90)
    assert traffic.stream(StreamBytes(sent=220, received=134)) == StreamBytes(sent=140, received=94)
    assert traffic.refused == {"not CBOR": 1}


def test_a_restart_of_the_process_goes_on_counting() -> None:
    traffic = Traffic()
    traffic.restart(kind="Plan", payload_bytes=90, now=StreamBytes(sent=80, received=130))
    traffic.sent("Upload", 120)
    again = traffic_from_plain(traffic.to_plain(StreamBytes(sent=220, received=134)))
    assert again.stream(None) == StreamBytes(sent=140, received=94)
    assert again.stream(StreamBytes(sent=60, received=10)) == StreamBytes(sent=200, received=104)
    assert again.payload_up == 120


def test_a_refusal_is_worth_a_line_once_a_reason() -> None:
    traffic = Traffic()
    assert [traffic.refuse(reason) for reason in ("not CBOR", "not CBOR", "too long")] == [True, False, True]
    assert traffic.refused == {"not CBOR": 2, "too long": 1}

from __future__ import annotations

import socket

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.meter.packets import KIND
from edge.meter.stream import Stream, parse_tcp_info, read_stream
from edge.meter.traffic import Account, Traffic, from_plain, meter, publish_bytes, to_plain


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
    ours, theirs = read_stream(near), read_stream(far)
    assert ours is not None
    assert theirs is not None
    assert (ours.sent, ours.received, theirs.sent, theirs.received) == (1000, 77, 77, 1000)
    assert (ours.data_segments_out, ours.data_segments_in) == (1, 1)
    assert ours.segments_out >= 3  # SYN, the acknowledgement that ends the handshake, data
    assert ours.headers_out == ours.segments_out * 52 + 8
    near.close()
    far.close()
    assert read_stream(near) is None


def test_ipv6_has_the_longer_header() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        socket.create_connection(server.getsockname()[:2], timeout=5) as near,
    ):
        counted = read_stream(near)
    assert counted is not None
    assert counted.headers_out == counted.segments_out * 72 + 8


def test_a_short_structure_says_nothing() -> None:
    assert parse_tcp_info(bytes(104)) is None
    assert parse_tcp_info(b"") is None


def test_without_timestamps_the_header_is_shorter() -> None:
    info = bytearray(216)
    info[136:140] = (3).to_bytes(4, "little")
    plain = parse_tcp_info(bytes(info))
    assert plain is not None
    assert plain.headers_out == 3 * 40 + 12


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


def _publish(topic: str, payload: int) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic.encode() + b"\x00\x01\x00" + bytes(payload)
    assert len(body) < 128
    return bytes([0x32, len(body)]) + body


def _now(traffic: Traffic, stream: Stream | None = None, *, cpu_s: float = 0.0, now_s: float = 0.0) -> Account:
    return traffic.account(Stream() if stream is None else stream, cpu_s=cpu_s, now_s=now_s)


def test_payload_is_that_of_the_method() -> None:
    traffic = Traffic()
    for topic, size in (("ps/f/u/d", 100), ("ps/f/u/d", 20), ("ps/f/s/d", 50), ("ps/f/m/d", 40)):
        traffic.sent.feed(_publish(topic, size))
    for topic, size in (("ps/f/p", 90), ("ps/f/w", 80), ("ps/f/c/d", 5)):
        traffic.heard.feed(_publish(topic, size))
    account = _now(traffic)
    assert (account.payload_up, account.payload_down) == (120, 170)
    assert account.up[KIND["upload"]].tolist() == [2, 120, 120 + 2 * 15]


def test_the_stream_adds_up_over_connections_without_own_reports() -> None:
    traffic = Traffic()
    traffic.disconnected(Stream(sent=500, received=700))
    open_now = Stream(sent=100, received=30)
    assert _now(traffic, open_now).stream == Stream(sent=600, received=730)
    traffic.sent.feed(_publish("ps/f/m/d", 45))
    after = _now(traffic, Stream(sent=160, received=34))
    assert after.stream_without_reports(tls=False) == (600, 730)
    sealed = _now(traffic, Stream(sent=182, received=56))  # 22 more for its record and for that of its acknowledgement
    assert sealed.stream_without_reports(tls=True) == (600, 730)


def test_what_the_kernel_does_not_say_stays_unsaid() -> None:
    traffic = Traffic()
    traffic.disconnected(None)
    account = _now(traffic, Stream(sent=9))
    assert account.stream is None
    assert (account - Account()).stream is None
    assert account.stream_without_reports(tls=False) == (0, 0)
    assert meter(account, run=7, round_=1).stream is None


def test_a_run_begins_with_the_plan_that_brought_it() -> None:
    traffic = Traffic()
    traffic.sent.feed(_publish("ps/f/s/d", 50))
    plan = _publish("ps/f/p", 90)
    traffic.heard.feed(plan)
    traffic.disconnected(Stream(sent=500, received=700, segments_in=3, headers_in=164))
    before = Stream(sent=80, received=130, segments_in=4, headers_in=216)
    traffic.of_line(_now(traffic, before, cpu_s=2.0, now_s=10.0))
    traffic.restart(packet_bytes=len(plan), payload_bytes=90, tls=False)
    run = traffic.of_run(_now(traffic, before, cpu_s=2.0, now_s=10.0))
    assert (run.payload_up, run.payload_down, run.up.sum()) == (0, 90, 0)
    assert run.stream == Stream(received=len(plan), segments_in=1, data_segments_in=1, headers_in=54)
    later = traffic.of_run(_now(traffic, Stream(sent=220, received=134), cpu_s=2.5, now_s=14.0))
    assert later.stream is not None
    assert (later.stream.sent, later.stream.received) == (140, len(plan) + 4)
    assert (later.cpu_s, later.elapsed_s) == (0.5, 4.0)


def test_a_restart_of_the_process_goes_on_counting() -> None:
    traffic = Traffic()
    traffic.of_line(_now(traffic))
    traffic.restart(packet_bytes=105, payload_bytes=90, tls=False)
    traffic.sent.feed(_publish("ps/f/u/d", 110))
    traffic.of_line(_now(traffic, Stream(sent=125, received=4), cpu_s=3.0, now_s=8.0))
    traffic.sent.feed(_publish("ps/f/u/d", 5))  # in no line yet: the process dies before there is one
    saved = to_plain(traffic.of_run_lines())
    again = Traffic()
    again.resume(_now(again, cpu_s=1.0), from_plain(saved))
    run = again.of_run(_now(again, Stream(sent=60, received=10), cpu_s=1.5, now_s=2.0))
    assert run.stream is not None
    assert (run.stream.sent, run.stream.received) == (185, 119)
    assert (run.payload_up, run.payload_down) == (110, 90)
    assert (run.cpu_s, run.elapsed_s) == (3.5, 10.0)


def test_lines_add_up_to_the_whole() -> None:
    traffic = Traffic()
    lines = []
    for sent in (100, 250, 250, 900):
        traffic.sent.feed(_publish("ps/f/u/d", 20))
        lines.append(traffic.of_line(_now(traffic, Stream(sent=sent))))
    total = sum(lines, Account())
    assert total.stream == Stream(sent=900)
    assert total.up[KIND["upload"]].tolist() == [4, 80, 140]


def test_the_message_says_what_the_account_says() -> None:
    traffic = Traffic()
    traffic.sent.feed(_publish("ps/f/u/d", 20))
    traffic.connects = 2
    message = meter(_now(traffic, Stream(sent=35, segments_out=2), cpu_s=0.5, now_s=3.0), run=7, round_=1)
    assert message.packets_up.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert message.payload_up.sum() == 20
    assert message.mqtt_up.sum() == 35
    assert message.stream is not None
    assert message.stream.tolist() == [35, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    assert (message.run, message.round, message.connects, message.cpu_s, message.elapsed_s) == (7, 1, 2, 0.5, 3.0)


def test_a_refusal_is_worth_a_line_once_a_reason() -> None:
    traffic = Traffic()
    assert [traffic.refuse(reason) for reason in ("not CBOR", "not CBOR", "too long")] == [True, False, True]
    assert traffic.refused == {"not CBOR": 2, "too long": 1}

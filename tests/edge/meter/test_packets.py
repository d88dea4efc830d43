"""Packets counted from bytes, against what paho writes and against packets written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.meter.packets import KIND, PacketReader
from edge.meter.traffic import publish_bytes
from edge.wire.messages import METER_KINDS


def publish(topic: str, payload: bytes, *, qos: int = 1, dup: bool = False, properties: bytes = b"") -> bytes:
    """MQTT 5.0, section 3.3."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (b"\x00\x07" if qos else b"")
    body += bytes([len(properties)]) + properties + payload
    return bytes([0x30 + 8 * dup + 2 * qos]) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = divmod(value, 128)
        out += bytes([low + (128 if value else 0)])
        if not value:
            return out


PACKETS: list[tuple[str, int, bytes]] = [
    ("connection", 0, b"\x20\x03\x00\x00\x00"),  # CONNACK
    ("connection", 0, b"\x90\x05\x00\x01\x00\x01\x01"),  # SUBACK
    ("connection", 0, b"\xe0\x00"),  # DISCONNECT
    ("acknowledgement", 0, b"\x40\x02\x00\x07"),
    ("keepalive", 0, b"\xc0\x00"),
    ("keepalive", 0, b"\xd0\x00"),
    ("plan", 110, publish("ps/f/p", bytes(110))),
    ("plan", 130, publish("ps/f/p", bytes(130), properties=b"\x23\x00\x05")),  # a topic alias
    ("parameters", 50_000, publish("ps/f/w", bytes(50_000))),
    ("upload", 76, publish("ps/f/u/d07", bytes(76), qos=0)),
    ("birth", 2, publish("ps/f/s/d07", bytes(2))),
    ("command", 6, publish("ps/f/c/d07", bytes(6))),
    ("command", 6, publish("elsewhere", bytes(6))),
    ("report", 200, publish("ps/" + "f" * 32 + "/m/" + "d" * 32, bytes(200))),
    ("report", 0, publish("ps/f/m/d07", b"")),
    ("command", 0, publish("ps/f/c/" + "x" * 300, bytes(6))),  # no topic of ours is so long
    ("repeated", 76, publish("ps/f/u/d07", bytes(76), dup=True)),
]


@pytest.mark.parametrize(("kind", "payload", "packet"), PACKETS)
def test_a_packet_is_counted_by_what_it_is_for(kind: str, payload: int, packet: bytes) -> None:
    reader = PacketReader()
    reader.feed(packet)
    assert reader.tally[KIND[kind]].tolist() == [1, payload, len(packet)]
    assert reader.tally.sum(axis=0).tolist() == [1, payload, len(packet)]


@given(st.lists(st.sampled_from(PACKETS), max_size=12), st.data())
def test_it_does_not_matter_how_the_bytes_come(packets: list[tuple[str, int, bytes]], data: st.DataObject) -> None:
    whole = b"".join(packet for _, _, packet in packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=30)))
    reader = PacketReader()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        reader.feed(whole[start:end])
    expected = np.zeros((len(METER_KINDS), 3), np.int64)
    for kind, payload, packet in packets:
        expected[KIND[kind]] += (1, payload, len(packet))
    np.testing.assert_array_equal(reader.tally, expected)


@given(st.sampled_from(PACKETS), st.data())
def test_a_packet_that_is_cut_off_counts_its_bytes(packet: tuple[str, int, bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(packet[2]) - 1))
    reader = PacketReader()
    reader.feed(packet[2][:cut])
    reader.reset()
    assert reader.tally[KIND["connection"]].tolist() == [0, 0, cut]
    reader.feed(packet[2])
    assert reader.tally.sum(axis=0).tolist() == [1, packet[1], cut + len(packet[2])]


@given(st.binary(max_size=200))
def test_any_bytes_can_be_fed(data: bytes) -> None:
    reader = PacketReader()
    reader.feed(data)
    assert 0 <= reader.tally[:, 2].sum() <= len(data)
    reader.reset()
    assert reader.tally[:, 2].sum() == len(data)


@pytest.mark.parametrize("payload_bytes", [0, 110, 122, 16380])
def test_the_size_of_a_publish_is_that_of_its_bytes(payload_bytes: int) -> None:
    packet = publish("ps/f/u/d07", bytes(payload_bytes))
    assert publish_bytes(topic="ps/f/u/d07", payload_bytes=payload_bytes, qos=1) == len(packet)

"""Layers and classes of byte counts: exact sums, and figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.aggregator import meter_to_plain
from edge.meter.layers import CLASSES, Layers, add, by_class, from_event, layers, without_instrumentation
from edge.meter.packets import KIND, Tally, empty_tally
from edge.meter.stream import Stream
from edge.meter.traffic import Account, meter
from edge.wire.messages import METER_KINDS

Direction = Literal["up", "down"]


def tally(**rows: tuple[int, int, int]) -> Tally:
    made = empty_tally()
    for kind, row in rows.items():
        made[KIND[kind]] = row
    return made


def a_round() -> Account:
    """One FD round and a report, no TLS: upload and PUBACK in one segment, the report in another, two lone ACKs."""
    return Account(
        up=tally(upload=(1, 76, 93), acknowledgement=(1, 0, 4), report=(1, 40, 55)),
        down=tally(plan=(1, 112, 128), acknowledgement=(2, 0, 8)),
        stream=Stream(
            sent=152,
            received=136,
            segments_out=4,
            segments_in=3,
            data_segments_out=2,
            data_segments_in=3,
            headers_out=4 * 52,
            headers_in=3 * 52,
        ),
    )


def test_the_layers_of_a_round() -> None:
    assert layers(a_round(), "up") == Layers(payload=116, mqtt=36, tls=0, tcpip=208, link=56)
    assert layers(a_round(), "down") == Layers(payload=112, mqtt=24, tls=0, tcpip=156, link=42)
    assert layers(a_round(), "up").total == 152 + 4 * 66


def test_a_report_takes_its_acknowledgement_along() -> None:
    down = by_class(a_round(), "down")
    assert down["instrumentation"] == Layers(payload=0, mqtt=4, tls=0, tcpip=52, link=14)
    assert down["acknowledgements"] == Layers(payload=0, mqtt=4, tls=0, tcpip=52, link=14)
    assert down["method"] == Layers(payload=112, mqtt=16, tls=0, tcpip=52, link=14)
    apart = without_instrumentation(a_round(), "down")
    assert add(apart, down["instrumentation"]) == layers(a_round(), "down")


def test_what_tcp_sent_again_is_a_class_of_its_own() -> None:
    account = a_round()
    assert account.stream is not None
    again = Stream(sent=97, retransmitted=97, retransmitted_segments=1, segments_out=1, data_segments_out=1)
    lossy = account._replace(stream=account.stream + again._replace(headers_out=52))
    assert layers(lossy, "up") == replace(layers(account, "up"), tcpip=208 + 52 + 97, link=70)
    assert by_class(lossy, "up")["retransmissions"] == Layers(payload=0, mqtt=0, tls=0, tcpip=149, link=14)


def test_tls_is_records_and_the_rest_handshakes() -> None:
    account = a_round()
    assert account.stream is not None
    sealed = account._replace(stream=account.stream._replace(sent=152 + 3 * 22 + 320), connects=1)
    parts = by_class(sealed, "up")
    assert layers(sealed, "up").tls == 3 * 22 + 320
    assert {name: part.tls for name, part in parts.items() if part.tls} == {
        "method": 22,
        "acknowledgements": 22,
        "instrumentation": 22,
        "connects": 320,
    }


def test_where_the_kernel_does_not_say_nothing_is_said() -> None:
    blind = a_round()._replace(stream=None)
    whole = layers(blind, "up")
    assert (whole.payload, whole.mqtt, whole.tls, whole.tcpip, whole.link, whole.total) == (116, 36, *[None] * 4)
    assert by_class(blind, "up")["method"] == Layers(payload=76, mqtt=17, tls=None, tcpip=None, link=None)
    assert without_instrumentation(blind, "up").total is None


counts = st.integers(0, 10**6)


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    def rows() -> Tally:
        made = empty_tally()
        for row in range(len(METER_KINDS)):
            packets, payload, more = draw(st.integers(0, 1000)), draw(counts), draw(counts)
            made[row] = packets, payload, payload + more
        return made

    def segments() -> tuple[int, int]:
        data = draw(st.integers(1, 10**5))
        return data, data + draw(st.integers(0, 10**5))

    (data_out, out), (data_in, into) = segments(), segments()
    return Account(
        up=rows(),
        down=rows(),
        connects=draw(st.integers(0, 5)),
        stream=Stream(
            sent=draw(counts) + 10**8,
            received=draw(counts) + 10**8,
            retransmitted=draw(counts),
            retransmitted_segments=draw(st.integers(0, data_out)),
            segments_out=out,
            segments_in=into,
            data_segments_out=data_out,
            data_segments_in=data_in,
            headers_out=52 * out,
            headers_in=52 * into,
        ),
    )


@given(accounts(), st.sampled_from(["up", "down"]), st.integers(0, 40))
def test_the_classes_add_up_to_the_layers(account: Account, direction: Direction, header: int) -> None:
    parts = by_class(account, direction, link_header_bytes=header)
    assert list(parts) == list(CLASSES)
    total = Layers(payload=0, mqtt=0, tls=0, tcpip=0, link=0)
    for part in parts.values():
        total = add(total, part)
    assert total == layers(account, direction, link_header_bytes=header)


def test_every_kind_of_packet_is_in_one_class() -> None:
    assert sorted(kind for kinds in CLASSES.values() for kind in kinds) == sorted(METER_KINDS)


@pytest.mark.parametrize("stream", [True, False])
def test_an_account_survives_message_and_event(stream: bool) -> None:
    account = a_round()._replace(connects=2, cpu_s=0.5, review_cpu_s=0.25, elapsed_s=4.0)
    account = account if stream else account._replace(stream=None)
    event = {"event": "meter", "device": "d0", **meter_to_plain(meter(account, run=7, round_=3))}
    again = from_event(event)
    np.testing.assert_array_equal(again.up, account.up)
    np.testing.assert_array_equal(again.down, account.down)
    assert (again.stream, again.connects, again.cpu_s) == (account.stream, 2, 0.5)
    assert (again.review_cpu_s, again.elapsed_s) == (0.25, 4.0)

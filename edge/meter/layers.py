"""Bytes by layer and by what they were for, from an `Account`. Pure.

A layer's bytes are its own: payload, MQTT around it, TLS around that, IP and TCP headers with what TCP sent again, and
the link's frame header; their sum is what the link carried. Payload and MQTT are counted from the packets themselves,
TLS and TCP/IP follow from the kernel's counts; by what they were for, these two are shared out (`by_class`): a model.
Letters: K kinds (`edge.wire.messages.METER_KINDS`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edge.meter.packets import KIND, Tally, empty_tally
from edge.meter.stream import SYN_BYTES, Stream
from edge.meter.traffic import PUBACK_BYTES, TLS13_RECORD_BYTES, Account
from edge.wire.messages import METER_KINDS

Direction: TypeAlias = Literal["up", "down"]

ETHERNET_HEADER_BYTES = 14
"""Two addresses and a type (IEEE 802.3, clause 3): as interfaces count a frame, without preamble and checksum."""

CLASSES = {
    "method": ("plan", "parameters", "upload"),
    "control": ("birth", "command"),
    "acknowledgements": ("acknowledgement",),
    "keepalive": ("keepalive",),
    "connects": ("connection",),
    "retransmissions": ("repeated",),
    "instrumentation": ("report",),
}
"""What bytes were for -> kinds of packet. TCP's own acknowledgements and retransmissions go with MQTT's;
instrumentation takes the MQTT acknowledgements of its reports along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Bytes in one direction, each layer's own. None where the kernel does not say (TCP_INFO is missing)."""

    payload: int
    mqtt: int
    tls: int | None
    tcpip: int | None
    link: int | None

    @property
    def total(self) -> int | None:
        """On the link."""
        if self.tls is None or self.tcpip is None or self.link is None:
            return None
        return self.payload + self.mqtt + self.tls + self.tcpip + self.link


def layers(account: Account, direction: Direction, *, link_header_bytes: int = ETHERNET_HEADER_BYTES) -> Layers:
    """Of everything, instrumentation included. The link: `link_header_bytes` for each segment."""
    tally = account.up if direction == "up" else account.down
    payload, packets = int(tally[:, 1].sum()), int(tally[:, 2].sum())
    stream = account.stream
    if stream is None:
        return Layers(payload=payload, mqtt=packets - payload, tls=None, tcpip=None, link=None)
    carried = stream.sent - stream.retransmitted if direction == "up" else stream.received
    headers, segments, _ = _segments(stream, direction)
    return Layers(
        payload=payload,
        mqtt=packets - payload,
        tls=carried - packets,
        tcpip=headers + _again(stream, direction),
        link=segments * link_header_bytes,
    )


def by_class(
    account: Account, direction: Direction, *, link_header_bytes: int = ETHERNET_HEADER_BYTES
) -> dict[str, Layers]:
    """The layers of each of CLASSES; layer by layer they add up to `layers`. Modelled below MQTT:

    a packet takes one TLS 1.3 record, what is left of TLS is handshakes; segments with data are shared out by packets,
    retransmitted ones apart, those without data are acknowledgements but for one SYN a connection.
    """
    tally = _with_report_acknowledgements(account, direction)
    rows = {name: sum(tally[KIND[kind]] for kind in kinds) for name, kinds in CLASSES.items()}
    whole = layers(account, direction, link_header_bytes=link_header_bytes)
    if account.stream is None or whole.tls is None or whole.tcpip is None or whole.link is None:
        return {
            name: Layers(payload=int(row[1]), mqtt=int(row[2] - row[1]), tls=None, tcpip=None, link=None)
            for name, row in rows.items()
        }
    packets = {name: int(row[0]) for name, row in rows.items()}
    tls = _tls(whole.tls, packets)
    segments, again = _segments_by_class(account, direction, packets), _again(account.stream, direction)
    _, total_segments, _ = _segments(account.stream, direction)
    tcpip = _share(whole.tcpip - again - _syn_extra(account), segments, total_segments)
    tcpip["retransmissions"] += again
    tcpip["connects"] += _syn_extra(account)
    link = _share(whole.link, segments, total_segments)
    return {
        name: Layers(payload=int(row[1]), mqtt=int(row[2] - row[1]), tls=tls[name], tcpip=tcpip[name], link=link[name])
        for name, row in rows.items()
    }


def add(one: Layers, other: Layers) -> Layers:
    def plus(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else a + b

    return Layers(
        payload=one.payload + other.payload,
        mqtt=one.mqtt + other.mqtt,
        tls=plus(one.tls, other.tls),
        tcpip=plus(one.tcpip, other.tcpip),
        link=plus(one.link, other.link),
    )


def without_instrumentation(account: Account, direction: Direction, **options: int) -> Layers:
    """What the run cost without its reports: `by_class` (a model below MQTT) less one of them."""
    kept = [part for name, part in by_class(account, direction, **options).items() if name != "instrumentation"]
    total = kept[0]
    for part in kept[1:]:
        total = add(total, part)
    return total


def from_event(event: dict[str, Any]) -> Account:
    """The account in a "meter" event of `potstill broker run --json`. Raises KeyError, TypeError or ValueError."""
    return Account(
        up=_tally(event, "up"),
        down=_tally(event, "down"),
        stream=None if event["stream"] is None else Stream(**{k: int(v) for k, v in event["stream"].items()}),
        connects=int(event["connects"]),
        cpu_s=float(event["cpu_s"]),
        review_cpu_s=float(event["review_cpu_s"]),
        elapsed_s=float(event["elapsed_s"]),
    )


def _tally(event: dict[str, Any], direction: Direction) -> Tally:
    tally = empty_tally()
    for column, what in enumerate(("packets", "payload", "mqtt")):
        counts = event[f"{what}_{direction}"]
        tally[:, column] = [int(counts[kind]) for kind in METER_KINDS]
    return tally


def _segments(stream: Stream, direction: Direction) -> tuple[int, int, int]:
    """-> bytes of headers, segments, those with data."""
    if direction == "up":
        return stream.headers_out, stream.segments_out, stream.data_segments_out
    return stream.headers_in, stream.segments_in, stream.data_segments_in


def _with_report_acknowledgements(account: Account, direction: Direction) -> Tally:
    """(K, 3) the PUBACKs that answer reports counted with them."""
    if direction == "up":
        return account.up
    tally = account.down.copy()
    acknowledgement, report = KIND["acknowledgement"], KIND["report"]
    reports = min(int(account.up[report, 0]), int(tally[acknowledgement, 0]))
    moved = (reports, 0, min(reports * PUBACK_BYTES, int(tally[acknowledgement, 2])))
    tally[acknowledgement] -= moved
    tally[report] += moved
    return tally


def _tls(whole: int, packets: dict[str, int]) -> dict[str, int]:
    """A record for each packet, as far as it goes; the rest is handshakes."""
    if whole == 0:
        return dict.fromkeys(packets, 0)
    shared = {name: count * TLS13_RECORD_BYTES for name, count in packets.items()}
    shared["connects"] += whole - sum(shared.values())
    return shared


def _again(stream: Stream, direction: Direction) -> int:
    """Bytes that TCP carried a second time: counted up, estimated down."""
    return stream.retransmitted if direction == "up" else stream.received_again


def _segments_by_class(account: Account, direction: Direction, packets: dict[str, int]) -> dict[str, int]:
    assert account.stream is not None
    stream = account.stream
    _, total, with_data = _segments(stream, direction)
    repeated = stream.retransmitted_segments if direction == "up" else 0
    segments = _share(max(0, with_data - repeated), packets, sum(packets.values()))
    connects = min(account.connects, total - sum(segments.values()) - repeated)
    segments["connects"] += connects
    segments["retransmissions"] += repeated
    segments["acknowledgements"] += total - sum(segments.values())
    return segments


def _syn_extra(account: Account) -> int:
    return account.connects * SYN_BYTES[True]


def _share(total: int, weights: dict[str, int], whole: int) -> dict[str, int]:
    """`total` by weight, in whole numbers that add up to it (the remainder by cumulated rounding)."""
    shares: dict[str, int] = {}
    given = weight_so_far = 0
    for name, weight in weights.items():
        weight_so_far += weight
        upto = total * weight_so_far // whole if whole else 0
        shares[name] = upto - given
        given = upto
    shares["acknowledgements"] += total - given
    return shares

"""What the kernel counted of one TCP connection: struct tcp_info of Linux (include/uapi/linux/tcp.h).

The layout of the fields read here has not moved since they came (bytes_received and segs_out with Linux 4.2,
bytes_sent and bytes_retrans with 4.19): 8 x u8 (the sixth: options in use); 24 x u32 (the last: total_retrans);
u64 pacing_rate, max_pacing_rate, bytes_acked, bytes_received; u32 segs_out, segs_in, notsent, min_rtt, data_segs_in,
data_segs_out; u64 delivery_rate, busy, rwnd_limited, sndbuf_limited; u32 delivered, delivered_ce; u64 bytes_sent,
bytes_retrans; u32 dsack_dups, reord_seen, rcv_ooopack (these three: since Linux 5.4).
"""

from __future__ import annotations

import struct
from operator import add, sub
from typing import NamedTuple, Protocol

TCP_INFO = 11
"""Linux's option number; the socket module names it only where the C library does."""
IPPROTO_TCP = 6
AF_INET6 = 10
"""Linux's number too: this module stays free of the socket module."""

_COUNTS = struct.Struct("=B4xB94xI24xQ6I40x2Q")
"""State, options in use, total_retrans, bytes_received, segs_out to data_segs_out, bytes_sent and bytes_retrans."""
_DISORDER = struct.Struct("=3I")
"""dsack_dups, reord_seen, rcv_ooopack: behind them."""
_CLOSE_WAIT = 8
"""State in which the peer has closed: its FIN counts as a byte received, which it is not."""
_ESTABLISHED = 1
_TIMESTAMPS = 1
"""Bit of the options in use: TCPI_OPT_TIMESTAMPS."""

IP_HEADER_BYTES = {False: 20, True: 40}
"""IPv4 without options (RFC 791), IPv6 (RFC 8200); the key: whether it is IPv6."""
TCP_HEADER_BYTES = 20
"""RFC 9293, section 3.1."""
TIMESTAMPS_BYTES = 12
"""The option in every segment once both ends use it (RFC 7323, appendix A)."""
SACK_BYTES = 12
"""Of the option with one block (RFC 2018, padded), in the answer to a segment out of order or one that came twice."""
SYN_BYTES = {True: 8, False: 12}
"""What a SYN's options take beyond those of other segments: maximum segment size, window scale, and SACK permitted,
which fills up the timestamps' padding; the key: whether timestamps are used. Linux writes 20 bytes with them."""


class HasOptions(Protocol):
    """What is asked of a socket: plain and TLS sockets have it."""

    @property
    def family(self) -> int: ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


class Stream(NamedTuple):
    """Of one or several connections, in the order of `edge.wire.messages.STREAM_COUNTS`; TLS counts as data."""

    sent: int = 0
    """Bytes, retransmissions and what waits to be sent included."""
    received: int = 0
    """Bytes, each once."""
    received_again: int = 0
    """Bytes that came a second time, because an acknowledgement was lost: estimated (`edge.meter.traffic`)."""
    retransmitted: int = 0
    retransmitted_segments: int = 0
    segments_out: int = 0
    segments_in: int = 0
    data_segments_out: int = 0
    data_segments_in: int = 0
    headers_out: int = 0
    """Bytes of IP and TCP headers: the kernel's count of segments times the header in use."""
    headers_in: int = 0

    def __add__(self, other: Stream) -> Stream:  # type: ignore[override]  # numbers are added, not put end to end
        return Stream(*map(add, self, other))

    def __sub__(self, other: Stream) -> Stream:
        return Stream(*map(sub, self, other))


def read_stream(sock: HasOptions, *, closing: bool = False) -> Stream | None:
    """None where the kernel does not say (qemu-user, another system, an old kernel, a closed socket)."""
    try:
        info = sock.getsockopt(IPPROTO_TCP, TCP_INFO, 256)
    except OSError:
        return None
    return parse_tcp_info(info, ipv6=sock.family == AF_INET6, closing=closing)


def parse_tcp_info(info: bytes, *, ipv6: bool = False, closing: bool = False) -> Stream | None:
    """Of a connection whose two SYN have passed. None if the structure is too short to hold bytes_retrans.

    `closing`: this side is about to close, and the segments of that, which nobody can ask for afterwards, are added
    (modelled): our FIN and its acknowledgement, and where the peer has not closed yet, our acknowledgement of its FIN.
    """
    if len(info) < _COUNTS.size:
        return None
    state, options, again, received, *segments, sent, retransmitted = _COUNTS.unpack_from(info)
    segments_out, segments_in, not_sent, _, data_in, data_out = segments
    known = len(info) >= _COUNTS.size + _DISORDER.size
    doubled, _, disordered = _DISORDER.unpack_from(info, _COUNTS.size) if known else (0, 0, 0)
    timestamps = bool(options & _TIMESTAMPS)
    header = IP_HEADER_BYTES[ipv6] + TCP_HEADER_BYTES + timestamps * TIMESTAMPS_BYTES
    if closing and state in {_ESTABLISHED, _CLOSE_WAIT}:
        segments_out += 1 if state == _CLOSE_WAIT else 2
        segments_in += 1
    return Stream(
        sent=sent + not_sent,
        received=received - (state == _CLOSE_WAIT),
        retransmitted=retransmitted,
        retransmitted_segments=again,
        segments_out=segments_out,
        segments_in=segments_in,
        data_segments_out=data_out,
        data_segments_in=data_in,
        headers_out=segments_out * header + SYN_BYTES[timestamps] + disordered * SACK_BYTES,
        headers_in=segments_in * header + SYN_BYTES[timestamps] + doubled * SACK_BYTES,
    )
